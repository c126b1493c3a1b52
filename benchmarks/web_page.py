"""What the web page costs the loop, and how its transport compares with others.

cost
    ``edgeseg.pipeline.run`` over a video, flat out: without the page, with the page and nobody watching, and with
    three viewers, in turns. A viewer is a connection that asks for picture after picture as the page does, from
    another process on the same machine, and throws them away.

transports
    Frames at 15 Hz to one viewer, which decodes them: asking for each picture over HTTP (what the page does), a
    stream of JPEGs over HTTP (``multipart/x-mixed-replace``), and WebRTC with VP8 where ``aiortc`` is installed.
    Latency runs from the frame's capture to the decoded picture, processor time is of both ends together. Then the
    two over HTTP again through a viewer that takes only ``--slow-kb-s``.

Example:
    python benchmarks/web_page.py --video drive.mp4 --json results/today.json
"""

from __future__ import annotations

import argparse
import asyncio
import fractions
import http.client
import importlib.util
import json
import queue
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from conditions import conditions
from numpy.typing import NDArray

import edgeseg
from edgeseg.pipeline import Report, run
from edgeseg.segmentation import Segmentation
from edgeseg.web import WebSink
from edgeseg.web.address import Address
from edgeseg.web.feed import JPEG_QUALITY

VIEWERS = 3
RATE_HZ = 15.0
SECONDS = 8.0


# ---- cost ----


def view(url: str) -> None:
    """Be ``VIEWERS`` viewers until the server goes away; print pictures and processor seconds."""
    print("ready", flush=True)
    counts, begin_s = [0] * VIEWERS, time.process_time()

    def watch(number: int) -> None:
        connection, key = http.client.HTTPConnection(urlsplit(url).netloc), ""
        try:
            while True:
                connection.request("GET", f"/live?after={key}")
                body = connection.getresponse().read()
                status = json.loads(body[4 : 4 + struct.unpack(">I", body[:4])[0]])
                if "picture" in status:
                    key = status["picture"]["key"]
                    counts[number] += 1
        except (OSError, http.client.HTTPException):
            connection.close()

    threads = [threading.Thread(target=watch, args=[number]) for number in range(VIEWERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"pictures": sum(counts), "cpu_s": time.process_time() - begin_s}))


def loop_ms(args: argparse.Namespace, segmenter: edgeseg.Segmenter, sinks: list[WebSink]) -> float:
    """Milliseconds a frame of a run over the video."""
    source, report = edgeseg.open_source(args.video), Report()
    for sink in sinks:
        sink.attach(source, report)
    run(source, segmenter, sinks, max_frames=args.frames, report=report)
    return 1000 * report.wall_s / report.frames


