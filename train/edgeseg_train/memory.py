"""Memory that is freed each step and needed again in the next."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from malloc.h of the GNU C library


def keep_freed_memory() -> None:
    """Have malloc keep large blocks for the next step instead of giving them back to the system.

    Feature maps are large blocks, which the GNU C library maps from the system one by one and unmaps when they are
    freed: every step then waits for the system to clear the same pages again. What the process holds in the end is
    its largest step, as before. Other systems and C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
