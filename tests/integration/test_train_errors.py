"""What `edgeseg train` says to wrong input: one line with its mend, exit code 2, and nothing left behind."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def refused(train, out, capsys):
    """Run with flags that must be refused; the error line."""

    def run(*flags, data=None, out=out):
        capsys.readouterr()
        before = sorted(out.rglob("*")) if out.exists() else None
        keywords = {} if data is None else {"data": data}
        assert train(*flags, out=out, **keywords) == 2
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == 1, stderr
        assert stderr.startswith("error: ")
        assert "Mend: " in stderr
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
        return stderr

    return run


def test_misspelt_names_suggest_the_nearest(refused):
    assert "no network 'ddrnet-c23'. Mend: did you mean 'ddrnet-c32'?" in refused("--model", "ddrnet-c23")
    assert "did you mean 'cosine'?" in refused("--schedule", "cosin")
    assert "did you mean 'ohem'?" in refused("--loss", "ohm")
    assert "no recipe 'camvid-quik'. Mend: did you mean 'camvid-quick'?" in refused("--recipe", "camvid-quik")
    assert "no amp 'bf61'. Mend: did you mean 'bf16'?" in refused("--amp", "bf61")
    assert "no split 'trian'. Mend: did you mean 'train'?" in refused("--train-split", "trian")
    assert "no split 'vall'. Mend: did you mean 'val'?" in refused("--val-split", "vall")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--imgsz", 32, 96], "imgsz is 32 96"),
        (["--imgsz", 64, 9000], "from 64 to 8192"),
        (["--batch", 1], "batch is 1. Mend: give --batch of at least 2"),
        (["--epochs", 0], "epochs is 0. Mend: give --epochs of at least 1"),
        (["--lr", "nan"], "lr is nan"),
        (["--lr", 0], "lr is 0"),
        (["--warmup", 1.5], "give --warmup from 0 to 1"),
        (["--seed", -1], "seed is -1"),
        (["--workers", -1], "workers is -1"),
        (["--eval-every", -1], "give --eval-every of at least 0"),
        (["--scale-min", 0], "scale_min is 0"),
        (["--scale-min", 3], "scale_min 3.0 is above scale_max 2.0"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--device", "cuda:x"], "cuda:x"),
        (["--device", "cpu:x"], "cpu:x"),
        (["--encoder-lr", 2], "encoder_lr is 2.0. Mend: give --encoder-lr from 0 to 1"),
        (["--balance", -0.1], "give --balance from 0 to 1"),
        (["--cutmix", "inf"], "cutmix is inf"),
        (["--accumulate", 0], "give --accumulate of at least 1"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'. Mend: see 'edgeseg train --help'"),
        (["--resume"], "nothing to resume"),
        (["--recipe", "finetune"], "starts from a checkpoint, and none is given. Mend: add --from best.pt"),
        (["--from", "nowhere.pt"], "There is no checkpoint nowhere.pt. Mend: give the path of a best.pt"),
        (["--from", "imagenet"], "no ImageNet weights for DDRNet. Mend: choose a network on ResNet"),
    ],
)
def test_values_out_of_range(refused, flags, expected):
    assert expected in refused(*flags)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_cuda(refused):
    assert "no CUDA device 'cuda' that torch can use. Mend: give --device cpu" in refused("--device", "cuda")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file"),
        ("names: [a, b\n", "is not YAML"),
        ("- train\n- val\n", "is not a mapping"),
        ("train: train\nval: val\n", "lacks 'names'"),
        ("train: train\nval: val\nnames: [a, b, c]\npalette: [[1, 2, 3]]\n", "1 colours for 3 classes"),
        ("train: train\nval: val\nnames: [a, b, c]\nignore: 300\n", "'ignore' is 300"),
        ("train: nowhere\nval: val\nnames: [a, b, c]\n", "nowhere/images does not exist"),
    ],
)
def test_broken_data_yaml(refused, tiny_dataset, text, expected):
    if text is None:
        tiny_dataset.unlink()
    else:
        tiny_dataset.write_text(text, encoding="utf-8")
    line = refused()
    assert expected in line
    assert str(tiny_dataset.parent) in line


def remove_mask(folder):
    (folder / "masks/1.png").unlink()


def shrink_mask(folder):
    cv2.imwrite(str(folder / "masks/1.png"), np.zeros((32, 96), np.uint8))


def unknown_id(folder):
    cv2.imwrite(str(folder / "masks/1.png"), np.full((64, 96), 7, np.uint8))


def cut_image(folder):
    path = folder / "images/1.png"
    path.write_bytes(path.read_bytes()[:30])


def rgb_mask(folder):
    cv2.imwrite(str(folder / "masks/1.png"), np.zeros((64, 96, 3), np.uint8))


def empty(folder):
    for path in folder.rglob("*.png"):
        path.unlink()


def all_ignored(folder):
    for path in (folder / "masks").iterdir():
        cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_mask, "{folder}/images/1.png has no mask"),
        (shrink_mask, "{folder}/masks/1.png is 96x32"),
        (unknown_id, "{folder}/masks/1.png holds the class ids 7"),
        (cut_image, "{folder}/images/1.png is not an image"),
        (rgb_mask, "{folder}/masks/1.png has 3 channels"),
        (empty, "The split '{split}' is empty"),
        (all_ignored, "no pixel has a class"),
    ],
)
def test_broken_files_are_named_before_the_first_epoch(refused, tiny_dataset, split, damage, expected):
    folder = tiny_dataset.parent / split
    damage(folder)
    assert expected.format(folder=folder, split=split) in refused()


def test_a_checkpoint_of_another_network_is_named(refused, checkpoint_path):
    line = refused("--from", checkpoint_path)
    assert f"{checkpoint_path} holds a ddrnet-c16, of whose weights too few fit ddrnet-c4 (0% of it)" in line
    assert "give --model ddrnet-c16" in line


def test_a_teacher_of_other_classes_is_named(refused, checkpoint_path):
    assert f"has 3 classes, {checkpoint_path} has 4" in refused("--teacher", checkpoint_path)


def test_images_of_other_sizes_and_channels_train(train, tiny_dataset, tmp_path):
    folder = tiny_dataset.parent / "train"
    image, mask = (
        cv2.imread(str(folder / "images/0.png")),
        cv2.imread(str(folder / "masks/0.png"), cv2.IMREAD_UNCHANGED),
    )
    others = {
        "1": cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
        "2": cv2.cvtColor(image, cv2.COLOR_BGR2BGRA),
        "3": image.astype(np.uint16) * 257,
        "4": cv2.resize(image, (130, 70)),
    }
    for name, other in others.items():
        cv2.imwrite(str(folder / f"images/{name}.png"), other)
        size = other.shape[1], other.shape[0]
        cv2.imwrite(str(folder / f"masks/{name}.png"), cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    assert train("--epochs", 1) == 0
    assert (tmp_path / "run/best.pt").is_file()


def test_a_single_image_cannot_be_normalised(refused, tiny_dataset):
    for path in (tiny_dataset.parent / "train").rglob("[1-9].png"):
        path.unlink()
    assert "The split 'train' has one image, a step needs at least 2" in refused()


def test_out_that_cannot_be_written(refused, tmp_path):
    # Below a regular file, which stops the administrator as well.
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file'} is not a folder" in refused(out=tmp_path / "file" / "deep" / "run")


def test_an_existing_run_is_never_overwritten_and_resumed_only_as_it_was(train, refused, out, tiny_dataset):
    assert train("--epochs", 1) == 0
    assert "already holds a run. Mend: add --resume" in refused("--epochs", 1)

    line = refused("--epochs", 9, "--lr", 0.5, "--resume")
    assert "epochs was 1, is 9, lr was 0.001, is 0.5" in line
    assert "recipe was , is camvid-quick" in refused("--recipe", "camvid-quick", "--resume")

    moved = tiny_dataset.parent / "other.yaml"
    text = tiny_dataset.read_text()
    moved.write_text(text.replace("green", "grey"))
    assert "has other classes" in refused("--epochs", 1, "--resume", data=moved)
    for kind in ("images", "masks"):
        shutil.copy(tiny_dataset.parent / f"train/{kind}/0.png", tiny_dataset.parent / f"train/{kind}/8.png")
        shutil.copy(tiny_dataset.parent / f"train/{kind}/0.png", tiny_dataset.parent / f"train/{kind}/9.png")
    assert "an epoch had 4 steps, has 5" in refused("--epochs", 1, "--resume")


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_cut_off_checkpoint_is_named(refused, out, share, checkpoint_path):
    out.mkdir()
    whole = checkpoint_path.read_bytes()
    (out / "last.pt").write_bytes(whole[: int(share * len(whole))])
    assert f"{out / 'last.pt'} is not a checkpoint, or is damaged" in refused("--resume")
    assert f"{out / 'last.pt'} is not a checkpoint, or is damaged" in refused("--from", out / "last.pt", out=out / "a")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_flipped_bits_in_a_checkpoint_are_noticed(refused, tmp_path, place, checkpoint_path):
    content = bytearray(checkpoint_path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 0x10
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    assert f"{path} is not a checkpoint, or is damaged (its checksums differ)" in refused("--from", path)


def test_other_files_in_the_place_of_the_checkpoint(refused, out, checkpoint_path):
    out.mkdir()
    for content in (b"hello\n", b"\x80\x02.", b"\x89PNG\r\n\x1a\n", np.random.default_rng(0).bytes(500)):
        (out / "last.pt").write_bytes(content)
        assert "is not a checkpoint" in refused("--resume")
    shutil.copy(checkpoint_path, out / "last.pt")
    assert "holds no training state" in refused("--resume")
    saved = torch.load(checkpoint_path, weights_only=True)
    torch.save({**saved, "state": {}}, out / "last.pt")
    assert "lacks a part of its state" in refused("--resume")


def test_wrong_input_is_refused_before_the_data_is_read(refused, tiny_dataset, monkeypatch):
    """A run with a misspelt device must not first read thousands of images."""
    from edgeseg.dataset import DataSet

    def read(self, sample):
        raise AssertionError("was read")

    monkeypatch.setattr(DataSet, "read", read)
    refused("--from", "nowhere.pt")
    refused("--device", "cuda:99")
    refused("--model", "x")
    refused("--val-split", "vall")
