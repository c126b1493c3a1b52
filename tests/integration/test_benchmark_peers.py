"""The peers of the comparison get the same network: float pixels in instead of bytes, the same logits out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edgeseg import bundled  # noqa: E402

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture
def write_float_input():
    if not PEERS.is_dir():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("float_input", PEERS / "float_input.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_float_input


def logits_of(path: Path, tensor: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


@pytest.mark.parametrize("name", bundled.names())
def test_the_float_model_is_the_same_network(write_float_input, tmp_path, name):
    own, foreign = bundled.resolve(name), tmp_path / "float.onnx"
    told = write_float_input(own, foreign)
    image = np.random.default_rng(0).integers(0, 256, (*told["size_hw"], 3), np.uint8)
    pixels = image[:, :, ::-1] if told["order"] == "rgb" else image
    tensor = ((pixels / 255 - told["mean"]) / told["std"]).astype(np.float32).transpose(2, 0, 1)[None]
    expected = logits_of(own, image[None])
    found = logits_of(foreign, np.ascontiguousarray(tensor))
    # A pixel between two codes of INT8 may be rounded either way.
    tolerance = 0.05 if name.endswith("int8") else 1e-3
    assert np.sqrt(np.mean((found - expected) ** 2)) < tolerance * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.98
