"""TensorRT missing, half installed, too old, or without a driver: said before any of its objects is made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeseg import doctor
from edgeseg.doctor import Cuda, Gpu, Host
from edgeseg.errors import BackendError
from edgeseg.trt import library

GPU = Gpu("Some card", "8.9", 24 * 2**30, integrated=False)


@pytest.fixture
def driver(monkeypatch):
    """``driver(cuda)`` sets what the NVIDIA driver says."""

    def set_to(cuda: Cuda | None) -> None:
        monkeypatch.setattr(doctor, "read_cuda", lambda: cuda)

    set_to(Cuda((12, 6), (GPU,)))
    return set_to


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """``installed(code)`` puts a package ``tensorrt`` of that code on the path; None leaves an empty folder."""
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def install(code: str | None) -> None:
        (tmp_path / "tensorrt").mkdir()
        if code is not None:
            (tmp_path / "tensorrt" / "__init__.py").write_text(code, encoding="utf-8")

    yield install
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def jetson(monkeypatch, tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n", encoding="utf-8")
    monkeypatch.setattr(library, "Host", lambda: Host(root, {}))


WHOLE = "__version__ = '10.3.0'\nclass Runtime: pass\n"


def test_a_whole_one_is_given(driver, installed):
    installed(WHOLE)
    assert library.load_tensorrt().__version__ == "10.3.0"


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (None, "no libcuda.so.1"),
        (Cuda(problem="cuInit: error 100, no CUDA-capable device is detected"), "error 100"),
        (Cuda((12, 6), problem="the driver shows no device"), "shows no device"),
    ],
)
def test_without_a_driver_tensorrt_is_not_even_imported(driver, installed, cuda, said):
    installed("raise AssertionError('imported')")
    driver(cuda)
    with pytest.raises(BackendError, match=said) as raised:
        library.load_tensorrt()
    assert "--gpus all" in raised.value.mend


def test_missing(driver, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tensorrt")
    with pytest.raises(BackendError, match=r"TensorRT: not installed.*pip install 'edgeseg\[tensorrt\]'"):
        library.load_tensorrt()


@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file or directory')",
        "raise FileNotFoundError('Could not find: libnvinfer.so.10. Is it on your LD_LIBRARY_PATH?')",
        "import tensorrt_libs_that_are_not_there",
    ],
)
def test_half_installed(driver, installed, code):
    installed(code)
    with pytest.raises(BackendError, match=r"cannot be imported: .*(libnvinfer|tensorrt_libs)") as raised:
        library.load_tensorrt()
    assert "--force-reinstall" in raised.value.mend


def test_what_uninstalling_leaves(driver, installed):
    installed(None)
    with pytest.raises(BackendError, match="its package is empty"):
        library.load_tensorrt()


def test_the_dla_library_of_a_jetson_is_missing(driver, installed, jetson):
    installed("raise ImportError('libnvdla_compiler.so: cannot open shared object file')")
    with pytest.raises(BackendError, match="nvdla_compiler") as raised:
        library.load_tensorrt()
    assert "nvidia-l4t-dla-compiler" in raised.value.mend
    assert "--runtime nvidia" in raised.value.mend


def test_older_than_edgeseg_knows(driver, installed):
    installed("__version__ = '8.4.1'\nclass Runtime: pass\n")
    with pytest.raises(BackendError, match=r"8\.4\.1 is older than 8\.5"):
        library.load_tensorrt()


def test_a_driver_too_old_for_it(driver, installed, monkeypatch):
    installed("__version__ = '11.4.0'\nclass Runtime: pass\n")
    monkeypatch.setattr(doctor, "installed_version", {"tensorrt-cu13": "11.4.0"}.get)
    with pytest.raises(BackendError, match=r"built for CUDA 13, the driver runs CUDA 12\.6") as raised:
        library.load_tensorrt()
    assert "update the NVIDIA driver" in raised.value.mend


def test_this_machine_is_asked_in_earnest():
    """Whatever it has: either a driver with a device, or an error with its mend."""
    if Path("/proc/driver/nvidia/version").exists():
        assert library.require_driver().gpus
    else:
        with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
            library.require_driver()
