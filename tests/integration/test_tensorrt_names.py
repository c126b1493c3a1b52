"""What running an engine calls, looked up in a real TensorRT: without a GPU nothing more can be asked of it."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.trt import network

VARIABLE = "EDGESEG_TENSORRT_BUILD"
CLASSES = {"runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext", "trt": ""}

pytestmark = [
    pytest.mark.tensorrt_build,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no TensorRT that can build"),
]


def test_every_name_is_there() -> None:
    source = inspect.getsource(network)
    used = [
        f"{owner}.{name}".lstrip(".")
        for attribute, owner in CLASSES.items()
        for name in sorted(set(re.findall(rf"self\._{attribute}\.(\w+)", source)))
    ]
    assert {"ICudaEngine.get_tensor_mode", "IExecutionContext.execute_async_v3", "TensorIOMode"} <= set(used)
    code = (
        "import functools, json, sys, tensorrt\n"
        "missing = object()\n"
        "find = lambda name: functools.reduce(lambda o, n: getattr(o, n, missing), name.split('.'), tensorrt)\n"
        "kinds = [kind.name for kind in tensorrt.DataType.__members__.values()]\n"
        "print(json.dumps([[n for n in json.loads(sys.argv[1]) if find(n) is missing], kinds]))"
    )
    env_file = shlex.quote(str(Path(os.environ[VARIABLE]) / "env"))
    command = f". {env_file} && exec {shlex.join([sys.executable, '-c', code, json.dumps(used)])}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    if "No module named" in done.stderr:
        pytest.skip("the prepared TensorRT is for another Python")
    assert done.returncode == 0, done.stderr
    missing, kinds = json.loads(done.stdout)
    assert missing == []
    assert set(network._DTYPES) <= set(kinds)
