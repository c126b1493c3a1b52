"""Runs in the Python of a TensorRT that builds without a GPU; writes one JSON object as its last line.

tensorrt_rig.py build REQUEST.json     engines in memory, by edgeseg.trt.builder
tensorrt_rig.py command ARGUMENT...    the command line, with two stand-ins: a driver that shows a GPU, and for
                                       the inspector, which needs a real one, the layers that the builder logs
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.onnx_reader import read_graph
from edgeseg.precision import precision_of
from edgeseg.trt.builder import build_plan, typing_for
from edgeseg.trt.inspector import precision_found
from edgeseg.trt.library import import_tensorrt, log_of
from edgeseg.trt.options import BuildOptions

LAYER = re.compile(
    r"^(?:\[VERBOSE\] )?Name: (.*?), LayerType: (.*?), Inputs: \[(.*?)\], (?:Constants: .*?, )?Outputs: \[(.*?)\], "
    r"TacticName: (.*?), StreamId: .*?Metadata: (.*)$",
    re.MULTILINE,
)


def build(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Build every model of a request; what TensorRT says about each."""
    trt = import_tensorrt()
    options = BuildOptions(
        **request["options"],
        profile=tuple(map(tuple, request["profile"])) if request["profile"] else None,
    )
    timings, reports = b"", []
    for path in map(Path, request["models"]):
        try:
            report, timings = build_one(trt, path, options, timings)
        except EdgesegError as error:
            report = {"error": f"{type(error).__name__}: {error}"}
        reports.append(report)
    return reports


def build_one(trt: Any, path: Path, options: BuildOptions, timings: bytes) -> tuple[dict[str, Any], bytes]:
    graph = read_graph(path)
    asked = precision_of(graph, options.profile[1] if options.profile else None)
    typing = typing_for(trt, graph, asked)
    told: list[tuple[float | None, str]] = []
    lines: list[str] = []
    log_of(trt).echo = lines.append
    plan, timings = build_plan(
        trt, path, typing, options, timing_cache=timings, progress=lambda *now: told.append(now)
    )  # fmt: skip
    found = precision_found(information(lines), asked)
    report = {
        "plan_bytes": len(plan),
        "shares": [share for share, _ in told],
        "strong": typing.strong,
        "asked": asked.macs,
        "found": found.macs,
        "differing": [layer.name for layer in found.differing],
    }
    return {**report, **tensors(trt, path)}, timings


def information(lines: list[str]) -> str:
    """What the builder logs about the layers of an engine, in the notation of its inspector."""

    def tensors(text: str) -> list[dict[str, str]]:
        return [{"Datatype": word} for word in re.findall(r"Datatype: (\w+)", text)]

    layers = [
        {"Name": name, "LayerType": kind, "Inputs": tensors(given), "Outputs": tensors(made), "TacticName": tactic,
         "Metadata": origin}
        for name, kind, given, made, tactic, origin in LAYER.findall("\n".join(lines))
    ]  # fmt: skip
    return json.dumps({"Layers": layers})


def tensors(trt: Any, path: Path) -> dict[str, Any]:
    """Inputs and outputs as TensorRT's parser sees them."""
    log = log_of(trt)
    network = trt.Builder(log).create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path))

    def described(count: int, get: Any) -> list[Any]:
        return [[t.name, str(t.dtype).rpartition(".")[2], list(t.shape)] for t in map(get, range(count))]

    return {
        "inputs": described(network.num_inputs, network.get_input),
        "outputs": described(network.num_outputs, network.get_output),
    }


def command(arguments: list[str]) -> int:
    """``edgeseg`` as if there were a GPU. What the variable INSPECTED holds is put in place of the types of layers."""
    from edgeseg import cli, doctor
    from edgeseg.doctor import Cuda, Gpu
    from edgeseg.trt import engine

    lines: list[str] = []
    building = engine.build_plan

    def building_and_listening(trt: Any, *args: Any, **more: Any) -> Any:
        log = log_of(trt)
        shown = log.echo
        log.echo = lambda line: (lines.append(line), shown and shown(line))
        return building(trt, *args, **more)

    def inspecting(trt: Any, plan: bytes) -> str:
        seen, instead = information(lines), os.environ.get("INSPECTED")
        return re.sub(r'"Datatype": "\w+"', f'"Datatype": "{instead}"', seen) if instead else seen

    cuda = Cuda((13, 0), (Gpu("Stand-in", "8.7", 8 * 2**30, integrated=True),))
    doctor.read_cuda = lambda: cuda
    engine.build_plan = building_and_listening
    engine.engine_information = inspecting
    return cli.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "command":
        sys.exit(command(sys.argv[2:]))
    sys.stdout.write(json.dumps(build(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))) + "\n")
