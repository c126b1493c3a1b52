from __future__ import annotations

import pytest

CLASSES = ("road", "sky", "car", "person")


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    """A ddrnet-c16 with random weights for 64x96, as `edgeseg train` would have saved it."""
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    from edgeseg_train import checkpoint, models
    from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD

    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.build("ddrnet-c16", len(CLASSES))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # Fresh statistics (0 and 1) would hide a normalisation folded wrongly.
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.7, 1.3)
                torch.nn.init.normal_(module.bias, 0, 0.2)
    checkpoint.save(
        {
            "model": "ddrnet-c16",
            "weights": network.state_dict(),
            "classes": list(CLASSES),
            "palette": [[i, 50, 200 - i] for i in range(len(CLASSES))],
            "ignore_id": 255,
            "imgsz": [64, 96],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "epoch": 7,
            "config": {
                "model": "ddrnet-c16",
                "data": "/home/someone/data.yaml",
                "out": "/home/someone/runs/a",
                "train_split": "train",
                "val_split": "val",
                "lr": 0.001,
            },
            "dataset_notes": "for research",
            "scores": {"miou": 0.25, "pixel_accuracy": 0.5},
        },
        path,
    )
    return path


@pytest.fixture(scope="session")
def labelled_data(tmp_path_factory):
    """Six random labelled pictures of 80x120 in the split `val`; the path of their data.yaml."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / "val" / name).mkdir(parents=True)
    for index in range(6):
        image = cv2.resize(rng.integers(0, 256, (10, 15, 3), np.uint8), (120, 80))
        mask = cv2.resize(rng.integers(0, 4, (10, 15), np.uint8), (120, 80), interpolation=cv2.INTER_NEAREST)
        mask[:4] = 255
        cv2.imwrite(str(folder / "val" / "images" / f"{index}.png"), image)
        cv2.imwrite(str(folder / "val" / "masks" / f"{index}.png"), mask)
    path = folder / "data.yaml"
    path.write_text(f"val: val\nignore: 255\nnames: [{', '.join(CLASSES)}]\n", encoding="utf-8")
    return path


@pytest.fixture
def train(tiny_dataset, tmp_path, monkeypatch):
    """`edgeseg train` on the tiny data set into ``tmp_path / "run"``, on one core: ``train(*flags) -> exit code``.

    The network is a DDRNet of width 4, "ddrnet-c4", because most of a small run is the writing of checkpoints.
    """
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    from functools import partial

    from edgeseg import cli
    from edgeseg_train.models import NETWORKS, Network, ddrnet

    def run(*flags, data=tiny_dataset, out=tmp_path / "run"):
        return cli.main(
            ["train", "--data", str(data), "--out", str(out), "--model", "ddrnet-c4", "--imgsz", "64", "96",
             "--epochs", "2", "--batch", "2", "--workers", "0", "--device", "cpu", "--amp", "off", *map(str, flags)]
        )  # fmt: skip

    narrow = partial(ddrnet.DDRNet, width=4, head_width=8, pyramid_width=8)
    monkeypatch.setitem(NETWORKS, "ddrnet-c4", Network(narrow, "", ""))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def narrow(train, tmp_path):
    """A checkpoint of the network that ``train`` trains, for the tiny data set's classes."""
    from edgeseg_train import checkpoint as checkpoints
    from edgeseg_train.models import build

    path = tmp_path / "narrow.pt"
    weights = build("ddrnet-c4", 3).state_dict()
    checkpoints.save({"model": "ddrnet-c4", "weights": weights, "classes": ["red", "green", "blue"]}, path)
    return path


@pytest.fixture
def save_colour_model():
    """``save(path, spread=1.0, classes=...) -> path``: a network that knows the colours of the tiny data set.

    Four convolutions, never trained, from uint8 [1, 64, 96, 3] to logits [1, 3, 16, 24]: ``stem`` shrinks, ``body``
    passes everything on, ``mix`` all but one channel, which is idle and as large as ``spread`` beside colours of 0 to
    1, and ``head`` tells the classes from the colours. Eight bits for a tensor cannot hold colours beside an idle
    channel of 500, so ``head`` is then what repair has to find.
    """
    onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
    import numpy as np

    from edgeseg.card import ModelCard

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    block = 4
    colors = np.array([(40, 40, 200), (60, 200, 60), (220, 90, 40)], np.float32) / 255

    def save(path, spread=1.0, classes=("red", "green", "blue")):
        rng = np.random.default_rng(0)
        # As wide as TensorRT's kernels want it; what is not a colour is a mixture that the head does not read.
        shrink = np.zeros((16, 3, block, block), np.float32)
        shrink[range(3), range(3)] = 1 / (255 * block**2)
        shrink[3:] = rng.uniform(0, 0.3, (13, 3, 1, 1)) / (255 * block**2)
        passing = np.eye(16, dtype=np.float32)[:, :, None, None]
        mix = passing.copy()
        mix[15] = 0
        # The nearest colour c of x: 2 c x - c c is largest.
        head = np.zeros((3, 16, 1, 1), np.float32)
        head[:, :3, 0, 0] = 20 * colors
        weights = {
            "stem.weight": shrink,
            "body.weight": passing,
            "mix.weight": mix,
            "mix.bias": np.array([0] * 15 + [spread], np.float32),
            "head.weight": head,
            "head.bias": -10 * (colors**2).sum(1),
        }
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], "cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "stem.weight"], ["small"], "stem", strides=[block, block]),
            helper.make_node("Conv", ["small", "body.weight"], ["same"], "body"),
            helper.make_node("Relu", ["same"], ["bright"], "relu"),
            helper.make_node("Conv", ["bright", "mix.weight", "mix.bias"], ["mixed"], "mix"),
            helper.make_node("Relu", ["mixed"], ["wide"], "relu2"),
            helper.make_node("Conv", ["wide", "head.weight", "head.bias"], ["logits"], "head"),
        ]
        graph = helper.make_graph(
            nodes, "colours",
            [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 64, 96, 3])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 3, 64 // block, 96 // block])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        card = ModelCard(
            classes, (64, 96), name="colours", metrics={"test": {"miou": 0.5}}, provenance={"epoch": 3},
            dataset={"notes": "made by the tests"},
        )  # fmt: skip
        helper.set_model_props(model, {"edgeseg": card.to_json()})
        onnx.save(model, path)
        return path

    return save
