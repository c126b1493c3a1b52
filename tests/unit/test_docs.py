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
