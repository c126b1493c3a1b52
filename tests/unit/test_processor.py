"""INT8 on processors whose kernels add products of bytes in 16 bits."""

from __future__ import annotations

import platform

import pytest

from edgeseg import bundled, processor
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError
from edgeseg.onnx_reader import card_from_onnx

OLD = "processor\t: 0\nmodel name\t: Old\nflags\t\t: fpu sse avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n"
NEW = OLD.replace("avx2", "avx2 avx512f avx512_vnni")
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"


@pytest.fixture
def on(tmp_path, monkeypatch):
    """``on(cpuinfo, machine)``: the processor is that one."""

    features = processor.features.__wrapped__

    def become(cpuinfo: str, machine: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(cpuinfo)
        found = features(str(path))
        monkeypatch.setattr(processor, "features", lambda: found)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return become


def int8_card(**provenance: object) -> ModelCard:
    return ModelCard(("a", "b"), (8, 8), precision="int8", provenance={"target": "cpu", **provenance})


def test_features_are_those_of_the_first_core(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(OLD)
    assert processor.features(str(path)) == {"fpu", "sse", "avx2", "fma"}
    path.with_name("arm").write_text(ARM)
    assert processor.features(str(path.with_name("arm"))) == {"fp", "asimd", "asimddp"}
    assert processor.features(str(tmp_path / "missing")) == frozenset()


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "overflow"),
    [(OLD, "x86_64", True), (NEW, "x86_64", False), (ARM, "aarch64", False), ("", "x86_64", False)],
)
def test_only_x86_without_vnni_overflows(on, cpuinfo, machine, overflow):
    on(cpuinfo, machine)
    assert processor.sums_overflow() is overflow


def test_weights_of_8_bits_are_refused_there_and_nothing_else(on):
    on(OLD, "x86_64")
    for card in (int8_card(), int8_card(weight_bits=8)):
        with pytest.raises(BackendError, match=r"without VNNI.*--weight-bits 7"):
            processor.check_int8(card)
    for card in (
        int8_card(weight_bits=7), int8_card(target="tensorrt"), int8_card().replace(precision="fp32")
    ):  # fmt: skip
        processor.check_int8(card)
    on(NEW, "x86_64")
    processor.check_int8(int8_card())


@pytest.mark.parametrize(("cpuinfo", "precision"), [(NEW, "int8"), (OLD, "fp32"), (ARM, "fp32"), ("", "fp32")])
def test_the_default_model_is_int8_where_that_was_measured_to_win(on, monkeypatch, cpuinfo, precision):
    on(cpuinfo, "x86_64")
    monkeypatch.setattr(bundled, "features", processor.features)
    card = card_from_onnx(bundled.resolve(bundled.default()))
    assert card.precision == precision
    assert bundled.default(on_gpu=True) == bundled.FP32
    processor.check_int8(card)
