"""``synthetic://street``: a drive through a street that does not exist, with exact labels.

For trying a model, a pipeline or a robot without a camera and without a data set. The classes are
CamVid's, the look is near enough to it for a network trained on CamVid to make sense of most of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import UsageError, nearest
from edgeseg.io._street_labels import CLASSES, IGNORE_ID, PALETTE
from edgeseg.io._street_scene import Scene
from edgeseg.io._street_textures import sensor_noise, vignette

__all__ = ["CLASSES", "IGNORE_ID", "PALETTE", "Street", "StreetOptions", "street_from_uri"]

_EXAMPLE = "synthetic://street?size=1280x720&rate=30&seed=0&frames=300"
_MAX_SIDE_PX = 8192
_NOISE_SHIFT_PX = 64
_BITS = 0xFFFF_FFFF_FFFF
_PARAMETERS = ("size", "width", "height", "rate", "seed", "frames", "live")


@dataclass(frozen=True)
class StreetOptions:
    """What a ``synthetic://street`` URI asks for.

    Attributes:
        size_hw: picture height and width in pixels, each 1..8192.
        rate_hz: frames per second of scene time, above 0.
        seed: which street, 0 or more.
        frames: how many frames before it ends; None: it never ends.
        live: whether it is paced like a camera.

    Raises:
        UsageError: a value is out of its range.
    """

    size_hw: tuple[int, int] = (720, 1280)
    rate_hz: float = 30.0
    seed: int = 0
    frames: int | None = None
    live: bool = False

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if not (1 <= height <= _MAX_SIDE_PX and 1 <= width <= _MAX_SIDE_PX):
            raise UsageError(
                f"A street of {width}x{height} pixels cannot be drawn",
                f"give a width and a height from 1 to {_MAX_SIDE_PX}, such as size=1280x720",
            )
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise UsageError(f"A rate of {self.rate_hz} frames per second is not possible", "give rate=30")
        if self.seed < 0:
            raise UsageError(f"The seed {self.seed} is negative", "give seed=0 or more")
        if self.frames is not None and self.frames < 1:
            raise UsageError(
                f"{self.frames} frames are too few", "give frames=1 or more, or leave it out for an endless street"
            )


def street_from_uri(uri: str) -> StreetOptions:
    """Read a URI such as ``synthetic://street?size=1280x720&rate=30&seed=0&frames=300``.

    Parameters, all optional: ``size`` as WIDTHxHEIGHT, or ``width`` and ``height``; ``rate`` in frames
    per second; ``seed``; ``frames``, after which it ends; ``live=1`` for the pace of a camera.

    Raises:
        UsageError: another scheme or scene, an unknown or doubled parameter, or a value out of range.
    """
    parts = urlsplit(uri)
    if parts.scheme != "synthetic":
        raise UsageError(f"'{uri}' is not a synthetic source", f"write it like {_EXAMPLE}")
    scene = parts.netloc + parts.path.rstrip("/")
    if scene != "street":
        raise UsageError(f"There is no synthetic scene '{scene}'", nearest(scene, ["street"]))
    given: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise UsageError(f"synthetic://street has no parameter '{name}'", nearest(name, _PARAMETERS))
        if name in given:
            raise UsageError(f"'{name}' is given twice in '{uri}'", "give it once")
        given[name] = value
    defaults = StreetOptions()
    return StreetOptions(
        size_hw=_size_hw(given, defaults.size_hw),
        rate_hz=_number(given["rate"]) if "rate" in given else defaults.rate_hz,
        seed=_whole_number("seed", given["seed"]) if "seed" in given else defaults.seed,
        frames=_whole_number("frames", given["frames"]) if "frames" in given else None,
        live=_switch(given.get("live", "0")),
    )


def _size_hw(given: dict[str, str], default_hw: tuple[int, int]) -> tuple[int, int]:
    if "size" not in given:
        height, width = default_hw
        height = _whole_number("height", given["height"]) if "height" in given else height
        return height, _whole_number("width", given["width"]) if "width" in given else width
    if "width" in given or "height" in given:
        raise UsageError("'size' and 'width' or 'height' are both given", "give size=WIDTHxHEIGHT alone")
    width_text, cross, height_text = given["size"].lower().partition("x")
    if not cross:
        raise UsageError(f"'{given['size']}' is not a size", "write WIDTHxHEIGHT, such as size=1280x720")
    return _whole_number("height", height_text), _whole_number("width", width_text)


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise UsageError(f"'{text}' is not a whole number for '{name}'", f"write it like {_EXAMPLE}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a number for 'rate'", "give rate=30") from None


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise UsageError(f"'{text}' is neither 0 nor 1 for 'live'", "give live=1 or leave it out")
    return text == "1"


class _Lens:
    """Turns painted pixels into a photograph: exposure, blur, darker corners, sensor noise."""

    def __init__(self, size_hw: tuple[int, int], seed: int, noise: float, light: float) -> None:
        import cv2

        self._cv2: Any = cv2
        self._size_hw, self._seed, self._light = size_hw, seed, light
        self._has_flaws = noise > 0
        if self._has_flaws:
            rng = np.random.default_rng((seed, 1))
            tile = size_hw[0] + _NOISE_SHIFT_PX, size_hw[1] + _NOISE_SHIFT_PX
            self._more, self._less = sensor_noise(rng, tile, noise)
            self._corners = vignette(size_hw, depth=26.0)

    def mask(self, painted: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class ids, uint8 [H, W], of painted pixels [H, W, 4]."""
        return np.asarray(self._cv2.extractChannel(painted, 3), dtype=np.uint8).reshape(self._size_hw)

    def photograph(self, painted: NDArray[np.uint8], time_s: float) -> NDArray[np.uint8]:
        """The picture, uint8 [H, W, 3] BGR, of painted pixels [H, W, 4]."""
        cv2 = self._cv2
        gain = self._light * (1.06 + 0.10 * math.sin(0.31 * time_s + self._seed) + 0.04 * math.sin(1.7 * time_s))
        image = cv2.cvtColor(painted, cv2.COLOR_BGRA2BGR)
        image = cv2.convertScaleAbs(image, alpha=gain)
        if self._has_flaws:
            image = cv2.GaussianBlur(image, (3, 3), 0)
            cv2.subtract(image, self._corners, dst=image)
            # By the time, not the index, so that one moment looks the same at any frame rate.
            down, right = np.random.default_rng(round(time_s * 1e6) & _BITS).integers(0, _NOISE_SHIFT_PX, 2)
            window = np.s_[down : down + self._size_hw[0], right : right + self._size_hw[1]]
            cv2.add(image, self._more[window], dst=image)
            cv2.subtract(image, self._less[window], dst=image)
        return np.asarray(image, dtype=np.uint8).reshape(*self._size_hw, 3)