def watched(args: argparse.Namespace, segmenter: edgeseg.Segmenter) -> dict[str, float]:
    """The same with ``VIEWERS`` viewers, and what server and viewers used."""
    sink = WebSink(Address(port=0))
    with subprocess.Popen([sys.executable, __file__, "--view", sink.url], stdout=subprocess.PIPE) as viewers:
        server = next(thread for thread in threading.enumerate() if thread.name == "edgeseg web")
        clock = time.pthread_getcpuclockid(server.ident)
        assert viewers.stdout is not None
        viewers.stdout.readline()
        time.sleep(0.5)  # what the first requests load is not counted
        before_s = time.clock_gettime(clock)
        ending: list[float] = []
        sink_close = sink.close

        def close() -> None:  # run() closes the sink, and with it the clock of its thread ends
            ending.append(time.clock_gettime(clock))
            sink_close()

        sink.close = close  # type: ignore[method-assign]
        ms = loop_ms(args, segmenter, [sink])
        seen = json.loads(viewers.communicate(timeout=20)[0])
    return {
        "ms": ms,
        "server_cpu_ms_a_frame": 1000 * (ending[0] - before_s) / args.frames,
        "pictures_a_viewer": seen["pictures"] / VIEWERS,
        "viewers_cpu_s": seen["cpu_s"],
    }


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of the three, and the median of their ratios."""
    rows = []
    with edgeseg.load(args.model, threads=args.threads) as segmenter:
        loop_ms(args, segmenter, [])  # warm up
        for _ in range(args.rounds):
            without_ms = loop_ms(args, segmenter, [])
            unwatched_ms = loop_ms(args, segmenter, [WebSink(Address(port=0))])
            row = {"without_ms": without_ms, "unwatched_ms": unwatched_ms, **watched(args, segmenter)}
            rows.append(row)
            print("  ".join(f"{name} {value:.2f}" for name, value in row.items()))
    medians = {
        "unwatched": statistics.median(row["unwatched_ms"] / row["without_ms"] for row in rows),
        "watched": statistics.median(row["ms"] / row["without_ms"] for row in rows),
    }
    print(f"median ratio to the loop without the page: {medians}")
    return {"viewers": VIEWERS, "frames_a_round": args.frames, "threads": args.threads, "median_ratio": medians,
            "rounds": rows}  # fmt: skip


# ---- transports ----


def results(args: argparse.Namespace) -> list[Segmentation]:
    """Segmented frames of the video, to be shown again and again."""
    with edgeseg.load(args.model, threads=args.threads) as segmenter:
        frames = iter(edgeseg.open_source(args.video))
        return [segmenter(next(frames)) for _ in range(30)]


class Clock:
    """Gives results at ``RATE_HZ`` to ``give``, on a thread, and knows when each was captured."""

    def __init__(self, given: list[Segmentation], give: Callable[[int, Segmentation], None]) -> None:
        self.captured_at: dict[int, float] = {}
        self._given, self._give = given, give
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        index, due = 0, time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self.captured_at[index] = time.monotonic()
            self._give(index, self._given[index % len(self._given)])
            index, due = index + 1, due + 1 / RATE_HZ

    def __enter__(self) -> Clock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def reindexed(result: Segmentation, index: int) -> Segmentation:
    """The same result under another index, captured now."""
    now = time.monotonic()
    return replace(result, frame=replace(result.frame, index=index, captured_at=now), finished_at=now)


class Reader:
    """Reads a connection, no faster than ``bytes_s``."""

    def __init__(self, port: int, request: str, bytes_s: float | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._bytes_s, self._waiting = bytes_s, b""
        self.send(request)

    def send(self, request: str) -> None:
        """Ask for a path."""
        self.socket.sendall(f"GET {request} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def _more(self) -> None:
        data = self.socket.recv(16384)
        if not data:
            raise EOFError
        if self._bytes_s:
            time.sleep(len(data) / self._bytes_s)
        self._waiting += data

    def head(self) -> dict[str, str]:
        """Header lines up to an empty one."""
        while b"\r\n\r\n" not in self._waiting:
            self._more()
        head, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().split("\r\n")]
        return {name.lower(): value for name, _, value in lines}

    def body(self, length: int) -> bytes:
        """So many bytes."""
        while len(self._waiting) < length:
            self._more()
        body, self._waiting = self._waiting[:length], self._waiting[length:]
        return body


def decoded(data: bytes) -> NDArray[np.uint8]:
    """A picture from a file in memory."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def pulled(given: list[Segmentation], bytes_s: float | None) -> Iterator[tuple[Clock, int]]:
    """Index after index as the page gets them."""
    sink = WebSink(Address(port=0))
    with sink, Clock(given, lambda index, result: sink.write(reindexed(result, index))) as clock:
        reader = Reader(urlsplit(sink.url).port or 0, "/live?after=", bytes_s)
        with closing(reader.socket):
            while True:
                body = reader.body(int(reader.head()["content-length"]))
                end = 4 + struct.unpack(">I", body[:4])[0]
                picture = json.loads(body[4:end]).get("picture", {})
                reader.send(f"/live?after={picture.get('key', '')}")
                if picture:
                    decoded(body[end : end + picture["jpeg_bytes"]])
                    decoded(body[end + picture["jpeg_bytes"] :])
                    yield clock, picture["index"]


