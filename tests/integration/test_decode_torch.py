"""The decoder against what the models are trained and scored with: F.interpolate and argmax."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.decode import Decoder

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("logits_hw", "size_hw"),
    [
        ((16, 32), (128, 256)),
        ((15, 20), (120, 427)),
        ((45, 60), (31, 40)),
        ((1, 7), (9, 20)),
        ((24, 24), (25, 23)),
    ],
)
def test_equals_interpolate_and_argmax(seed, logits_hw, size_hw):
    rng = np.random.default_rng(seed)
    logits_chw = (3 * rng.standard_normal((11, *logits_hw))).astype(np.float32)
    mask, valid = Decoder(logits_hw, size_hw, 11)(logits_chw)
    assert valid
    full = torch.nn.functional.interpolate(
        torch.from_numpy(logits_chw)[None], size=size_hw, mode="bilinear", align_corners=False
    )[0]
    first, second = full.topk(2, dim=0).values
    # torch computes the weights in float32: near-level classes may fall either way.
    clear = (first - second > 1e-4).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask[clear], full.argmax(dim=0).numpy()[clear])
