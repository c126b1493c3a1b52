"""What edgeseg can use on this machine, and how to mend what it cannot.

Probes only look: no camera is opened, no TensorRT object is made (without a driver that ends the
process), and nothing is changed. ``edgeseg doctor`` prints what ``examine`` and ``verdict`` return.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from edgeseg.telemetry import is_gpu

Status = Literal["ok", "missing", "warning", "info"]

AUTO_ORDER = ("openvino", "onnxruntime")
"""Engines that run an ONNX model, in the order in which ``--backend auto`` prefers them."""

ONNXRUNTIMES = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml",
    "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-qnn",
)  # fmt: skip
"""Distributions that all install the import name ``onnxruntime``."""

OPENCVS = (
    "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless",
)  # fmt: skip
"""Distributions that all install the import name ``cv2``."""

X86_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
ARM_FEATURES = ("asimd", "asimddp", "i8mm", "bf16", "sve")

TENSORRT_FLOOR = (8, 5)
_TENSORRT_TIMEOUT_S = 60.0
_QUERY_TIMEOUT_S = 5.0
_PCI_VENDOR_NVIDIA = "0x10de"
_PCI_CLASS_DISPLAY = "0x03"

# Attribute numbers of cuDeviceGetAttribute, fixed by the driver's interface.
_CUDA_INTEGRATED = 18
_CUDA_CAPABILITY_MAJOR = 75
_CUDA_CAPABILITY_MINOR = 76

DRIVER_MEND = "install NVIDIA's driver; in a container, start it with '--gpus all' (on a Jetson '--runtime nvidia')"
_SYSTEM_VENV = "use a venv made by the system's Python with --system-site-packages"
_JETSON_TENSORRT_MEND = (
    f"sudo apt-get install nvidia-jetpack, then {_SYSTEM_VENV}; pip's tensorrt does not fit a Jetson"
)

# JetPack by exact L4T release. A release that is not listed is described by its series alone.
_JETPACK_BY_L4T = {
    "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3",
    "35.6.0": "5.1.4", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1",
    "36.4.7": "6.2.1", "36.5.0": "6.2.2", "36.5.2": "6.2.3", "38.2.0": "7.0", "38.4.0": "7.1",
    "39.2.0": "7.2", "39.2.1": "7.2.1", "39.2.2": "7.2.2",
}  # fmt: skip


@dataclass(frozen=True)
class _L4tSeries:
    jetpack: str
    tensorrt: str
    cuda: str


# The longest matching prefix of the L4T release counts.
_L4T_SERIES = {
    "32": _L4tSeries("4.x", "8.2", "10.2"),
    "35": _L4tSeries("5.1.x", "8.5.2", "11.4"),
    "35.1": _L4tSeries("5.0.x", "8.4", "11.4"),
    "36.3": _L4tSeries("6.0", "8.6.2", "12.2"),
    "36.4": _L4tSeries("6.1 or 6.2.x", "10.3", "12.6"),
    "36.5": _L4tSeries("6.2.x", "10.3", "12.6"),
    "38": _L4tSeries("7.0 or 7.1", "10.13", "13.0"),
    "39": _L4tSeries("7.2.x", "10.16", "13.2"),
}
_SOCS = {"tegra194": "Xavier, sm_72", "tegra234": "Orin, sm_87", "tegra264": "Thor, sm_110"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: group it is printed under, such as "engines".
        name: what was looked at, such as "openvino".
        status: "ok", "missing", "warning" (there, but something is wrong) or "info" (neither good nor bad).
        detail: one line, for people.
        mend: what to do about it. Always there when the status is "missing".
    """

    section: str
    name: str
    status: Status
    detail: str
    mend: str | None = None


