from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from edgeseg.stopping import stopped_by_signals

WAIT_S = 10.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_the_second_ends(number: int) -> None:
    stop = threading.Event()
    before = signal.getsignal(number)
    with stopped_by_signals(stop):
        os.kill(os.getpid(), number)
        assert stop.wait(WAIT_S)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_first_signal_while_files_are_finished_does_not_break_them_off() -> None:
    stop = threading.Event()
    with stopped_by_signals(stop):
        stop.set()  # as at the end of every run
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def test_outside_the_main_thread_signals_are_left_alone(bounded) -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with stopped_by_signals(threading.Event()):
            assert signal.getsignal(signal.SIGINT) is before

    bounded(work)
