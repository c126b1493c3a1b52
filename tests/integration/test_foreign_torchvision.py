"""A network that edgeseg knows nothing of, exported by hand, runs with its facts given as flags."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg import cli

torch = pytest.importorskip("torch", reason="the model is made with torch")
pytest.importorskip("onnx", reason="torch exports through onnx")
segmentation = pytest.importorskip("torchvision.models.segmentation", reason="the model is torchvision's")

CLASSES = [f"class{i}" for i in range(5)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLAGS = ["--classes", ",".join(CLASSES), "--color-order", "rgb", "--mean", *map(str, MEAN), "--std", *map(str, STD)]


class Logits(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)["out"]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))
    return Logits(network).eval()


@pytest.fixture(scope="module")
def model(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "lraspp.onnx"
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this exporter will go
        torch.onnx.export(
            network, (torch.zeros(1, 3, 96, 128),), str(path), input_names=["image"], output_names=["logits"],
            opset_version=17, dynamo=False,
        )  # fmt: skip
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (128, 96), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_runs_with_flags_and_gives_what_torch_gives(
    backend: str, network: torch.nn.Module, model: Path, image: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    out, stats = tmp_path / "masks", tmp_path / "stats.json"
    words = ["run", "--source", str(image), "--model", str(model), "--backend", backend, "--headless",
             "--save-masks", str(out), "--stats", str(stats), *FLAGS]  # fmt: skip
    assert cli.main(words) == 0
    assert json.loads(stats.read_text(encoding="utf-8"))["backend"] == backend
    rgb = cv2.imread(str(image))[:, :, ::-1] / 255.0
    tensor = torch.from_numpy(((rgb - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = network(tensor)[0].argmax(0).numpy()
    mask = cv2.imread(str(out / "frame.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (96, 128)
    assert (mask == expected).mean() > 0.999


@pytest.mark.parametrize("flag", ["--classes", "--color-order", "--mean", "--std"])
def test_asks_for_every_fact_that_is_missing(
    flag: str, model: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = FLAGS.index(flag)
    after = next((i for i in range(at + 1, len(FLAGS)) if FLAGS[i].startswith("--")), len(FLAGS))
    words = ["run", "--source", str(image), "--model", str(model), "--headless", *FLAGS[:at], *FLAGS[after:]]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:")
    assert flag in error
    assert error.count("\n") == 1


def test_runs_with_a_card_file(model: Path, image: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    facts = {"classes": CLASSES, "input_size_hw": [96, 128], "color_order": "rgb", "input_dtype": "float32",
             "input_layout": "nchw", "mean": MEAN, "std": STD}  # fmt: skip
    card.write_text(json.dumps(facts), encoding="utf-8")
    words = ["run", "--source", str(image), "--model", str(model), "--card", str(card), "--headless"]
    assert cli.main([*words, "--save-masks", str(tmp_path / "masks")]) == 0
    assert (tmp_path / "masks" / "frame.png").is_file()


def test_refuses_a_wrong_number_of_classes(model: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--source", str(image), "--model", str(model), "--headless", *FLAGS]
    words[words.index("--classes") + 1] = "road,car"
    assert cli.main(words) == 2
    assert "5 classes" in capsys.readouterr().err
