"""The command line as a user meets it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edgeseg
from edgeseg import cli
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, MissingDependencyError
from edgeseg.io import sinks, window_sink

CLASSES = ("dark", "bright", "never")
STAGES = {"capture", "preprocess", "infer", "decode", "sink", "end_to_end", "age"}
WAIT_S = 60


def save_image(path: Path, picture: np.ndarray) -> Path:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
    return path


def video_frames(path: Path) -> list[np.ndarray]:
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = capture.read()
        if not ok:
            return frames
        frames.append(image)


def read_mask(path: Path) -> np.ndarray:
    import cv2

    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def main(capfd, monkeypatch) -> Callable[..., SimpleNamespace]:
    """``main(*words) -> code, out, err``; err is all that reached file descriptor 2, engines' chatter included."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def run(main, tiny_model: Path, tiny_backend: str) -> Callable[..., SimpleNamespace]:
    """``edgeseg run`` with the tiny model."""
    return lambda *words: main("run", "--headless", "--model", tiny_model, "--backend", tiny_backend, *words)


@pytest.fixture
def process(tiny_model: Path, tiny_backend: str) -> Callable[..., subprocess.Popen[str]]:
    """``python -m edgeseg run`` with the tiny model, started and not waited for."""

    def start(*words: object, **options: object) -> subprocess.Popen[str]:
        hidden = {"DISPLAY", "WAYLAND_DISPLAY", "OPENCV_LOG_LEVEL", "OPENCV_FFMPEG_LOGLEVEL"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # files that may not grow include those of Python
        command = [sys.executable, "-m", "edgeseg", "run", "--headless", "--model", tiny_model]
        return subprocess.Popen(
            [str(word) for word in (*command, "--backend", tiny_backend, *words)],
            text=True, env=environment, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )  # fmt: skip

    return start


def is_one_error(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) == 1 and lines[0].startswith("error: ") and ". Mend: " in lines[0]


# --- words -----------------------------------------------------------------------------------------------------


def test_help(main) -> None:
    for words in ((), ("--help",), ("-h",)):
        answer = main(*words)
        assert (answer.code, answer.err) == (0, "")
        assert all(f"  {command} " in answer.out for command in cli.COMMANDS)
    for command in cli.COMMANDS:
        answer = main(command, "--help")
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith(f"usage: edgeseg {command}")


def test_help_of_a_process_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edgeseg.cli import main\n"
        "codes = [main([]), main(['run', '--help']), main(['nonsense']), main(['run', '--nonsense'])]\n"
        "heavy = {'cv2', 'torch', 'onnx', 'onnxruntime', 'openvino', 'yaml', 'tqdm'} & set(sys.modules)\n"
        "print(codes, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S)
    assert done.stdout.splitlines()[-1] == "[0, 0, 2, 2] []"
    assert [line[:6] for line in done.stderr.splitlines()] == ["error:"] * 2


def test_version(main) -> None:
    answer = main("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"{edgeseg.__version__}\n", "")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg", "--version"], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, edgeseg.__version__, "")


def test_a_full_disk_behind_standard_output_is_said() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edgeseg", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=WAIT_S)
    assert done.returncode == 1
    assert is_one_error(done.stderr), done.stderr


