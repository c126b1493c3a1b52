"""An engine's record: read, compared with the machine, and mended by building again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg import cli
from edgeseg.card import ModelCard
from edgeseg.cli import build as build_command
from edgeseg.doctor import Cuda, Gpu, Host
from edgeseg.errors import ModelError, UsageError
from edgeseg.foreign import ModelFacts
from edgeseg.segmenter import load
from edgeseg.tensors import TensorSpec
from edgeseg.trt import plan as plans
from edgeseg.trt.library import EngineWarning
from edgeseg.trt.options import BuildOptions
from edgeseg.trt.plan import (
    Platform,
    Sidecar,
    StalePlanError,
    check_platform,
    open_plan,
    platform_of,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)

CARD = ModelCard(classes=("dark", "bright"), input_size_hw=(32, 48), name="tiny")
HERE = Platform("10.3.0", "Orin", "8.7", "540.4.0, CUDA 12.6", "6.2 (L4T 36.4.3)")
ONNX = b"an onnx file"
PLAN = b"an engine"


def sidecar(**changes: Any) -> Sidecar:
    record = Sidecar(
        card=CARD, onnx="model.onnx", onnx_sha256=hashlib.sha256(ONNX).hexdigest(),
        plan_sha256=hashlib.sha256(PLAN).hexdigest(), platform=HERE,
        options=BuildOptions(profile=((1, 32, 48, 3),) * 3), typing="INT8, FP16",
        precision={"asked": {"macs": {"int8": 9}}, "found": {"macs": {"int8": 9}, "layers": {"int8": 2}}},
        edgeseg="0.3.0",
    )  # fmt: skip
    return dataclasses.replace(record, **changes)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine with its record and its ONNX file, built for ``HERE``."""
    path = tmp_path / "model.engine"
    path.write_bytes(PLAN)
    (tmp_path / "model.onnx").write_bytes(ONNX)
    write_sidecar(path, sidecar())
    return path


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is ``HERE``: it has a driver and TensorRT, which does nothing."""
    monkeypatch.setattr(plans, "load_tensorrt", lambda: ModuleType("tensorrt"))
    monkeypatch.setattr(plans, "require_driver", lambda: Cuda((12, 6), (Gpu("Orin", "8.7", 2**34, True),)))
    monkeypatch.setattr(plans, "platform_of", lambda trt, cuda: HERE)


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    trt = ModuleType("tensorrt")
    trt.__version__ = "10.3.0"  # type: ignore[attr-defined]
    cuda = Cuda((12, 6), (Gpu("Orin", "8.7", 2**34, True), Gpu("Another", "8.9", 1, False)))
    root = Host(tmp_path, {})
    assert platform_of(trt, cuda, root) == Platform("10.3.0", "Orin", "8.7", "CUDA 12.6", None)
    for name, text in (
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n"),
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert platform_of(trt, cuda, root) == HERE


def test_a_record_comes_back_as_it_was(engine: Path) -> None:
    assert read_sidecar(engine) == sidecar()
    assert read_sidecar(engine.with_name("another.engine")) is None


def test_an_engine_that_fits(engine: Path) -> None:
    assert open_plan(engine) == (PLAN, sidecar())


def test_an_engine_of_another_maker(engine: Path) -> None:
    sidecar_path(engine).unlink()
    assert open_plan(engine) == (PLAN, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensorrt": "10.16.0"}, "TensorRT was 10.16.0 and is 10.3.0 here"),
        ({"gpu": "NVIDIA L4"}, "the GPU was NVIDIA L4 and is Orin here"),
        ({"compute_capability": "8.9"}, "the compute capability was 8.9 and is 8.7 here"),
        ({"jetpack": "6.1 (L4T 36.4.0)"}, r"JetPack was 6.1 \(L4T 36.4.0\) and is 6.2 \(L4T 36.4.3\) here"),
        ({"gpu": "NVIDIA L4", "tensorrt": "11.4.0"}, "TensorRT was 11.4.0 .*; the GPU was NVIDIA L4 "),
    ],
)
def test_another_machine_is_told_field_by_field(engine: Path, change: dict[str, Any], said: str) -> None:
    write_sidecar(engine, sidecar(platform=dataclasses.replace(HERE, **change)))
    with pytest.raises(StalePlanError, match=said) as raised:
        open_plan(engine)
    assert f"edgeseg build {engine.parent}/model.onnx --out {engine}" in raised.value.mend
    assert "--rebuild" in raised.value.mend


def test_a_jetpack_that_nothing_tells_is_not_another_one(engine: Path) -> None:
    check_platform(engine, sidecar(platform=dataclasses.replace(HERE, jetpack=None)), HERE)
    check_platform(engine, sidecar(), dataclasses.replace(HERE, jetpack=None))


def test_the_mend_without_the_onnx_file(engine: Path) -> None:
    (engine.parent / "model.onnx").unlink()
    write_sidecar(engine, sidecar(platform=dataclasses.replace(HERE, gpu="NVIDIA L4")))
    with pytest.raises(StalePlanError, match=r"bring model\.onnx here and build from it: edgeseg build") as raised:
        open_plan(engine)
    assert "--rebuild" not in raised.value.mend


def test_a_bundled_model_needs_no_file_beside_the_engine(engine: Path) -> None:
    record = sidecar(onnx="ddrnet-c16-camvid.onnx")
    assert plans.onnx_beside(engine, record).is_file()


def test_another_driver_is_told_and_runs(engine: Path) -> None:
    record = sidecar(platform=dataclasses.replace(HERE, driver="550.54.14, CUDA 12.4"))
    with pytest.warns(
        EngineWarning, match=r"it was 550.54.14, CUDA 12.4 and is 540.4.0, CUDA 12.6 here.*edgeseg build"
    ):
        check_platform(engine, record, HERE)


def test_an_onnx_file_that_changed_is_told(engine: Path) -> None:
    (engine.parent / "model.onnx").write_bytes(b"a later export")
    with pytest.warns(EngineWarning, match=r"model.onnx has changed since .*model.engine was built"):
        assert open_plan(engine)[0] == PLAN


@pytest.mark.parametrize("content", [PLAN[:-1], PLAN + b"!", b"something else"])
def test_an_engine_that_is_not_what_its_record_says(engine: Path, content: bytes) -> None:
    engine.write_bytes(content)
    with pytest.raises(StalePlanError, match=r"not the engine that model.engine.json describes: it is truncated"):
        open_plan(engine)


def test_an_empty_engine(engine: Path) -> None:
    sidecar_path(engine).unlink()
    engine.write_bytes(b"")
    with pytest.raises(StalePlanError, match="is empty"):
        open_plan(engine)


def test_an_engine_that_cannot_be_read(engine: Path) -> None:
    engine.unlink()
    with pytest.raises(ModelError, match="Cannot read"):
        open_plan(engine)


def record_with(**changes: Any) -> str:
    return json.dumps({**json.loads(sidecar().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not the record of an engine"),
        ("[]", "not the record of an engine"),
        ("{}", "KeyError"),
        ('{"tensorrt": "10.3"}', "not the record of an engine"),
        (record_with(schema=2), "has schema 2, this edgeseg reads 1"),
        (record_with(unknown=2), "unknown"),
        (record_with(platform={"gpu": "Orin"}), "not the record of an engine"),
        (record_with(options={"profile": 3}), "not the record of an engine"),
        ("\udcff", "not text"),
    ],
)
def test_records_that_are_none(engine: Path, text: str, said: str) -> None:
    sidecar_path(engine).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StalePlanError, match=said) as raised:
        open_plan(engine)
    assert "model.engine.json" in str(raised.value)


def test_a_broken_card_in_a_record(engine: Path) -> None:
    sidecar_path(engine).write_text(record_with(card={"classes": []}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"The card in .*model.engine.json lacks input_size_hw"):
        open_plan(engine)


# Loading, with a stand-in for the engine.


class Backend:
    """Takes what the TensorRT backend takes, and gives all pixels the second class."""

    name, device, version = "tensorrt", "Orin", "10.3.0"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("image", np.dtype(np.uint8), (1, 32, 48, 3)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("mask", np.dtype(np.uint8), (1, 32, 48)),)

    def __init__(self, plan: bytes, card: ModelCard, path: Path) -> None:
        self.opened, self.card, self.closed = plan, card, False

    def infer(self, feed: Any) -> Any:
        return {"mask": np.ones((1, 32, 48), np.uint8)}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> type[Backend]:
    real = importlib.import_module
    module = SimpleNamespace(TensorRtBackend=Backend)
    monkeypatch.setattr(
        importlib, "import_module", lambda name: module if name == "edgeseg.backends.tensorrt" else real(name)
    )
    return Backend


def test_load_opens_an_engine_with_the_card_of_its_record(engine: Path, backend: type[Backend]) -> None:
    write_sidecar(engine, sidecar(card=CARD.replace(head="mask")))
    with load(engine) as segmenter:
        assert segmenter.backend.name == "tensorrt"
        assert segmenter.path == engine
        assert segmenter(np.zeros((20, 30, 3), np.uint8)).mask.tolist() == [[1] * 30] * 20


def test_a_given_card_goes_before_that_of_the_record(engine: Path, backend: type[Backend]) -> None:
    card = CARD.replace(head="mask", classes=("a", "b"), palette=())
    assert load(engine, card=card).card.classes == ("a", "b")
    with pytest.raises(ModelError, match="names other classes than --classes"):
        load(engine, facts=ModelFacts(classes=("a", "b")))


def test_an_engine_takes_no_other_backend(engine: Path) -> None:
    with pytest.raises(UsageError, match="openvino cannot run the TensorRT engine"):
        load(engine, "openvino")


def test_tensorrt_takes_engines_only(engine: Path) -> None:
    with pytest.raises(UsageError, match=r"TensorRT runs engines, not .*model.onnx. Mend: build one: edgeseg build"):
        load(engine.with_name("model.onnx"), "tensorrt")


def test_an_engine_of_another_maker_needs_facts(
    engine: Path, backend: type[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.onnx_reader import TensorInfo
    from edgeseg.trt import inspector

    sidecar_path(engine).unlink()
    tensors = (TensorInfo("image", "uint8", (1, 32, 48, 3)),), (TensorInfo("mask", "uint8", (1, 32, 48)),)
    monkeypatch.setattr(inspector, "tensors_of_plan", lambda plan, path: tensors)
    with pytest.raises(ModelError, match="no model card, and running it needs its class names"):
        load(engine)
    loaded = load(engine, facts=ModelFacts(classes=("dark", "bright"), color_order="bgr"))
    assert (loaded.card.head, loaded.card.input_size_hw) == ("mask", (32, 48))


def test_an_engine_that_does_not_fit_its_card_is_closed(
    engine: Path, backend: type[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(Backend, "close", lambda self: closed.append(True))
    with pytest.raises(ModelError, match="The input 'image'"):
        load(engine, card=CARD.replace(input_size_hw=(64, 48), head="mask"))
    assert closed == [True]


RUN = ("run", "--source", "synthetic://street?frames=1&size=64x48", "--headless")


@pytest.fixture
def builds(engine: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked to be built; the engine then fits."""
    asked: list[Any] = []

    def build(onnx: Path, out: Path, options: BuildOptions, **more: Any) -> None:
        asked.append((onnx, out, options))
        out.write_bytes(PLAN)
        write_sidecar(out, sidecar(card=CARD.replace(head="mask")))

    monkeypatch.setattr(build_command, "build", build)
    return asked


