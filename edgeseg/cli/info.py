"""``edgeseg info``: what a model file says about itself.

Everything is read from the file's bytes and from the record beside an engine: no inference engine is loaded
and nothing is run, so it works for a model that this machine cannot run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg.card import METADATA_KEY, ModelCard
from edgeseg.errors import ModelError
from edgeseg.onnx_reader import card_of, read_graph, read_onnx, sha256_of
from edgeseg.precision import Precision, precision_of

_CHECKPOINTS = (".pt", ".pth", ".ckpt")
_TOP_OPS = 8
_FLAGS = "--classes, --mean, --std, --color-order, --imgsz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edgeseg info``."""
    parser.add_argument("model", metavar="FILE", help="an .onnx or .engine file, or the name of a bundled model")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def main(args: argparse.Namespace) -> int:
    """Print the facts about ``args.model``, as text or (``args.json``) as one JSON object.

    Raises:
        ModelError: the file cannot be read, is a checkpoint, or is an engine without its record.
    """
    suffix = Path(args.model).suffix.lower()
    if suffix in _CHECKPOINTS:
        raise ModelError(
            f"{args.model} is a training checkpoint, `edgeseg info` reads model files",
            f"make one with `edgeseg export --checkpoint {args.model} --out model.onnx` and look at that",
        )
    try:
        report = _of_engine(Path(args.model)) if suffix == ".engine" else _of_onnx(args.model)
        if args.json:
            print(json.dumps(report, indent=2))
        else:
            lines = _engine_text(report) if suffix == ".engine" else _onnx_text(report)
            print("\n".join(_printable(line) for line in lines))
    except RecursionError as error:
        raise ModelError(f"{args.model} has a record nested too deeply to print", "export it again") from error
    return 0


# --- what is known, as plain data ---------------------------------------------------------------------------


def _of_onnx(name_or_path: str) -> dict[str, Any]:
    """The facts about an ONNX file, as they stand in the JSON."""
    from edgeseg.bundled import resolve
    from edgeseg.tensors import network_input_shape

    info = read_onnx(resolve(name_or_path))
    card = card_of(info)
    found = precision_of(read_graph(info.path), network_input_shape(card) if card else None)
    return {
        "file": str(info.path),
        "size_bytes": info.size_bytes,
        "sha256": sha256_of(info.path),
        "card": _plain(card) if card else None,
        "inputs": [dataclasses.asdict(tensor) for tensor in info.inputs],
        "outputs": [dataclasses.asdict(tensor) for tensor in info.outputs],
        "opset": info.opset,
        "ir_version": info.ir_version,
        "precision": {
            "parameters": info.parameters,
            "weights": info.weight_dtypes,
            "qdq": info.has_qdq,
            "external_data": info.external_data,
            "macs": found.macs,
            "uncounted_layers": [layer.name for layer in found.uncounted],
            "lowest": found.lowest,
            "left_higher": _left_higher(found, card),
        },
        "op_counts": info.op_counts,
        "producer": info.producer,
        "metadata": {key: text for key, text in info.metadata.items() if key != METADATA_KEY},
    }


def _left_higher(found: Precision, card: ModelCard | None) -> list[dict[str, Any]]:
    """Layers above the lowest precision, each with the reason that export gave in the card, or None."""
    kept = card.provenance.get("kept") if card else None
    reasons = kept if isinstance(kept, dict) else {}
    return [{**dataclasses.asdict(layer), "reason": reasons.get(layer.name)} for layer in found.left_higher]


def _of_engine(path: Path) -> dict[str, Any]:
    """The facts about a TensorRT engine: what its record beside it, ``model.engine.json``, says."""
    record_path = path.with_name(path.name + ".json")
    build = "build the engine from its ONNX with `edgeseg build`"
    try:
        size, digest = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise ModelError(f"Cannot read {path} ({error.strerror})", f"check the path, or {build}") from error
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} has no record {record_path.name} beside it", build) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read the record {record_path} ({error})", build) from error
    if not isinstance(record, dict):
        raise ModelError(f"The record {record_path} is not a JSON object", build)
    record = _without_nan(record)
    card = record.pop("card", None)
    if card is not None:
        card = _plain(ModelCard.from_json(json.dumps(card), origin=f"The card in {record_path}"))
    return {"file": str(path), "size_bytes": size, "sha256": digest, "card": card, "engine": record}


def _plain(card: ModelCard) -> dict[str, Any]:
    return _without_nan(dataclasses.asdict(card))


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """The record as JSON has it: tuples are lists; NaN and infinity, which JSON lacks, are null."""
    plain: dict[str, Any] = json.loads(json.dumps(record), parse_constant=lambda _: None)
    return plain


# --- the same, as text --------------------------------------------------------------------------------------


def _onnx_text(report: dict[str, Any]) -> Iterator[str]:
    yield from _file_text(report)
    yield ""
    if report["card"]:
        yield from _card_text(report["card"])
    else:
        yield "No model card: this model did not come from `edgeseg export`"
        yield f"  Mend: give `edgeseg run` what it would say: {_FLAGS}, or --card FILE.json"
    yield ""
    yield from _graph_text(report)


def _engine_text(report: dict[str, Any]) -> Iterator[str]:
    yield from _file_text(report)
    yield ""
    if report["card"]:
        yield from _card_text(report["card"])
        yield ""
    yield "Engine"
    yield from json.dumps(report["engine"], indent=2).splitlines()


