"""How a source is to be opened: options that come from flags, from an address, or from a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from edgeseg.errors import UsageError, nearest

FLIPS = ("none", "h", "v", "both")
TRANSPORTS = ("tcp", "udp")
READERS = ("auto", "opencv", "av")


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source. None leaves the choice to the source.

    Attributes:
        size_hw: picture height and width in pixels that a camera is asked for.
        rate_hz: frames a second that a camera is asked for, or that still images are given.
        codec: pixel format that a camera is asked for, four letters such as MJPG or YUYV.
        flip: mirror pictures: "h" left and right, "v" up and down, "both" (a camera mounted upside down).
        loop: begin again at the end of a file.
        realtime: play a file at its own pace as if it were a camera: newest frame wins, drops are counted.
        transport: of RTSP, "tcp" or "udp".
        reader: "opencv" or "av" (PyAV); "auto" takes PyAV for addresses of the network where it is installed.
        hwdec: decode in hardware where the reader can.
        open_timeout_s: how long one attempt to open may take.
        read_timeout_s: how long a frame may take before the source is opened again.
        max_age_s: no older frame of a live source is handed out; nor is one older than two frame intervals.
        wait_s: how long a live source that is not there yet is waited for.

    Raises:
        UsageError: a value is out of its range.
    """

    size_hw: tuple[int, int] | None = None
    rate_hz: float | None = None
    codec: str | None = None
    flip: str = "none"
    loop: bool = False
    realtime: bool = False
    transport: str = "tcp"
    reader: str = "auto"
    hwdec: bool = False
    open_timeout_s: float = 5.0
    read_timeout_s: float = 1.0
    max_age_s: float = 0.25
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        if self.size_hw is not None and not all(1 <= side <= 16384 for side in self.size_hw):
            raise UsageError(f"A size of {self.size_hw[1]}x{self.size_hw[0]} is not possible", "give size=1280x720")
        if self.rate_hz is not None and not 0 < self.rate_hz <= 1000:
            raise UsageError(f"A rate of {self.rate_hz} frames per second is not possible", "give rate=30")
        if self.codec is not None and not (len(self.codec) == 4 and self.codec.isascii()):
            raise UsageError(f"'{self.codec}' is not a pixel format", "give its four letters, such as MJPG or YUYV")
        for name, known in (("flip", FLIPS), ("transport", TRANSPORTS), ("reader", READERS)):
            if getattr(self, name) not in known:
                raise UsageError(f"'{getattr(self, name)}' is not possible for '{name}'", f"use {', '.join(known)}")
        for name in ("open_timeout_s", "read_timeout_s", "max_age_s"):
            value = getattr(self, name)
            if not 0 < value <= 3600:
                raise UsageError(f"{value} seconds are not possible for {name[:-2]}", "give seconds above 0, to 3600")
        if not self.wait_s >= 0:
            raise UsageError(f"A wait of {self.wait_s} seconds is not possible", "give 0 or more; inf waits for ever")

    def changed(self) -> set[str]:
        """Names, as in addresses, of the options that differ from their defaults."""
        names = {field: name for name, (field, _) in PARAMETERS.items()}
        return {names[f.name] for f in fields(self) if getattr(self, f.name) != f.default}

    def with_parameters(self, given: Iterable[tuple[str, str]], kind: str) -> SourceOptions:
        """These options, changed by the parameters of an address.

        Args:
            given: names and texts, such as ("size", "640x480").
            kind: what takes them, for messages.

        Raises:
            UsageError: a name is unknown or given twice, or a value is not possible.
        """
        values: dict[str, Any] = {}
        for name, text in given:
            if name not in PARAMETERS:
                raise UsageError(f"{kind} has no parameter '{name}'", nearest(name, PARAMETERS))
            field, value_from_text = PARAMETERS[name]
            if field in values:
                raise UsageError(f"'{name}' is given twice", "give it once")
            values[field] = value_from_text(text)
        return replace(self, **values)


def size_from_text(text: str) -> tuple[int, int]:
    """Height and width of WIDTHxHEIGHT.

    Raises:
        UsageError: it is written otherwise.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        raise UsageError(f"'{text}' is not a size", "write WIDTHxHEIGHT, such as 1280x720")
    return int(height), int(width)


def number_from_text(text: str) -> float:
    """A number, also inf.

    Raises:
        UsageError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(f"'{text}' is not a number", "write it like 2.5")
    return value


def switch_from_text(text: str) -> bool:
    """True for 1, False for 0.

    Raises:
        UsageError: it is neither.
    """
    if text not in ("0", "1"):
        raise UsageError(f"'{text}' is neither 0 nor 1", "give 1 to switch it on, or leave it out")
    return text == "1"


PARAMETERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "size": ("size_hw", size_from_text),
    "rate": ("rate_hz", number_from_text),
    "codec": ("codec", str),
    "flip": ("flip", str),
    "loop": ("loop", switch_from_text),
    "realtime": ("realtime", switch_from_text),
    "transport": ("transport", str),
    "reader": ("reader", str),
    "hwdec": ("hwdec", switch_from_text),
    "open-timeout": ("open_timeout_s", number_from_text),
    "read-timeout": ("read_timeout_s", number_from_text),
    "max-age": ("max_age_s", number_from_text),
    "wait": ("wait_s", number_from_text),
}
"""Every option under its name in addresses and flags: the field, and what reads its text."""
