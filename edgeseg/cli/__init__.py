"""The command line: a table of commands, one module each, imported when it is called for."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from edgeseg.errors import EdgesegError, MissingDependencyError, SinkError, UsageError, nearest

COMMANDS = {
    "run": "segment a camera, video, folder or the synthetic street",
    "data": "check a data set, or convert a well-known one",
    "train": "train a network on a data set",
    "eval": "score a model on a data set",
    "export": "turn a checkpoint into a model file",
    "bench": "measure latency beside accuracy; compare, choose",
    "build": "turn an ONNX model into a TensorRT engine for this machine",
    "verify": "check that a model computes here what it computed where it was made",
    "info": "show what a model file says about itself",
    "doctor": "show what of this machine edgeseg can use, and what is missing",
}
"""Name and one line of help; each lives in ``edgeseg.cli.NAME`` with ``add_arguments`` and ``main``, and where its
action may be left out with ``complete``, which puts it in."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0 done, 1 done in part or failed a check, 2 not done."""
    # The decoders' own chatter would bury the one line that says what is wrong.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "cv2" in sys.modules and os.environ["OPENCV_LOG_LEVEL"] == "OFF":
        sys.modules["cv2"].utils.logging.setLogLevel(0)  # it looked at the variable when a program imported it earlier
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            code = _run(argv)
        except SystemExit as ending:  # argparse ends --help so
            code = ending.code if isinstance(ending.code, int) else 0
        sys.stdout.flush()
        return code
    except EdgesegError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (edgeseg info ... | head): nothing is left to say.
        _discard_stdout()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        _discard_stdout()
        print_error(SinkError("The disk is full where standard output goes", "free some space"))
        return SinkError.exit_code


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("edgeseg"))
        return 0
    if argv[0] not in COMMANDS:
        raise UsageError(f"There is no command '{argv[0]}'", nearest(argv[0], COMMANDS))
    module = importlib.import_module(f"edgeseg.cli.{argv[0]}")
    words = module.complete(argv[1:]) if hasattr(module, "complete") else argv[1:]
    code: int = module.main(parser_of(argv[0]).parse_args(words))
    return code


def print_error(error: EdgesegError) -> None:
    """The error on standard error, as one line whatever the names in it hold."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser_of(command: str) -> argparse.ArgumentParser:
    """The argument parser of one command."""
    parser = _Parser(prog=f"edgeseg {command}", description=COMMANDS[command][0].upper() + COMMANDS[command][1:] + ".")
    importlib.import_module(f"edgeseg.cli.{command}").add_arguments(parser)
    return parser


def import_tool(module: str, extra: str, command: str) -> ModuleType:
    """Import a part outside the runtime, by name because the runtime must not depend on it.

    Raises:
        MissingDependencyError: a package it needs is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0]
        raise MissingDependencyError.for_extra(package, extra, f"`edgeseg {command}`") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        mend = f"see '{self.prog} --help'"
        problem, colon, rest = message.partition("unrecognized arguments: ")
        words = rest.split()
        if colon and not problem:
            flag = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
            close = difflib.get_close_matches(flag or "", self._option_string_actions, n=1)
            if flag is None:
                mend = f"put a glob or a name with spaces in quotes; {mend}"
            elif close:
                mend = f"did you mean {close[0]}? {mend}"
            message = f"{colon}{' '.join(words[:3])}{f' and {len(words) - 3} more' if len(words) > 3 else ''}"
        raise UsageError(message, mend)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: edgeseg COMMAND [options]", "", "Semantic segmentation from a data set to a robot.", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "'edgeseg COMMAND --help' lists the options of one; --version prints the version."])