def test_a_reader_that_went_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgeseg", "--version"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=WAIT_S)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rnu",), "no command 'rnu'. Mend: did you mean 'run'?"),
        (("zzz",), "use one of bench"),
        (("run", "--bogus"), "unrecognized arguments: --bogus"),
        (("run", "--sourc=x", "--max-fames", "3"), "did you mean --max-frames?"),
        (
            ("run", "--source", "a.png", "b.png", "c.png", "d.png", "e.png"),
            "b.png c.png d.png and 1 more. Mend: put a glob",
        ),
        (("run",), "No source is given. Mend: give one of --source"),
        (("run", "--source", "x.mp4", "--camera", "0"), "Both --source and --camera"),
        (("run", "--camera", "x"), "--camera"),
        (("run", "--source"), "expected one argument"),
        (("run", "--source", ""), "--source: is empty"),
        (("run", "--source", "x.mp4", "--save", ""), "--save: is empty"),
        (("run", "--source", "x.mp4", "--model", " "), "--model: is empty"),
        (("run", "--source", os.fsdecode(b"\xff.mp4")), "is not UTF-8"),
        (("run", "--source", "x.mp4", "--alpha", "2"), "2 is not in 0..1"),
        (("run", "--source", "x.mp4", "--alpha", "nan"), "nan is not in 0..1"),
        (("run", "--source", "x.mp4", "--alpha", "x"), "'x' is not a number"),
        (("run", "--source", "x.mp4", "--max-frames", "0"), "0 is below 1"),
        (("run", "--source", "x.mp4", "--max-frames", "1.5"), "'1.5' is not a whole number"),
        (("run", "--source", "x.mp4", "--threads", "-1"), "-1 is below 1"),
        (("run", "--source", "x.mp4", "--imgsz", "5"), "expected 2 arguments"),
        (("run", "--source", "x.mp4", "--color-order", "gbr"), "invalid choice"),
        (("eval",), "--data"),
        (("run", "--source", "x.mp4\nsecond line"), "no file, folder or camera x.mp4 second line"),
    ],
)
def test_words_that_make_no_command(main, words: tuple[str, ...], said: str) -> None:
    answer = main(*words)
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert said in answer.err


def test_a_tool_whose_package_is_missing_names_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r"'edgeseg_no_such'.*edgeseg\[train\]"):
        cli.import_tool("edgeseg_no_such.cli", "train", "train")


# --- run: what it writes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_video(tmp_path: Path, run, make_video, tiny_model: Path, tiny_backend: str, suffix: str) -> None:
    import cv2

    video = make_video(tmp_path / f"in{suffix}", frames=9, rate_hz=10)
    out = tmp_path / "out"
    answer = run(
        "--source", video, "--save", out / f"x{suffix}", "--save-masks", out / "masks", "--stats", out / "s.json"
    )
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("9 frames, ")
    assert answer.out.splitlines()[1:] == [f"wrote {out / name}" for name in (f"x{suffix}", "masks", "s.json")]
    assert [f.shape for f in video_frames(out / f"x{suffix}")] == [(48, 64, 3)] * 9
    assert cv2.VideoCapture(str(out / f"x{suffix}")).get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    names = [f"{i:06d}.png" for i in range(9)]
    assert files_in(out) == sorted(
        ["masks", *(f"masks/{n}" for n in names), "masks/timestamps.csv", "s.json", f"x{suffix}"]
    )
    for name in names:
        mask = read_mask(out / "masks" / name)
        assert (mask.shape, mask.dtype) == ((48, 64), np.uint8)
        assert set(mask.flat) <= {0, 1}

    stats = json.loads((out / "s.json").read_text())
    assert {"frames", "fps", "latency_ms", "dropped", "model", "backend", "device", "versions"} <= set(stats)
    assert (stats["frames"], stats["dropped"], stats["invalid"], stats["error"]) == (9, 0, 0, None)
    assert (stats["model"], stats["backend"], stats["device"]) == (tiny_model.name, tiny_backend, "CPU")
    assert (stats["imgsz"], stats["precision"], stats["source_state"]) == ([32, 48], "fp32", "ended")
    assert set(stats["latency_ms"]) == STAGES
    for stage in stats["latency_ms"].values():
        assert list(stage) == ["p50", "p90", "p95", "p99", "max"]
    assert set(stats["versions"]) == {"edgeseg", tiny_backend, "opencv", "numpy", "python"}
    assert stats["fps"] > 0


def test_the_masks_are_right(tmp_path: Path, run) -> None:
    picture = np.zeros((40, 96, 3), np.uint8)
    picture[:, 48:] = 255
    run("--source", save_image(tmp_path / "half.png", picture), "--save-masks", tmp_path / "out")
    mask = read_mask(tmp_path / "out" / "half.png")
    assert mask.shape == (40, 96)
    assert set(mask[:, :40].flat) == {0}
    assert set(mask[:, 56:].flat) == {1}


