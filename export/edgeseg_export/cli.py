"""``edgeseg export``: a checkpoint to a checked ONNX file, or a float32 file to FP16 or INT8."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import ModelProto

from edgeseg import bundled
from edgeseg.backends import faithful_engines, open_backend
from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet
from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.evaluate import evaluate
from edgeseg.files import check_writable, replacing, sha256_of, write_text
from edgeseg.golden import Golden, golden_from_data, golden_path, write_golden
from edgeseg.metrics import Scores
from edgeseg.onnx_reader import card_of, read_onnx
from edgeseg.processor import check_int8
from edgeseg.segmenter import Segmenter
from edgeseg_export import convert, gate, parity, to_onnx
from edgeseg_export.calibration import CalibrationSet, choose_samples
from edgeseg_export.convert import Conversion, Float32, Labelled, Workbench
from edgeseg_export.onnx_graph import opset_of
from edgeseg_export.report import Report
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.backend import TorchBackend, card_from_checkpoint

PROTOBUF_BYTES = 2**31

HALF_TOLERANCE = 0.01
"""Share of pixels that FP16 may give another class where no labels can say whether that matters."""


def main(args: argparse.Namespace) -> int:
    """Export; 0 when the file is written. Until it has passed its checks, nothing is at ``args.out``.

    Raises:
        UsageError: ``args.out`` or an option cannot be taken.
        ModelError: the checkpoint or the model cannot be read, traced or converted.
        DataError: the data set is not the model's, or cannot be read.
        ParityError: the exported graph does not do what the original does.
        GateError: it loses more accuracy than allowed; exit code 3.
        SinkError: a file cannot be written.
    """
    out = _out(args.out)
    if args.onnx:
        args.onnx = bundled.resolve(args.onnx)
    _check_options(args, out)
    data = None if args.data is None else DataSet.from_yaml(args.data)
    if args.precision == "fp32":
        return _export(args, out, data)
    for path in (out, golden_path(out), _report_path(out), *([args.json] if args.json else [])):
        check_writable(path)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "fp32.onnx"
        model, card = _opened(args, data, file) if args.onnx else _traced(args, data, file)
        return _convert(args, out, data, Float32(model, card, file))


def _out(name: str) -> Path:
    out = Path(name)
    if out.suffix != ".onnx":
        raise UsageError(f"The model file {out} does not end in .onnx", "give --out NAME.onnx")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "give --out the path of a file in it")
    return out


def _check_options(args: argparse.Namespace, out: Path) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: naming them.
    """
    if args.precision == "fp32" and args.onnx:
        raise UsageError("--onnx names a model that is fp32 already", "add --precision int8 or --precision fp16")
    if args.precision == "fp32" and args.json:
        raise UsageError("--json reports on a conversion", "add --precision int8 or --precision fp16")
    if args.precision == "int8" and args.data is None:
        raise UsageError("INT8 needs real images to measure its ranges and what it loses", "give --data data.yaml")
    if args.weight_bits == 7 and (args.precision, args.target) != ("int8", "cpu"):
        raise UsageError("--weight-bits 7 is for int8 on the CPU", "leave it out")
    if args.precision != "fp32" and args.weights:
        raise UsageError(f"--weights says how an fp32 model is stored, not {args.precision}", "leave --weights out")
    if args.onnx:
        of_the_file = ("imgsz", "head") if args.precision == "int8" else ("imgsz", "head", "opset")
        fixed = [name for name in of_the_file if getattr(args, name) is not None]
        if fixed:
            raise UsageError(f"The model {args.onnx} has its --{fixed[0]}", "export its checkpoint again for another")
        if out.exists() and out.samefile(args.onnx):
            raise UsageError(f"--out would replace the model {args.onnx}", "give --out another name")


def _export(args: argparse.Namespace, out: Path, data: DataSet | None) -> int:
    with replacing(out) as unfinished:
        unfinished.touch()  # a folder that cannot be written is found before the work, not after
        _, card = _traced(args, data, unfinished)
        golden = _golden(unfinished, card, data, args.split)
    write_golden(golden, out)
    print(f"{out}: {_summary(card, out)}, {args.weights or 'fp32'} weights")
    return 0


