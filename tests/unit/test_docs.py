"""The reference page names every flag, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeseg import cli

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the tests run outside a checkout")


def test_reference_names_every_flag_and_no_other(flags_of: Callable[[str], set[str]]) -> None:
    documented = set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text(encoding="utf-8")))
    assert documented - {"--help"} == {flag for command in cli.COMMANDS for flag in flags_of(command)}


def test_every_test_that_the_table_of_faults_names_is_there() -> None:
    table = (PAGE.parents[1] / "concepts" / "reliability.md").read_text(encoding="utf-8")
    tests = {path.name: path.read_text(encoding="utf-8") for path in PAGE.parents[2].glob("tests/**/test_*.py")}
    named = ""
    for file, function in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", table):
        named = file or named
        assert named in tests
        assert f"def {function}" in tests[named], f"{named}::{function}"
