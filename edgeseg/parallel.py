"""The same work on many files at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(work: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
    """``work`` of each item, in order, done on a thread for each core; with a progress bar on a terminal.

    Threads, because decoding, hashing and waiting for the disk leave Python's lock alone. When the caller stops
    early, what has not begun is dropped.
    """
    from tqdm import tqdm

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results = pool.map(work, items)
        yield from tqdm(results, title, len(items), unit="image", leave=False, disable=None)
    finally:
        pool.shutdown(cancel_futures=True)
