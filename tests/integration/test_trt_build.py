"""The exported graphs, and ``edgeseg build``, with TensorRT's own ONNX parser and builder. Neither needs a GPU."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

from edgeseg.errors import ModelError
from edgeseg_train.models import NETWORKS

VARIABLE = "EDGESEG_TENSORRT_BUILD"
ROOT = Path(__file__).parents[2]
RIG = Path(__file__).parents[1] / "support" / "tensorrt_rig.py"
CLASSES = ("road", "sky", "car", "person")
TIMEOUT_S = 600

pytestmark = [
    pytest.mark.tensorrt_build,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no TensorRT that can build"),
]


def in_environment(*command: str) -> list[str]:
    """The command, after the file `env` of the prepared folder has set its variables."""
    env_file = Path(os.environ[VARIABLE]) / "env"
    path = f"PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return ["bash", "-c", f". {shlex.quote(str(env_file))} && {path} exec {shlex.join(command)}"]


def run(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        in_environment(*command), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more
    )


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that can import the prepared TensorRT: its bindings are made for one version of Python."""
    tried = {}
    for candidate in (sys.executable, "python3"):
        done = run(candidate, "-c", "import tensorrt, numpy, tqdm, cv2")
        if done.returncode == 0:
            return candidate
        tried[candidate] = (done.stderr.strip().splitlines() or ["?"])[-1]
    pytest.skip(f"no Python imports the TensorRT of {VARIABLE}: {tried}")


@pytest.fixture
def built(python: str, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """``built(*models, **options)``: what TensorRT says about each model."""

    def build(*models: Path, profile: Any = None, **options: Any) -> list[dict[str, Any]]:
        request = tmp_path / "request.json"
        wanted = {"models": [str(path) for path in models], "options": options, "profile": profile}
        request.write_text(json.dumps(wanted), encoding="utf-8")
        done = run(python, str(RIG), "build", str(request))
        assert done.returncode == 0, done.stderr
        reports: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return reports

    return build


@pytest.fixture
def save_network(tmp_path: Path) -> Callable[..., Any]:
    """``save_network(name, head=..., opset=...) -> (model, card, path)``: an exported network of random weights."""
    from edgeseg_export import to_onnx
    from edgeseg_train.backend import card_for_network
    from edgeseg_train.models import build

    def save(name: str, size_hw: tuple[int, int] = (64, 96), *, head: str = "logits", opset: int = 17) -> Any:
        card = card_for_network(
            classes=CLASSES, palette=[(i, 50, 9) for i in range(len(CLASSES))], ignore_id=255, imgsz=size_hw
        ).replace(name=name, head=head)
        model = to_onnx.graph_from_network(build(name, len(CLASSES)), card, opset=opset)
        path = tmp_path / f"{name}-{head}-{opset}.onnx"
        to_onnx.write_model(model, path)
        return model, card, path

    return save


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("head", ["logits", "mask"])
def test_heads_and_stored_weights(checkpoint_path, tmp_path, built, head, opset):
    from edgeseg_export import to_onnx
    from edgeseg_train import checkpoint as checkpoints
    from edgeseg_train.backend import card_from_checkpoint

    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=(72, 120), head=head)
    model = to_onnx.graph_from_network(checkpoints.network_from_checkpoint(checkpoint), card, opset=opset)
    paths = [tmp_path / "fp32.onnx", tmp_path / "stored.onnx"]
    for form, path in zip((model, to_onnx.with_half_weights(model)), paths):
        to_onnx.write_model(form, path)
    for report in built(*paths):
        assert report["inputs"] == [["image", "UINT8", [1, 72, 120, 3]]]
        output = ["logits", "FLOAT", [1, 4, 9, 15]] if head == "logits" else ["mask", "UINT8", [1, 72, 120]]
        assert report["outputs"] == [output]
        # The weights of a ddrnet-c16 are 5.8 MB in float32, and the plan holds them in no less.
        assert report["plan_bytes"] > 5_000_000


