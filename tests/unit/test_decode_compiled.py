"""The compiled decoder gives the bytes of the numpy one, and is left alone where it is not what this version needs."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg import decode_compiled
from edgeseg.decode import Decoder

needs_compiled = pytest.mark.skipif(
    not decode_compiled.available(), reason="the decoder was not compiled: there was no C compiler at installation"
)


@pytest.fixture
def fresh():
    """The library is looked up anew in the test and after it."""
    decode_compiled._function.cache_clear()
    yield
    decode_compiled._function.cache_clear()


@needs_compiled
@pytest.mark.parametrize(
    ("logits_hw", "size_hw"),
    [
        ((6, 8), (48, 64)),
        ((5, 7), (15, 21)),
        ((9, 12), (72, 200)),
        ((1, 9), (1, 40)),
        ((9, 1), (23, 3)),
        ((1, 1), (5, 6)),
        ((20, 30), (10, 15)),
        ((16, 9), (1, 1)),
        ((5, 40), (50, 13)),
        ((23, 30), (46, 61)),
    ],
)
@pytest.mark.parametrize("classes", [2, 3, 19, 255])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_both_forms_give_the_same_bytes(logits_hw, size_hw, classes, dtype):
    """Also where classes are level, within rounding or exactly."""
    rng = np.random.default_rng(classes)
    noise = rng.standard_normal((classes, *logits_hw))
    blocks = np.repeat(np.repeat(noise[:, ::4, ::4], 4, axis=1), 4, axis=2)[:, : logits_hw[0], : logits_hw[1]]
    in_numpy, compiled = (Decoder(logits_hw, size_hw, classes, compiled=form) for form in (False, True))
    for logits_chw in (noise, noise.round(), 4 * blocks + 0.1 * noise, 1e4 + noise, 3e38 * np.clip(noise, -1, 1)):
        with np.errstate(over="ignore"):
            logits_chw = np.nan_to_num(logits_chw.astype(dtype))
        np.testing.assert_array_equal(compiled(logits_chw)[0], in_numpy(logits_chw)[0])


@needs_compiled
def test_float64_keeps_its_precision():
    """Which the compiled form does not have."""
    logits_chw = 1.0 + 1e-9 * np.random.default_rng(0).standard_normal((3, 4, 5))
    in_numpy, compiled = (Decoder((4, 5), (29, 31), 3, compiled=form) for form in (False, True))
    np.testing.assert_array_equal(compiled(logits_chw)[0], in_numpy(logits_chw)[0])


@needs_compiled
def test_a_library_of_another_version_is_left_alone(monkeypatch, fresh):
    assert decode_compiled.available()
    decode_compiled._function.cache_clear()
    monkeypatch.setattr(decode_compiled, "_VERSION", -1)
    assert not decode_compiled.available()


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_no_library_or_a_broken_one_leaves_the_numpy_form(monkeypatch, tmp_path, fresh, content):
    if content is not None:
        (tmp_path / "_decode.so").write_bytes(content)
    monkeypatch.setattr(decode_compiled, "LIBRARY", tmp_path / "_decode.so")
    assert not decode_compiled.available()
    mask, valid = Decoder((2, 2), (6, 6), 2)(np.float32([[[1, 0], [1, 0]], [[0, 1], [0, 1]]]))
    assert valid
    assert mask[0].tolist() == [0, 0, 0, 1, 1, 1]