def pushed(given: list[Segmentation], bytes_s: float | None) -> Iterator[tuple[Clock, int]]:
    """Index after index from a stream of JPEGs. The newest wins while the connection takes no more."""
    loop = asyncio.new_event_loop()
    newest: list[tuple[int, Segmentation]] = []
    fresh = asyncio.Event()

    async def serve(request: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        answer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                await fresh.wait()
                fresh.clear()
                index, result = newest[0]
                jpeg = bytes(cv2.imencode(".jpg", result.overlay(), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])
                answer.write(f"--x\r\nX-Index: {index}\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg)
                await answer.drain()

    def give(index: int, result: Segmentation) -> None:
        newest[:] = [(index, result)]
        loop.call_soon_threadsafe(fresh.set)

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with Clock(given, give) as clock:
        reader = Reader(server.sockets[0].getsockname()[1], "/", bytes_s)
        with closing(reader.socket):
            reader.head()
            while True:
                head = reader.head()
                decoded(reader.body(int(head["content-length"])))
                yield clock, int(head["x-index"])


BITS, BLOCK = 8, 16


def marked(image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    """A copy with the index, modulo 256, in black and white blocks: video codecs carry nothing else along."""
    image = image.copy()
    for bit in range(BITS):
        image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (index >> bit & 1)
    return image


def mark_of(image: NDArray[np.uint8]) -> int:
    """What ``marked`` wrote."""
    row = image[BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK]
    return sum(int(pixel.mean() > 128) << bit for bit, pixel in enumerate(row))


def webrtc(given: list[Segmentation]) -> Iterator[tuple[Clock, int]]:
    """Index after index through a WebRTC connection, VP8."""
    import aiortc
    import av

    loop = asyncio.new_event_loop()
    newest: asyncio.Queue[tuple[int, Segmentation]] = asyncio.Queue()
    arrived: queue.Queue[int] = queue.Queue()

    class Overlays(aiortc.MediaStreamTrack):
        kind = "video"

        async def recv(self) -> av.VideoFrame:
            index, result = await newest.get()
            frame = av.VideoFrame.from_ndarray(marked(result.overlay(), index), "bgr24")
            frame.pts, frame.time_base = int(index * 90000 / RATE_HZ), fractions.Fraction(1, 90000)
            return frame

    async def connect() -> None:
        sender, receiver = aiortc.RTCPeerConnection(), aiortc.RTCPeerConnection()

        @receiver.on("track")
        async def receive(track: aiortc.MediaStreamTrack) -> None:
            while True:
                arrived.put(mark_of((await track.recv()).to_ndarray(format="bgr24")))

        sender.addTrack(Overlays())
        await sender.setLocalDescription(await sender.createOffer())
        await receiver.setRemoteDescription(sender.localDescription)
        await receiver.setLocalDescription(await receiver.createAnswer())
        await sender.setRemoteDescription(receiver.localDescription)

    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(connect(), loop).result(20)
    with Clock(given, lambda *item: loop.call_soon_threadsafe(newest.put_nowait, item)) as clock:
        while True:
            mark, last = arrived.get(timeout=20), max(clock.captured_at)
            yield clock, last - (last - mark) % 256


def measured(name: str, frames: Iterator[tuple[Clock, int]]) -> dict[str, Any]:
    """Latency, rate and processor time over ``SECONDS``, after two seconds to settle."""
    begin, latencies_ms, cpu_s = time.monotonic(), [], 0.0
    for clock, index in frames:
        now = time.monotonic()
        if now - begin < 2:
            cpu_s = time.process_time()
            continue
        latencies_ms.append(1000 * (now - clock.captured_at[index]))
        if now - begin > 2 + SECONDS:
            break
    row = {
        "transport": name,
        "pictures_a_second": len(latencies_ms) / SECONDS,
        "latency_ms_p50": statistics.median(latencies_ms),
        "latency_ms_max": max(latencies_ms),
        "cpu_ms_a_picture": 1000 * (time.process_time() - cpu_s) / len(latencies_ms),
    }
    print("  ".join(f"{k} {v:.1f}" if isinstance(v, float) else str(v) for k, v in row.items()))
    return row


def transports(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way, and for the two over HTTP at a slow viewer."""
    given = results(args)
    slow = 1000.0 * args.slow_kb_s
    rows = []
    for name, frames in (("asked for", pulled), ("streamed", pushed)):
        for bytes_s in (None, slow):
            with closing(frames(given, bytes_s)) as indices:  # type: ignore[type-var]
                label = name if bytes_s is None else f"{name}, {args.slow_kb_s:.0f} kB/s"
                rows.append(measured(label, indices))
    if importlib.util.find_spec("aiortc"):
        with closing(webrtc(given)) as indices:  # type: ignore[type-var]
            rows.append(measured("WebRTC, VP8", indices))
    else:
        print("aiortc is not installed: WebRTC is not measured")
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a video to segment")
    parser.add_argument("--model", help="default: the bundled one")
    parser.add_argument("--threads", type=int, help="of one inference (default: the engine's choice)")
    parser.add_argument("--frames", type=int, default=300, help="of a round (300)")
    parser.add_argument("--rounds", type=int, default=7, help="of the cost (7)")
    parser.add_argument("--slow-kb-s", type=float, default=200.0, help="what the slow viewer takes (200)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures and their conditions here")
    parser.add_argument("--view", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.view:
        return view(args.view)
    if args.video is None:
        parser.error("--video is needed")
    report = {
        "conditions": conditions(video=Path(args.video).name),
        "cost": cost(args),
        "transports": transports(args),
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
