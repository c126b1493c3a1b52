"""Runs in the Python of a TensorRT 8: what edgeseg does with it, as far as that needs no GPU. Takes ONNX files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.onnx_reader import read_graph
from edgeseg.precision import precision_of
from edgeseg.trt.builder import build_plan, typing_for
from edgeseg.trt.library import import_tensorrt, log_of
from edgeseg.trt.options import BuildOptions

# What is read or called only where the version has no newer way, by the class that has it.
CALLS = {
    "IBuilderConfig": ("set_flag", "set_memory_pool_limit", "profiling_verbosity", "builder_optimization_level",
                       "create_timing_cache", "set_timing_cache", "get_timing_cache", "add_optimization_profile"),
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"),
    "INetworkDefinition": ("num_layers", "get_layer", "get_input"),
    "ILayer": ("name", "precision"),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("desc", "node"),
    "IOptimizationProfile": ("set_shape",),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("create_engine_inspector", "num_io_tensors", "get_tensor_name", "get_tensor_dtype",
                    "get_tensor_shape", "get_tensor_mode"),
    "EngineInspector": ("get_engine_information",),
    "BuilderFlag": ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"),
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH",),
    "MemoryPoolType": ("WORKSPACE",),
    "ProfilingVerbosity": ("DETAILED",),
    "LayerInformationFormat": ("JSON",),
}  # fmt: skip

trt = import_tensorrt()
calls = [(kind, name) for kind, names in CALLS.items() for name in names]
missing = [f"{kind}.{name}" for kind, name in calls if not hasattr(getattr(trt, kind), name)]
report = {"version": trt.__version__, "missing": missing, "builds": {}}
log_of(trt)
for path in map(Path, sys.argv[1:]):
    graph = read_graph(path)
    typing = typing_for(trt, graph, precision_of(graph))
    try:
        outcome = f"{len(build_plan(trt, path, typing, BuildOptions())[0])} bytes"
    except EdgesegError as error:
        outcome = str(error)
    report["builds"][path.stem] = [typing.strong, typing.flags, sorted(typing.wide), outcome]
sys.stdout.write(json.dumps(report) + "\n")