def test_a_folder_whose_frames_change_size(tmp_path: Path, run) -> None:
    sizes = {"a.png": (50, 70), "b.jpg": (20, 30), "c.png": (1, 1), "d.png": (3, 4097)}
    for name, size in sizes.items():
        save_image(tmp_path / "in" / name, np.full((*size, 3), 200, np.uint8))
    save_image(tmp_path / "in" / "e.png", np.full((5, 6), 200, np.uint8))
    save_image(tmp_path / "in" / "f.png", np.full((5, 6), 50000, np.uint16))
    save_image(tmp_path / "in" / "g.png", np.full((5, 6, 4), 200, np.uint8))
    sizes |= dict.fromkeys(("e.png", "f.png", "g.png"), (5, 6))
    answer = run("--source", tmp_path / "in", "--save", tmp_path / "x.avi", "--save-masks", tmp_path / "masks")
    assert (answer.code, answer.err) == (0, "")
    masks = {name: read_mask(tmp_path / "masks" / f"{Path(name).stem}.png") for name in sizes}
    assert {name: mask.shape for name, mask in masks.items()} == sizes
    assert all(set(mask.flat) == {1} for mask in masks.values())
    assert [f.shape for f in video_frames(tmp_path / "x.avi")] == [(50, 70, 3)] * 7


@pytest.mark.parametrize("kind", ["image", "glob", "list", "street"])
def test_other_sources(tmp_path: Path, run, kind: str) -> None:
    for i in range(3):
        save_image(tmp_path / "in" / f"{i}.png", np.full((8, 8, 3), 80 * i, np.uint8))
    (tmp_path / "list.txt").write_text("in/2.png\nin/0.png\n")
    source, names = {
        "image": (tmp_path / "in" / "1.png", ["1.png"]),
        "glob": (f"{tmp_path}/in/[02].png", ["0.png", "2.png"]),
        "list": (tmp_path / "list.txt", ["0.png", "2.png"]),
        "street": ("synthetic://street?size=32x24&frames=2", ["000000.png", "000001.png"]),
    }[kind]
    answer = run("--source", source, "--save-masks", tmp_path / "out")
    assert (answer.code, answer.err) == (0, "")
    assert files_in(tmp_path / "out") == [*names, "timestamps.csv"]


def test_max_frames_ends_an_endless_source(tmp_path: Path, run) -> None:
    answer = run("--source", "synthetic://street?size=32x24", "--max-frames", 4, "--save", tmp_path / "x.mp4")
    assert (answer.code, answer.err) == (0, "")
    assert len(video_frames(tmp_path / "x.mp4")) == 4


def test_a_live_source_counts_what_it_dropped(tmp_path: Path, run) -> None:
    source = "synthetic://street?size=32x24&frames=30&rate=200&live=1"
    assert run("--source", source, "--stats", tmp_path / "s.json").code == 0
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["frames"] + stats["dropped"] == 30
    assert stats["frames"] >= 1


