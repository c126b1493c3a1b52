"""`edgeseg doctor`: probes over faked machines, the verdict, the two outputs."""

# ruff: noqa: N802 (a fake driver has the names of the real one)
from __future__ import annotations

import argparse
import ctypes.util
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from edgeseg import decode_compiled, doctor
from edgeseg.cli import doctor as command
from edgeseg.doctor import Cuda, Finding, Gpu, Host, Verdict

X86_CPUINFO = """\
processor\t: 0
model name\t: Some x86 processor
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Another one
flags\t\t: fpu sse2
"""
ORIN_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimdhp asimddp
CPU implementer\t: 0x41
"""
MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   8388608 kB\n"
ORIN_FILES = {
    "proc/cpuinfo": ORIN_CPUINFO,
    "proc/meminfo": MEMINFO,
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/15340000.vic/min_freq": "1\n",
    "sys/class/devfreq/15340000.vic/max_freq": "1\n",
}
ORIN_GPU = Gpu("Orin", "8.7", 16 * 2**30, integrated=True)
DESKTOP_GPU = Gpu("Some card", "8.9", 24 * 2**30, integrated=False)


def host_with(root: Path, files: dict[str, str], **environ: str) -> Host:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Host(root, environ)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def hide_packages(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def set_versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Only these distributions are installed; an underscore in a name stands for a hyphen."""
    installed = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name in installed:
            return installed[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def set_cuda(monkeypatch: pytest.MonkeyPatch, cuda: Cuda | None) -> None:
    monkeypatch.setattr(doctor, "read_cuda", lambda: cuda)


def add_tensorrt(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    package = folder / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code = command.main(parser.parse_args(flags))
    return code, capsys.readouterr().out


class TestCpu:
    def test_x86_features_come_from_the_first_core(self, tmp_path: Path) -> None:
        found = by_name(doctor.probe_cpu(host_with(tmp_path, {"proc/cpuinfo": X86_CPUINFO, "proc/meminfo": MEMINFO})))
        assert found["model"].detail == "Some x86 processor"
        assert found["features"].detail == "avx2 avx512f avx512_vnni amx_int8"
        assert found["memory"].detail == "16.0 GiB in all, 8.0 GiB available"

    def test_x86_without_avx2_is_a_warning(self, tmp_path: Path) -> None:
        files = {"proc/cpuinfo": "flags : sse2\n", "proc/meminfo": MEMINFO}
        assert by_name(doctor.probe_cpu(host_with(tmp_path, files)))["features"].status == "warning"

    def test_arm_features_and_the_board_as_the_model(self, tmp_path: Path) -> None:
        found = by_name(doctor.probe_cpu(host_with(tmp_path, ORIN_FILES)))
        assert found["features"].detail == "asimd asimddp"
        assert found["model"].detail.startswith("NVIDIA Jetson Orin NX")

    @pytest.mark.parametrize(
        "files",
        [
            {"proc/self/cgroup": "0::/robot/job\n", "sys/fs/cgroup/robot/cpu.max": "50000 100000\n"},
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/robot\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        ],
        ids=["v2", "v1"],
    )
    def test_a_cgroup_quota_lowers_the_cores(self, tmp_path: Path, files: dict[str, str]) -> None:
        host = host_with(tmp_path, {"proc/meminfo": MEMINFO, **files})
        assert by_name(doctor.probe_cpu(host))["cores"].detail.startswith("0.5 of ")

    def test_no_quota(self, tmp_path: Path) -> None:
        files = {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
        }
        detail = by_name(doctor.probe_cpu(host_with(tmp_path, files)))["cores"].detail
        assert detail == f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} usable"


class FakeDriver:
    """libcuda with one device, called through the same ctypes references as the real one."""

    def __init__(self, init: int = 0) -> None:
        self.init = init

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuGetErrorString(self, error: int, text: Any) -> int:
        text._obj.value = b"no CUDA-capable device is detected"
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = 16 * 2**30
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 7, 18: 1}[which]
        return 0