# One of each kind of block; the others are the same in other widths or with another decoder.
VARIED = ("ddrnet-c16", "pidnet-s", "fast-scnn", "pp-liteseg-t", "lraspp-mobilenetv3", "fpn-regnety400mf", "unet")


@pytest.mark.parametrize(
    "name", [name if name in VARIED else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_every_network_in_every_precision(name, save_network, labelled_data, tmp_path, built):
    from edgeseg.dataset import DataSet
    from edgeseg_export import int8, to_onnx
    from edgeseg_export.calibration import CalibrationSet
    from edgeseg_export.half import half_from_float

    model, card, path = save_network(name)
    calibration = CalibrationSet(DataSet.from_yaml(labelled_data).samples("val")[:1], card)
    ranges = int8.collect_ranges(model, calibration)
    forms = {
        "fp16": half_from_float(model),
        "int8-17": int8.quantize(model, ranges, target="tensorrt"),
        "int8-19": half_from_float(int8.quantize(model, ranges, target="tensorrt", opset=19)),
        "int8-20": int8.quantize(model, ranges, target="tensorrt", opset=20),
    }
    paths = [path, *(tmp_path / f"{form}.onnx" for form in forms)]
    for form, file in zip(forms.values(), paths[1:]):
        to_onnx.write_model(form, file)
    reports = dict(zip(("fp32", *forms), built(*paths)))
    size_hw = reports["fp32"]["outputs"][0][2][2:]
    for form, report in reports.items():
        assert "error" not in report, (form, report)
        assert report["inputs"] == [["image", "UINT8", [1, 64, 96, 3]]]
        assert report["outputs"] == [["logits", "FLOAT", [1, 4, *size_hw]]]
        assert report["found"] == report["asked"], form
        assert report["differing"] == []
    assert set(reports["int8-19"]["asked"]) == {"int8", "fp16"}
    # With INT8 the size says nothing: this builder packs those weights for several kinds of GPU.
    assert reports["fp16"]["plan_bytes"] < 0.75 * reports["fp32"]["plan_bytes"]


def test_progress_limits_and_timings(save_network, built):
    _, _, path = save_network("ddrnet-c16")
    first, second = built(path, path, workspace_mb=64, opt_level=0)
    assert first["strong"]
    assert first["shares"] == sorted(first["shares"])
    assert 0 < first["shares"][-1] <= 1
    assert second["plan_bytes"] > 5_000_000


def save_graph(path: Path, nodes: list[Any], shape: list[Any], domain: str = "") -> Path:
    """A float graph from ``image`` to ``logits`` with the 3x3x1x1 weight ``w``."""
    import numpy as np
    import onnx

    helper = onnx.helper
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def node(*args: Any, **more: Any) -> Any:
    import onnx

    return onnx.helper.make_node(*args, **more)


def test_a_model_of_open_shape_needs_a_profile(tmp_path, built):
    conv = node("Conv", ["image", "w"], ["logits"], "scores")
    path = save_graph(tmp_path / "open.onnx", [conv], [1, 3, "H", "W"])
    (report,) = built(path, profile=[[1, 3, 8, 8], [1, 3, 16, 24], [1, 3, 32, 32]])
    assert report["inputs"] == [["image", "FLOAT", [1, 3, -1, -1]]]
    assert report["asked"] == report["found"] == {"fp32": 16 * 24 * 9}
    (refused,) = built(path)
    assert refused["error"].startswith("BackendError: TensorRT could not build the engine")
    assert "profile" in refused["error"]


def test_an_operator_that_tensorrt_does_not_take_is_named(tmp_path, built):
    nodes = [node("Conv", ["image", "w"], ["x"], "scores"), node("NoSuch", ["x"], ["logits"], "odd", domain="nowhere")]
    path = save_graph(tmp_path / "odd.onnx", nodes, [1, 3, 8, 8], "nowhere")
    (report,) = built(path)
    assert f"TensorRT does not take the operator NoSuch ('odd') of {path}" in report["error"]


def test_int8_for_cpus_is_refused_by_tensorrt_too(save_network, labelled_data, tmp_path, built):
    from edgeseg.dataset import DataSet
    from edgeseg.onnx_reader import read_graph
    from edgeseg.trt.builder import refuse_cpu_graph
    from edgeseg_export import int8, to_onnx
    from edgeseg_export.calibration import CalibrationSet

    model, card, _ = save_network("ddrnet-c16")
    ranges = int8.collect_ranges(model, CalibrationSet(DataSet.from_yaml(labelled_data).samples("val")[:1], card))
    path = tmp_path / "cpu.onnx"
    to_onnx.write_model(int8.quantize(model, ranges, target="cpu"), path)
    with pytest.raises(ModelError, match="is an INT8 model for CPUs"):
        refuse_cpu_graph(read_graph(path), path)
    (report,) = built(path)
    assert "TensorRT does not take the operator" in report["error"]


# The command. A driver and the inspector's answer are stood in for, see tests/support/tensorrt_rig.py.


@pytest.fixture
def command(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``command(*arguments)``: ``edgeseg`` in ``tmp_path``, as if there were a GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: run(python, str(RIG), "command", *map(str, arguments), cwd=tmp_path)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_build_writes_the_engine_with_its_record(tmp_path, command):
    done = command("build", "ddrnet-c16-camvid", "--workspace-mb", "256", "--opt-level", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    cache = "cache/edgeseg/11.4.0.106-Stand-in-8.7.timing"
    assert files_in(tmp_path) == [cache, "ddrnet-c16-camvid.engine", "ddrnet-c16-camvid.engine.json"]
    assert "graph       FP32 100.0 % of the multiply-adds" in done.stdout
    assert "engine      FP32 100.0 % of the multiply-adds" in done.stdout
    record = json.loads((tmp_path / "ddrnet-c16-camvid.engine.json").read_text(encoding="utf-8"))
    assert record["card"]["name"] == "ddrnet-c16-s4"
    assert record["platform"]["tensorrt"].startswith("11.4")
    assert record["options"] == {"workspace_mb": 256, "opt_level": 1, "profile": None}
    assert record["typing"] == "strong"
    assert record["precision"]["found"]["macs"] == record["precision"]["asked"]["macs"]
    assert command("info", "ddrnet-c16-camvid.engine").returncode == 0


def test_build_says_what_tensorrt_says(tmp_path, command):
    done = command("build", "ddrnet-c16-camvid", "--verbose", "--timing-cache", "own.timing", "--out", "a/b.engine")
    assert done.returncode == 0, done.stderr
    assert "[INFO]" in done.stderr
    assert files_in(tmp_path) == ["a/b.engine", "a/b.engine.json", "own.timing"]


def test_an_engine_that_does_not_honour_the_graph_is_not_written(save_network, tmp_path, command, monkeypatch):
    _, _, path = save_network("ddrnet-c16")
    before = files_in(tmp_path)
    monkeypatch.setenv("INSPECTED", "Half")
    done = command("build", path)
    assert done.returncode == 2
    assert (
        "TensorRT did not honour the graph, whose multiply-adds are FP32 100.0 %: the engine runs FP16" in done.stderr
    )
    assert files_in(tmp_path) == before


def test_build_without_a_driver_ends_before_tensorrt_can_crash(python, tmp_path):
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("there is a driver")
    for arguments in (["build", "ddrnet-c16-camvid"], ["run", "--source", "synthetic://street", "--model", "m.engine"]):
        (tmp_path / "m.engine").write_bytes(b"a plan")
        done = run(python, "-m", "edgeseg", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: TensorRT needs an NVIDIA GPU with its driver")
        assert len(done.stderr.splitlines()) == 1
        assert files_in(tmp_path) == ["m.engine"]


def test_an_interrupted_build_leaves_nothing(python, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ("command", "build", "ddrnet-c32-camvid", "--verbose")
    with subprocess.Popen(
        in_environment(python, str(RIG), *arguments), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "inputs and 1 output network tensors" in line:  # the build has begun
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert files_in(tmp_path) == []
