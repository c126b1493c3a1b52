"""Sends MPEG-TS whose pictures carry the time at which they were made: send_ts.py ADDRESS. Cut off, it begins again."""

from __future__ import annotations

import sys
import time

import av
from streams import picture_of

RATE_HZ = 30


def send(address: str) -> None:
    with av.open(address, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(RATE_HZ // 2)}
        due = time.monotonic()
        while True:
            due += 1 / RATE_HZ
            time.sleep(max(0.0, due - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(picture_of(time.monotonic()), format="bgr24")
            for packet in stream.encode(frame):
                container.mux(packet)


print("ready", flush=True)  # noqa: T201
while True:
    try:
        send(sys.argv[1])
    except (OSError, av.error.FFmpegError):
        time.sleep(0.05)
