"""The exported graphs against TensorRT's own ONNX parser and builder, which need no GPU to say no."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")
pytest.importorskip("onnx", reason="needs the extra 'export'")

VARIABLE = "EDGESEG_TENSORRT_BUILD"

pytestmark = [
    pytest.mark.tensorrt_build,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no TensorRT that can build"),
]

# Runs where TensorRT is; prints one JSON object as its last line.
BUILD = """
import json, sys
import tensorrt as trt

class Logger(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.lines = []
    def log(self, severity, message):
        if severity <= trt.ILogger.WARNING:
            self.lines.append(message)

logger = Logger()
builder = trt.Builder(logger)
# Strongly typed where it is a choice: the graph alone decides the precision.
flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
network = builder.create_network(0 if flags is None else 1 << int(flags))
parser = trt.OnnxParser(network, logger)
parsed = parser.parse_from_file(sys.argv[1])
errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
plan = builder.build_serialized_network(network, builder.create_builder_config()) if parsed else None

def describe(tensor):
    return [tensor.name, str(tensor.dtype).split(".")[-1], list(tensor.shape)]

print(json.dumps({
    "version": trt.__version__, "errors": errors, "log": logger.lines,
    "inputs": [describe(network.get_input(i)) for i in range(network.num_inputs)],
    "outputs": [describe(network.get_output(i)) for i in range(network.num_outputs)],
    "plan_bytes": 0 if plan is None else plan.nbytes,
}))
"""


def in_environment(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command after the file `env` of the prepared folder has set its variables."""
    env_file = Path(os.environ[VARIABLE]) / "env"
    script = f". {shlex.quote(str(env_file))} && exec {shlex.join(command)}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that can import the prepared TensorRT: its bindings are made for one version of Python."""
    tried = {}
    for candidate in (sys.executable, "python3"):
        done = in_environment(candidate, "-c", "import tensorrt")
        if done.returncode == 0:
            return candidate
        tried[candidate] = (done.stderr.strip().splitlines() or ["?"])[-1]
    pytest.skip(f"no Python imports the TensorRT of {VARIABLE}: {tried}")


def built(python: str, path: Path) -> dict[str, Any]:
    """What TensorRT says about a model that it must be able to build."""
    done = in_environment(python, "-c", BUILD, str(path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["errors"] == []
    return report


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("weights", ["fp32", "fp16"])
@pytest.mark.parametrize("head", ["logits", "mask"])
def test_tensorrt_builds_the_exported_graph(checkpoint_path, tmp_path, python, head, weights, opset):
    from edgeseg_export import to_onnx
    from edgeseg_train import checkpoint as checkpoints
    from edgeseg_train.backend import card_from_checkpoint

    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=(72, 120), head=head)
    model = to_onnx.graph_from_network(checkpoints.network_from_checkpoint(checkpoint), card, opset=opset)
    path = tmp_path / "model.onnx"
    to_onnx.write_model(to_onnx.with_half_weights(model) if weights == "fp16" else model, path)

    report = built(python, path)
    assert report["inputs"] == [["image", "UINT8", [1, 72, 120, 3]]]
    output = ["logits", "FLOAT", [1, 4, 9, 15]] if head == "logits" else ["mask", "UINT8", [1, 72, 120]]
    assert report["outputs"] == [output]
    # The weights of a ddrnet-c16 are 5.8 MB in float32, and the plan holds them in no less.
    assert report["plan_bytes"] > 5_000_000, report["log"]


@pytest.mark.parametrize(("precision", "opset"), [("fp16", 17), ("int8", 17), ("int8", 20), ("int8+fp16", 20)])
def test_tensorrt_builds_graphs_that_state_their_precision(
    checkpoint_path, labelled_data, tmp_path, python, precision, opset
):
    from edgeseg.dataset import DataSet
    from edgeseg_export import int8, to_onnx
    from edgeseg_export.calibration import CalibrationSet
    from edgeseg_export.half import half_from_float
    from edgeseg_train import checkpoint as checkpoints
    from edgeseg_train.backend import card_from_checkpoint

    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=(64, 96), head="logits")
    model = to_onnx.graph_from_network(checkpoints.network_from_checkpoint(checkpoint), card, opset=opset)
    float32 = tmp_path / "float32.onnx"
    to_onnx.write_model(model, float32)
    if "int8" in precision:
        calibration = CalibrationSet(DataSet.from_yaml(labelled_data).samples("val")[:2], card)
        model = int8.quantize(model, int8.collect_ranges(model, calibration), target="tensorrt")
    if "fp16" in precision:
        model = half_from_float(model, keep=["/network/head/head.5/Conv"])
    path = tmp_path / "model.onnx"
    to_onnx.write_model(model, path)

    report = built(python, path)
    assert report["inputs"] == [["image", "UINT8", [1, 64, 96, 3]]]
    assert report["outputs"] == [["logits", "FLOAT", [1, 4, 8, 12]]]
    # With INT8 the size says nothing: this builder packs those weights for several kinds of GPU.
    most = 0.75 * built(python, float32)["plan_bytes"] if precision == "fp16" else 20_000_000
    assert 1_000_000 < report["plan_bytes"] < most, report["log"]


@pytest.mark.parametrize("name", ["ddrnet-c16-s4", "pidnet-s", "pp-liteseg-t", "lraspp-mobilenetv3", "segnet"])
def test_tensorrt_builds_other_networks(name, tmp_path, python):
    from edgeseg_export import to_onnx
    from edgeseg_train.backend import card_for_network
    from edgeseg_train.models import build
    from edgeseg_train.models.size import count_parameters

    network = build(name, 4)
    card = card_for_network(
        classes=("road", "sky", "car", "person"), palette=[(i, 50, 9) for i in range(4)], ignore_id=255, imgsz=(72, 120)
    ).replace(name=name)
    path = tmp_path / "model.onnx"
    to_onnx.write_model(to_onnx.graph_from_network(network, card), path)
    report = built(python, path)
    assert report["outputs"] == [["logits", "FLOAT", [1, 4, 72 // network.stride, 120 // network.stride]]]
    # Normalisations are folded into the convolutions: a little fewer than there are parameters.
    assert report["plan_bytes"] > 3.8 * count_parameters(network), report["log"]