def test_rebuild_builds_again_as_it_was_built(
    engine: Path, backend: type[Backend], builds: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_sidecar(engine, sidecar(platform=dataclasses.replace(HERE, gpu="NVIDIA L4")))
    assert cli.main([*RUN, "--model", str(engine)]) == 2
    assert "the GPU was NVIDIA L4 and is Orin here" in capsys.readouterr().err
    assert builds == []
    assert cli.main([*RUN, "--model", str(engine), "--rebuild"]) == 0
    assert builds == [(engine.parent / "model.onnx", engine, sidecar().options)]


def test_rebuild_of_an_engine_with_a_broken_record(engine: Path, backend: type[Backend], builds: list[Any]) -> None:
    sidecar_path(engine).write_text("{", encoding="utf-8")
    assert cli.main([*RUN, "--model", str(engine), "--rebuild"]) == 0
    assert builds == [(engine.parent / "model.onnx", engine, BuildOptions())]


def test_rebuild_leaves_an_engine_that_fits(engine: Path, backend: type[Backend], builds: list[Any]) -> None:
    write_sidecar(engine, sidecar(card=CARD.replace(head="mask")))
    assert cli.main([*RUN, "--model", str(engine), "--rebuild"]) == 0
    assert builds == []


def test_rebuild_of_an_engine_whose_onnx_file_changed(
    engine: Path, backend: type[Backend], builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine.parent / "model.onnx").write_bytes(b"a later export")
    write_sidecar(engine, sidecar(card=CARD.replace(head="mask")))

    def built(onnx: Path, out: Path, options: BuildOptions) -> None:
        builds.append(onnx)
        later = hashlib.sha256(onnx.read_bytes()).hexdigest()
        write_sidecar(out, sidecar(card=CARD.replace(head="mask"), onnx_sha256=later))

    monkeypatch.setattr(build_command, "build", built)
    assert cli.main([*RUN, "--model", str(engine), "--rebuild"]) == 0
    assert builds == [engine.parent / "model.onnx"]


@pytest.mark.filterwarnings("default::edgeseg.trt.library.EngineWarning")
def test_commands_tell_of_another_driver_on_one_line(
    engine: Path, backend: type[Backend], capsys: pytest.CaptureFixture[str]
) -> None:
    platform = dataclasses.replace(HERE, driver="CUDA 12.4")
    write_sidecar(engine, sidecar(card=CARD.replace(head="mask"), platform=platform))
    assert cli.main([*RUN, "--model", str(engine)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "driver" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert "CUDA 12.4" in lines[0]
