"""Load, power and heat, read from trees of files as the kernels of three Jetsons and a desktop lay them out."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from edgeseg.telemetry import Reading, Telemetry

STAT = "cpu  {busy} 0 0 {idle} 0 0 0 0 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 1\n"
MEMORY = {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree:          102400 kB\nMemAvailable:    6291456 kB\n"}
NVPMODEL = """\
< PARAM TYPE=CLOCK NAME=GPU >
MAX_FREQ /sys/devices/platform/17000000.gpu/max_freq
< POWER_MODEL ID=0 NAME=15W >
GPU MAX_FREQ 612000000
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


def ina3221(number: int, *rails: tuple[str, int, int]) -> dict[str, str]:
    """A monitor's files for (label, mV, mA) by channel, with the two sums that the driver adds."""
    folder = f"sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": "9"}
    for channel, (label, voltage_mv, current_ma) in enumerate(rails, 1):
        files[f"{folder}/in{channel}_label"] = label
        files[f"{folder}/in{channel}_input"] = str(voltage_mv)
        files[f"{folder}/curr{channel}_input"] = str(current_ma)
    return files


ORIN_NANO = {
    **MEMORY,
    **ina3221(1, ("VDD_IN", 5000, 1500), ("VDD_CPU_GPU_CV", 5000, 600), ("VDD_SOC", 5000, 300)),
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon2/oc2_event_cnt": "4",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "3",
    "sys/class/devfreq/15340000.vic/cur_freq": "729600000",
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
    "sys/class/devfreq/17000000.gpu/device/load": "842",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "48500",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "51250",
    "sys/class/thermal/thermal_zone2/type": "PMIC-Die",
    "sys/class/thermal/thermal_zone2/temp": "100000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600",
    "sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq": "1510400",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fan_mode_quiet",
    "etc/nvpmodel.conf": NVPMODEL,
}
AGX_ORIN_RAILS = {
    **ina3221(3, ("VDD_GPU_SOC", 5000, 800), ("VDD_CPU_CV", 5000, 400), ("VIN_SYS_5V0", 5000, 1000)),
    **ina3221(4, ("NC", 5000, 9999), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)),
}
THOR_RAILS = {
    **ina3221(1, ("VDD_GPU", 12000, 1000)),
    "sys/class/hwmon/hwmon2/name": "ina238",
    "sys/class/hwmon/hwmon2/power1_input": "45500000",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    return root


def test_a_jetson_tells_everything(tmp_path: Path) -> None:
    write(tmp_path, {**ORIN_NANO, "proc/stat": STAT.format(busy=1000, idle=3000)})
    telemetry = Telemetry(tmp_path)
    write(tmp_path, {"proc/stat": STAT.format(busy=1075, idle=3025)})
    assert telemetry.read() == Reading(
        cpu_percent=75.0,
        memory_used_mib=2048.0,
        memory_total_mib=8192.0,
        gpu_percent=pytest.approx(84.2),
        power_w=7.5,
        temperature_c=51.25,
        cpu_clock_mhz=1510.4,
        gpu_clock_mhz=624.75,
        power_mode="MAXN_SUPER",
        throttle_events=7,
    )


@pytest.mark.parametrize("name", ["17000000.gv11b", "17000000.ga10b", "17000000.gpu", "gpu-gpc-0"])
def test_the_gpu_has_another_name_on_every_release(tmp_path: Path, name: str) -> None:
    write(tmp_path, {f"sys/class/devfreq/{name}/cur_freq": "1300500000"})
    assert Telemetry(tmp_path).read().gpu_clock_mhz == 1300.5


@pytest.mark.parametrize(
    ("rails", "power_w"),
    [
        (AGX_ORIN_RAILS, 4.0 + 2.0 + 5.0 + 1.0),
        (THOR_RAILS, 45.5),
        (ina3221(0, ("POM_5V_IN", 5000, 1000), ("POM_5V_GPU", 5000, 400)), 5.0),
    ],
    ids=["sum", "input of everything", "module"],
)
def test_power(tmp_path: Path, rails: dict[str, str], power_w: float) -> None:
    assert Telemetry(write(tmp_path, rails)).read().power_w == pytest.approx(power_w)


def test_a_desktop_tells_load_memory_and_clock(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\ncpu MHz\t\t: 2596.122\n\nprocessor\t: 1\ncpu MHz\t\t: 3100.5\n"
    write(tmp_path, {**MEMORY, "proc/cpuinfo": cpuinfo, "sys/class/hwmon/hwmon0/name": "k10temp"})
    assert Telemetry(tmp_path).read() == Reading(memory_used_mib=2048.0, memory_total_mib=8192.0, cpu_clock_mhz=3100.5)


def test_no_file_at_all(tmp_path: Path) -> None:
    assert Telemetry(tmp_path).read() == Reading()


@pytest.mark.parametrize("name", sorted(ORIN_NANO))
@pytest.mark.parametrize("fault", ["garbage", "gone", "unreadable"])
def test_a_sensor_that_does_not_answer_takes_only_its_own_field_away(tmp_path: Path, name: str, fault: str) -> None:
    write(tmp_path, ORIN_NANO)
    whole = Telemetry(tmp_path).read()
    if fault == "garbage":
        write(tmp_path, {name: "n/a"})
    else:
        (tmp_path / name).unlink()
    if fault == "unreadable":
        (tmp_path / name).mkdir()  # reading a folder is an OSError, as reading a sleeping sensor is
    changed = [f.name for f in dataclasses.fields(Reading)
               if getattr(Telemetry(tmp_path).read(), f.name) != getattr(whole, f.name)]  # fmt: skip
    allowed = 2 if name == "proc/meminfo" else 1
    assert len(changed) <= allowed


def test_the_share_of_the_cpu_is_that_since_the_reading_before(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": STAT.format(busy=0, idle=100)})
    telemetry = Telemetry(tmp_path)
    assert telemetry.read().cpu_percent is None  # no tick has passed
    for busy, idle, percent in [(50, 150, 50.0), (50, 250, 0.0), (150, 250, 100.0)]:
        write(tmp_path, {"proc/stat": STAT.format(busy=busy, idle=idle)})
        assert telemetry.read().cpu_percent == pytest.approx(percent)


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="no Linux")
def test_this_machine() -> None:
    reading = Telemetry().read()
    assert reading.memory_total_mib is not None
    assert reading.memory_used_mib is not None
    assert 0 < reading.memory_used_mib < reading.memory_total_mib