def test_invalid_results_are_said(tmp_path: Path, main, make_model, card: ModelCard, tiny_model, tiny_backend) -> None:
    model = make_model(tmp_path / "nan.onnx", card, nan=True)
    source = save_image(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
    answer = main("run", "--headless", "--model", model, "--backend", tiny_backend, "--source", source,
                  "--save-masks", tmp_path / "out")  # fmt: skip
    assert "1 INVALID" in answer.out
    assert set(read_mask(tmp_path / "out" / "x.png").flat) == {255}


def test_without_a_display_it_says_how_to_see_the_result(tmp_path: Path, main, tiny_model, tiny_backend) -> None:
    source = save_image(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
    answer = main("run", "--model", tiny_model, "--backend", tiny_backend, "--source", source)
    assert answer.code == 0
    assert answer.err.startswith("note: ")


def test_closing_the_window_ends_the_run(tmp_path: Path, main, tiny_model, tiny_backend, monkeypatch) -> None:
    class Window(sinks.Sink):
        on_main_thread, shown = True, 0

        def __init__(self, alpha: float) -> None:
            assert alpha == 0.25

        def write(self, result) -> None:
            Window.shown += 1
            self.quit = result.frame_index == 2

        def close(self) -> None:
            pass

    monkeypatch.setattr(window_sink, "display_available", lambda: True)
    monkeypatch.setattr(window_sink, "WindowSink", Window)
    answer = main("run", "--model", tiny_model, "--backend", tiny_backend, "--alpha", 0.25, "--source",
                  "synthetic://street?size=32x24", "--save", tmp_path / "x.mp4")  # fmt: skip
    assert (answer.code, answer.err, Window.shown) == (0, "", 3)
    assert 3 <= len(video_frames(tmp_path / "x.mp4")) <= 9, "what was under way is written too"


def test_a_terminal_shows_progress(tmp_path: Path, process) -> None:
    pty, fcntl, termios = (
        pytest.importorskip(name, reason="no terminals here") for name in ("pty", "fcntl", "termios")
    )
    save_image(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    started = process("--source", tmp_path / "x.png", stderr=end)
    out, _ = started.communicate(timeout=WAIT_S)
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert (started.returncode, out.partition(",")[0]) == (0, "1 frames")
    assert "1/1" in shown
    assert "latency_ms=" in shown
    assert "dropped=0" in shown


def test_a_model_without_a_card(tmp_path: Path, main, make_model, tiny_model, tiny_backend: str) -> None:
    model = make_model(tmp_path / "m.onnx", None, dtype="float32", layout="nchw", size_hw=(None, None))
    source = save_image(tmp_path / "x.png", np.full((8, 8, 3), 255, np.uint8))
    words = ["run", "--headless", "--model", model, "--backend", tiny_backend, "--source", source]
    answer = main(*words)
    assert answer.code == 2
    assert is_one_error(answer.err), answer.err
    for flag in ("--classes", "--color-order", "--mean", "--std", "--imgsz"):
        assert flag in answer.err
    (tmp_path / "classes.txt").write_text("dark\nbright\nnever\n")
    words += [
        "--color-order",
        "rgb",
        "--mean",
        0,
        "--std",
        1 / 255,
        "--imgsz",
        32,
        48,
        "--save-masks",
        tmp_path / "out",
    ]
    for classes in ("dark,bright,never", "dark, bright, never,", tmp_path / "classes.txt"):
        assert main(*words, "--classes", classes).code == 0
        assert set(read_mask(tmp_path / "out" / "x.png").flat) == {1}
    for classes, said in (
        (",", "names no class"),
        ("a,,c", "no name for the class 1"),
        (",".join(f"class{i}" for i in range(100)), "names 100"),  # longer than a file name may be
        (model, "not a text file"),
        ("a,a,c", "'a' twice"),
    ):
        answer = main(*words, "--classes", classes)
        assert answer.code == 2
        assert is_one_error(answer.err), answer.err
        assert said in answer.err


# --- run: what goes wrong before the first frame ---------------------------------------------------------------


@pytest.fixture(scope="session")
def broken(tmp_path_factory, make_video) -> Path:
    """A folder of files that are not what their names say."""
    folder = tmp_path_factory.mktemp("broken")
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for name in ("cut.png", "cut.jpg"):
        whole = save_image(folder / name, picture).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    save_image(folder / "good.png", picture)
    for name in ("empty.mp4", "empty.png", "empty.onnx"):
        (folder / name).touch()
    for name in ("text.mp4", "text.png", "text.onnx", "text.txt"):
        (folder / name).write_text("hello\n" * 50)
    for suffix in (".mp4", ".avi", ".mkv"):
        make_video(folder / f"zero{suffix}", frames=0)
        whole = make_video(folder / f"cut{suffix}", frames=40).read_bytes()
        (folder / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "nothing").mkdir()
    return folder


@pytest.mark.parametrize(
    "source",
    [
        "none.mp4", "none", "nothing", "nothing/*.png", "empty.mp4", "empty.png", "text.mp4", "text.png", "text.onnx",
        "text.txt", "cut.png", "cut.jpg", "cut.mp4", "zero.mp4", "zero.avi", "zero.mkv",
    ],
)  # fmt: skip
def test_a_source_with_nothing_in_it(tmp_path: Path, run, broken: Path, source: str) -> None:
    out = tmp_path / "out"
    answer = run("--source", broken / source, "--save", out / "x.mp4", "--save-masks", out, "--stats", out / "s.json")
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert source.rpartition("/")[0] in answer.err
    assert str(broken) in answer.err
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("-7", "no file, folder or camera -7"),
        ("rtsp://user:secret@127.0.0.1:1/stream", "rtsp://***@127.0.0.1:1/stream cannot be opened"),
        ("synthetic://strete", "strete"),
        ("synthetic://street?frames=0", "0 frames"),
        ("n" * 300, "cannot be opened"),
    ],
)
def test_a_source_that_is_not_there(tmp_path: Path, main, source: str, said: str) -> None:
    answer = main("run", "--headless", f"--source={source}", "--save", tmp_path / "x.mp4", "--model", "none.onnx")
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert said in answer.err, "the source is looked at before the model is loaded"
    assert "secret" not in answer.err
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("source", ["99", "/dev/video77"])
def test_a_camera_that_is_not_there(tmp_path: Path, process, source: str) -> None:
    # In a process of its own: OpenCV looks at the variables that keep it quiet only while it is imported.
    started = process("--source", source, "--save", tmp_path / "x.mp4")
    out, err = started.communicate(timeout=WAIT_S)
    assert (started.returncode, out) == (2, "")
    assert is_one_error(err), err
    assert f"camera {source} cannot be opened" in err
    assert files_in(tmp_path) == []


def test_a_camera_is_opened_after_the_model(tmp_path: Path, main) -> None:
    # Cameras behind PipeWire have no device file, and sleep for good when opened long before they are read.
    answer = main("run", "--headless", "--camera", "99", "--model", "none.onnx")
    assert (answer.code, answer.out) == (2, "")
    assert "none.onnx" in answer.err


def test_a_camera_number_that_does_not_exist(main) -> None:
    for words in (("--camera", 99), ("--camera", -7), ("--camera", 10**12)):
        answer = main("run", "--headless", *words)
        assert answer.code == 2
        assert is_one_error(answer.err), answer.err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("none.onnx", "no model file"),
        ("no-such-model", "no bundled model"),
        ("empty.onnx", "is empty"),
        ("text.onnx", "is not an ONNX file"),
        ("cut.onnx", "is truncated"),
        ("nothing", "is a folder"),
        ("good.png", "is not an ONNX file"),
        ("n" * 300 + ".onnx", "too long"),
    ],
)
def test_a_model_that_is_none(tmp_path: Path, main, tiny_model, tiny_backend, broken, monkeypatch, model, said) -> None:
    monkeypatch.chdir(broken)
    (broken / "cut.onnx").write_bytes(tiny_model.read_bytes()[:1500])
    answer = main("run", "--headless", "--source", "good.png", "--model", model, "--backend", tiny_backend,
                  "--save", tmp_path / "x.mp4", "--save-masks", tmp_path / "masks")  # fmt: skip
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert said in answer.err
    assert files_in(tmp_path) == []


