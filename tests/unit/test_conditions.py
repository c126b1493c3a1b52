"""What results files say about the machine and its state."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgeseg import conditions as module
from edgeseg.conditions import conditions, state
from edgeseg.doctor import Host


def test_conditions_are_json_and_hold_the_state_before_the_run() -> None:
    found = conditions(target="cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["target"] == "cpu"
    assert found["cores"] >= 1
    assert found["versions"]["edgeseg"]
    assert state().keys() <= found.keys()


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/usr/bin/edgeseg", "bench", "--data", "/sets/camvid/data.yaml"], "edgeseg bench --data camvid/data.yaml"),
        (["benchmarks/decode.py", "--masks", "val masks"], "python benchmarks/decode.py --masks 'val masks'"),
        (["/home/me/edgeseg/__main__.py", "bench"], "python edgeseg/__main__.py bench"),
    ],
)  # fmt: skip
def test_the_command_says_nothing_about_where_things_lie(
    argv: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert conditions()["command"] == shown


def test_governors_and_hypervisor_are_read(tmp_path: Path) -> None:
    for core, governor in enumerate(("schedutil", "performance", "schedutil")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n", encoding="utf-8")
    (tmp_path / "proc").mkdir()
    host = Host(tmp_path)
    assert module._governors(host) == "performance, schedutil"
    assert module._is_virtual(host) is None
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : fpu hypervisor sse\n", encoding="utf-8")
    assert module._is_virtual(host) is True
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : fpu sse\n", encoding="utf-8")
    assert module._is_virtual(host) is False
    assert module._governors(Host(tmp_path / "proc")) is None