def _text(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The device tree ends and separates its strings with NUL.
    return text.replace("\0", " ").strip()


@dataclass(frozen=True)
class Host:
    """Where the probes look; another root and environment describe another machine, for tests.

    Attributes:
        root: the file system that holds /proc, /sys, /dev and /etc.
        environ: environment variables.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def read(self, path: str) -> str | None:
        """The text of a file below the root, or None where it cannot be read."""
        return _text(self.root / path)


@dataclass(frozen=True)
class Gpu:
    """One CUDA device as the driver describes it."""

    name: str
    capability: str
    memory_bytes: int
    integrated: bool


@dataclass(frozen=True)
class Cuda:
    """What the NVIDIA driver says.

    Attributes:
        version: the newest CUDA the driver can run, such as (12, 6).
        gpus: the devices this process may use.
        problem: why there are none, else empty.
    """

    version: tuple[int, int] = (0, 0)
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Verdict:
    """What running a model comes to on this machine.

    Attributes:
        onnx: the engine that ``--backend auto`` takes for an ONNX model, or None.
        engine: "tensorrt" where a TensorRT engine file can be run, or None.
        advice: the one finding most worth mending, or None.
    """

    onnx: str | None
    engine: str | None
    advice: Finding | None

    @property
    def usable(self) -> bool:
        """Whether any inference engine can be used."""
        return self.onnx is not None or self.engine is not None


def one_line(error: BaseException) -> str:
    """Type and text of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Versions of edgeseg, Python and every distribution that edgeseg can use, as far as installed."""
    names = (
        "edgeseg", "numpy", *ONNXRUNTIMES, "openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13",
        *OPENCVS, "torch", "torchvision", "onnx", "tensorboard",
    )  # fmt: skip
    found = {name: installed_version(name) for name in names}
    return {"python": platform.python_version(), **{name: v for name, v in found.items() if v is not None}}


# System and CPU


def probe_system(host: Host) -> list[Finding]:
    """Version of edgeseg, Python, architecture and operating system."""
    section = "system"
    version = installed_version("edgeseg")
    edgeseg = (
        Finding(section, "edgeseg", "ok", version)
        if version
        else Finding(section, "edgeseg", "info", "not installed, run from its folder", "pip install -e .")
    )
    os_release = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.read("etc/os-release") or "", re.MULTILINE)
    return [
        edgeseg,
        Finding(section, "python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding(section, "machine", "info", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        Finding(section, "os", "info", os_release[1] if os_release else "no /etc/os-release"),
    ]


def probe_cpu(host: Host) -> list[Finding]:
    """Model, usable cores, instruction sets that matter for inference, memory."""
    section = "cpu"
    facts = _colon_table(host.read("proc/cpuinfo") or "")
    # 64-bit Arm kernels print no model name; the device tree at least names the board.
    model = facts.get("model name") or host.read("proc/device-tree/model") or "unknown model"
    memory = _colon_table(host.read("proc/meminfo") or "")
    total, free = (_gib(int(memory[key].split()[0]) * 1024) for key in ("MemTotal", "MemAvailable"))
    return [
        Finding(section, "model", "info", model),
        _cores(section, host),
        _features(section, facts),
        Finding(section, "memory", "info", f"{total} in all, {free} available"),
    ]


def probe_decoder(host: Host) -> list[Finding]:
    """Whether class maps are made by the compiled decoder."""
    del host
    from edgeseg import decode_compiled

    if decode_compiled.available():
        return [Finding("cpu", "decoder", "ok", "compiled")]
    detail = "in numpy: the same masks, but it takes longer than the compiled one"
    mend = "sudo apt-get install gcc libc6-dev, then install edgeseg again with --force-reinstall --no-deps"
    return [Finding("cpu", "decoder", "info", detail, mend)]


def _colon_table(text: str) -> dict[str, str]:
    """``key : value`` lines; the first of equal keys counts, which for a CPU is its first core."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _cores(section: str, host: Host) -> Finding:
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    quota = min(_cgroup_quotas(host), default=float(usable))
    if quota < usable:
        return Finding(section, "cores", "info", f"{quota:.3g} of {total} usable (cgroup quota)")
    return Finding(section, "cores", "info", f"{usable} of {total} usable")


def _cgroup_quotas(host: Host) -> Iterator[float]:
    """CPU quotas in cores that hold for this process, from its own cgroup up to the top, versions 2 and 1."""
    for line in (host.read("proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        base = "sys/fs/cgroup" if number == "0" else "sys/fs/cgroup/cpu"
        for folder in (Path(path), *Path(path).parents):
            prefix = f"{base}/{folder.as_posix().strip('/')}"
            if number == "0":
                limit = (host.read(f"{prefix}/cpu.max") or "").split()
            else:
                limit = [host.read(f"{prefix}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
            if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():
                yield int(limit[0]) / int(limit[1])


def _features(section: str, facts: Mapping[str, str]) -> Finding:
    arm = "Features" in facts
    flags = set(facts.get("Features" if arm else "flags", "").split())
    found = [name for name in (ARM_FEATURES if arm else X86_FEATURES) if name in flags]
    if not arm and "avx2" not in flags:
        return Finding(section, "features", "warning", f"no avx2: inference is slow here ({' '.join(found) or 'none'})")
    return Finding(section, "features", "info", " ".join(found) or "none that matter for inference")


# NVIDIA GPUs


def _load_cuda_driver() -> Any | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def read_cuda() -> Cuda | None:
    """Ask the NVIDIA driver for its version and devices; None where no driver library is found."""
    library = _load_cuda_driver()
    if library is None:
        return None
    number = ctypes.c_int(0)
    error = library.cuInit(0)
    if error:
        return Cuda(problem=f"cuInit: {_cuda_error(library, error)}")
    library.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    error = library.cuDeviceGetCount(ctypes.byref(number))
    if error:
        return Cuda(version, problem=f"cuDeviceGetCount: {_cuda_error(library, error)}")
    gpus = tuple(_read_gpu(library, index) for index in range(number.value))
    return Cuda(version, gpus, "" if gpus else "the driver shows no device")


def _cuda_error(library: Any, code: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"error {code}, {(text.value or b'unknown').decode(errors='replace')}"


def _read_gpu(library: Any, index: int) -> Gpu:
    device, value, size = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(size), device)

    def attribute(which: int) -> int:
        library.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"{attribute(_CUDA_CAPABILITY_MAJOR)}.{attribute(_CUDA_CAPABILITY_MINOR)}",
        memory_bytes=size.value,
        integrated=bool(attribute(_CUDA_INTEGRATED)),
    )


def probe_gpu(host: Host) -> list[Finding]:
    """NVIDIA driver, devices, and the CUDA parts that running on them needs."""
    cuda = read_cuda()
    findings = [_driver(host, cuda)]
    for index, gpu in enumerate(cuda.gpus if cuda else ()):
        kind = "integrated" if gpu.integrated else "discrete"
        detail = f"{gpu.name}, compute capability {gpu.capability}, {_gib(gpu.memory_bytes)}, {kind}"
        findings.append(Finding("gpu", f"gpu{index}", "ok", detail))
    if cuda and cuda.gpus:
        findings += [
            _cuda_library(host, "cudart", cuda),
            _cuda_library(host, "nvrtc", cuda),
        ]
    return findings


def driver_release(host: Host) -> str | None:
    """Release of the NVIDIA kernel driver, such as "550.54.14"; None where nothing tells it."""
    kernel = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", host.read("proc/driver/nvidia/version") or "")
    return kernel[0] if kernel else None


def _driver(host: Host, cuda: Cuda | None) -> Finding:
    kernel = driver_release(host)
    release = kernel or "unknown"
    if cuda is None:
        if kernel or is_jetson(host) or _has_nvidia_hardware(host):
            return Finding("gpu", "driver", "missing", "NVIDIA hardware, but no libcuda.so.1", DRIVER_MEND)
        return Finding("gpu", "driver", "info", "no NVIDIA GPU and no driver")
    if cuda.problem:
        mend = f"check CUDA_VISIBLE_DEVICES; restart after a driver update; else {DRIVER_MEND}"
        return Finding("gpu", "driver", "warning", f"driver {release} unusable: {cuda.problem}", mend)
    return Finding("gpu", "driver", "ok", f"driver {release}, runs CUDA up to {cuda.version[0]}.{cuda.version[1]}")


def _has_nvidia_hardware(host: Host) -> bool:
    """Whether a PCI display device of NVIDIA is there, driver or not."""
    return any(
        _text(device / "vendor") == _PCI_VENDOR_NVIDIA
        and (_text(device / "class") or "").startswith(_PCI_CLASS_DISPLAY)
        for device in host.root.glob("sys/bus/pci/devices/*")
    )


def _cuda_library(host: Host, name: str, cuda: Cuda) -> Finding:
    found = ctypes.util.find_library(name) or next(library_files(host, f"lib{name}.so*"), None)
    if found:
        return Finding("gpu", f"lib{name}", "ok", str(found))
    mend = f"pip install '{cuda_wheel(name, cuda.version[0])}', or install the CUDA toolkit"
    return Finding("gpu", f"lib{name}", "missing", "not found", mend)


def cuda_wheel(library: str, cuda_major: int) -> str:
    """Name of NVIDIA's Python package with the library "cudart" or "nvrtc" of one CUDA."""
    package = {"cudart": "nvidia-cuda-runtime", "nvrtc": "nvidia-cuda-nvrtc"}[library]
    # Up to CUDA 12 the wheels carry the CUDA version in their name.
    return package if cuda_major >= 13 else f"{package}-cu{cuda_major}"


def library_files(host: Host, pattern: str) -> Iterator[Path]:
    """Where the dynamic loader does not look by itself: the toolkit, and NVIDIA's Python wheels."""
    folders = [Path(p) for p in host.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
    toolkits = [
        host.root / "usr/local/cuda",
        *(Path(host.environ[k]) for k in ("CUDA_HOME", "CUDA_PATH") if k in host.environ),
    ]
    folders += [folder for toolkit in toolkits for folder in sorted(toolkit.glob("lib*"))]
    wheels = importlib.util.find_spec("nvidia")
    for place in (wheels.submodule_search_locations or ()) if wheels else ():
        folders += sorted(Path(place).glob("*/lib"))
    for folder in folders:
        yield from sorted(folder.glob(pattern))


# Inference engines


def _load(section: str, package: str, mend: str) -> ModuleType | Finding:
    """The imported package, or the finding that says why not."""
    try:
        return importlib.import_module(package)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            return Finding(section, package, "missing", "not installed", mend)
        return Finding(
            section, package, "warning", f"cannot be imported: {one_line(error)}", _reinstall(package, error)
        )


def _reinstall(package: str, error: BaseException) -> str:
    if "numpy" in str(error).lower():
        return f"pip install 'numpy<2': this {package} was built for NumPy 1"
    return f"remove {package} with pip, then install it again"


def _duplicates(section: str, package: str, family: Sequence[str], keep: str) -> list[Finding]:
    """A warning where several distributions wrote their files into the same package."""
    found = [name for name in family if installed_version(name)]
    if len(found) < 2:
        return []
    mend = f"pip uninstall -y {' '.join(found)}, then pip install {keep}"
    detail = f"{' and '.join(found)} overwrite each other's files"
    return [Finding(section, f"{package} installs", "warning", detail, mend)]


def probe_onnxruntime(host: Host) -> list[Finding]:
    """ONNX Runtime: version, distribution, execution providers."""
    del host
    section = "engines"
    cuda = read_cuda()
    keep = "onnxruntime-gpu" if cuda and cuda.gpus else "onnxruntime"
    clash = _duplicates(section, "onnxruntime", ONNXRUNTIMES, keep)
    module = _load(section, "onnxruntime", "pip install 'edgeseg[cpu]'")
    if isinstance(module, Finding):
        return [module, *clash]
    try:
        version, providers = module.__version__, module.get_available_providers()
    except AttributeError as error:
        # What uninstalling one of two clashing distributions leaves: a package without its contents.
        detail, mend = f"incomplete: {one_line(error)}", _reinstall("onnxruntime", error)
        return [Finding(section, "onnxruntime", "warning", detail, mend), *clash]
    owners = ", ".join(name for name in ONNXRUNTIMES if installed_version(name)) or "not installed with pip"
    names = ", ".join(name[: -len("ExecutionProvider")] for name in providers)
    return [Finding(section, "onnxruntime", "ok", f"{version} ({owners}), providers {names}"), *clash]


def probe_openvino(host: Host) -> list[Finding]:
    """OpenVINO: version, and each of its devices."""
    del host
    section = "engines"
    module = _load(section, "openvino", "pip install 'edgeseg[cpu]'")
    if isinstance(module, Finding):
        return [module]
    core = module.Core()
    devices = core.available_devices
    version = str(module.__version__).split("-")[0]
    if not devices:
        mend = _reinstall("openvino", RuntimeError())
        return [Finding(section, "openvino", "warning", f"{version}, but it shows no device", mend)]
    summary = Finding(section, "openvino", "ok", f"{version}, devices {', '.join(devices)}")
    return [summary, *(_openvino_device(section, core, device) for device in devices)]


def _openvino_device(section: str, core: Any, device: str) -> Finding:
    name = f"openvino {device}"
    try:
        full_name = core.get_property(device, "FULL_DEVICE_NAME")
        capabilities = ", ".join(sorted(core.get_property(device, "OPTIMIZATION_CAPABILITIES")))
        precision = core.get_property(device, "INFERENCE_PRECISION_HINT").to_string()
    except Exception as error:
        return Finding(section, name, "warning", f"does not answer: {one_line(error)}")
    return Finding(section, name, "info", f"{full_name}: {capabilities}; floating-point default {precision}")


def probe_tensorrt(host: Host) -> list[Finding]:
    """TensorRT's Python package: whether it imports, and whether there is a GPU to run it."""
    cuda = read_cuda()
    gpus = cuda.gpus if cuda else ()
    if importlib.util.find_spec("tensorrt") is None:
        return [tensorrt_missing(host, bool(gpus))]
    version, problem = _import_tensorrt()
    if problem:
        return [tensorrt_broken(host, problem)]
    if not cuda or not gpus:
        detail = f"{version}, but no NVIDIA GPU to run it: {cuda.problem if cuda else 'no driver'}"
        return [Finding("engines", "tensorrt", "warning", detail, DRIVER_MEND)]
    return [tensorrt_unfit(version, cuda) or Finding("engines", "tensorrt", "ok", version)]


def tensorrt_unfit(version: str, cuda: Cuda) -> Finding | None:
    """Why a TensorRT that imports cannot be used with this driver, or None."""
    if tuple(int(part) for part in version.split(".")[:2]) < TENSORRT_FLOOR:
        mend = "update TensorRT to 8.5 or newer"
        return Finding("engines", "tensorrt", "warning", f"{version} is older than 8.5", mend)
    if cuda.version[0] < 13 and installed_version("tensorrt-cu13"):
        detail = f"{version} is built for CUDA 13, the driver runs CUDA {cuda.version[0]}.{cuda.version[1]}"
        mend = "update the NVIDIA driver, or pip uninstall tensorrt and pip install tensorrt-cu12"
        return Finding("engines", "tensorrt", "warning", detail, mend)
    return None


def tensorrt_broken(host: Host, problem: str) -> Finding:
    """The finding for a TensorRT that is there and cannot be imported."""
    mend = "pip install --force-reinstall 'edgeseg[tensorrt]'"
    if is_jetson(host):
        mend = _JETSON_TENSORRT_MEND
        if "nvdla" in problem:
            mend = "sudo apt-get install nvidia-l4t-dla-compiler; in a container, start it with '--runtime nvidia'"
    return Finding("engines", "tensorrt", "warning", f"cannot be imported: {problem}", mend)


def tensorrt_missing(host: Host, has_gpu: bool) -> Finding:
    """The finding for a TensorRT that this Python does not see."""
    detail, mend = "not installed", "pip install 'edgeseg[tensorrt]'"
    if is_jetson(host):
        mend = _JETSON_TENSORRT_MEND
        if any(host.root.glob("usr/lib/python3*/dist-packages/tensorrt")):
            detail = "installed for the system's Python, which this environment does not see"
            mend = f"{_SYSTEM_VENV}; pip's tensorrt does not fit a Jetson"
    elif not has_gpu:
        detail, mend = (
            "not installed, and no NVIDIA GPU to run it",
            f"on a machine with an NVIDIA GPU: {mend}",
        )
    return Finding("engines", "tensorrt", "missing", detail, mend)


def _import_tensorrt() -> tuple[str, str]:
    """TensorRT's version, or why it does not import. A half-installed one can take its process down."""
    code = "import tensorrt; print(tensorrt.__version__)"
    try:
        done = _query([sys.executable, "-c", code], _TENSORRT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {_TENSORRT_TIMEOUT_S:.0f} s"
    if done.returncode < 0:
        return "", f"it crashed ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout.split()[-1], ""


def _query(command: Sequence[str], timeout_s: float = _QUERY_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )


# Video


def probe_opencv(host: Host) -> list[Finding]:
    """OpenCV: version, distribution, video back-ends, whether it can show a window."""
    section = "video"
    mend = (
        f"sudo apt-get install python3-opencv, then {_SYSTEM_VENV}" if is_jetson(host) else "pip install opencv-python"
    )
    clash = _duplicates(section, "opencv", OPENCVS, "opencv-python")
    cv2 = _load(section, "cv2", mend)
    if isinstance(cv2, Finding):
        return [cv2, *clash]
    owners = ", ".join(name for name in OPENCVS if installed_version(name)) or "not installed with pip"
    registry = cv2.videoio_registry
    reads = [name for name in ("FFMPEG", "V4L2") if registry.hasBackend(getattr(cv2, f"CAP_{name}"))]
    return [
        Finding(section, "cv2", "ok", f"{cv2.__version__} ({owners}), reads with {', '.join(reads) or 'nothing'}"),
        *clash,
        _gstreamer(section, registry.hasBackend(cv2.CAP_GSTREAMER)),
        _window(section, cv2.getBuildInformation(), host.environ),
    ]


def _gstreamer(section: str, present: bool) -> Finding:
    if present:
        return Finding(section, "gstreamer", "ok", "in this OpenCV")
    mend = f"pip's OpenCV never has it: remove that, sudo apt-get install python3-opencv, and {_SYSTEM_VENV}"
    return Finding(section, "gstreamer", "missing", "not in this OpenCV (CSI cameras and pipelines need it)", mend)


def _window(section: str, build: str, environ: Mapping[str, str]) -> Finding:
    gui = re.search(r"^\s*GUI:[ \t]*(\S+)", build, re.MULTILINE)
    if gui and gui[1] == "NONE":
        mend = "pip uninstall the headless OpenCV, then pip install opencv-python; or run with --headless"
        return Finding(section, "window", "missing", "this OpenCV is headless", mend)
    display = next((name for name in ("DISPLAY", "WAYLAND_DISPLAY") if environ.get(name)), None)
    if display is None:
        mend = "start from a desktop session or with 'ssh -X'; or run with --headless"
        return Finding(section, "window", "missing", "neither DISPLAY nor WAYLAND_DISPLAY is set", mend)
    return Finding(section, "window", "ok", f"{gui[1] if gui else 'unknown toolkit'} on {display}={environ[display]}")


def probe_cameras(host: Host) -> list[Finding]:
    """Video devices and their names; none is opened."""
    devices = sorted(host.root.glob("dev/video[0-9]*"), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
    if not devices:
        mend = "plug a camera in; in a container, start it with '--device /dev/video0'"
        return [Finding("video", "cameras", "info", "no /dev/video*", mend)]
    return [_camera(host, device) for device in devices]


def _camera(host: Host, device: Path) -> Finding:
    path = f"/dev/{device.name}"
    name = host.read(f"sys/class/video4linux/{device.name}/name") or "unnamed"
    if not os.access(device, os.R_OK | os.W_OK):
        mend = "sudo usermod -aG video $USER, then log in again"
        return Finding("video", path, "warning", f"{name}: no permission to open it", mend)
    return Finding("video", path, "ok", name)


def _distribution(section: str, name: str, title: str, mend: str) -> Finding:
    version = installed_version(name)
    if version is None:
        return Finding(section, title, "missing", "not installed", mend)
    return Finding(section, title, "ok", version)


# Training and export


def probe_training(host: Host) -> list[Finding]:
    """What training and export need; running needs none of it, so nothing is imported."""
    del host
    extras = {"torch": "train", "torchvision": "train", "tensorboard": "train", "onnx": "export"}
    return [_distribution("training", name, name, f"pip install 'edgeseg[{extra}]'") for name, extra in extras.items()]


# Jetson


def is_jetson(host: Host) -> bool:
    """Whether this is an NVIDIA Jetson, also from within a container."""
    if "nvidia,tegra" in (host.read("proc/device-tree/compatible") or ""):
        return True
    return (host.root / "etc/nv_tegra_release").is_file()


def probe_jetson(host: Host) -> list[Finding]:
    """Board, JetPack, power mode and clocks of a Jetson."""
    if not is_jetson(host):
        return [Finding("jetson", "jetson", "info", "not a Jetson")]
    compatible = host.read("proc/device-tree/compatible") or ""
    soc = next((text for name, text in _SOCS.items() if name in compatible), "unknown chip")
    model = host.read("proc/device-tree/model") or "unknown model"
    return [
        Finding("jetson", "model", "ok", f"{model} ({soc})"),
        _jetpack(host),
        _power_mode(host),
        _clocks(host),
    ]


def l4t_release(host: Host) -> str | None:
    """The Jetson Linux (L4T) release, such as "36.4.3"; None where nothing tells it."""
    text = host.read("etc/nv_tegra_release") or ""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    if match:
        return f"{match[1]}.{match[2]}"
    package = _dpkg_version(host, "nvidia-l4t-core")
    return package.split("-")[0] if package else None


def _dpkg_version(host: Host, package: str) -> str | None:
    if shutil.which("dpkg-query") is None:
        return None
    database = host.root / "var/lib/dpkg"
    done = _query(["dpkg-query", f"--admindir={database}", "-W", "-f", "${Version}", package])
    return done.stdout.strip() or None


def jetpack_release(host: Host) -> str | None:
    """The JetPack of a Jetson, such as "6.2 (L4T 36.4.3)"; None elsewhere and where nothing tells it."""
    l4t = l4t_release(host) if is_jetson(host) else None
    series = _l4t_series(l4t) if l4t else None
    if l4t is None or series is None:
        return l4t and f"L4T {l4t}"
    return f"{_JETPACK_BY_L4T.get(l4t, series.jetpack)} (L4T {l4t})"


def _l4t_series(l4t: str) -> _L4tSeries | None:
    prefixes = [name for name in _L4T_SERIES if f"{l4t}.".startswith(f"{name}.")]
    return _L4T_SERIES[max(prefixes, key=len)] if prefixes else None


def _jetpack(host: Host) -> Finding:
    l4t = l4t_release(host)
    if l4t is None:
        return Finding("jetson", "jetpack", "info", "unknown L4T release (a container does not show it)")
    series = _l4t_series(l4t)
    if series is None:
        return Finding("jetson", "jetpack", "info", f"L4T {l4t}, a release edgeseg does not know")
    detail = f"JetPack {jetpack_release(host)}, comes with TensorRT {series.tensorrt} and CUDA {series.cuda}"
    if tuple(int(part) for part in series.tensorrt.split(".")[:2]) < TENSORRT_FLOOR:
        mend = "flash JetPack 5.1 or newer where the board takes it, else run ONNX models with ONNX Runtime"
        return Finding("jetson", "jetpack", "warning", f"{detail}: older than 8.5", mend)
    return Finding("jetson", "jetpack", "ok", detail)


def _power_mode(host: Host) -> Finding:
    # A login shell of a normal user does not always have the folder that JetPack puts it in.
    path = os.pathsep.join([host.environ.get("PATH", ""), str(host.root / "usr/sbin")])
    command = shutil.which("nvpmodel", path=path)
    if command is None:
        return Finding("jetson", "power mode", "info", "unknown: no nvpmodel (a container has none)")
    try:
        answer = _query([command, "-q"]).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        answer = one_line(error)
    mode = re.search(r"NV Power Mode:\s*(\S+)", answer)
    if mode is None:
        return Finding("jetson", "power mode", "info", "unknown: nvpmodel does not tell", "sudo nvpmodel -q")
    return Finding("jetson", "power mode", "info", f"{mode[1]} (others: nvpmodel -p --verbose)")


def _clocks(host: Host) -> Finding:
    """jetson_clocks raises the lowest clock to the highest, so equal limits mean locked clocks."""
    for device in sorted(host.root.glob("sys/class/devfreq/*")):
        if not is_gpu(device):
            continue
        low, high = (int(_text(device / name) or 0) // 1_000_000 for name in ("min_freq", "max_freq"))
        if low == high > 0:
            return Finding("jetson", "clocks", "ok", f"GPU locked at {high} MHz")
        mend = "before measuring: sudo jetson_clocks"
        return Finding("jetson", "clocks", "info", f"not locked, GPU {low} to {high} MHz", mend)
    return Finding("jetson", "clocks", "info", "unknown: no GPU clock in /sys/class/devfreq")


# All together


PROBES: list[tuple[str, Callable[[Host], list[Finding]]]] = [
    ("system", probe_system),
    ("cpu", probe_cpu),
    ("cpu", probe_decoder),
    ("gpu", probe_gpu),
    ("engines", probe_onnxruntime),
    ("engines", probe_openvino),
    ("engines", probe_tensorrt),
    ("video", probe_opencv),
    ("video", probe_cameras),
    ("training", probe_training),
    ("jetson", probe_jetson),
]


def examine(host: Host | None = None) -> list[Finding]:
    """Run every probe. Never raises: a probe that fails becomes a warning."""
    host = host or Host()
    findings: list[Finding] = []
    for section, probe in PROBES:
        try:
            findings += probe(host)
        except Exception as error:
            name = probe.__name__[len("probe_") :] if probe.__name__.startswith("probe_") else probe.__name__
            findings.append(Finding(section, name, "warning", f"could not be examined: {one_line(error)}"))
    return findings


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Which engine runs a model here, and the one thing most worth mending."""
    findings = list(findings)
    usable = {f.name for f in findings if f.section == "engines" and f.status == "ok"}
    onnx = next((name for name in AUTO_ORDER if name in usable), None)
    engine = "tensorrt" if "tensorrt" in usable else None
    return Verdict(onnx, engine, _most_worth_mending(findings, onnx))


def _most_worth_mending(findings: Sequence[Finding], onnx: str | None) -> Finding | None:
    open_findings = {f.name: f for f in findings if f.mend and f.status in ("missing", "warning")}
    jetson = any(f.section == "jetson" and f.name == "model" for f in findings)
    nvidia = jetson or any(f.section == "gpu" and f.name == "gpu0" for f in findings)
    order = ["cv2", "driver"]
    if nvidia:
        order.append("tensorrt")
    if onnx is None:
        order += AUTO_ORDER
    order += [name for name, f in open_findings.items() if f.status == "warning" and name != "tensorrt"]
    if jetson:
        order.append("gstreamer")
    if nvidia:
        order += ["libnvrtc", "libcudart"]
    else:
        order.append(AUTO_ORDER[0])
    return next((open_findings[name] for name in order if name in open_findings), None)
