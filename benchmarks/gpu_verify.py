"""Prove on a machine with a GPU what can only be shown there, in one command and one results file.

Two steps, because the machine with the GPU may have neither torch nor onnx nor a data set:

    python benchmarks/gpu_verify.py KIT --prepare --data camvid/data.yaml     # anywhere: writes the folder KIT
    python benchmarks/gpu_verify.py KIT --json results/gpu.json               # where the GPU is: reads it

The second needs TensorRT, numpy, OpenCV and ONNX Runtime for the CPU, and Python 3.9 or newer. For every model of the
kit it builds an engine; holds its class maps against those of ONNX Runtime on the CPU, on labelled pictures and on
1280x720 frames; scores both; and times the network alone, and whole frames from host memory to class map in host
memory with and without a CUDA graph. With the first model it counts allocations, looks for leaks, and does what must
end in a plain error: engines that are truncated, of another GPU or of another TensorRT, and a context that dies.

Exit code: 0 all that must hold does, 1 something does not, 2 there is no GPU or no kit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeseg
from edgeseg import bundled
from edgeseg.bench.stats import summary_ms
from edgeseg.conditions import conditions, state
from edgeseg.dataset import DataSet
from edgeseg.doctor import one_line
from edgeseg.errors import EdgesegError, UsageError
from edgeseg.evaluate import evaluate
from edgeseg.files import check_writable, sha256_of, write_text
from edgeseg.io.street import Street
from edgeseg.onnx_reader import read_onnx
from edgeseg.segmenter import Segmenter
from edgeseg.trt.engine import build_engine
from edgeseg.trt.library import load_tensorrt, require_driver
from edgeseg.trt.nvrtc import find_compiler
from edgeseg.trt.options import BuildOptions
from edgeseg.trt.plan import read_sidecar, sidecar_path, write_sidecar

PRECISIONS = ("fp32", "fp16", "int8")
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "int8": 0.985}
MOST_MIOU_POINTS = {"fp32": 0.1, "fp16": 0.2, "int8": 0.5}
"""What an engine may lose against the same graph on the CPU."""

MOST_END_TO_END = 1.15
"""Of the network's own time plus the two copies."""

