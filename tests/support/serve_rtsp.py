"""An RTSP server (GStreamer's own) whose pictures carry the time at which they were made.

Run by a Python that has GStreamer's bindings: serve_rtsp.py PORT WIDTH HEIGHT [USER PASSWORD]. Prints its port.
"""

from __future__ import annotations

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

RATE_HZ, BLOCK, COLUMNS = 30, 16, 16


def picture(width: int, height: int, milliseconds: int) -> bytes:
    """I420, grey, with two rows of sixteen squares in the upper left corner: the bits of a time, highest first."""
    luma = bytearray()
    for row in range(2):
        bits = [milliseconds >> (31 - COLUMNS * row - column) & 1 for column in range(COLUMNS)]
        luma += b"".join(bytes([228 if bit else 28]) * BLOCK for bit in bits).ljust(width, b"\x80") * BLOCK
    return bytes(luma).ljust(width * height, b"\x80") + b"\x80" * (width * height // 2)


class Clock(GstRtspServer.RTSPMediaFactory):
    """A live camera that films the clock; all clients share it."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.size = width, height
        self.set_shared(True)
        caps = f"video/x-raw,format=I420,width={width},height={height},framerate={RATE_HZ}/1"
        self.set_launch(
            f"( appsrc name=clock is-live=true format=time do-timestamp=true caps={caps} ! queue ! x264enc "
            f"tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={RATE_HZ // 2} bitrate=500 ! "
            "h264parse config-interval=1 ! rtph264pay name=pay0 pt=96 )"
        )

    def do_configure(self, media) -> None:
        clock = media.get_element().get_by_name_recurse_up("clock")
        timer = GLib.timeout_add(1000 // RATE_HZ, self.push, clock)
        media.connect("unprepared", lambda _: GLib.source_remove(timer))

    def push(self, clock) -> bool:
        pixels = picture(*self.size, int(time.monotonic() * 1000) & 0xFFFFFFFF)
        clock.emit("push-buffer", Gst.Buffer.new_wrapped(pixels))
        return True


def protect(server, factory, user: str, password: str) -> None:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role("user")
    for permission in ("access", "construct"):
        permissions.add_permission_for_role("user", f"media.factory.{permission}", True)
    factory.set_permissions(permissions)


def main() -> None:
    port, width, height = map(int, sys.argv[1:4])
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    factory = Clock(width, height)
    if sys.argv[4:]:
        protect(server, factory, *sys.argv[4:6])
    server.get_mount_points().add_factory("/clock", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)  # noqa: T201
    GLib.MainLoop().run()


main()
