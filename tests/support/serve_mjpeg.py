"""An HTTP camera with MJPEG whose pictures carry the time at which they were made: serve_mjpeg.py PORT.

It prints its port. ``/clock`` is the stream; ``/guarded`` wants the user "robot" with the password "s3cret".
"""

from __future__ import annotations

import base64
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
from streams import picture_of

INTERVAL_S = 1 / 30
ALLOWED = "Basic " + base64.b64encode(b"robot:s3cret").decode()


class Camera(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/guarded" and self.headers.get("Authorization") != ALLOWED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        if self.path not in ("/clock", "/guarded"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        due = time.monotonic()
        while True:
            due = max(due + INTERVAL_S, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            jpeg = cv2.imencode(".jpg", picture_of(time.monotonic()))[1].tobytes()
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Camera)
print(server.server_port, flush=True)  # noqa: T201
server.serve_forever()
