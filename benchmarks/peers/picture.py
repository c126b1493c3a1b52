"""The picture of a results file of ``run.py``: a bar for every contestant, grouped by engine and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PRECISIONS = {"fp32": "FP32", "bf16": "bfloat16", "int8": "INT8"}
NAMES = {"bare": "engine alone", "edgeseg": "edgeseg", "model_api": "Model API", "plain": "plain loop"}
COLORS = {"bare": "#9aa5b1", "edgeseg": "#0f766e", "model_api": "#c2820a", "plain": "#b4413c"}


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG: medians in milliseconds from a frame in memory to its class map at frame size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = {(r["engine"], r["precision"], r["contestant"]): r["classmap_ms"] for r in result["rows"]}
    same = {(r["engine"], r["precision"], r["contestant"]): r.get("same_pixels_as_edgeseg") for r in result["rows"]}
    groups = list(dict.fromkeys(key[:2] for key in rows))
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.2))
    position, ticks, labels = 0.0, [], []
    for engine, precision in groups:
        ticks_here = []
        for name, color in COLORS.items():
            times = rows.get((engine, precision, name))
            if times is None:
                continue
            rounds = times["p50_of_rounds"]
            spread = [[max(0.0, times["p50"] - min(rounds))], [max(0.0, max(rounds) - times["p50"])]]
            axes.barh(position, times["p50"], color=color, height=0.8)
            axes.errorbar(times["p50"], position, xerr=spread, color="#333333", capsize=2, linewidth=0.8)
            label = f"  {times['p50']:.1f} ms  {NAMES[name]}"
            if name == "model_api":
                label += f" ({100 * same[engine, precision, name]:.1f} % same pixels)"
            axes.text(max(rounds), position, label, va="center", fontsize=9)
            ticks_here.append(position)
            position += 1
        ticks.append(sum(ticks_here) / len(ticks_here))
        labels.append(f"{ENGINES[engine]}\n{PRECISIONS[precision]}")
        position += 0.6
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(position - 1, -1)
    axes.set_xlim(0, 1.22 * max(max(times["p50_of_rounds"]) for times in rows.values()))
    height, width = result["frame_hw"]
    axes.set_xlabel(
        f"ms from a {width}x{height} frame in memory to its class map at that size; bar: median, whisker: rounds"
    )
    axes.set_title(
        f"{result['models']['fp32']}, {result['threads']} threads, {result['conditions']['cpu']}",
        loc="left",
        fontsize=10,
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
