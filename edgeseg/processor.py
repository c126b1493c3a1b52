"""What this machine's processor can do with narrow numbers."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError

VNNI = frozenset({"avx512_vnni", "avx_vnni"})
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@cache
def features(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """Names of the processor's instruction sets as Linux writes them; empty where it does not say."""
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return next(
        (frozenset(value.split()) for name, _, value in lines if name.strip() in ("flags", "Features")), frozenset()
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sums_overflow() -> bool:
    """Whether the 8-bit kernels of CPU engines add pairs of products in 16 bits here, which they can overflow.

    So it is on x86 processors without VNNI: two products of an unsigned and a signed byte reach 64,770.
    """
    known = features()
    return bool(known) and platform.machine() in ("x86_64", "AMD64") and not known & VNNI


def check_int8(card: ModelCard) -> None:
    """Refuse an INT8 graph whose sums would overflow on this processor: its classes would be wrong here and there.

    Raises:
        BackendError: the graph was made for the CPU with weights of 8 bits, and ``sums_overflow``.
    """
    made_for_cpu = card.precision == "int8" and card.provenance.get("target") == "cpu"
    if made_for_cpu and card.provenance.get("weight_bits", 8) > 7 and sums_overflow():
        raise BackendError(
            f"The INT8 model {card.name} has weights of 8 bits, whose sums overflow on a processor without VNNI",
            "run the fp32 model, or export with --weight-bits 7",
        )
