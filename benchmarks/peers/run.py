"""The same network, weights, machine, threads and frames through edgeseg and through what people use instead.

Every contestant runs in a process of its own, and they take turns round by round, so that a busy machine slows all
alike; a ratio is the median over rounds of the two medians of that round. The contestants, each with its documented
best settings:

- ``bare``: the engine alone on a prepared tensor, which nobody can beat;
- ``edgeseg``: a frame in, its class map at frame size out; ``edgeseg_overlay`` also blends it into the frame;
- ``plain``: the loop most projects have (resize, numpy normalise, infer, full-size logits, numpy arg-max, colours);
- ``model_api``: SegmentationModel of OpenVINO's Model API.

The peers are installed in an environment of their own, with the versions of the engines that edgeseg runs on here.

Example:
    python benchmarks/peers/run.py --video drive.mp4 --json results/today.json --plot results/today.png
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conditions import conditions  # noqa: E402
from picture import draw  # noqa: E402

from edgeseg.bundled import resolve  # noqa: E402

CPU_ENGINES = ("onnxruntime", "openvino")
PEERS = ("openvino-model-api", "onnx", "opencv-python-headless")
OURS = {("openvino", "bf16"): "openvino-bf16"}
"""Backend of edgeseg by engine and precision, where it is not called like the engine."""

GROUPS = [
    ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"),
]  # fmt: skip
Figure = tuple[str, str, str, str]
"""Contestant, engine, precision, and "classmap" or "overlay"."""


def _ratios() -> dict[str, tuple[Figure, Figure]]:
    """Numerator and denominator of each ratio in the results file."""
    wanted: dict[str, tuple[Figure, Figure]] = {}
    for engine, precision in GROUPS:
        ours: Figure = ("edgeseg", engine, precision, "classmap")
        for name in ("bare", "plain", "model_api"):
            if name != "model_api" or engine == "openvino":
                wanted[f"edgeseg to {name}, {engine} {precision}"] = (ours, (name, engine, precision, "classmap"))
        wanted[f"edgeseg to plain, both with overlay, {engine} {precision}"] = (
            ("edgeseg_overlay", engine, precision, "overlay"), ("plain", engine, precision, "overlay")
        )  # fmt: skip
    for figure, name in (("classmap", "edgeseg"), ("overlay", "edgeseg_overlay")):
        wanted[f"plain on onnxruntime fp32 to edgeseg on openvino int8, {figure}"] = (
            ("plain", "onnxruntime", "fp32", figure), (name, "openvino", "int8", figure)
        )  # fmt: skip
    return wanted


class Contestant:
    """A worker process and its times."""

    def __init__(self, python: Path, args: dict[str, Any]) -> None:
        self.args = args
        self.key = (args["contestant"], args["engine"], args["precision"])
        self.rounds: list[dict[str, list[float]]] = []
        # Errors go to this terminal.
        self._process = subprocess.Popen(
            [python, HERE / "worker.py", json.dumps(args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer("ready\n")

    def _answer(self, wanted: str = "") -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line or (wanted and line != wanted):
            raise SystemExit(f"{' '.join(self.key)} ended with {self._process.wait()}: {line}")
        return line

    def round(self, record: bool) -> None:
        """Run every frame once."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        times = json.loads(self._answer())
        if record:
            both = {"classmap": [t[0] for t in times], "overlay": [t[1] for t in times if t[1] is not None]}
            self.rounds.append({figure: values for figure, values in both.items() if values})

    def finish(self) -> None:
        """End the process; it writes its class maps."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait(120):
            raise SystemExit(f"{' '.join(self.key)} failed at the end")

    def kill(self) -> None:
        """End the process at once, where another contestant failed."""
        self._process.kill()
        self._process.wait()

    def medians(self, figure: str) -> list[float]:
        """Milliseconds of each round."""
        return [statistics.median(times[figure]) for times in self.rounds]

    def row(self, reference: np.ndarray[Any, Any] | None) -> dict[str, Any]:
        """What the results file holds."""
        row: dict[str, Any] = dict(zip(("contestant", "engine", "precision"), self.key, strict=True))
        for figure in self.rounds[0]:
            every = [value for times in self.rounds for value in times[figure]]
            row[f"{figure}_ms"] = {
                **{f"p{p}": round(float(np.percentile(every, p)), 3) for p in (50, 90, 99)},
                "p50_of_rounds": [round(value, 3) for value in self.medians(figure)],
            }
        if reference is not None:
            row["same_pixels_as_edgeseg"] = float((np.load(self.args["masks"]) == reference).mean())
        return row


def frames_of(video: str, count: int, size_hw: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Frames from all over a video, uint8 [count, H, W, 3]."""
    capture = cv2.VideoCapture(video)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, total - 1, count).astype(int).tolist())
    frames = []
    for index in range(total):
        ok, frame = capture.read()
        if ok and index in wanted:
            frames.append(cv2.resize(frame, size_hw[::-1]))
    if not frames:
        raise SystemExit(f"{video} gives no frames")
    return np.stack(frames)


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, which is made where it does not exist."""
    # Absolute, because it is started in another folder; not resolved, which would leave the environment.
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    engines = [f"{name}=={version(name)}" for name in CPU_ENGINES]
    subprocess.run([python, "-m", "pip", "install", "-q", *PEERS, *engines, f"numpy=={version('numpy')}"], check=True)
    return python


def float_inputs(python: Path, models: dict[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """The models as the peers take them, and what their inputs are, by precision."""
    code = (
        "import json, sys; from pathlib import Path; from float_input import write_float_input as write; "
        "print(json.dumps(write(Path(sys.argv[1]), Path(sys.argv[2]))))"
    )
    told = {}
    for precision, source in models.items():
        target = folder / f"{precision}.onnx"
        out = subprocess.run(
            [python, "-c", code, source.resolve(), target], check=True, capture_output=True, text=True, cwd=HERE
        )
        told[precision] = {"model": str(target), "input": json.loads(out.stdout)}
    return told


def start_contestants(args: argparse.Namespace, folder: Path, ending: contextlib.ExitStack) -> list[Contestant]:
    """All of them, ready; killed by ``ending``."""
    python = peers_python(Path(args.peers_venv))
    own = {"fp32": resolve(args.model), "int8": resolve(args.int8)}
    foreign = float_inputs(python, own, folder)
    common = {"threads": args.threads, "frame_hw": args.frame, "frames": str(folder / "frames.npy")}
    started: list[Contestant] = []

    def start(python: Path, contestant: dict[str, Any]) -> None:
        started.append(Contestant(python, contestant))
        ending.callback(started[-1].kill)

    for engine, precision in GROUPS:
        file = "int8" if precision == "int8" else "fp32"
        group = {**common, "engine": engine, "precision": precision}
        for name in ("bare", "plain", *(("model_api",) if engine == "openvino" else ())):
            masks = str(folder / f"{name}-{engine}-{precision}.npy")
            start(python, {**group, **foreign[file], "contestant": name, "masks": masks})
        backend = OURS.get((engine, precision), engine)
        for name in ("edgeseg", "edgeseg_overlay"):
            masks = str(folder / f"{name}-{engine}-{precision}.npy")
            ours = {"contestant": name, "model": str(own[file]), "backend": backend, "masks": masks}
            start(Path(sys.executable), {**group, **ours})
    return started


def ratios(by_key: dict[tuple[str, str, str], Contestant]) -> dict[str, dict[str, float]]:
    """Median and range over rounds of each ratio."""
    found = {}
    for name, (top, bottom) in _ratios().items():
        pairs = zip(by_key[top[:3]].medians(top[3]), by_key[bottom[:3]].medians(bottom[3]), strict=True)
        values = [a / b for a, b in pairs]
        found[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", required=True)
    parser.add_argument("--model", default="ddrnet-c32-camvid", help="an FP32 model of edgeseg")
    parser.add_argument("--int8", default="ddrnet-c32-camvid-int8", help="the same in INT8")
    parser.add_argument("--frame", type=int, nargs=2, default=[720, 1280], metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=16, help="different frames, each run once a round (16)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-venv", default=".peers", help="environment of the peers, made where missing (.peers)")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="needs matplotlib")
    args = parser.parse_args()
    start = conditions()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ending:
        folder = Path(name)
        np.save(folder / "frames.npy", frames_of(args.video, args.frames, tuple(args.frame)))
        running = start_contestants(args, folder, ending)
        for turn in range(-1, args.rounds):  # the first warms up
            for contestant in running:
                contestant.round(record=turn >= 0)
        after = conditions()["load_average_1min"]
        for contestant in running:
            contestant.finish()
        by_key = {c.key: c for c in running}
        masks = {key[1:]: np.load(c.args["masks"]) for key, c in by_key.items() if key[0] == "edgeseg"}
        rows = [c.row(None if c.key[0] == "bare" else masks[c.key[1:]]) for c in running]
    result = {
        "what": "edgeseg and its peers on the same network, weights, threads and frames",
        "frame_hw": args.frame,
        "frames": args.frames,
        "rounds": args.rounds,
        "threads": args.threads,
        "models": {"fp32": Path(args.model).name, "int8": Path(args.int8).name},
        "peers": {name: _version_in(Path(args.peers_venv), name) for name in PEERS},
        "rows": rows,
        "ratios": ratios(by_key),
        "conditions": {**start, "load_average_1min_after": after},
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, ratio in result["ratios"].items():
        print(f"{ratio['median']:6.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})  {name}")
    if args.plot:
        draw(result, args.plot)


def _version_in(venv: Path, package: str) -> str:
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    out = subprocess.run([venv / "bin" / "python", "-c", code, package], check=True, capture_output=True, text=True)
    return out.stdout.strip()


if __name__ == "__main__":
    main()
