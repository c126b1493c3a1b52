"""Promises about the project itself, held by a machine."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgeseg
from edgeseg import cli

ROOT = Path(__file__).parents[2]
RUNTIME = Path(edgeseg.__file__).parent

in_checkout = pytest.mark.skipif(not (ROOT / "CHANGELOG.md").is_file(), reason="the tests run outside a checkout")


def modules_after(statement: str) -> dict[str, str]:
    """Top-level modules that a statement loads in a new process, with their files."""
    code = (
        f"import sys\nbefore = set(sys.modules)\n{statement}\nimport json\n"
        "new = [n for n in set(sys.modules) - before if '.' not in n]\n"
        "print(json.dumps({n: getattr(sys.modules[n], '__file__', None) or '' for n in new}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(run.stdout)
    return found


def third_party(modules: dict[str, str]) -> set[str]:
    return {name for name, file in modules.items() if "-packages" in file} - {"edgeseg"}


def test_import_loads_numpy_and_nothing_heavier() -> None:
    assert third_party(modules_after("import edgeseg")) == {"numpy"}


def test_import_leaves_for_later_what_takes_long() -> None:
    code = "import edgeseg, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "edgeseg.segmenter" in loaded
    assert not {"edgeseg.io", "edgeseg.doctor", "edgeseg.trt"} & set(loaded)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_help_of_every_command_loads_nothing_heavy(command: str) -> None:
    loaded = modules_after(f"from edgeseg.cli import parser_of\nparser_of({command!r}).format_help()")
    assert not set(loaded) & {"torch", "onnx", "onnxruntime", "openvino", "cv2", "tensorrt"}


def test_public_names() -> None:
    assert sorted(edgeseg.__all__) == [
        "EdgesegError", "Frame", "ModelCard", "Segmentation", "Segmenter", "State", "load", "open_source",
    ]  # fmt: skip
    for name in edgeseg.__all__:
        assert getattr(edgeseg, name) is not None


MODEL_FLAGS = {"--model", "--backend", "--threads", "--imgsz", "--card", "--classes", "--mean", "--std",
               "--color-order", "--output", "--rebuild"}  # fmt: skip
FLAGS = {
    "run": MODEL_FLAGS
    | {
        "--source", "--camera", "--size", "--rate", "--codec", "--flip", "--loop", "--realtime", "--transport",
        "--reader", "--hwdec", "--open-timeout", "--read-timeout", "--max-age", "--wait", "--record", "--headless",
        "--alpha", "--save", "--save-masks", "--save-classmap", "--save-jsonl", "--on-sink-error", "--stats",
        "--max-frames", "--deadline-ms", "--stabilize", "--watchdog-s", "--serve", "--serve-token",
    },
    "eval": MODEL_FLAGS | {"--data", "--split", "--json", "--max-images"},
    "train": {
        "--list-models", "--data", "--model", "--imgsz", "--epochs", "--batch", "--out", "--resume", "--seed",
        "--train-split", "--val-split", "--lr", "--weight-decay", "--warmup", "--schedule", "--loss", "--aux-weight",
        "--ema-decay", "--grad-clip", "--scale-min", "--scale-max", "--color", "--eval-every", "--workers", "--device",
        "--amp", "--noise", "--balance", "--paste", "--cutmix", "--accumulate", "--early-stop", "--from",
        "--encoder-lr", "--teacher", "--distill-weight", "--recipe", "--list-recipes", "--qat",
    },
    "export": {
        "--checkpoint", "--out", "--imgsz", "--head", "--opset", "--weights", "--data", "--split", "--tolerance",
        "--notes", "--onnx", "--precision", "--target", "--eval-split", "--calib-split", "--calib-images",
        "--calib-seed", "--max-miou-drop", "--repair-steps", "--json", "--weight-bits",
    },
    "bench": MODEL_FLAGS - {"--model", "--rebuild"}
    | {"--source", "--data", "--split", "--mode", "--rate", "--frames", "--rounds", "--streaming", "--json", "--plot",
       "--html", "--max-ms", "--min-miou"},
    "build": {"--out", "--workspace-mb", "--opt-level", "--profile", "--timing-cache", "--verbose"},
    "verify": MODEL_FLAGS - {"--model"}
    | {"--golden", "--min-agreement", "--json", "--make", "--data", "--split"},
    "data": {"--split", "--json", "--sheet", "--format", "--from", "--out", "--classes", "--link"},
    "info": {"--json"},
    "doctor": {"--json"},
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_flags_are_pinned(command: str, flags_of: Callable[[str], set[str]]) -> None:
    assert flags_of(command) == FLAGS[command]


@pytest.mark.parametrize("name", ["train", "export", "benchmarks", "tests", "examples", "docs"])
def test_no_generic_import_name_is_taken(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None or spec.origin is None


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda p: p.relative_to(RUNTIME).as_posix())
def test_runtime_keeps_to_python_3_9_syntax(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_the_package_is_typed() -> None:
    assert (RUNTIME / "py.typed").is_file()


@in_checkout
def test_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == importlib.metadata.version("edgeseg")


@in_checkout
def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[all,dev]' && .venv/bin/pytest"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@in_checkout
def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@in_checkout
def test_no_file_of_another_machine_is_named() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    forbidden = re.compile("/(work|root|opt/es)/|pypi\\.org|registry\\.npm")
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".json", ".yaml", ".sh", ""} and path.is_file():
            assert not forbidden.search(path.read_text(encoding="utf-8", errors="ignore")), name