def test_models_that_an_engine_refuses(
    tmp_path: Path, main, make_model, card, tiny_model, tiny_backend, broken
) -> None:
    for changes in ({"bad_op": True}, {"inputs": 2}, {"dtype": "float32"}):
        model = make_model(tmp_path / "m.onnx", card, **changes)
        answer = main("run", "--headless", "--source", broken / "good.png", "--model", model, "--backend", tiny_backend)
        assert (answer.code, answer.out) == (2, "")
        assert is_one_error(answer.err), answer.err
        assert "m.onnx" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backend", "openvno"), "no backend 'openvno'. Mend: did you mean 'openvino'?"),
        (("--backend", "tensorrt"), "Mend: build one: edgeseg build"),
        (("--imgsz", "64", "64"), "--imgsz asks for 64x64"),
        (("--classes", "a,b"), "other classes than --classes"),
        (("--mean", "0.5", "0.5"), "--mean has 2 values"),
        (("--output", "x"), "no output 'x'"),
        (("--card", "none.json"), "Cannot read the card none.json"),
        (("--card", "text.txt"), "is not JSON"),
        (("--card", "good.png"), "Cannot read the card good.png"),
        (("--save", "x.gif"), "no video container"),
        (("--save", "text.txt/x.mp4"), "is a file"),
        (("--save", "nothing"), "no video container"),
        (("--save-masks", "text.txt"), "is a file"),
        (("--save-masks", "text.txt/x"), "is a file"),
        (("--stats", "text.txt/s.json"), "is a file"),
        (("--stats", "nothing"), "is a folder"),
        (("--stats", "n" * 300), "too long"),
        (("--save", "n" * 300 + ".mp4"), "too long"),
        (("--save-masks", "n" * 300), "too long"),
    ],
)
def test_flags_that_cannot_be_followed(run, broken: Path, monkeypatch, words: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(broken)
    before = files_in(broken)
    answer = run("--source", "good.png", *words)
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert said in answer.err
    assert files_in(broken) == before


def test_the_source_is_never_overwritten(tmp_path: Path, run, make_video, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    video = make_video(tmp_path / "v.mp4").read_bytes()
    for name in ("a.png", "b.jpg"):
        save_image(tmp_path / "in" / name, np.zeros((8, 8, 3), np.uint8))
    before = files_in(tmp_path)
    for words in (
        ("--source", "v.mp4", "--save", tmp_path / "v.mp4"),
        ("--source", tmp_path / "v.mp4", "--stats", "in/../v.mp4"),
        ("--source", "in", "--save-masks", tmp_path / "in"),
        ("--source", "in/a.png", "--save-masks", "in"),
    ):
        answer = run(*words)
        assert (answer.code, answer.out) == (2, "")
        assert is_one_error(answer.err), answer.err
        assert "would replace the source" in answer.err
    assert files_in(tmp_path) == before
    assert (tmp_path / "v.mp4").read_bytes() == video
    assert run("--source", "in/b.jpg", "--save-masks", "in").code == 0
    assert files_in(tmp_path / "in") == ["a.png", "b.jpg", "b.png", "timestamps.csv"]


# --- run: what goes wrong half-way -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_video_cut_in_half(tmp_path: Path, run, broken: Path, suffix: str) -> None:
    answer = run(
        "--source", broken / f"cut{suffix}", "--save", tmp_path / "x.mp4", "--save-masks", tmp_path / "masks",
        "--stats", tmp_path / "s.json",
    )  # fmt: skip
    assert answer.code == 1
    assert is_one_error(answer.err), answer.err
    stats = json.loads((tmp_path / "s.json").read_text())
    assert 5 < stats["frames"] < 40
    assert f"breaks off after {stats['frames']} of 40 frames" in answer.err
    assert f"error: {stats['error']}\n" == answer.err
    assert stats["source_state"] == "failed"
    assert len(video_frames(tmp_path / "x.mp4")) == len(files_in(tmp_path / "masks")) - 1 == stats["frames"]


def test_images_that_cannot_be_read_among_good_ones(tmp_path: Path, run) -> None:
    for name in "abc":
        save_image(tmp_path / "in" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in" / "a.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:40])
    answer = run("--source", tmp_path / "in", "--save-masks", tmp_path / "out")
    assert answer.code == 1
    assert is_one_error(answer.err), answer.err
    assert "1 of the 3 images" in answer.err
    assert str(tmp_path / "in" / "a.png") in answer.err
    assert files_in(tmp_path / "out") == ["b.png", "c.png", "timestamps.csv"]


def test_a_failing_sink_keeps_earlier_results(tmp_path: Path, run, make_video, monkeypatch) -> None:
    write, calls = sinks.MaskSink.write, []

    def failing(self, result) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise sinks.SinkError("The disk is full", "free some space")
        write(self, result)

    monkeypatch.setattr(sinks.MaskSink, "write", failing)
    answer = run("--source", make_video(tmp_path / "v.avi"), "--save", tmp_path / "x.mp4", "--save-masks",
                 tmp_path / "out", "--stats", tmp_path / "s.json")  # fmt: skip
    assert (answer.code, answer.err) == (1, "error: The disk is full. Mend: free some space\n")
    assert files_in(tmp_path / "out") == ["000000.png", "000001.png", "000002.png", "timestamps.csv"]
    stats = json.loads((tmp_path / "s.json").read_text())
    assert len(video_frames(tmp_path / "x.mp4")) == stats["frames"] >= 4
    assert (stats["sinks"]["masks"]["written"], stats["sinks"]["video"]["error"]) == (3, None)


def test_an_engine_that_fails_half_way(tmp_path: Path, run, make_video, monkeypatch) -> None:
    from edgeseg.segmenter import Segmenter

    call = Segmenter.__call__

    def failing(self, frame):
        if frame.index == 3:
            raise BackendError("The engine failed", "try another")
        return call(self, frame)

    monkeypatch.setattr(Segmenter, "__call__", failing)
    answer = run("--source", make_video(tmp_path / "v.avi"), "--save", tmp_path / "x.mp4")
    assert (answer.code, answer.err) == (1, "error: The engine failed. Mend: try another\n")
    assert len(video_frames(tmp_path / "x.mp4")) == 3


def test_stats_that_cannot_be_written_after_all(tmp_path: Path, run, make_video, monkeypatch) -> None:
    def full(path, text) -> None:
        raise sinks.SinkError(f"Cannot write {path} (No space left on device)", "free some space")

    monkeypatch.setattr("edgeseg.files.write_text", full)
    answer = run("--source", make_video(tmp_path / "v.avi"), "--stats", tmp_path / "s.json")
    assert answer.code == 1
    assert is_one_error(answer.err), answer.err
    assert answer.out.startswith("12 frames")
    assert "wrote" not in answer.out


# --- run as a process of its own -------------------------------------------------------------------------------


def test_a_process_keeps_the_chatter_of_decoders_to_itself(process, broken: Path) -> None:
    done = process("--source", broken / "cut.avi")
    out, err = done.communicate(timeout=WAIT_S)
    assert done.returncode == 1
    assert out.startswith("18 frames") or " frames, " in out
    assert is_one_error(err), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_run_with_everything_written(tmp_path: Path, process, number: int) -> None:
    out = tmp_path / "out"
    started = process(
        "--source", "synthetic://street?live=1&size=64x48", "--save", out / "x.mp4", "--save-masks", out / "masks",
        "--stats", out / "s.json",
    )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT_S
        while len(list(out.glob("masks/*.png"))) < 3:
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        started.send_signal(number)
        text, err = started.communicate(timeout=20)
    finally:
        started.kill()
        started.communicate()
    assert (started.returncode, err) == (0, "")
    stats = json.loads((out / "s.json").read_text())
    assert stats["frames"] >= 3
    assert text.startswith(f"{stats['frames']} frames")
    assert len(video_frames(out / "x.mp4")) == stats["frames"]
    assert not [name for name in files_in(out) if "part" in name]


def limited_to(size_bytes: int) -> Callable[[], None]:
    resource = pytest.importorskip("resource", reason="file sizes cannot be limited here")
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_video_that_may_not_grow(tmp_path: Path, process, suffix: str) -> None:
    limit = 40_000 if suffix == ".avi" or importlib.util.find_spec("av") is None else 8_000
    started = process(
        "--source", "synthetic://street?size=128x96&frames=60", "--save", tmp_path / f"x{suffix}",
        preexec_fn=limited_to(limit),
    )  # fmt: skip
    out, err = started.communicate(timeout=WAIT_S)
    assert started.returncode == 1
    assert is_one_error(err), err
    assert f"x{suffix}" in err
    assert out.partition(" ")[0].isdigit()
    assert set(files_in(tmp_path)) <= {f"x{suffix}"}
    if suffix == ".avi":
        assert len(video_frames(tmp_path / "x.avi")) > 3, "what fitted is kept"
    assert ("wrote" in out) == (tmp_path / f"x{suffix}").exists()


def test_masks_that_may_not_grow(tmp_path: Path, process) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    noise[::2] = 255
    save_image(tmp_path / "in" / "1.png", noise[:1, :1])
    save_image(tmp_path / "in" / "2.png", noise)
    started = process("--source", tmp_path / "in", "--save-masks", tmp_path / "out", preexec_fn=limited_to(300))
    _, err = started.communicate(timeout=WAIT_S)
    assert started.returncode == 1
    assert is_one_error(err), err
    assert "File too large" in err
    assert files_in(tmp_path / "out") == ["1.png", "timestamps.csv"]


# --- eval ------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images of the split ``val``: a dark one, whose mask is right but for 8 pixels, and a bright one."""
    folder = tmp_path / "data"
    mask = np.zeros((32, 48), np.uint8)
    mask[0, :8], mask[1, :8] = 1, 255
    save_image(folder / "val" / "images" / "a.png", np.zeros((32, 48, 3), np.uint8))
    save_image(folder / "val" / "masks" / "a.png", mask)
    save_image(folder / "val" / "images" / "b.png", np.full((32, 48, 3), 255, np.uint8))
    save_image(folder / "val" / "masks" / "b.png", np.ones((32, 48), np.uint8))
    (folder / "data.yaml").write_text(f"val: val\nnames: [{', '.join(CLASSES)}]\n")
    return folder / "data.yaml"


@pytest.fixture
def evaluate(main, tiny_model: Path, tiny_backend: str) -> Callable[..., SimpleNamespace]:
    return lambda *words: main("eval", "--model", tiny_model, "--backend", tiny_backend, *words)


def test_eval(tmp_path: Path, evaluate, data: Path) -> None:
    answer = evaluate("--data", data, "--json", tmp_path / "e.json")
    assert (answer.code, answer.err) == (0, "")
    figures = json.loads((tmp_path / "e.json").read_text())
    assert {"miou", "iou", "dice", "pixel_accuracy"} <= set(figures)
    pixels = 32 * 48
    dark, bright = (pixels - 16) / (pixels - 8), pixels / (pixels + 8)
    assert figures["iou"] == {"dark": pytest.approx(dark), "bright": pytest.approx(bright), "never": None}
    assert figures["miou"] == pytest.approx((dark + bright) / 2)
    assert figures["dice"] == pytest.approx((2 * dark / (1 + dark) + 2 * bright / (1 + bright)) / 2)
    assert figures["pixel_accuracy"] == pytest.approx(1 - 8 / (2 * pixels - 8))
    assert (figures["images"], figures["split"], figures["imgsz"]) == (2, "val", [32, 48])
    assert f"mean            {100 * figures['miou']:.2f}" in answer.out


def test_eval_of_the_first_images(tmp_path: Path, evaluate, data: Path) -> None:
    for limit, count in ((1, 1), (5, 2)):
        assert evaluate("--data", data, "--json", tmp_path / "e.json", "--max-images", limit).code == 0
        assert json.loads((tmp_path / "e.json").read_text())["images"] == count


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--split", "vla"), "no split 'vla'. Mend: did you mean 'val'?"),
        (("--max-images", "0"), "0 is below 1"),
        (("--json", ""), "is empty"),
        (("--data", "none.yaml"), "Cannot read none.yaml"),
        (("--data", "synthetic://street?frames=2"), "has 11 classes"),
        (("--data", "synthetic://steet"), "steet"),
    ],
)
def test_eval_with_words_it_cannot_follow(evaluate, data: Path, words: tuple[str, ...], said: str) -> None:
    answer = evaluate("--data", data, *words)
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert said in answer.err