def _file_text(report: dict[str, Any]) -> Iterator[str]:
    yield report["file"]
    yield _row("size", f"{_magnitude(report['size_bytes'])}B ({report['size_bytes']} bytes)")
    yield _row("sha256", report["sha256"])


def _card_text(card: dict[str, Any]) -> Iterator[str]:
    height, width = card["input_size_hw"]
    folded = "already in the graph" if card["input_dtype"] == "uint8" else "applied by the runtime"
    mean, std = (" ".join(f"{value:.4g}" for value in card[key]) for key in ("mean", "std"))
    yield "Card"
    yield _row("name", card["name"] or "-")
    yield _row("input", f"{height} x {width} (height x width), {card['input_dtype']} {card['input_layout']}")
    yield _row("colours", f"{card['color_order']}, mean {mean}, std {std} ({folded})")
    yield _row("resize", card["resize"])
    yield _row("head", card["head"])
    yield _row("precision", card["precision"])
    yield _row("classes", f"{len(card['classes'])}, ignore id {_inline(card['ignore_id'])}")
    for index, (name, color) in enumerate(zip(card["classes"], card["palette"])):
        yield _row("", f"{index:3d}  #{color[0]:02x}{color[1]:02x}{color[2]:02x}  {name}")
    for key in ("dataset", "metrics", "provenance"):
        yield from _record_text(key, card[key])


def _record_text(title: str, record: Any) -> Iterator[str]:
    """A free record of the card: one row by entry."""
    if not record or not isinstance(record, dict):
        yield _row(title, _inline(record) if record else "-")
        return
    for index, (key, value) in enumerate(record.items()):
        yield _row(title if index == 0 else "", f"{key}: {_inline(value)}")


def _graph_text(report: dict[str, Any]) -> Iterator[str]:
    precision = report["precision"]
    ops = list(report["op_counts"].items())
    rest = sum(count for _, count in ops[_TOP_OPS:])
    yield "Graph"
    for key in ("inputs", "outputs"):
        for index, tensor in enumerate(report[key]):
            yield _row(key if index == 0 else "", _tensor(tensor))
    yield _row("opset", f"{report['opset']} (format version {report['ir_version']})")
    yield _row("producer", report["producer"] or "-")
    yield _row("weights", _weights(precision["weights"], precision["parameters"]))
    if precision["external_data"]:
        yield _row("", "kept in a file beside this one")
    yield _row("Q/DQ nodes", "yes" if precision["qdq"] else "no")
    yield from _compute_text(precision)
    shown = ", ".join(f"{op} {count}" for op, count in ops[:_TOP_OPS])
    yield _row("operators", shown + (f", {rest} others" if rest else ""))
    for key, text in report["metadata"].items():
        yield _row("metadata", f"{key}: {text if len(text) <= 80 else text[:77] + '...'}")


def _compute_text(precision: dict[str, Any]) -> Iterator[str]:
    """What the layers compute in, and which are above the lowest."""
    macs, total = precision["macs"], sum(precision["macs"].values())
    yield _row("compute", f"{_magnitude(total).rstrip()} multiply-adds" + _shares(macs, total))
    if precision["uncounted_layers"]:
        yield _row("", f"without {len(precision['uncounted_layers'])} layers, whose shapes the file leaves open")
    for layer in precision["left_higher"]:
        share = "" if layer["macs"] is None else f", {100 * layer['macs'] / max(total, 1):.1f} %"
        reason = _inline(layer["reason"]) if layer["reason"] else "the card gives no reason"
        yield _row(f"not {precision['lowest']}", f"{layer['name']} ({layer['precision']}{share}): {reason}")


def _row(label: str, value: str) -> str:
    return f"  {label:<11} {value}"


def _tensor(tensor: dict[str, Any]) -> str:
    """Such as ``image: uint8 [N, 360, 480, 3]``."""
    shape = ", ".join("?" if axis is None else str(axis) for axis in tensor["shape"])
    return f"{tensor['name']}: {tensor['dtype']} " + (f"[{shape}]" if tensor["rank_known"] else "of unknown shape")


def _weights(by_dtype: dict[str, int], total: int) -> str:
    """Such as ``5.7 M parameters: int8 98.9 %, float32 1.1 %``."""
    return f"{_magnitude(total).rstrip()} parameters" + _shares(by_dtype, total)


def _shares(counts: dict[str, int], total: int) -> str:
    """Such as ``: int8 98.9 %, float32 1.1 %``; nothing where nothing was counted."""
    shares = ", ".join(f"{name} {100 * count / max(total, 1):.1f} %" for name, count in counts.items())
    return f": {shares}" if total else ""


def _magnitude(number: int) -> str:
    """The number, a space and the prefix that a unit can follow: ``5.7 M``, ``12 ``."""
    for factor, prefix in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= factor:
            return f"{number / factor:.1f} {prefix}"
    return f"{number} "


def _inline(value: Any) -> str:
    """A value of a free record on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline_scalar(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_inline_scalar(inner) for inner in value)
    return _inline_scalar(value)


def _inline_scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _printable(line: str) -> str:
    """The line without control characters: names come from the file, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else "?" for c in line)
