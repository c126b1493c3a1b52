"""Sinks that may fail or be slow without harm to the rest of a run."""

from __future__ import annotations

import logging
import threading
import time

from edgeseg.errors import EdgesegError, SinkError
from edgeseg.handover import HandOver
from edgeseg.io.sinks import Sink
from edgeseg.report import Report, SinkReport
from edgeseg.segmentation import Segmentation

LOG = logging.getLogger("edgeseg.pipeline")

IDLE_S = 0.1
"""How often a sink without results is called all the same."""

FILE_BACKLOG = 2
"""Results of a file that may wait for a sink before the whole run does."""


class GuardedSink:
    """A sink whose first failure is kept, not raised. It is closed then and gets no more results.

    Args:
        sink: what it guards.
        report: counts results, and keeps the first failure of all.
    """

    def __init__(self, sink: Sink, report: Report) -> None:
        self._sink, self._report = sink, report
        self.on_main_thread, self.backlog = sink.on_main_thread, sink.backlog
        self.name, number = sink.name, 1
        while self.name in report.sinks:
            number += 1
            self.name = f"{sink.name} {number}"
        self.count = report.sinks[self.name] = SinkReport()
        self.error: Exception | None = None

    @property
    def paused(self) -> bool:
        """True while the sink wants no results."""
        return self.error is None and self._sink.paused

    @property
    def dismissed(self) -> bool:
        """True once its user wants no more results."""
        return self._sink.dismissed

    @property
    def quit(self) -> bool:
        """True once its user wants the run to end."""
        return self._sink.quit

    def write(self, result: Segmentation) -> None:
        """Hand one result to the sink."""
        if self.error is not None or self.dismissed:
            return
        begin = time.perf_counter()
        try:
            self._sink.write(result)
        except Exception as error:  # whatever it is, the run must not end here
            self._fail(error)
        else:
            self.count.written += 1
            self._report.times.add({"sink": 1000 * (time.perf_counter() - begin)})

    def idle(self) -> None:
        """Tell the sink that no result came for a while."""
        if self.error is None:
            try:
                self._sink.idle()
            except Exception as error:  # as above
                self._fail(error)

    def close(self) -> None:
        """Close the sink, unless it failed before and is closed."""
        if self.error is None:
            self._close()

    def _close(self) -> None:
        try:
            self._sink.close()
        except Exception as error:  # as above
            if self.error is None:
                self._keep(error)

    def _fail(self, error: Exception) -> None:
        self._keep(error)
        self._close()

    def _keep(self, error: Exception) -> None:
        self.error = error
        if not isinstance(error, EdgesegError):
            LOG.error("the sink '%s' failed", self.name, exc_info=error)
            error = SinkError(f"The sink '{self.name}' failed ({type(error).__name__}: {error})", "see the log")
        self.count.error = error
        self._report.fail(error)


class SinkThread(threading.Thread):
    """Once started, writes the results that come through ``outlet`` to a sink, and closes it at the end.

    Args:
        sink: used on this thread alone.
        live: results that the sink is too slow for are dropped; else whoever hands them over waits.
    """

    def __init__(self, sink: GuardedSink, live: bool) -> None:
        super().__init__(name=f"the sink '{sink.name}'", daemon=True)
        self._sink = sink
        self.outlet: HandOver[Segmentation] = HandOver(sink.backlog if live else FILE_BACKLOG, newest_wins=live)

    def run(self) -> None:
        """Work until the outlet has ended or the sink fails."""
        while self._sink.error is None and not self.outlet.finished:
            result = None if self._sink.paused else self.outlet.get(IDLE_S)
            if result is not None:
                self._sink.write(result)
                self._sink.count.dropped = self.outlet.dropped
            elif not self.outlet.finished:
                self._sink.idle()
        self.outlet.end()
        self.outlet.clear()
        self._sink.close()
