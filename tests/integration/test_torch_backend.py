from __future__ import annotations

import numpy as np
import pytest

from edgeseg import load
from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet
from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.evaluate import evaluate
from edgeseg.foreign import ModelFacts
from edgeseg.io.street import Street
from edgeseg.segmenter import Segmenter

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train.backend import (  # noqa: E402
    TorchBackend,
    card_for_network,
    card_from_checkpoint,
    open_checkpoint,
)
from edgeseg_train.distributed import Processes  # noqa: E402
from edgeseg_train.evaluate import evaluate_network  # noqa: E402
from edgeseg_train.pictures import sample_picture  # noqa: E402


@pytest.fixture(scope="module")
def opened(checkpoint_path):
    backend, card = open_checkpoint(checkpoint_path, imgsz=None, threads=None, device="cpu")
    yield backend, card
    backend.close()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def network_of(path):
    return checkpoints.network_from_checkpoint(checkpoints.load(path))


def test_describes_itself(opened):
    backend, card = opened
    assert (backend.name, backend.device, backend.version) == ("torch", "CPU", torch.__version__)
    assert backend.inputs[0].name == "image"
    assert backend.inputs[0].dtype == np.uint8
    assert backend.inputs[0].shape == (1, 64, 96, 3)
    assert backend.outputs[0].shape == (1, card.num_classes, 8, 12)


@pytest.mark.parametrize("imgsz", [(64, 64), (65, 97), (96, 128)])
@pytest.mark.parametrize("head", ["logits", "mask"])
def test_outputs_are_as_described(checkpoint_path, imgsz, head):
    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=imgsz, head=head)
    backend = TorchBackend(checkpoints.network_from_checkpoint(checkpoint), card, device="cpu")
    outputs = backend.infer({"image": noise(1, *imgsz, 3)})
    assert list(outputs) == [head] == [backend.outputs[0].name]
    assert outputs[head].shape == backend.outputs[0].shape
    assert outputs[head].dtype == backend.outputs[0].dtype


