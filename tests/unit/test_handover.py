from __future__ import annotations

import threading
import time

from edgeseg.handover import HandOver, join

WAIT_S = 10.0


def test_everything_is_handed_over_in_order(bounded) -> None:
    queue: HandOver[int] = HandOver(3)

    def produce() -> None:
        for i in range(1000):
            assert queue.put(i)
        queue.end()

    thread = threading.Thread(target=produce)
    thread.start()

    def consume() -> list[int]:
        taken = []
        while not queue.finished:
            item = queue.get(0.01)
            if item is not None:
                taken.append(item)
        return taken

    assert bounded(consume) == list(range(1000))
    assert join([thread], WAIT_S) == []
    assert queue.dropped == 0


def test_the_newest_wins_and_the_rest_is_counted() -> None:
    queue: HandOver[int] = HandOver(2, newest_wins=True)
    for i in range(10):
        assert queue.put(i)
    assert queue.dropped == 8
    assert [queue.get(0), queue.get(0), queue.get(0)] == [8, 9, None]


def test_a_full_queue_waits_for_room_and_its_end_wakes_who_waits(bounded) -> None:
    queue: HandOver[int] = HandOver(1)
    queue.put(0)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(queue.put(1)))
    thread.start()
    assert join([thread], 0.05) == [thread]
    queue.end()
    assert join([thread], WAIT_S) == []
    assert answers == [False]
    assert not queue.finished, "what was inside can still be taken"
    assert bounded(queue.get) == 0
    assert queue.finished
    assert bounded(queue.get) is None
    assert not queue.put(2)


def test_an_empty_queue_waits_no_longer_than_told(bounded) -> None:
    queue: HandOver[int] = HandOver()
    begin = time.monotonic()
    assert bounded(lambda: queue.get(0.05)) is None
    assert 0.04 < time.monotonic() - begin < 5


def test_clearing_makes_room() -> None:
    queue: HandOver[int] = HandOver(1)
    queue.put(0)
    queue.clear()
    assert queue.put(1)
    assert (queue.get(0), queue.dropped) == (1, 0)
