"""The other end of a worker: one process, asked one thing at a time."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from edgeseg.errors import BackendError

ANSWER_LIMIT_S = 600.0
"""An engine that is silent for longer has hung."""

_GRACE_S = 5.0


class WorkerError(BackendError):
    """A worker could not do what it was asked for, or has died."""


class Child:
    """A process that runs ``edgeseg.bench.worker``. A context manager; it ends with the block."""

    def __init__(self) -> None:
        # A file, because a pipe that nobody reads stops who writes to it.
        self._chatter = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeseg.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._chatter, encoding="utf-8",
        )  # fmt: skip

    def ask(self, call: str, *, limit_s: float | None = ANSWER_LIMIT_S, **arguments: Any) -> Any:
        """What ``edgeseg.bench.worker.Worker`` returns for a call.

        Args:
            call: name of the method.
            limit_s: the process is killed when it has not answered by then; None waits for ever.
            arguments: of the method.

        Raises:
            WorkerError: the call failed, or the process is dead; says why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(limit_s, self._process.kill) if limit_s else None
        if watchdog:
            watchdog.start()
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if watchdog:
                watchdog.cancel()
        if not line:
            raise self._death(call)
        reply = json.loads(line)
        if "error" in reply:
            problem, _, mend = reply["error"].partition(". Mend: ")
            raise WorkerError(problem, mend)
        return reply["answer"]

    def _death(self, call: str) -> WorkerError:
        code = self._process.wait(_GRACE_S)
        self._chatter.seek(0)
        lines = self._chatter.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = f": {lines[-1][:300]}" if lines else ""
        return WorkerError(f"The process {how} during '{call}'{said}", "try the model with 'edgeseg run'")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Closing twice is allowed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._chatter):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what it did not read any more
                pipe.close()
