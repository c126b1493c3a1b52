"""What a measured figure depends on; every results file holds it."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from edgeseg.doctor import Host, driver_release, installed_versions, is_jetson, probe_cpu, probe_jetson, read_cuda
from edgeseg.processor import cores
from edgeseg.telemetry import Telemetry

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that change how many threads libraries start, and whether they spin while they wait."""


def conditions(**more: Any) -> dict[str, Any]:
    """The machine, its software, its state before the run, and the command, as plain JSON types.

    What the machine does not tell is None. Absolute paths in the command are cut to their last two parts: a results
    file says nothing about where things lay.

    Args:
        more: put beside them.
    """
    host = Host()
    cpu = {finding.name: finding.detail for finding in probe_cpu(host)}
    cuda = read_cuda()
    return {
        "cpu": cpu["model"],
        "cpu_features": cpu["features"],
        "cores": cores(),
        "cores_usable": cpu["cores"],
        "memory_mib": Telemetry(host.root).read().memory_total_mib,
        "virtual_machine": _is_virtual(host),
        "governor": _governors(host),
        "gpu": [f"{gpu.name}, compute capability {gpu.capability}" for gpu in cuda.gpus] or None if cuda else None,
        "gpu_driver": driver_release(host),
        "jetson": {f.name: f.detail for f in probe_jetson(host)} if is_jetson(host) else None,
        "platform": platform.platform(),
        "versions": installed_versions(),
        "thread_variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "command": _command(sys.argv),
        **state(host),
        **more,
    }


def state(host: Host | None = None) -> dict[str, Any]:
    """The part that changes while something is measured: load, heat, clocks, power mode, throttling."""
    now = Telemetry((host or Host()).root).read()
    return {
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "temperature_c": now.temperature_c,
        "cpu_clock_mhz": now.cpu_clock_mhz,
        "gpu_clock_mhz": now.gpu_clock_mhz,
        "power_mode": now.power_mode,
        "throttle_events": now.throttle_events,
    }


def _is_virtual(host: Host) -> bool | None:
    """Whether the processor says that a hypervisor runs it; None where it does not tell, as on Arm."""
    flags = next((line for line in (host.read("proc/cpuinfo") or "").splitlines() if line.startswith("flags")), None)
    return None if flags is None else "hypervisor" in flags.split()


def _governors(host: Host) -> str | None:
    files = host.root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    return ", ".join(sorted({file.read_text(encoding="utf-8").strip() for file in files})) or None


def _command(argv: list[str]) -> str:
    program = Path(argv[0])
    start = ["python", argv[0]] if program.suffix == ".py" else [program.name]
    words = [*start, *argv[1:]]
    return shlex.join("/".join(Path(word).parts[-2:]) if Path(word).is_absolute() else word for word in words)
