"""``edgeseg export``: a checkpoint to a checked ONNX file."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from edgeseg.backends import open_backend
from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet
from edgeseg.errors import UsageError
from edgeseg.evaluate import evaluate
from edgeseg.files import replacing, sha256_of
from edgeseg.golden import Golden, faithful_engines, golden_from_data, write_golden
from edgeseg.metrics import Scores
from edgeseg.segmenter import Segmenter
from edgeseg_export import parity, to_onnx
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.backend import TorchBackend, card_from_checkpoint


def main(args: argparse.Namespace) -> int:
    """Export; 0 when the file is written. Until it has passed its checks, nothing is at ``args.out``.

    Raises:
        UsageError: ``args.out`` or an option cannot be taken.
        ModelError: the checkpoint cannot be read, or its network not be traced.
        DataError: the data set is not the checkpoint's, or cannot be read.
        ParityError: the exported graph does not do what the checkpoint does.
        SinkError: the file cannot be written.
    """
    out = _out(args.out)
    engines = parity.installed_cpu_engines()
    checkpoint = checkpoints.load(args.checkpoint)
    card = card_from_checkpoint(
        checkpoint, imgsz=tuple(args.imgsz) if args.imgsz else None, head=args.head,
        sha256=sha256_of(args.checkpoint),
    )  # fmt: skip
    card = card.replace(provenance={**card.provenance, "opset": args.opset, "weights_stored": args.weights})
    if args.notes is not None:
        card = card.replace(dataset={**card.dataset, "notes": args.notes})
    data = None if args.data is None else DataSet.from_yaml(args.data)
    if data is not None:
        data.check_classes(card, str(args.checkpoint))
        data.samples(args.split)
    network = checkpoints.network_from_checkpoint(checkpoint)
    with replacing(out) as unfinished:
        unfinished.touch()  # a folder that cannot be written is found before the work, not after
        model = to_onnx.graph_from_network(network, card, opset=args.opset)
        if args.weights == "fp16":
            model = to_onnx.with_half_weights(model)
        to_onnx.write_model(model, unfinished)
        with ExitStack() as stack:
            reference = stack.enter_context(Segmenter(TorchBackend(network, card, device="cpu"), card))
            exported = {
                name: stack.enter_context(Segmenter(open_backend(unfinished, card, name), card)) for name in engines
            }
            parities = parity.compare(reference, exported, parity.parity_frames(card.input_size_hw, data, args.split))
            print(parity.table(parities))
            parity.check(parities, args.tolerance)
            if data is not None:
                card = card.replace(metrics={args.split: _metrics(reference, exported, data, args.split)})
        if data is not None:
            to_onnx.set_card(model, card)
            to_onnx.write_model(model, unfinished)
        golden = _golden(unfinished, card, data, args.split)
    write_golden(golden, out)
    print(f"{out}: {_summary(card, args, out)}")
    return 0


def _golden(path: Path, card: ModelCard, data: DataSet | None, split: str) -> Golden:
    """Frames for `edgeseg verify`, with the class maps of every engine that computes the file as it is written."""
    with ExitStack() as stack:
        segmenters = [
            stack.enter_context(Segmenter(open_backend(path, card, name), card)) for name in faithful_engines(card)
        ]
        return golden_from_data(segmenters, data, split)


def _out(name: str) -> Path:
    out = Path(name)
    if out.suffix != ".onnx":
        raise UsageError(f"The model file {out} does not end in .onnx", "give --out NAME.onnx")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "give --out the path of a file in it")
    return out


def _metrics(
    reference: Segmenter, exported: dict[str, Segmenter], data: DataSet, split: str
) -> dict[str, float | int | str]:
    """Score the checkpoint and every engine, print the figures, and return those of the preferred engine."""
    samples = data.samples(split)

    def score(segmenter: Segmenter) -> Scores:
        scores = evaluate(segmenter, (data.read(sample) for sample in samples), data.ignore_id)
        print(f"{segmenter.backend.name:<12}  mIoU {100 * scores.miou:.2f}  ({split}, {len(samples)} images)")
        return scores

    expected = score(reference)
    scores = {name: score(segmenter) for name, segmenter in exported.items()}
    parity.check_scores(expected, scores)
    preferred = next(iter(scores))
    return {
        "miou": scores[preferred].miou,
        "pixel_accuracy": scores[preferred].pixel_accuracy,
        "images": len(samples),
        "backend": preferred,
    }


def _summary(card: ModelCard, args: argparse.Namespace, out: Path) -> str:
    height, width = card.input_size_hw
    return (
        f"{card.name}, {height}x{width} (height x width), {card.head}, opset {args.opset}, "
        f"{args.weights} weights, {out.stat().st_size / 1e6:.1f} MB"
    )
