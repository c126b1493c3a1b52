"""Recording what a source gave, and when; and playing it back so that it happens again.

A recording is a folder of JPEGs and ``events.jsonl``: a line of JSON for the source, then one for every frame and every
change of state, with its time in seconds from the start. A picture is whole before its line is written, so that a
recording which was killed is readable up to there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from edgeseg.errors import DataError, SinkError, SourceError
from edgeseg.files import PathLike, check_writable_folder
from edgeseg.frame import Frame, State
from edgeseg.images import read_image
from edgeseg.io.base import LOG, Counts, Source

EVENTS = "events.jsonl"
FORMAT = 1
QUALITY = 95
"""Of the JPEGs. Lossless formats cost ten times the processor time, more than many an inference."""
FREE_SPACE_FLOOR_BYTES = 256 << 20
"""Recording stops before it fills the disk of a robot."""

_WAITING, _LINES = 8, 4096
_FINISH_S, _LONG_S = 2.0, 3600.0


class Recorder:
    """Writes what a source hands out, on a thread of its own: ``source.attach(Recorder(folder, source.name))``.

    It never holds the source up. A frame that comes while too many wait for the disk gets a line without a picture.
    When the disk is full the recording ends with a warning, and what is there stays readable.

    Args:
        folder: made if missing; must be empty.
        name: of the source, without a password.
        rate_hz: of the source, where it is known.

    Attributes:
        written: pictures on the disk so far.
        lost: frames that got no picture.

    Raises:
        SinkError: the folder is not empty or cannot be written; exit code 2.
    """

    def __init__(self, folder: PathLike, name: str, rate_hz: float | None = None) -> None:
        self._folder = Path(folder)
        check_writable_folder(self._folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            is_empty = not any(self._folder.iterdir())
        except OSError as error:
            raise SinkError(
                f"{folder} cannot be recorded to ({error.strerror})", "choose another", exit_code=2
            ) from None
        if not is_empty:
            raise SinkError(f"The folder {folder} is not empty", "choose another folder to record to", exit_code=2)
        self.written = self.lost = 0
        self._start = time.monotonic()
        header = {"edgeseg_recording": FORMAT, "source": name, "rate_hz": rate_hz}
        self._waiting: deque[tuple[dict[str, Any], Frame | None]] = deque([(header, None)], _LINES)
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._write, name="edgeseg record", daemon=True)
        self._thread.start()

    def frame(self, frame: Frame, counts: Counts) -> None:
        """Keep a frame that was just handed out."""
        now = time.monotonic()
        line = {
            "at_s": round(now - self._start, 6),
            "age_s": round(now - frame.captured_at, 6),
            "index": frame.index,
            "pts_s": frame.pts_s,
            "name": frame.name,
            "counts": dataclasses.asdict(counts),
        }
        self._put(line, frame)

    def state(self, old: State, new: State, reason: str) -> None:
        """Keep a change of state."""
        line = {"at_s": round(time.monotonic() - self._start, 6), "state": new.value, "reason": reason}
        self._put(line, None)

    def _put(self, line: dict[str, Any], frame: Frame | None) -> None:
        with self._changed:
            if frame is not None and len(self._waiting) >= _WAITING:
                self.lost += 1
                frame = None
            self._waiting.append((line, frame))
            self._changed.notify_all()

    def _write(self) -> None:
        try:
            with open(self._folder / EVENTS, "w", encoding="utf-8") as events:
                while (entry := self._next()) is not None:
                    line, frame = entry
                    if frame is not None:
                        line["file"] = self._save(frame)
                    events.write(json.dumps(line) + "\n")
                    events.flush()
        except OSError as error:
            LOG.warning("recording to %s has ended: %s", self._folder, error.strerror or error)
            with self._changed:
                self._is_closing = True
                self._waiting.clear()

    def _next(self) -> tuple[dict[str, Any], Frame | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            return self._waiting.popleft() if self._waiting else None

    def _save(self, frame: Frame) -> str:
        import cv2

        if shutil.disk_usage(self._folder).free < FREE_SPACE_FLOOR_BYTES:
            raise OSError("the disk is nearly full")
        _, jpeg = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        name = f"{self.written:06d}.jpg"
        (self._folder / name).write_bytes(jpeg.tobytes())
        self.written += 1
        return name

    def close(self) -> None:
        """Finish what waits, for two seconds at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(_FINISH_S)
        if self.lost:
            LOG.warning("%d frames came faster than %s could be written", self.lost, self._folder)


class ReplaySource(Source):
    """A recording, played so that it happens again: frames come at their times, as old as they were, with the gaps
    and the states that were. A consumer that is slower than the one in the field delays what follows.

    Args:
        folder: of ``Recorder``.

    Raises:
        SourceError: it holds no recording, or its events are damaged.
    """

    live = True

    def __init__(self, folder: PathLike) -> None:
        self._folder = Path(folder)
        header, self._events = _events_of(self._folder)
        super().__init__(f"replay://{folder} ({header.get('source')})", None, header.get("rate_hz"))
        self._state = State.CONNECTING
        self.frame_count = sum("file" in event for event in self._events)
        self.paths = [self._folder / event["file"] for event in self._events if "file" in event]
        self._next = 0
        self._start: float | None = None
        self._closing = threading.Event()

    def read(self) -> Frame | None:
        """The next frame, waiting until its time; None at the end."""
        return self._read()

    def _read(self) -> Frame | None:
        while (frame := self.next(_LONG_S)) is None and self._state is not State.ENDED:
            pass
        return frame

    def next(self, timeout_s: float) -> Frame | None:
        """``read``, but None also when no frame's time came within ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while self._next < len(self._events) and not self._closing.is_set():
            event = self._events[self._next]
            if self._start is None:
                self._start = time.monotonic() - event["at_s"]
            due = self._start + event["at_s"]
            self._closing.wait(max(0.0, min(due, deadline) - time.monotonic()))
            if due > deadline:
                return None
            self._next += 1
            if "state" in event:
                self._enter(State(event["state"]), event["reason"])
            elif "file" in event:
                return self._frame(event)
        self._enter(State.ENDED)
        return None

    def _frame(self, event: dict[str, Any]) -> Frame | None:
        try:
            image = read_image(self._folder / event["file"])
        except DataError as error:
            self._enter(State.FAILED, error.problem)
            raise SourceError(error.problem, "replay a whole copy of the folder") from error
        now = time.monotonic()
        self._start = now - event["at_s"]
        self.counts = Counts(**event["counts"])
        self._enter(State.LIVE)
        frame = Frame(image, event["index"], now - event["age_s"], event["pts_s"], event["name"])
        return self._hand_out(frame)

    def close(self) -> None:
        """End it, also for a thread that waits in it."""
        self._closing.set()
        super().close()


def _events_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    mend = "give the folder that `edgeseg run --record` wrote"
    try:
        lines = (folder / EVENTS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{folder} holds no recording ({EVENTS} cannot be read)", mend) from error
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break  # the recording was killed while it wrote this line
            raise SourceError(f"Line {number} of {folder / EVENTS} is damaged", mend) from error
    if not events or events[0].get("edgeseg_recording") != FORMAT:
        raise SourceError(f"{folder} holds no recording of this version of edgeseg", mend)
    return events[0], events[1:]