class TestGpu:
    def test_the_driver_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_load_cuda_driver", FakeDriver)
        assert doctor.read_cuda() == Cuda((12, 6), (ORIN_GPU,))

    def test_a_driver_that_does_not_start(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(doctor, "_load_cuda_driver", lambda: FakeDriver(init=100))
        version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n"
        driver = by_name(doctor.probe_gpu(host_with(tmp_path, {"proc/driver/nvidia/version": version})))["driver"]
        assert driver.status == "warning"
        assert "535.104.05" in driver.detail
        assert "no CUDA-capable device" in driver.detail

    def test_no_nvidia_hardware_is_nothing_to_mend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, None)
        assert [(f.status, f.mend) for f in doctor.probe_gpu(Host(tmp_path, {}))] == [("info", None)]

    def test_a_card_without_a_driver(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, None)
        pci = "sys/bus/pci/devices/0000:01:00"
        files = {f"{pci}.1/vendor": "0x10de\n", f"{pci}.1/class": "0x040300\n"}
        assert doctor.probe_gpu(host_with(tmp_path, files))[0].status == "info"
        files = {f"{pci}.0/vendor": "0x10de\n", f"{pci}.0/class": "0x030000\n"}
        assert doctor.probe_gpu(host_with(tmp_path, files))[0].status == "missing"

    def test_cuda_parts_match_the_driver(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, Cuda((12, 6), (DESKTOP_GPU,)))
        set_versions(monkeypatch)
        monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        host = host_with(tmp_path, {"usr/local/cuda/lib64/libcudart.so.12": ""})
        found = by_name(doctor.probe_gpu(host))
        assert found["gpu0"].detail == "Some card, compute capability 8.9, 24.0 GiB, discrete"
        assert found["libcudart"].status == "ok"
        assert "nvidia-cuda-nvrtc-cu12" in (found["libnvrtc"].mend or "")