MOST_P99 = 1.2
LEAST_SPEEDUP = {"fp16": ("fp32", 2.0), "int8": ("fp16", 1.2)}
TARGET_MODEL = "ddrnet-c32-1024x2048"
LEAK_MIB = {"host": 16.0, "device": 2.0}
WARM_UP = 50
CHILD_TIMEOUT_S = 120
CAMERA_HW = (720, 1280)
LABELLED = "labelled.npz"
NEWEST_OPSET_OF_TENSORRT_8, OPSET_OF_NEWER = 17, 20
BUNDLED = ("ddrnet-c16-camvid", "ddrnet-c32-camvid")

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what, with the model.
        passed: whether it is as it should be.
        found: what was seen.
        asked: what should be seen.
        must: whether anything is wrong when it is not; else it is a target of speed.
    """

    name: str
    passed: bool
    found: str
    asked: str
    must: bool = True


def agreement_check(name: str, precision: str, shares: Sequence[float]) -> Check:
    """Whether the worst picture has enough pixels of the expected class."""
    least = LEAST_AGREEMENT[precision]
    return Check(name, min(shares) >= least, f"{min(shares):.5f} in the worst picture", f"at least {least}")


def miou_check(name: str, precision: str, found: float, expected: float) -> Check:
    """Whether an engine scores about as well as the same graph on the CPU."""
    drop, most = 100 * (expected - found), MOST_MIOU_POINTS[precision]
    return Check(name, drop <= most, f"{100 * found:.2f}, {drop:+.2f} points lost", f"at most {most} points lost")


def timing_checks(name: str, timed: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """Targets of one engine: what a frame costs beyond the network and the copies, and how even it is."""
    network, graph = timed["network"], timed["end_to_end"]
    least_ms = network["p50"] + timed["h2d"]["p50"] + timed["d2h"]["p50"]
    share, spread = graph["p50"] / least_ms, graph["p99"] / graph["p50"]
    return [
        Check(f"{name}: whole frame", share <= MOST_END_TO_END, f"{share:.3f} of network and copies",
              f"at most {MOST_END_TO_END}", must=False),
        Check(f"{name}: p99", spread <= MOST_P99, f"{spread:.3f} of p50", f"at most {MOST_P99}", must=False),
    ]  # fmt: skip


def speedup_checks(name: str, network_ms: Mapping[str, float]) -> list[Check]:
    """Targets between the precisions of one model, from the median of the network alone."""
    checks = []
    for precision, (slower, least) in LEAST_SPEEDUP.items():
        if precision in network_ms and slower in network_ms:
            factor = network_ms[slower] / network_ms[precision]
            checks.append(
                Check(f"{name}: {precision} against {slower}", factor >= least, f"{factor:.2f} times as fast",
                      f"at least {least}", must=False)
            )  # fmt: skip
    return checks


def fault_check(name: str, code: int, said: str, expected: str) -> Check:
    """Whether a child process ended with a plain error that says ``expected``."""
    if code < 0:
        found = f"crashed with {signal.Signals(-code).name}"
    elif code != 2:
        found = f"exit code {code}: {said}"
    else:
        found = said
    return Check(f"fault: {name}", code == 2 and expected in said, found, f"an error with '{expected}'")


def leak_check(where: str, before_mib: float, after_mib: float) -> Check:
    """Whether memory in use has stayed as it was."""
    grown, most = after_mib - before_mib, LEAK_MIB[where]
    return Check(f"leak: {where} memory", grown <= most, f"{grown:+.2f} MiB", f"at most {most} MiB more")


def lines(checks: Sequence[Check]) -> list[str]:
    """A line for each check, and the sum."""
    words = {(True, True): "ok", (False, True): "FAILED", (True, False): "met", (False, False): "missed"}
    failed = sum(check.must and not check.passed for check in checks)
    missed = sum(not check.must and not check.passed for check in checks)
    return [
        *(f"{words[c.passed, c.must]:<7} {c.name}: {c.found} (asked: {c.asked})" for c in checks),
        f"{len(checks)} checks, {failed} failed; of the targets of speed {missed} missed",
    ]


@dataclass(frozen=True)
class KitModel:
    """A file of the kit, ``NAME.PRECISION.onnx`` or ``NAME.PRECISION.OPSET.onnx``."""

    path: Path
    name: str
    precision: str
    opset: int


def models_of(kit: Path, tensorrt_major: int) -> list[KitModel]:
    """The models that a TensorRT can take: for each name and precision the one with the newest operators.

    Raises:
        UsageError: there is none.
    """
    newest: dict[tuple[str, str], KitModel] = {}
    for path in sorted(kit.glob("*.onnx")):
        name, _, precision = path.stem.partition(".")
        precision = precision.partition(".")[0]
        opset = read_onnx(path).opset
        if precision not in PRECISIONS or (tensorrt_major < 10 and opset > NEWEST_OPSET_OF_TENSORRT_8):
            continue
        known = newest.get((name, precision))
        if known is None or known.opset < opset:
            newest[name, precision] = KitModel(path, name, precision, opset)
    if not newest:
        raise UsageError(f"{kit} has no models for TensorRT {tensorrt_major}", "make it with --prepare")
    return sorted(newest.values(), key=lambda model: (model.name, PRECISIONS.index(model.precision)))


# Where the GPU is


class Verification:
    """All checks of one run; ``results`` is complete as far as it has come."""

    def __init__(self, kit: Path, frames: int) -> None:
        self.kit, self.frames = kit, frames
        self.checks: list[Check] = []
        self.models: dict[str, dict[str, Any]] = {}
        with np.load(kit / LABELLED) as stored:
            self.pictures, self.truths = list(stored["images"]), list(stored["masks"])
            ignore_id = int(stored["ignore_id"])
        self.ignore_id = None if ignore_id < 0 else ignore_id
        street = Street(size_hw=CAMERA_HW, seed=0)
        self.camera_frames = [street.render(30 * index)[0] for index in range(8)]

    def results(self) -> dict[str, Any]:
        """Everything so far as plain JSON types."""
        return {
            "passed": all(check.passed for check in self.checks if check.must),
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "models": self.models,
        }

    def verify_model(self, model: KitModel, folder: Path) -> Path:
        """Build, compare, score and time one model; returns the engine."""
        title = f"{model.name} {model.precision}"
        engine = folder / f"{model.path.stem}.engine"
        start = time.perf_counter()
        sidecar = build_engine(model.path, engine, BuildOptions())
        row: dict[str, Any] = {
            "onnx": model.path.name, "onnx_sha256": sha256_of(model.path), "opset": model.opset,
            "precision": dict(sidecar.precision), "typing": sidecar.typing,
            "build_s": time.perf_counter() - start, "engine_mib": engine.stat().st_size / 2**20,
        }  # fmt: skip
        self.models[title] = row
        with edgeseg.load(model.path, "onnxruntime") as on_cpu, edgeseg.load(engine) as on_gpu:
            self._compare(title, model.precision, on_cpu, on_gpu, row)
            row["ms"] = timed(on_gpu, self.camera_frames, self.frames // 10)
        with edgeseg.load(engine) as on_gpu:
            on_gpu.backend._network.capturable = False  # type: ignore[attr-defined]
            row["ms_without_graph"] = timed(on_gpu, self.camera_frames, self.frames // 10)
        self.checks += timing_checks(title, row["ms"])
        self._onnxruntime(title, model, row)
        return engine

    def _compare(self, title: str, precision: str, on_cpu: Segmenter, on_gpu: Segmenter, row: dict[str, Any]) -> None:
        for what, images in (("pictures", self.pictures), ("1280x720 frames", self.camera_frames)):
            shares = [float(np.mean(on_gpu(image).mask == on_cpu(image).mask)) for image in images]
            row[f"agreement on {what}"] = shares
            self.checks.append(agreement_check(f"{title}: class maps, {what}", precision, shares))
        pairs = list(zip(self.pictures, self.truths))
        miou = {
            device: evaluate(segmenter, pairs, self.ignore_id).miou
            for device, segmenter in (("cpu", on_cpu), ("gpu", on_gpu))
        }
        row["miou"] = miou
        self.checks.append(miou_check(f"{title}: mIoU", precision, miou["gpu"], miou["cpu"]))

    def _onnxruntime(self, title: str, model: KitModel, row: dict[str, Any]) -> None:
        """ONNX Runtime's own ways to the GPU, where they are installed; what is missing is no fault."""
        for backend in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
            try:
                on_gpu = edgeseg.load(model.path, backend)
            except EdgesegError as error:
                row[backend] = {"skipped": str(error)}
                continue
            with on_gpu, edgeseg.load(model.path, "onnxruntime") as on_cpu:
                shares = [float(np.mean(on_gpu(image).mask == on_cpu(image).mask)) for image in self.pictures]
                row[backend] = {"agreement": shares, "ms": frames_ms(on_gpu, self.camera_frames, self.frames // 50)}
            self.checks.append(agreement_check(f"{title}: {backend}", model.precision, shares))

    def _frames(self, count: int) -> Iterator[Image]:
        return (self.camera_frames[index % len(self.camera_frames)] for index in range(count))

    def compare_precisions(self) -> None:
        """The targets between precisions."""
        network_ms = {
            precision: self.models[f"{TARGET_MODEL} {precision}"]["ms"]["network"]["p50"]
            for precision in PRECISIONS
            if "ms" in self.models.get(f"{TARGET_MODEL} {precision}", {})
        }
        self.checks += speedup_checks(TARGET_MODEL, network_ms)

    def endurance(self, engine: Path) -> None:
        """Allocations and leaks over many frames, and over frames whose size changes."""
        with edgeseg.load(engine) as segmenter:
            for frame in self._frames(WARM_UP):
                segmenter(frame)
            before = {"host": host_mib(), "device": device_mib(segmenter)}
            with counted_allocations(segmenter) as calls:
                for frame in self._frames(self.frames):
                    segmenter(frame)
            after = {"host": host_mib(), "device": device_mib(segmenter)}
            self.checks.append(Check("allocations", not calls, f"{len(calls)} in {self.frames} frames", "0"))
            self.checks += [leak_check(where, before[where], after[where]) for where in LEAK_MIB]
            small = [frame[::2, ::2].copy() for frame in self.camera_frames]
            sizes = [segmenter(image).mask.shape for pair in zip(small, self.camera_frames) for image in pair]
            wanted = [image.shape[:2] for pair in zip(small, self.camera_frames) for image in pair]
            self.checks.append(
                Check("frames of changing size", sizes == wanted, f"{len(sizes)} masks", "the frame's size")
            )

    def faults(self, engine: Path, folder: Path) -> None:
        """What must end in a plain error, each in a process of its own."""
        plan, sidecar = engine.read_bytes(), read_sidecar(engine)
        assert sidecar is not None
        other_gpu = dataclasses.replace(sidecar.platform, gpu="Another GPU")
        other_tensorrt = dataclasses.replace(sidecar.platform, tensorrt="1.2.3")
        broken = folder / "broken.engine"
        cases: list[tuple[str, bytes, Any, str]] = [
            ("engine of another GPU", plan, dataclasses.replace(sidecar, platform=other_gpu), "Another GPU"),
            ("engine of another TensorRT", plan, dataclasses.replace(sidecar, platform=other_tensorrt), "1.2.3"),
            ("truncated engine", plan[: len(plan) // 2], sidecar, "truncated"),
            ("truncated engine without a record", plan[: len(plan) // 2], None, "broken.engine"),
            ("damaged engine without a record", damaged(plan), None, "broken.engine"),
        ]
        for name, content, record, expected in cases:
            broken.write_bytes(content)
            sidecar_path(broken).unlink(missing_ok=True)
            if record is not None:
                write_sidecar(broken, record)
            self.checks.append(fault_check(name, *child(load_and_run, broken), expected))
        self.checks.append(fault_check("context that dies", *child(run_after_trap, engine), "NVIDIA driver failed"))
        self.checks.append(self._survives(engine, "after a dead context"))
        killed_while_running(engine)
        self.checks.append(self._survives(engine, "after a killed process"))

    def _survives(self, engine: Path, when: str) -> Check:
        code, said = child(load_and_run, engine)
        return Check(f"the GPU works {when}", code == 0, said or f"exit code {code}", "a class map")


def timed(segmenter: Segmenter, frames: Sequence[Image], count: int) -> dict[str, dict[str, float]]:
    """Milliseconds of whole frames by stage, and of the network alone."""
    return {**frames_ms(segmenter, frames, count), "network": summary_ms(network_ms(segmenter, count))}


def frames_ms(segmenter: Segmenter, frames: Sequence[Image], count: int) -> dict[str, dict[str, float]]:
    """Milliseconds of whole frames by stage, over ``count`` of them after a warm-up."""
    for index in range(WARM_UP):
        segmenter(frames[index % len(frames)])
    stages = [segmenter(frames[index % len(frames)]).timing for index in range(count)]
    return {stage: summary_ms([timing[stage] for timing in stages]) for stage in stages[0]}


def network_ms(segmenter: Segmenter, count: int) -> list[float]:
    """Milliseconds of the network alone, by the GPU's own clock."""
    backend: Any = segmenter.backend
    gpu, network = backend._gpu, backend._network
    elapsed = []
    with gpu.current():
        start, end = gpu.driver.create_event(), gpu.driver.create_event()
        for _ in range(count):
            gpu.driver.record(start, gpu.stream, capturing=False)
            network.enqueue()
            gpu.driver.record(end, gpu.stream, capturing=False)
            gpu.synchronize()
            elapsed.append(gpu.driver.elapsed_ms(start, end))
        for event in (start, end):
            gpu.driver.destroy_event(event)
    return elapsed


@contextmanager
def counted_allocations(segmenter: Segmenter) -> Iterator[list[str]]:
    """Every call of ours that allocates on the device or page-locked on the host, while in the block.

    What TensorRT allocates by itself shows as device memory that is gone.
    """
    driver = segmenter.backend._gpu.driver  # type: ignore[attr-defined]
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        return call

    for name in ("allocate", "allocate_host", "instantiate", "create_event"):
        setattr(driver, name, counted(name, getattr(driver, name)))
    try:
        yield calls
    finally:
        for name in ("allocate", "allocate_host", "instantiate", "create_event"):
            delattr(driver, name)


def host_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def device_mib(segmenter: Segmenter) -> float:
    """Device memory that is not free, less what it was when nothing used it: only differences mean anything."""
    gpu = segmenter.backend._gpu  # type: ignore[attr-defined]
    with gpu.current():
        return -float(gpu.driver.free_memory()) / 2**20


def damaged(plan: bytes) -> bytes:
    """A plan of the right length with other bytes in its middle, its version among them."""
    return plan[:16] + bytes(255 - byte for byte in plan[16:4096]) + plan[4096:]


# In processes of their own


def child(action: Callable[[Path], None], engine: Path) -> tuple[int, str]:
    """Exit code and last words of a process that does ``action``: 0 done, 2 one of our errors, below 0 crashed."""
    command = [sys.executable, __file__, str(engine.parent), "--child", action.__name__, str(engine)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {CHILD_TIMEOUT_S} s"
    words = (run.stdout if run.returncode in (0, 2) else run.stderr).strip().splitlines()
    return run.returncode, words[-1] if words else ""


def load_and_run(engine: Path) -> None:
    """Load an engine and segment one frame."""
    with edgeseg.load(engine) as segmenter:
        print("ran, a class map of", segmenter(Street(size_hw=CAMERA_HW).render(0)[0]).mask.shape)


def run_forever(engine: Path) -> None:
    """Say so when the first frame is done, and go on."""
    frame = Street(size_hw=CAMERA_HW).render(0)[0]
    with edgeseg.load(engine) as segmenter:
        segmenter(frame)
        print("running", flush=True)
        while True:
            segmenter(frame)


def run_after_trap(engine: Path) -> None:
    """Run frames, let another kernel kill the context, and run a frame again."""
    frame = Street(size_hw=CAMERA_HW).render(0)[0]
    with edgeseg.load(engine) as segmenter:
        for _ in range(4):
            segmenter(frame)
        gpu: Any = segmenter.backend._gpu  # type: ignore[attr-defined]
        source = 'extern "C" __global__ void die() { asm("trap;"); }'
        program = find_compiler(gpu.driver.version()[0]).compile(source, "die", gpu.architecture)
        with gpu.current():
            function = gpu.driver.function(gpu.driver.load_module(program), "die")
            gpu.driver.launch(function, (1, 1), (1, 1), None, gpu.stream)
        segmenter(frame)


def killed_while_running(engine: Path) -> None:
    """Start a process that runs frames, and kill it while it does."""
    command = [sys.executable, __file__, str(engine.parent), "--child", run_forever.__name__, str(engine)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.kill()


CHILDREN = {action.__name__: action for action in (load_and_run, run_forever, run_after_trap)}


# Where the kit is made


def prepare(kit: Path, data: str, images: int, only: Sequence[str]) -> None:
    """Write the kit: the bundled models and a large one in every precision, and labelled pictures.

    Raises:
        SystemExit: an export failed.
        DataError: the data set cannot be read.
    """
    kit.mkdir(parents=True, exist_ok=True)
    dataset = DataSet.from_yaml(data)
    pairs = [dataset.read(sample) for sample in evenly(dataset.samples("val"), images)]
    np.savez_compressed(
        kit / LABELLED,
        images=np.stack([image for image, _ in pairs]),
        masks=np.stack([mask for _, mask in pairs]),
        ignore_id=-1 if dataset.ignore_id is None else dataset.ignore_id,
    )
    checkpoint = Path(__file__).parents[1] / "train" / "checkpoints" / "ddrnet-c32-camvid.pt"
    with TemporaryDirectory() as folder:
        # How large pictures are scored is not asked here, and on the CPU would take an hour.
        few = str(miniature(dataset, Path(folder)))
        for name in only or (*BUNDLED, TARGET_MODEL):
            path = kit / f"{name}.fp32.onnx"
            if name == TARGET_MODEL:
                export(path, "--checkpoint", str(checkpoint), "--imgsz", "1024", "2048")
            else:
                path.write_bytes(bundled.resolve(name).read_bytes())
            labelled = few if name == TARGET_MODEL else data
            form = ("--onnx", str(path), "--target", "tensorrt", "--data", labelled, "--max-miou-drop", "100")
            export(kit / f"{name}.fp16.onnx", *form, "--precision", "fp16")
            for opset in (NEWEST_OPSET_OF_TENSORRT_8, OPSET_OF_NEWER):
                export(kit / f"{name}.int8.{opset}.onnx", *form, "--precision", "int8",
                       "--opset", str(opset), "--repair-steps", "0")  # fmt: skip


def miniature(dataset: DataSet, folder: Path) -> Path:
    """The ``data.yaml`` of a data set with a few of another's pictures."""
    import cv2

    for split, count in (("train", 16), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index, sample in enumerate(evenly(dataset.samples(split), count)):
            for kind, picture in zip(("images", "masks"), dataset.read(sample)):
                cv2.imwrite(str(folder / split / kind / f"{index}.png"), picture)
    path = folder / "data.yaml"
    described = {
        "train": "train", "val": "val", "names": list(dataset.classes), "palette": [list(c) for c in dataset.palette],
        **({} if dataset.ignore_id is None else {"ignore": dataset.ignore_id}),
    }  # fmt: skip
    path.write_text(json.dumps(described), encoding="utf-8")  # JSON is YAML
    return path


def evenly(samples: Sequence[Any], count: int) -> Sequence[Any]:
    """About ``count`` of them, evenly spaced."""
    return samples[:: max(1, len(samples) // count)][:count]


def export(out: Path, *arguments: str) -> None:
    """Run ``edgeseg export``; what it writes beside the model is not needed."""
    if out.exists():
        return
    code = subprocess.run(
        [sys.executable, "-m", "edgeseg", "export", "--out", str(out), *arguments], check=False
    ).returncode
    if code:
        raise SystemExit(f"{out.name}: the export ended with exit code {code}")
    for suffix in (".golden.zip", ".report.html"):
        out.with_suffix(suffix).unlink(missing_ok=True)


def run(args: argparse.Namespace) -> int:
    """Verify, writing the results after every step: a machine that is lent may be taken back."""
    require_driver()
    trt = load_tensorrt()
    models = [
        model
        for model in models_of(args.kit, int(str(trt.__version__).split(".")[0]))
        if not args.only or model.name in args.only
    ]
    verification = Verification(args.kit, args.frames)
    start = conditions(tensorrt=str(trt.__version__))
    folder = args.kit / "engines"
    folder.mkdir(exist_ok=True)
    steps: list[Callable[[], Any]] = [lambda model=model: verification.verify_model(model, folder) for model in models]  # type: ignore[misc]
    first = folder / f"{models[0].path.stem}.engine"
    steps += [
        lambda: verification.endurance(first),
        lambda: verification.faults(first, folder),
        verification.compare_precisions,
    ]
    told = 0
    for step in steps:
        try:
            step()
        except Exception as error:  # the machine is lent: what comes after is still worth measuring
            traceback.print_exc()
            verification.checks.append(Check("a step", False, one_line(error), "no error"))
        results = {"conditions": start, "state_at_the_end": state(), **verification.results()}
        if args.json:
            write_text(args.json, json.dumps(results, indent=2) + "\n")
        print("\n".join(lines(verification.checks)[told:-1]), flush=True)
        told = len(verification.checks)
    print(lines(verification.checks)[-1])
    return 0 if verification.results()["passed"] else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("kit", type=Path, help="folder of models and labelled pictures")
    made.add_argument("--prepare", action="store_true", help="make the kit, with `edgeseg export`")
    made.add_argument("--data", help="with --prepare: data.yaml of CamVid")
    made.add_argument("--images", type=int, default=16, help="with --prepare: labelled pictures (16)")
    made.add_argument("--json", help="results file to write")
    made.add_argument("--frames", type=int, default=10_000, help="of the search for leaks; a tenth of it is timed")
    made.add_argument("--only", nargs="+", help="names of models")
    made.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, verify, or be one of the processes that verifying starts."""
    args = parser().parse_args(argv)
    try:
        if args.child:
            CHILDREN[args.child[0]](Path(args.child[1]))
            return 0
        if args.json:
            check_writable(args.json)
        if args.prepare:
            if not args.data:
                raise UsageError("A kit needs labelled pictures", "give --data camvid/data.yaml")
            prepare(args.kit, args.data, args.images, args.only or ())
            return 0
        return run(args)
    except EdgesegError as error:
        print(error if args.child else f"error: {error}", file=sys.stdout if args.child else sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
