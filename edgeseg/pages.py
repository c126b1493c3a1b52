"""HTML pages from templates with one style, in ``page.html.jinja``; tables and drawings are in ``parts.html.jinja``.

Jinja2 comes with the extras that write pages: import this module only where one is written.
"""

from __future__ import annotations

import base64

import jinja2
import numpy as np
from numpy.typing import NDArray

PICTURE_WIDTH = 480
"""Wider pictures are shrunk to this, to keep a page small."""


def page_template(package: str, name: str) -> jinja2.Template:
    """A template of a package, which extends ``page.html.jinja``; ``percent`` turns a share into text."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, ""), jinja2.PackageLoader("edgeseg", "")]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["percent"] = lambda share: "-" if share is None else f"{100 * share:.1f}"
    return environment.get_template(name)


def data_url(image_hwc: NDArray[np.uint8], suffix: str) -> str:
    """A picture as a ``data:`` address.

    Args:
        image_hwc: uint8 [H, W, 3], BGR.
        suffix: ".jpg" for photographs, ".png" for class maps.
    """
    import cv2

    height, width = image_hwc.shape[:2]
    if width > PICTURE_WIDTH:
        size = (PICTURE_WIDTH, round(height * PICTURE_WIDTH / width))
        # Class colours must not mix: they would look like other classes.
        method = cv2.INTER_NEAREST if suffix == ".png" else cv2.INTER_AREA
        image_hwc = np.asarray(cv2.resize(image_hwc, size, interpolation=method), np.uint8)
    _, encoded = cv2.imencode(suffix, image_hwc, [cv2.IMWRITE_JPEG_QUALITY, 82] if suffix == ".jpg" else [])
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