def _traced(args: argparse.Namespace, data: DataSet | None, path: Path) -> tuple[ModelProto, ModelCard]:
    """Write a checkpoint's graph to ``path`` once it agrees with the checkpoint, scored for a float32 export."""
    engines = parity.installed_cpu_engines()
    checkpoint = checkpoints.load(args.checkpoint)
    card = card_from_checkpoint(
        checkpoint, imgsz=tuple(args.imgsz) if args.imgsz else None, head=args.head or "logits",
        sha256=sha256_of(args.checkpoint),
    )  # fmt: skip
    opset = args.opset or to_onnx.OPSETS[0]
    card = card.replace(provenance={**card.provenance, "opset": opset, "weights_stored": args.weights or "fp32"})
    card = _with_notes(card, args)
    if data is not None:
        data.check_classes(card, str(args.checkpoint))
        data.samples(args.split)
    network = checkpoints.network_from_checkpoint(checkpoint)
    model = to_onnx.graph_from_network(network, card, opset=opset)
    if args.weights == "fp16":
        model = to_onnx.with_half_weights(model)
    to_onnx.write_model(model, path)
    with ExitStack() as stack:
        reference = stack.enter_context(Segmenter(TorchBackend(network, card, device="cpu"), card))
        exported = {name: stack.enter_context(Segmenter(open_backend(path, card, name), card)) for name in engines}
        parities = parity.compare(reference, exported, parity.parity_frames(card.input_size_hw, data, args.split))
        print(parity.table(parities))
        parity.check(parities, parity.TOLERANCE if args.tolerance is None else args.tolerance)
        if data is not None and args.precision == "fp32":
            card = card.replace(metrics={args.split: _metrics(reference, exported, data, args.split)})
            _write(model, card, path)
    return model, card


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


def _opened(args: argparse.Namespace, data: DataSet | None, path: Path) -> tuple[ModelProto, ModelCard]:
    """The model of ``--onnx``, copied to ``path``.

    Raises:
        ModelError: it cannot be read, has no card, or is not float32.
        DataError: the data set has other classes.
    """
    origin: Path = args.onnx
    info = read_onnx(origin)
    card = card_of(info)
    if card is None:
        raise ModelError(f"{origin} has no model card, so it did not come from edgeseg", "export its checkpoint")
    if card.precision != "fp32":
        raise ModelError(f"{origin} is {card.precision} already", "give the fp32 model, or export its checkpoint")
    if info.external_data:
        raise ModelError(f"{origin} keeps weights in other files", "export it again as one file")
    if info.size_bytes >= PROTOBUF_BYTES:
        raise ModelError(
            f"{origin} has {info.size_bytes / 1e9:.1f} GB, ONNX files end at 2 GB", "use a smaller network"
        )
    card = _with_notes(card, args)
    if data is not None:
        data.check_classes(card, str(origin))
        data.samples(args.split)
    shutil.copyfile(origin, path)
    card = card.replace(provenance={**card.provenance, "onnx_sha256": sha256_of(path)})
    return onnx.load(path), card


def _with_notes(card: ModelCard, args: argparse.Namespace) -> ModelCard:
    return card if args.notes is None else card.replace(dataset={**card.dataset, "notes": args.notes})


def _convert(args: argparse.Namespace, out: Path, data: DataSet | None, source: Float32) -> int:
    """Convert, measure, report, and write the file unless the gate refuses it."""
    labelled = calibration = None
    if data is not None:
        labelled = Labelled(data, args.split, data.samples(args.split))
        chosen = choose_samples(data, args.calib_split, args.calib_images, args.calib_seed)
        calibration = CalibrationSet(chosen, source.card)
    made_for = {"target": args.target, **({"weight_bits": args.weight_bits} if args.precision == "int8" else {})}
    wanted = source.card.replace(precision=args.precision, provenance=made_for)
    check_int8(wanted)
    engines = faithful_engines(wanted)
    if not engines:
        raise BackendError(
            f"No engine is installed that could check a graph for {args.target}", "pip install 'edgeseg[export]'"
        )
    bench = Workbench(
        source, source.path.parent, target=args.target, engines=engines, opset=args.opset,
        weight_bits=args.weight_bits, calibration=calibration,
    )  # fmt: skip
    if args.precision == "fp16":
        done = convert.to_half(bench, labelled)
    else:
        assert labelled is not None
        done = convert.to_int8(bench, labelled, max_drop=args.max_miou_drop / 100, repair_steps=args.repair_steps)
    card = _card(args, bench, done, calibration, made_for)
    if labelled is None:
        _check_without_labels(args, bench, done)
    else:
        _check(args, out, Report(
            card, done, args.split, args.target, args.max_miou_drop / 100, args.split == args.calib_split
        ), source)  # fmt: skip
    with replacing(out) as unfinished:
        _write(done.model, card, unfinished)
        golden = _golden(unfinished, card, data, args.split)
    write_golden(golden, out)
    print(f"{out}: {_summary(card, out)}")
    return 0


def _golden(path: Path, card: ModelCard, data: DataSet | None, split: str) -> Golden:
    """Frames for `edgeseg verify`, with the class maps of every engine that computes the file as it is written."""
    with ExitStack() as stack:
        segmenters = [
            stack.enter_context(Segmenter(open_backend(path, card, name), card)) for name in faithful_engines(card)
        ]
        return golden_from_data(segmenters, data, split)