def test_eval_on_other_classes(evaluate, data: Path) -> None:
    data.write_text("val: val\nnames: [bright, dark, never]\n")
    answer = evaluate("--data", data)
    assert answer.code == 2
    assert is_one_error(answer.err), answer.err
    assert "Class 0 is 'bright'" in answer.err


@pytest.mark.parametrize("kind", ["cut", "missing", "size", "id", "image"])
def test_eval_names_the_file_that_is_wrong(tmp_path: Path, evaluate, data: Path, kind: str) -> None:
    path = data.parent / "val" / "masks" / "b.png"
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif kind == "missing":
        path.unlink()
    elif kind == "size":
        save_image(path, np.zeros((3, 3), np.uint8))
    elif kind == "id":
        save_image(path, np.full((32, 48), 9, np.uint8))
    else:
        path = data.parent / "val" / "images" / "b.png"
        path.write_bytes(b"text")
    answer = evaluate("--data", data, "--json", tmp_path / "e.json")
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert str(path) in answer.err
    assert not (tmp_path / "e.json").exists()


def test_eval_finds_out_first_that_its_file_cannot_be_written(evaluate, data: Path) -> None:
    answer = evaluate("--data", data, "--json", data / "e.json")
    assert (answer.code, answer.out) == (2, "")
    assert is_one_error(answer.err), answer.err
    assert "is a file" in answer.err