def test_network_sees_normalised_rgb(opened, checkpoint_path):
    backend, _ = opened
    frame = noise(1, 64, 96, 3)
    rgb = torch.from_numpy(frame[..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = network_of(checkpoint_path)((rgb - mean) / std).numpy()
    np.testing.assert_allclose(backend.infer({"image": frame})["logits"], expected, rtol=1e-3, atol=1e-2)


def test_card_states_mean_and_std_in_its_own_colour_order(opened):
    _, card = opened
    assert card.color_order == "bgr"
    assert card.mean == (0.406, 0.456, 0.485)
    assert card.std == (0.225, 0.224, 0.229)


def test_card_holds_the_facts_and_no_path(opened, checkpoint_path):
    _, card = opened
    assert ModelCard.from_json(card.to_json()) == card
    assert (card.name, card.head, card.precision) == ("ddrnet-c16", "logits", "fp32")
    assert card.dataset == {"notes": "for research", "train_split": "train", "val_split": "val"}
    assert card.metrics == {"val": {"miou": 0.25, "pixel_accuracy": 0.5, "backend": "torch"}}
    assert card.provenance["epoch"] == 7
    assert card.provenance["config"]["lr"] == 0.001
    assert len(card.provenance["checkpoint_sha256"]) == 64
    assert "/" not in card.to_json()


@pytest.mark.parametrize(("imgsz", "head"), [((96, 128), "logits"), (None, "mask")])
def test_scores_of_training_are_not_claimed_for_another_model(checkpoint_path, imgsz, head):
    assert card_from_checkpoint(checkpoints.load(checkpoint_path), imgsz=imgsz, head=head).metrics == {}


def test_takes_a_frame_that_must_not_be_written_to(opened):
    backend, card = opened
    frame = noise(64, 96, 3)
    frame.flags.writeable = False
    assert Segmenter(backend, card)(frame).mask.shape == (64, 96)


@pytest.mark.parametrize(
    "feed",
    [{}, {"picture": noise(1, 64, 96, 3)}, {"image": noise(1, 64, 95, 3)}, {"image": np.zeros((1, 64, 96, 3))}],
)
def test_wrong_feed_is_refused(opened, feed):
    with pytest.raises(BackendError, match=r"feed image: uint8 \[1, 64, 96, 3\]"):
        opened[0].infer(feed)


def test_closed_backend_refuses_to_run(checkpoint_path):
    backend, _ = open_checkpoint(checkpoint_path, imgsz=None, threads=None)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.infer({"image": noise(1, 64, 96, 3)})


def test_threads_are_set_for_the_inference_only(checkpoint_path):
    before = torch.get_num_threads()
    backend, _ = open_checkpoint(checkpoint_path, imgsz=None, threads=before + 1)
    seen = []
    backend._model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    backend.infer({"image": noise(1, 64, 96, 3)})
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99"])
def test_unknown_device_is_refused(checkpoint_path, device):
    with pytest.raises(UsageError, match="device"):
        open_checkpoint(checkpoint_path, imgsz=None, threads=None, device=device)


def test_input_in_rgb_or_float_is_refused(checkpoint_path, opened):
    network, card = network_of(checkpoint_path), opened[1]
    for wrong in ({"color_order": "rgb"}, {"input_dtype": "float32"}, {"input_layout": "nchw"}):
        with pytest.raises(ModelError):
            TorchBackend(network, card.replace(**wrong))


def test_load_runs_a_checkpoint(checkpoint_path):
    with load(checkpoint_path) as segmenter:
        assert segmenter.backend.name == "torch"
        assert segmenter(noise(120, 160, 3)).mask.shape == (120, 160)
    with load(checkpoint_path, facts=ModelFacts(imgsz=(96, 128))) as segmenter:
        assert segmenter.card.input_size_hw == (96, 128)
    with pytest.raises(UsageError, match="edgeseg export"):
        load(checkpoint_path, "onnxruntime")


@pytest.mark.parametrize("imgsz", [(32, 96), (64, 63), (64, 100_000)])
def test_size_out_of_range_is_refused(checkpoint_path, imgsz):
    with pytest.raises(UsageError, match="--imgsz HEIGHT WIDTH"):
        load(checkpoint_path, facts=ModelFacts(imgsz=imgsz))


@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_damaged_checkpoint_is_refused_in_one_line(checkpoint_path, tmp_path, damage):
    data = checkpoint_path.read_bytes()
    path = tmp_path / "best.pt"
    path.write_bytes({"empty": b"", "noise": bytes(noise(5000)), "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(ModelError) as caught:
        open_checkpoint(path, imgsz=None, threads=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"imgsz": None},
        {"mean": [0.5]},
        {"config": {}},
        {"palette": [[1, 2]]},
        {"epoch": "x"},
        {"scores": {"iou": 1}},
        {"classes": ["one", "two"]},
        {"std": [0.0, 1.0, 1.0]},
    ],
)
def test_checkpoint_with_wrong_facts_is_refused(checkpoint_path, tmp_path, change):
    path = tmp_path / "best.pt"
    checkpoints.save({**checkpoints.load(checkpoint_path), **change}, path)
    with pytest.raises(ModelError):
        open_checkpoint(path, imgsz=None, threads=None)


def test_scores_while_training_are_those_of_eval(checkpoint_path, labelled_data):
    data = DataSet.from_yaml(labelled_data)
    during = evaluate_network(network_of(checkpoint_path), data, "val", (64, 96), Processes(torch.device("cpu")))
    with load(checkpoint_path) as segmenter:
        after = evaluate(segmenter, ((image, mask) for _, image, mask in data.pairs("val")), data.ignore_id)
    assert during == after
    assert during.pixels == 6 * 76 * 120


def test_sample_picture_shows_image_truth_prediction_and_errors(checkpoint_path, labelled_data):
    data = DataSet.from_yaml(labelled_data)
    picture = sample_picture(network_of(checkpoint_path), data, "val", (64, 96), torch.device("cpu"), count=2)
    assert picture.shape == (2 * 64, 4 * 96, 3)
    assert picture.dtype == np.uint8
    known = {*map(tuple, data.palette), (0, 0, 0)}
    image, truth, prediction, errors = np.split(picture, 4, axis=1)
    assert {tuple(map(int, color)) for color in np.hstack([truth, prediction]).reshape(-1, 3)} <= known
    right, ignored = (truth == prediction).all(2), (truth == 0).all(2)
    red = errors[..., 0] > errors[..., 1]
    np.testing.assert_array_equal(red, ~right & ~ignored)
    assert not errors[ignored].any()
    assert image[right].any()


def test_result_equals_full_interpolation_at_frame_size(checkpoint_path, opened):
    backend, card = opened
    frame, _ = Street(size_hw=card.input_size_hw, seed=3).render(0)
    mask_card = card_for_network(
        classes=card.classes, palette=card.palette, ignore_id=255, imgsz=card.input_size_hw, head="mask"
    )
    in_graph = Segmenter(TorchBackend(network_of(checkpoint_path), mask_card, device="cpu"), mask_card)
    assert np.mean(Segmenter(backend, card)(frame).mask == in_graph(frame).mask) > 0.9999
