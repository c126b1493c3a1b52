"""What edgeseg asks of TensorRT 8, against its real bindings: they can be looked at, but not build, without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

VARIABLE = "EDGESEG_TENSORRT_8"
ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parents[1] / "support" / "tensorrt_8.py"

pytestmark = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no Python that imports a TensorRT 8"
)


def test_every_call_is_there_and_flags_follow_from_the_graph(checkpoint_path, labelled_data, tmp_path):
    from edgeseg.dataset import DataSet
    from edgeseg_export import int8, to_onnx
    from edgeseg_export.calibration import CalibrationSet
    from edgeseg_export.half import half_from_float
    from edgeseg_train import checkpoint as checkpoints
    from edgeseg_train.backend import card_from_checkpoint

    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=(64, 96), head="logits")
    model = to_onnx.graph_from_network(checkpoints.network_from_checkpoint(checkpoint), card, opset=17)
    ranges = int8.collect_ranges(model, CalibrationSet(DataSet.from_yaml(labelled_data).samples("val")[:1], card))
    kept = "/network/head/head.5/Conv"
    forms = {
        "fp32": model,
        "fp16": half_from_float(model, keep=[kept]),
        "int8": int8.quantize(model, ranges, target="tensorrt"),
    }
    for name, form in forms.items():
        to_onnx.write_model(form, tmp_path / f"{name}.onnx")

    done = subprocess.run(
        [os.environ[VARIABLE], str(SCRIPT), *(str(tmp_path / f"{name}.onnx") for name in forms)],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["version"].startswith("8.")
    assert report["missing"] == []
    builds = report["builds"]
    assert builds["fp32"][:3] == [False, [], []]
    assert builds["int8"][:3] == [False, ["INT8", "FP16"], []]
    assert builds["fp16"][:2] == [False, ["FP16"]]
    assert kept in builds["fp16"][2]
    for *_, outcome in builds.values():
        # With a GPU it builds; without one it says so, where TensorRT itself would end the process later.
        assert outcome.endswith("bytes") or outcome.startswith("TensorRT does not start")
