"""How busy and how hot the machine is, and what it draws, as the kernel tells it in files.

Everything is read and nothing set. The files need no special rights and are there on any Linux; those about power,
GPU and power mode only on a Jetson, where they hold what ``tegrastats`` and ``nvpmodel -q`` print.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Names of the rail that feeds the whole module, on boards that measure it."""


@dataclass(frozen=True)
class Reading:
    """The machine at one moment; None where it does not tell.

    Attributes:
        cpu_percent: busy share of all cores since the reading before, 0 to 100.
        memory_used_mib, memory_total_mib: of the main memory, which on a Jetson is the GPU's too.
        gpu_percent: busy share of the GPU over the driver's own interval, 0 to 100.
        power_w: what the module draws. The sum of the rails that are measured where none of them feeds it all, as on
            an AGX Orin; the carrier board comes on top.
        temperature_c: of the hottest thermal zone, degrees Celsius.
        cpu_clock_mhz: of the fastest core.
        gpu_clock_mhz: of the GPU.
        power_mode: name of the active ``nvpmodel`` mode, such as "15W".
        throttle_events: how often since boot the chip slowed itself down for low voltage or high current.
    """

    cpu_percent: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    gpu_percent: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    cpu_clock_mhz: float | None = None
    gpu_clock_mhz: float | None = None
    power_mode: str | None = None
    throttle_events: int | None = None


class Telemetry:
    """Reads load, power and heat; between two readings it keeps only the ticks of the CPU.

    Args:
        root: of the file system that holds /proc, /sys, /etc and /var.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self._root = Path(root)
        self._cpu_ticks = self._read_cpu_ticks()

    def read(self) -> Reading:
        """The machine now. A file that is missing or does not answer leaves its field None."""
        used_mib, total_mib = self._memory_mib()
        gpu_percent, gpu_clock_mhz = self._gpu()
        return Reading(
            cpu_percent=self._cpu_percent(),
            memory_used_mib=used_mib,
            memory_total_mib=total_mib,
            gpu_percent=gpu_percent,
            power_w=self._power_w(),
            temperature_c=self._temperature_c(),
            cpu_clock_mhz=self._cpu_clock_mhz(),
            gpu_clock_mhz=gpu_clock_mhz,
            power_mode=self._power_mode(),
            throttle_events=self._throttle_events(),
        )

    def _cpu_percent(self) -> float | None:
        before, self._cpu_ticks = self._cpu_ticks, self._read_cpu_ticks()
        if before is None or self._cpu_ticks is None:
            return None
        busy, total = (now - then for now, then in zip(self._cpu_ticks, before))
        # The kernel's count of waiting for the disk sometimes goes back a little.
        return min(max(100.0 * busy / total, 0.0), 100.0) if total > 0 else None

    def _read_cpu_ticks(self) -> tuple[int, int] | None:
        """Busy and all ticks of all cores since boot."""
        first = re.match(r"cpu +([\d ]+)", _text(self._root / "proc/stat"))
        if first is None:
            return None
        # What guests used is counted in the first two fields already.
        ticks = [int(field) for field in first[1].split()[:8]]
        idle, waiting_for_disk = ticks[3:5]
        return sum(ticks) - idle - waiting_for_disk, sum(ticks)

    def _memory_mib(self) -> tuple[float | None, float | None]:
        kib = dict(re.findall(r"^(\w+): *(\d+) kB", _text(self._root / "proc/meminfo"), re.MULTILINE))
        if "MemTotal" not in kib or "MemAvailable" not in kib:
            return None, None
        total_mib = int(kib["MemTotal"]) / 1024
        return total_mib - int(kib["MemAvailable"]) / 1024, total_mib

    def _gpu(self) -> tuple[float | None, float | None]:
        """Load in percent and clock in MHz."""
        for device in self._matching("sys/class/devfreq/*"):
            if not is_gpu(device):
                continue
            load_permille, clock_hz = _number(device / "device/load"), _number(device / "cur_freq")
            return _scaled(load_permille, 0.1), _scaled(clock_hz, 1e-6)
        return None, None

    def _power_w(self) -> float | None:
        rails_w: dict[str, float] = {}
        for chip in self._matching("sys/class/hwmon/hwmon*"):
            name = _text(chip / "name")
            if name == "ina238":  # of a Thor's carrier board: the input of everything
                input_w = _scaled(_number(chip / "power1_input"), 1e-6)
                if input_w is not None:
                    return input_w
            if name == "ina3221":
                rails_w.update(_rails_w(chip))
        for rail in _TOTAL_RAILS:
            if rail in rails_w:
                return rails_w[rail]
        return sum(rails_w.values()) if rails_w else None

    def _temperature_c(self) -> float | None:
        millidegrees = [
            _number(zone / "temp")
            for zone in self._matching("sys/class/thermal/thermal_zone*")
            # A constant on boards that have no sensor there.
            if not _text(zone / "type").startswith("PMIC")
        ]
        return max((value / 1000 for value in millidegrees if value is not None), default=None)

    def _cpu_clock_mhz(self) -> float | None:
        clocks_khz = [_number(path) for path in self._matching("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")]
        fastest_khz = max((value for value in clocks_khz if value is not None), default=None)
        if fastest_khz is not None:
            return fastest_khz / 1000
        clocks_mhz = re.findall(r"^cpu MHz\s*: ([\d.]+)", _text(self._root / "proc/cpuinfo"), re.MULTILINE)
        return max(map(float, clocks_mhz), default=None)

    def _power_mode(self) -> str | None:
        active = re.search(r"pmode:(\d+)", _text(self._root / "var/lib/nvpmodel/status"))
        if active is None:
            return None
        modes = re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", _text(self._root / "etc/nvpmodel.conf"))
        return {int(number): name for number, name in modes}.get(int(active[1]))

    def _throttle_events(self) -> int | None:
        counts = [
            _number(path)
            for chip in self._matching("sys/class/hwmon/hwmon*")
            if _text(chip / "name") == "soctherm_oc"
            for path in sorted(chip.glob("oc*_event_cnt"))
        ]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def _matching(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern))


def is_gpu(devfreq: Path) -> bool:
    """Whether a folder of /sys/class/devfreq is a Jetson's GPU.

    Its name is ``17000000.gv11b`` or ``.ga10b`` on JetPack 5, ``17000000.gpu`` on 6 and ``gpu-gpc-0`` on a Thor.
    """
    return devfreq.name.startswith(("17000000.", "gpu-gpc-"))


def _rails_w(ina3221: Path) -> dict[str, float]:
    """Watts by name of the rails that one three-channel monitor measures."""
    rails_w = {}
    for channel in (1, 2, 3):
        name = _text(ina3221 / f"in{channel}_label")
        voltage_mv, current_ma = (_number(ina3221 / f"{kind}{channel}_input") for kind in ("in", "curr"))
        # "NC" is a channel that is not connected.
        if name not in ("", "NC") and voltage_mv is not None and current_ma is not None:
            rails_w[name] = voltage_mv * current_ma / 1e6
    return rails_w


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    # Besides missing files: a sensor whose part of the chip sleeps answers with an error.
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
