"""``edgeseg build`` from the command line to the files, with TensorRT itself stood in for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeseg import cli, doctor
from edgeseg.card import ModelCard
from edgeseg.doctor import Cuda, Gpu
from edgeseg.trt import engine
from edgeseg.trt.builder import StillBuildingError
from edgeseg.trt.options import BuildOptions

HALF = "Row major linear FP16 format"
FLOAT = "Row major linear FP32"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A machine whose TensorRT builds at once. ``options`` and ``timing_cache`` are what it was asked with;
    ``given`` is the type that the inspector tells of the one convolution."""
    seen = SimpleNamespace(given=FLOAT)
    cuda = Cuda((12, 6), (Gpu("Orin", "8.7", 2**34, True),))
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "10.3.0"
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    trt.ILogger = object

    def build_plan(trt: Any, onnx: Path, typing: Any, options: BuildOptions, **more: Any) -> tuple[bytes, bytes]:
        seen.options, seen.timing_cache = options, more["timing_cache"]
        return b"a plan", b"timings"

    def inspected(trt: Any, plan: bytes) -> str:
        tensor = {"Name": "t", "Format/Datatype": seen.given}
        layer = {"Name": "node_of_scores", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor]}
        return json.dumps({"Layers": [layer]})

    monkeypatch.setattr(doctor, "read_cuda", lambda: cuda)
    monkeypatch.setattr(engine, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(engine, "build_plan", build_plan)
    monkeypatch.setattr(engine, "engine_information", inspected)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return seen


@pytest.fixture
def onnx(make_model: Callable[..., Path], card: ModelCard, tmp_path: Path) -> Path:
    return make_model(tmp_path / "model.onnx", card)


CACHE = "cache/edgeseg/10.3.0-Orin-8.7.timing"


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_and_text(built, onnx, tmp_path, capsys) -> None:
    assert cli.main(["build", str(onnx)]) == 0
    assert files_in(tmp_path) == [CACHE, "model.engine", "model.engine.json", "model.onnx"]
    assert (tmp_path / "model.engine").read_bytes() == b"a plan"
    assert built.options == BuildOptions()
    assert built.timing_cache == b""
    said = capsys.readouterr().out
    assert "runs on     Orin (compute capability 8.7), TensorRT 10.3.0" in said
    assert "engine      FP32 100.0 % of the multiply-adds" in said
    assert cli.main(["info", str(tmp_path / "model.engine")]) == 0
    assert '"gpu": "Orin"' in capsys.readouterr().out


def test_options_and_the_timing_cache_reach_tensorrt(built, onnx, tmp_path, make_model, card) -> None:
    make_model(onnx, card, size_hw=(None, None))
    shapes = "1x32x48x3,1x64x96x3,1x64x96x3"
    flags = ["--workspace-mb", "64", "--opt-level", "5", "--profile", shapes, "--timing-cache", "t.timing"]
    assert cli.main(["build", str(onnx), "--out", "x/y.engine", *flags]) == 0
    assert built.options == BuildOptions(64, 5, ((1, 32, 48, 3), (1, 64, 96, 3), (1, 64, 96, 3)))
    assert cli.main(["build", str(onnx), "--out", "x/y.engine", *flags]) == 0
    assert built.timing_cache == b"timings"
    assert files_in(tmp_path) == ["model.onnx", "t.timing", "x/y.engine", "x/y.engine.json"]


def test_an_engine_that_does_not_honour_the_graph_leaves_what_was_there(built, onnx, tmp_path, capsys) -> None:
    assert cli.main(["build", str(onnx)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("model*")}
    built.given = HALF
    assert cli.main(["build", str(onnx)]) == 2
    assert "did not honour the graph" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.glob("model*")} == before


def test_a_bundled_model_is_built_where_one_is(built, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(engine, "check_honoured", lambda found, asked: None)
    assert cli.main(["build", "ddrnet-c16-camvid"]) == 0
    assert files_in(tmp_path) == [CACHE, "ddrnet-c16-camvid.engine", "ddrnet-c16-camvid.engine.json"]


@pytest.mark.filterwarnings("default::edgeseg.trt.library.EngineWarning")
def test_a_timing_cache_that_cannot_be_kept_costs_no_engine(built, onnx, tmp_path, capsys) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    assert cli.main(["build", str(onnx)]) == 0
    assert (tmp_path / "model.engine").exists()
    assert capsys.readouterr().err.startswith("warning: The timing cache is not kept")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.engine"], "There is no model file"),
        (["notes.txt"], "is not an ONNX file"),
        (["model.onnx", "--out", "model.plan"], "does not end in .engine"),
        (["model.onnx", "--out", "folder.engine"], "is a folder"),
        (["model.onnx", "--profile", "1x3"], "is not three shapes"),
        (["model.onnx", "--profile", "1x8x8x3,1x8x8x3,1x8x8x3"], "does not fit the input 'image'"),
        (["model.onnx", "--opt-level", "6"], "invalid choice"),
        (["model.onnx", "--workspace-mb", "0"], "below 1"),
        (["model.onnx", "--timing-cache", "folder.engine"], "is a folder"),
    ],
)
def test_bad_arguments(built, onnx, tmp_path, capsys, arguments, said) -> None:
    (tmp_path / "notes.txt").write_text("notes", encoding="utf-8")
    (tmp_path / "folder.engine").mkdir()
    before = files_in(tmp_path)
    assert cli.main(["build", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert files_in(tmp_path) == before


def test_a_model_is_refused_before_the_driver_is_asked(onnx, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "read_cuda", lambda: pytest.fail("asked"))
    onnx.write_bytes(onnx.read_bytes()[:100])
    assert cli.main(["build", str(onnx)]) == 2
    assert "truncated" in capsys.readouterr().err


def test_an_interrupted_build_that_cannot_be_stopped_ends_the_process(built, onnx, monkeypatch) -> None:
    from edgeseg.cli import build

    def interrupted(*_: object, **__: object) -> None:
        raise StillBuildingError

    ended: list[int] = []
    monkeypatch.setattr(engine, "build_plan", interrupted)
    monkeypatch.setattr(build.os, "_exit", ended.append)
    build.build(onnx, onnx.with_suffix(".engine"), BuildOptions())
    assert ended == [130]
