"""The micro-benchmark runs through: it checks nothing but is no dead script either."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "micro.py"


def test_every_part_is_timed(tmp_path):
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not beside the tests")
    small = ["--frame", "72", "128", "--frames", "1", "--rounds", "1", "--threads", "1"]
    subprocess.run([sys.executable, SCRIPT, *small, "--json", tmp_path / "out.json"], check=True, timeout=60)
    result = json.loads((tmp_path / "out.json").read_text())
    assert {name.partition(",")[0] for name in result["us"]} >= {"preprocess", "decode", "overlay", "hand-over"}
    assert all(row["p50"] > 0 for row in result["us"].values())
    assert result["conditions"]["cpu"]
