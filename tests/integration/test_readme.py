"""The commands of the README and the examples really run; only paths and lengths are made small."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg import cli

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="the tests run outside a checkout")
pytest.importorskip("torch", reason="training and export need torch")
pytest.importorskip("onnx", reason="export needs onnx")

SMALLER = {"--epochs": "1", "--batch": "2", "--max-frames": "3"}


def commands(text: str) -> list[list[str]]:
    """Every edgeseg command in the shell blocks, as a list of arguments."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = [part.strip() for line in blocks.splitlines() for part in line.partition("#")[0].split("&&")]
    found = [shlex.split(line) for line in lines if re.match(r"(\.venv/bin/)?edgeseg ", line)]
    return [words[1:] for words in found]


def make_small(words: list[str]) -> list[str]:
    words = [SMALLER.get(before, word) for before, word in zip(["", *words], words)]
    if words[0] == "train":
        words += ["--imgsz", "64", "96", "--workers", "0", "--batch", "2"]
        words[words.index("--model") + 1] = "ddrnet-c16"
    if words[0] == "bench":
        words += ["--frames", "20", "--threads", "1"]
    if words[0] == "run":
        words = ["--serve=127.0.0.1:0" if w == "--serve" else w for w in words]
        words = ["drive.avi" if w == "drive.mp4" else w for w in words]
        words += ["--headless", "--max-frames", "3"]
        if "--camera" in words:
            at = words.index("--camera")
            words[at : at + 2] = ["--source", "drive.avi"]
    return words


@pytest.fixture
def workplace(tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import cv2

    from edgeseg.io.street import Street

    street = Street(size_hw=(120, 160))
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for index in range(5):
        writer.write(street.render(index)[0])
    writer.release()
    (tmp_path / "data.yaml").write_text(
        tiny_dataset.read_text(encoding="utf-8") + f"path: {tiny_dataset.parent}\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_readme_run_in_order(workplace: Path) -> None:
    found = commands(README.read_text(encoding="utf-8"))
    assert {words[0] for words in found} >= {"run", "train", "eval", "export", "bench"}
    for words in found:
        assert cli.main(make_small(words)) == 0, f"edgeseg {shlex.join(words)}"
    assert (workplace / "segmented.mp4").is_file()
    assert (workplace / "model.onnx").is_file()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(example), "synthetic://street?size=160x120&frames=3"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 3