class Street:
    """An endless drive through a town, drawn frame by frame, with a class for every pixel.

    A frame depends on the arguments and its index only, not on what was rendered before, and the
    street is the same at any rate: frame 30 at 30 Hz is frame 60 at 60 Hz. One instance serves one
    thread at a time.

    Args:
        size_hw: picture height and width in pixels, each 1..8192.
        rate_hz: frames per second of scene time.
        seed: which street, 0 or more.
        noise: standard deviation of the sensor's noise in grey levels. At 0 the picture is also sharp,
            without the lens's blur and darker corners.
        light: mean exposure; 1 is an overcast noon, 0.4 dusk.

    Raises:
        UsageError: a value is out of its range.
    """

    def __init__(
        self,
        *,
        size_hw: tuple[int, int] = (720, 1280),
        rate_hz: float = 30.0,
        seed: int = 0,
        noise: float = 2.5,
        light: float = 1.0,
    ) -> None:
        self.options = StreetOptions(size_hw=size_hw, rate_hz=rate_hz, seed=seed)
        if not (math.isfinite(noise) and math.isfinite(light) and 0 <= noise <= 100 and 0 < light <= 10):
            raise UsageError(
                f"Noise {noise} and light {light} are not possible", "give noise from 0 to 100 and light up to 10"
            )
        self._scene = Scene(size_hw, seed)
        self._lens = _Lens(size_hw, seed, noise, light)

    def render(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw one frame.

        Args:
            index: which frame, from 0; shown at ``index / rate_hz`` seconds. Far ones take no longer.

        Returns:
            The picture, uint8 [H, W, 3] BGR, and its classes, uint8 [H, W] of ids into ``CLASSES``. Both
            belong to the caller.
        """
        time_s = index / self.options.rate_hz
        painted = self._scene.paint(time_s)
        return self._lens.photograph(painted, time_s), self._lens.mask(painted)
