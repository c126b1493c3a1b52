from __future__ import annotations

import threading
import time

from edgeseg.turns import Turns

WAIT_S = 10.0


def test_threads_get_it_in_the_order_in_which_they_asked() -> None:
    turns, order, threads = Turns(), [], []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(WAIT_S)
    assert order == [0, 1, 2, 3, 4]
    with turns:
        order.append(5)


def test_one_at_a_time() -> None:
    turns, inside, most = Turns(), [], []

    def take() -> None:
        for _ in range(200):
            with turns:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert (max(most), len(most)) == (1, 800)