class TestEngines:
    def test_missing_ones_name_the_extra(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, None)
        set_versions(monkeypatch)
        hide_packages(monkeypatch, "onnxruntime", "openvino", "tensorrt")
        host = Host(tmp_path, {})
        for probe in (doctor.probe_onnxruntime, doctor.probe_openvino):
            [finding] = probe(host)
            assert (finding.status, finding.mend) == ("missing", "pip install 'edgeseg[cpu]'")
        [tensorrt] = doctor.probe_tensorrt(host)
        assert tensorrt.status == "missing"
        assert (tensorrt.mend or "").endswith("pip install 'edgeseg[tensorrt]'")

    def test_the_decoder_that_was_not_compiled(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(decode_compiled, "available", lambda: False)
        [finding] = doctor.probe_decoder(Host(tmp_path, {}))
        assert (finding.status, finding.detail[:8]) == ("info", "in numpy")
        assert "gcc" in (finding.mend or "")

    def test_an_engine_whose_import_fails(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "openvino.py").write_text("raise OSError('libtbb.so.12:\\n cannot open')")
        monkeypatch.delitem(sys.modules, "openvino", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        [finding] = doctor.probe_openvino(Host(tmp_path, {}))
        assert finding.status == "warning"
        assert "OSError: libtbb.so.12: cannot open" in finding.detail

    def test_an_import_that_numpy_2_breaks(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "cv2.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
        monkeypatch.delitem(sys.modules, "cv2", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        assert "numpy<2" in (doctor.probe_opencv(Host(tmp_path, {}))[0].mend or "")

    def test_two_onnxruntimes_are_a_warning(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, Cuda((12, 6), (DESKTOP_GPU,)))
        set_versions(monkeypatch, onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
        module = types.SimpleNamespace(
            __version__="1.31.1",
            get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        )
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        engine, clash = doctor.probe_onnxruntime(Host(tmp_path, {}))
        assert engine.status == "ok"
        assert engine.detail.endswith("providers CUDA, CPU")
        assert clash.status == "warning"
        assert clash.mend == "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"

    def test_onnxruntime_emptied_by_an_uninstall(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, None)
        monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
        assert doctor.probe_onnxruntime(Host(tmp_path, {}))[0].status == "warning"


class TestTensorrt:
    @pytest.mark.parametrize(
        ("code", "text"),
        [
            ("raise ImportError('libnvinfer.so.10: not found')", "ImportError: libnvinfer.so.10: not found"),
            ("raise OSError('libnvdla_compiler.so: not found')", "OSError: libnvdla_compiler.so: not found"),
            (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", "it crashed (SIGSEGV)"),
            ("import time; time.sleep(30)", "no answer within"),
        ],
        ids=["ImportError", "OSError", "crash", "hang"],
    )
    def test_a_broken_one_is_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, text: str
    ) -> None:
        set_cuda(monkeypatch, Cuda((12, 6), (DESKTOP_GPU,)))
        monkeypatch.setattr(doctor, "_TENSORRT_TIMEOUT_S", 0.5 if "sleep" in code else 20.0)
        add_tensorrt(monkeypatch, tmp_path, code)
        [finding] = doctor.probe_tensorrt(Host(tmp_path, {}))
        assert finding.status == "warning"
        assert text in finding.detail
        assert finding.mend

    @pytest.mark.parametrize(
        ("version", "cuda", "status"),
        [
            ("10.3.0", Cuda((12, 6), (ORIN_GPU,)), "ok"),
            ("8.4.1.5", Cuda((11, 4), (ORIN_GPU,)), "warning"),
            ("11.4.0.106", None, "warning"),
            ("11.4.0.106", Cuda(problem="cuInit: error 100"), "warning"),
        ],
        ids=["ok", "too old", "no driver", "no device"],
    )
    def test_version_and_gpu_decide(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, cuda: Cuda | None, status: str
    ) -> None:
        set_cuda(monkeypatch, cuda)
        set_versions(monkeypatch)
        add_tensorrt(monkeypatch, tmp_path, f"__version__ = '{version}'")
        [finding] = doctor.probe_tensorrt(Host(tmp_path, {}))
        assert finding.status == status
        assert version in finding.detail

    def test_a_wheel_for_a_newer_cuda_than_the_driver(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, Cuda((12, 6), (DESKTOP_GPU,)))
        set_versions(monkeypatch, tensorrt_cu13="11.4.0")
        add_tensorrt(monkeypatch, tmp_path, "__version__ = '11.4.0'")
        [finding] = doctor.probe_tensorrt(Host(tmp_path, {}))
        assert finding.status == "warning"
        assert "tensorrt-cu12" in (finding.mend or "")


class FakeCv2(types.SimpleNamespace):
    CAP_FFMPEG, CAP_V4L2, CAP_GSTREAMER = 1900, 200, 1800
    __version__ = "5.0.0"

    def __init__(self, gui: str, backends: tuple[int, ...]) -> None:
        super().__init__(videoio_registry=types.SimpleNamespace(hasBackend=lambda which: which in backends))
        self.getBuildInformation = lambda: f"General\n\n  GUI:                           {gui}\n    GTK+:  NO\n"


class TestVideo:
    def test_headless_opencv_twice(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_versions(monkeypatch, opencv_python="5.0.0.93", opencv_python_headless="5.0.0.93")
        monkeypatch.setitem(sys.modules, "cv2", FakeCv2("NONE", (FakeCv2.CAP_FFMPEG,)))
        found = by_name(doctor.probe_opencv(Host(tmp_path, {"DISPLAY": ":0"})))
        assert found["cv2"].detail.endswith("reads with FFMPEG")
        assert found["opencv installs"].status == "warning"
        assert found["window"].status == "missing"
        assert found["gstreamer"].status == "missing"
        assert "--system-site-packages" in (found["gstreamer"].mend or "")

    def test_system_opencv_on_a_desktop(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_versions(monkeypatch)
        monkeypatch.setitem(sys.modules, "cv2", FakeCv2("GTK3", (200, 1800, 1900)))
        found = by_name(doctor.probe_opencv(Host(tmp_path, {"WAYLAND_DISPLAY": "wayland-0"})))
        assert {finding.status for finding in found.values()} == {"ok"}
        assert "not installed with pip" in found["cv2"].detail

    def test_no_display(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "cv2", FakeCv2("QT5", ()))
        assert by_name(doctor.probe_opencv(Host(tmp_path, {})))["window"].status == "missing"

    def test_cameras_in_order_with_names(self, tmp_path: Path) -> None:
        files = {f"dev/video{number}": "" for number in (10, 2)}
        files["sys/class/video4linux/video2/name"] = "HD Webcam\n"
        found = doctor.probe_cameras(host_with(tmp_path, files))
        assert [(f.name, f.detail, f.status) for f in found] == [
            ("/dev/video2", "HD Webcam", "ok"),
            ("/dev/video10", "unnamed", "ok"),
        ]

    def test_a_camera_without_permission(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        [camera] = doctor.probe_cameras(host_with(tmp_path, {"dev/video0": ""}))
        assert camera.status == "warning"
        assert "usermod -aG video" in (camera.mend or "")

    def test_no_camera(self, tmp_path: Path) -> None:
        assert doctor.probe_cameras(Host(tmp_path, {}))[0].status == "info"


def test_training_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_versions(monkeypatch, torch="2.14.1")
    found = by_name(doctor.probe_training(Host(tmp_path, {})))
    assert found["torch"].status == "ok"
    assert found["torchvision"].mend == "pip install 'edgeseg[train]'"
    assert found["onnx"].mend == "pip install 'edgeseg[export]'"


class TestJetson:
    def test_jetpack_6_2(self, tmp_path: Path) -> None:
        nvpmodel = tmp_path / "usr/sbin/nvpmodel"
        nvpmodel.parent.mkdir(parents=True)
        nvpmodel.write_text("#!/bin/sh\nprintf 'NV Power Mode: 25W\\n1\\n'\n")
        nvpmodel.chmod(0o755)
        found = by_name(doctor.probe_jetson(host_with(tmp_path, ORIN_FILES)))
        assert found["model"].detail.endswith("(Orin, sm_87)")
        assert found["jetpack"].status == "ok"
        assert found["jetpack"].detail.startswith("JetPack 6.2 (L4T 36.4.3), comes with TensorRT 10.3")
        assert found["power mode"].detail.startswith("25W ")
        assert found["clocks"].detail == "not locked, GPU 306 to 918 MHz"

    def test_locked_clocks(self, tmp_path: Path) -> None:
        files = {**ORIN_FILES, "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n"}
        found = by_name(doctor.probe_jetson(host_with(tmp_path, files)))
        assert found["clocks"].detail == "GPU locked at 918 MHz"
        assert found["power mode"].status == "info"

    @pytest.mark.parametrize(
        ("release", "text", "status"),
        [
            ("R36 (release), REVISION: 4.9", "JetPack 6.1 or 6.2.x (L4T 36.4.9)", "ok"),
            ("R35 (release), REVISION: 4.1", "JetPack 5.1.2 (L4T 35.4.1), comes with TensorRT 8.5.2", "ok"),
            ("R32 (release), REVISION: 7.4", "older than 8.5", "warning"),
            ("R39 (release), REVISION: 2.0", "JetPack 7.2 ", "ok"),
            ("R77 (release), REVISION: 1.0", "does not know", "info"),
        ],
    )
    def test_other_releases(self, tmp_path: Path, release: str, text: str, status: str) -> None:
        host = host_with(tmp_path, {**ORIN_FILES, "etc/nv_tegra_release": f"# {release}, GCID: 1"})
        jetpack = by_name(doctor.probe_jetson(host))["jetpack"]
        assert text in jetpack.detail
        assert jetpack.status == status

    def test_release_from_dpkg(self, tmp_path: Path) -> None:
        if not shutil.which("dpkg-query"):
            pytest.skip("needs dpkg-query")
        status = (
            "Package: nvidia-l4t-core\nStatus: install ok installed\nMaintainer: none\nArchitecture: arm64\n"
            "Version: 36.4.3-20250107174145\nDescription: core\n"
        )
        assert doctor.l4t_release(host_with(tmp_path, {"var/lib/dpkg/status": status})) == "36.4.3"

    def test_in_a_container_the_release_is_unknown(self, tmp_path: Path) -> None:
        files = {name: text for name, text in ORIN_FILES.items() if name != "etc/nv_tegra_release"}
        assert by_name(doctor.probe_jetson(host_with(tmp_path, files)))["jetpack"].status == "info"

    def test_another_machine(self, tmp_path: Path) -> None:
        assert doctor.probe_jetson(Host(tmp_path, {})) == [Finding("jetson", "jetson", "info", "not a Jetson")]

    def test_tensorrt_never_from_pip(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        set_cuda(monkeypatch, Cuda((12, 6), (ORIN_GPU,)))
        hide_packages(monkeypatch, "tensorrt")
        host = host_with(tmp_path, ORIN_FILES)
        [absent] = doctor.probe_tensorrt(host)
        (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
        [unseen] = doctor.probe_tensorrt(host)
        for finding in (absent, unseen):
            assert finding.status == "missing"
            assert "--system-site-packages" in (finding.mend or "")
            assert "pip install" not in (finding.mend or "")
        assert "nvidia-jetpack" in (absent.mend or "")
        assert "does not see" in unseen.detail


class TestExamine:
    def test_a_raising_probe_becomes_a_warning(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def probe_cpu(host: Host) -> list[Finding]:
            raise RuntimeError("something\nbroke")

        monkeypatch.setattr(doctor, "PROBES", [("cpu", probe_cpu), ("jetson", doctor.probe_jetson)])
        warning, jetson = doctor.examine(Host(tmp_path, {}))
        assert warning == Finding("cpu", "cpu", "warning", "could not be examined: RuntimeError: something broke")
        assert jetson.section == "jetson"

    def test_a_bare_machine_has_a_mend_for_everything(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_cuda(monkeypatch, None)
        set_versions(monkeypatch)
        hide_packages(monkeypatch, "onnxruntime", "openvino", "tensorrt", "cv2")
        monkeypatch.setattr(doctor, "Host", lambda: Host(tmp_path, {}))
        code, out = run(capsys, "--json")
        report = json.loads(out)
        missing = [finding for finding in report["findings"] if finding["status"] == "missing"]
        assert len(missing) >= 8
        assert all(finding["mend"] for finding in missing)
        assert report["backend"] == {"onnx": None, "engine": None}
        assert report["advice"]["name"] == "cv2"
        assert code == 1

    def test_text_has_one_line_per_finding_and_the_mend_below(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = [
            Finding("engines", "openvino", "missing", "not installed", "do this"),
            finding("onnxruntime"),
        ]
        monkeypatch.setattr(doctor, "examine", lambda: found)
        code, out = run(capsys)
        lines = out.splitlines()
        assert lines[:4] == [
            "engines",
            "  missing  openvino     not installed",
            "                        mend: do this",
            "  ok       onnxruntime  1.0",
        ]
        assert "  ONNX models       run with onnxruntime" in lines
        assert code == 0

    def test_this_machine(self, capsys: pytest.CaptureFixture[str]) -> None:
        if not doctor.installed_version("onnxruntime"):
            pytest.skip("needs onnxruntime")
        code, out = run(capsys, "--json")
        report = json.loads(out)
        statuses = {finding["name"]: finding["status"] for finding in report["findings"]}
        assert statuses["onnxruntime"] == "ok"
        assert report["versions"]["onnxruntime"]
        assert report["backend"]["onnx"] in doctor.AUTO_ORDER
        assert not [f for f in report["findings"] if "could not be examined" in f["detail"]]
        assert code == 0


def finding(name: str, status: doctor.Status = "ok", section: str = "engines") -> Finding:
    mend = f"mend {name}" if status in ("missing", "warning") else None
    return Finding(section, name, status, "1.0", mend)


class TestVerdict:
    def test_openvino_is_preferred(self) -> None:
        assert doctor.verdict([finding("onnxruntime"), finding("openvino")]) == Verdict("openvino", None, None)

    def test_a_broken_openvino_is_passed_over(self) -> None:
        result = doctor.verdict([finding("openvino", "warning"), finding("onnxruntime")])
        assert result.onnx == "onnxruntime"
        assert result.advice == finding("openvino", "warning")

    def test_tensorrt_alone_is_usable(self) -> None:
        result = doctor.verdict([finding("tensorrt"), finding("gpu0", section="gpu")])
        assert (result.onnx, result.engine, result.usable) == (None, "tensorrt", True)

    def test_on_a_gpu_tensorrt_comes_first(self) -> None:
        found = [
            finding("openvino", "missing"),
            finding("tensorrt", "missing"),
            finding("gpu0", section="gpu"),
        ]
        assert doctor.verdict(found).advice == finding("tensorrt", "missing")

    def test_without_a_gpu_tensorrt_is_no_advice(self) -> None:
        found = [finding("openvino"), finding("tensorrt", "warning"), finding("av", "missing", "video")]
        assert doctor.verdict(found).advice is None

    def test_nothing_usable(self) -> None:
        result = doctor.verdict([finding("openvino", "missing"), finding("onnxruntime", "missing")])
        assert not result.usable
        assert result.advice == finding("openvino", "missing")

    def test_gstreamer_matters_on_a_jetson(self) -> None:
        found = [finding("model", section="jetson"), finding("tensorrt"), finding("openvino")]
        found.append(finding("gstreamer", "missing", "video"))
        assert doctor.verdict(found).advice == finding("gstreamer", "missing", "video")
