"""Errors a user can meet. Every message ends with its mend: what to do about it.

One base class, so that an embedding program can write a single ``except EdgesegError``.
The command line prints the message alone and exits with ``exit_code``; a traceback there
always means a defect of edgeseg itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class EdgesegError(Exception):
    """Base of every error that a user can mend.

    Args:
        problem: what is wrong, one sentence, naming the file or value.
        mend: what the user can do, an imperative without the full stop.
        exit_code: of the command line; 2 where nothing was done, 1 where part of the work was.
    """

    exit_code = 2

    def __init__(self, problem: str, mend: str, *, exit_code: int | None = None) -> None:
        if exit_code is not None:
            self.exit_code = exit_code
        self.problem = problem.rstrip(". ")
        self.mend = mend.rstrip(". ")
        super().__init__(f"{self.problem}. Mend: {self.mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the constructor with the message alone: loader processes hand errors over pickled.
        return type(self), (self.problem, self.mend), vars(self)


class UsageError(EdgesegError):
    """A command or a call was given something it cannot take."""


class MissingDependencyError(EdgesegError, ImportError):
    """A package is not installed that this part of edgeseg needs."""

    @classmethod
    def for_extra(cls, package: str, extra: str, purpose: str) -> MissingDependencyError:
        """The error for a Python package that the extra ``extra`` brings."""
        return cls(f"{purpose} needs '{package}', which is not installed", f"pip install 'edgeseg[{extra}]'")


class ModelError(EdgesegError):
    """A model file cannot be read, or does not say what running it needs."""


class BackendError(EdgesegError):
    """An inference engine is missing, refuses a model, or fails while running."""


class SourceError(EdgesegError):
    """Frames cannot be read from a source."""


class TruncatedSourceError(SourceError):
    """A source ended before it should have: what came before the break was processed."""

    exit_code = 1


class SinkError(EdgesegError):
    """Results cannot be written. Work done before it is kept."""

    exit_code = 1


class DataError(EdgesegError):
    """A data set, an image or a mask is not what it should be. Names the file."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A ``mend`` for a misspelt name: the nearest known one, or all of them."""
    names = sorted(known)
    if not names:
        return "check the name; none is known here"
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? Known: {', '.join(names)}" if close else f"use one of {', '.join(names)}"