def _card(
    args: argparse.Namespace,
    bench: Workbench,
    done: Conversion,
    calibration: CalibrationSet | None,
    made_for: Mapping[str, Any],
) -> ModelCard:
    """The card of the converted file; what was measured on the original is kept apart from what holds for it."""
    original = bench.source.card
    provenance: dict[str, Any] = {**original.provenance, "fp32_metrics": dict(original.metrics)}
    provenance.pop("weights_stored", None)
    provenance.update(opset=opset_of(done.model), **made_for)
    if calibration is not None:
        provenance["calibration"] = {
            "split": args.calib_split, "images": len(calibration), "seed": args.calib_seed,
            "sha256": calibration.content_hash,
        }  # fmt: skip
    if done.candidate is not None:
        provenance["calibration"]["method"] = done.candidate.method
        provenance["kept"] = _kept(done, bench)
    metrics: dict[str, Any] = {}
    if done.results:
        provenance["fp32_metrics"][args.split] = done.results[0].to_dict()["fp32"]
        metrics[args.split] = {
            **done.results[0].to_dict()[args.precision],
            "images": done.results[0].images,
            "backend": done.results[0].engine,
        }
    return original.replace(precision=args.precision, metrics=metrics, provenance=provenance)


def _kept(done: Conversion, bench: Workbench) -> dict[str, str]:
    """Why layers are not in INT8, by the name of the layer."""
    costs = done.found.costs if done.found else {}
    group_of = {
        node: name for name in (done.candidate.kept if done.candidate else ()) for node in bench.groups[name].nodes
    }
    made_by = {name: node.op_type for node in done.model.graph.node for name in node.output}
    reasons = {}
    for node in done.model.graph.node:
        if node.op_type != "Conv" or made_by.get(node.input[1]) == "DequantizeLinear":
            continue
        if node.name in group_of:
            cost = 100 * costs[group_of[node.name]]
            reasons[node.name] = f"by repair: alone in int8 its group makes {cost:.0f} % of the distance from fp32"
        else:
            reasons[node.name] = "too few channels to gain from int8"
    return reasons


def _check(args: argparse.Namespace, out: Path, report: Report, source: Float32) -> None:
    """Print and write the report.

    Raises:
        GateError: the drop is too large. The float32 model of a checkpoint is written beside ``out``.
    """
    print(report.text())
    write_text(_report_path(out), report.html())
    if args.json:
        write_text(args.json, json.dumps(report.to_dict(), indent=2) + "\n")
    if report.accepted:
        return
    kept = Path(args.onnx or out.with_suffix(".fp32.onnx"))
    if not args.onnx:
        with replacing(kept) as unfinished:
            shutil.copyfile(source.path, unfinished)
    tried = f" after {len(report.done.found.trail)} steps of repair" if report.done.found else ""
    raise gate.GateError(
        f"{report.sentences()[0].rstrip('.')}{tried}: {out} was not written. The fp32 model is {kept}; "
        f"{_report_path(out)} says what was tried",
        "allow more with --max-miou-drop or --repair-steps, or stay with fp32",
    )


def _check_without_labels(args: argparse.Namespace, bench: Workbench, done: Conversion) -> None:
    """Compare with the original on frames of the synthetic street.

    Raises:
        ParityError: too many pixels get another class.
    """
    card = bench.source.card
    path = bench.write(done.model, args.precision)
    parities = []
    for engine in bench.engines:
        with (
            Segmenter(open_backend(bench.source.path, card, engine), card) as reference,
            Segmenter(open_backend(path, card, engine), card) as converted,
        ):
            frames = parity.parity_frames(card.input_size_hw, None, args.split)
            parities += parity.compare(reference, {engine: converted}, frames)
    print(parity.table(parities))
    parity.check(
        parities, HALF_TOLERANCE if args.tolerance is None else args.tolerance, original="fp32 model",
        mend="give --data to see whether it costs accuracy, allow more with --tolerance SHARE, or stay with fp32",
    )  # fmt: skip
    print("The accuracy was not measured: that needs --data.")


def _write(model: ModelProto, card: ModelCard, path: Path) -> None:
    to_onnx.set_card(model, card)
    to_onnx.write_model(model, path)


def _report_path(out: Path) -> Path:
    return out.with_suffix(".report.html")


def _summary(card: ModelCard, out: Path) -> str:
    height, width = card.input_size_hw
    return (
        f"{card.name}, {height}x{width} (height x width), {card.head}, {card.precision}, "
        f"opset {card.provenance['opset']}, {out.stat().st_size / 1e6:.1f} MB"
    )
