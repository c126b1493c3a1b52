"""The server behind the web page, asked over real connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from edgeseg import cli
from edgeseg.errors import MissingDependencyError, UsageError
from edgeseg.frame import State
from edgeseg.io.base import Counts
from edgeseg.web import WebSink, feed
from edgeseg.web.address import Address, address_from_text, listen


def get(port, path, headers=None):
    """Status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def port_of(url):
    return urlsplit(url).port


def live(run, after=""):
    """Status, JPEG and PNG of /live; no bytes where there is no new picture."""
    code, _, body = get(run.port, f"/live?after={after}")
    assert code == 200
    (length,) = struct.unpack(">I", body[:4])
    status, files = json.loads(body[4 : 4 + length]), body[4 + length :]
    end = status["picture"]["jpeg_bytes"] if "picture" in status else 0
    return status, files[:end], files[end:]


def decoded(data, flag):
    return cv2.imdecode(np.frombuffer(data, np.uint8), flag)


def metric(run, name):
    text = get(run.port, "/metrics")[2].decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


# ---- pictures ----


def test_a_picture_is_the_frame_and_its_exact_class_map(run):
    result = run.give()
    status, jpeg, png = live(run)
    assert np.array_equal(decoded(png, cv2.IMREAD_UNCHANGED), result.mask)
    assert np.abs(decoded(jpeg, cv2.IMREAD_COLOR).astype(int) - result.frame.image).max() <= 2
    assert status["picture"]["classes"] == [{"name": n, "rgb": list(c)} for n, c in zip(run.classes, run.palette)]
    assert 20 <= status["picture"]["age_ms"] < 2000


def test_without_a_new_picture_the_status_comes_alone(run):
    run.give()
    key = live(run)[0]["picture"]["key"]
    begin = time.monotonic()
    status, jpeg, png = live(run, after=key)
    assert 0.3 < time.monotonic() - begin < 1.5
    assert ("picture" in status, jpeg, png) == (False, b"", b"")


def test_the_names_of_classes_are_sent_once_for_each_run(run):
    run.give()
    key = live(run)[0]["picture"]["key"]
    run.give()
    assert "classes" not in live(run, after=key)[0]["picture"]
    assert "classes" in live(run, after="of-another-run-5")[0]["picture"]


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 4097), (1080, 1920)])
def test_long_pictures_are_shrunk(run, size_hw):
    run.give(image=np.zeros((*size_hw, 3), np.uint8))
    _, jpeg, png = live(run)
    shown = decoded(png, cv2.IMREAD_UNCHANGED).shape
    assert shown == decoded(jpeg, cv2.IMREAD_COLOR).shape[:2]
    assert max(shown) == min(feed.MAX_SIDE, max(size_hw))


def test_a_waiting_viewer_hears_of_a_stall_at_once(run):
    run.give()
    key = live(run)[0]["picture"]["key"]
    begin = time.monotonic()
    threading.Timer(0.1, run.camera.enter, [State.STALLED, "no frame for 0.5 s"]).start()
    status, _, _ = live(run, after=key)
    assert time.monotonic() - begin < 0.4
    assert (status["state"], status["reason"]) == ("stalled", "no frame for 0.5 s")


def test_heads_and_pictures_leave_without_waiting_for_each_other():
    with listen(Address("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---- cost ----


def test_nothing_is_encoded_while_nobody_watches(run):
    for _ in range(50):
        run.give()
    assert metric(run, "edgeseg_web_pictures_total") == 0


def test_three_viewers_cost_one_encode(run):
    seen = [[], [], []]
    end = time.monotonic() + 1.2

    def watch(keys):
        while time.monotonic() < end:
            picture = live(run, after=keys[-1] if keys else "")[0].get("picture")
            if picture:
                keys.append(picture["key"])

    with run.giving(rate_hz=60):
        viewers = [threading.Thread(target=watch, args=[keys]) for keys in seen]
        for viewer in viewers:
            viewer.start()
        for viewer in viewers:
            viewer.join()
    encoded = metric(run, "edgeseg_web_pictures_total")
    # Pictures that nobody got would be a waste as well.
    assert encoded == len(set().union(*seen))
    assert all(len(keys) == len(set(keys)) >= 3 for keys in seen)
    assert encoded <= 1.5 * feed.RATE_HZ + 2


def test_pictures_become_fewer_when_the_budget_is_spent(run, monkeypatch):
    monkeypatch.setattr(feed, "BUDGET", 1e-9)
    with run.giving(rate_hz=60):
        end, key = time.monotonic() + 1.2, ""
        while time.monotonic() < end:
            key = live(run, after=key)[0].get("picture", {}).get("key", key)
    assert 2 <= metric(run, "edgeseg_web_pictures_total") <= 1.2 * feed.SLOWEST_HZ + 3


def test_viewers_that_never_read_neither_slow_the_loop_nor_fill_the_memory(run):
    noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), np.uint8)
    picture_bytes = len(cv2.imencode(".jpg", noise)[1])
    run.give(image=noise)
    live(run)  # what the first request loads is not counted
    before = resident_bytes()
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            viewer = stack.enter_context(socket.socket())
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            viewer.connect(("127.0.0.1", run.port))
            viewer.sendall(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50)
        slowest_s, key = 0.0, ""
        for _ in range(15):
            begin = time.perf_counter()
            run.give(image=noise)
            slowest_s = max(slowest_s, time.perf_counter() - begin)
            key = live(run, after=key)[0]["picture"]["key"]  # another viewer goes on
        # 500 answers to each of ten viewers would be over a gigabyte.
        assert resident_bytes() - before < 10 * 4 * picture_bytes
        assert slowest_s < 0.1
        begin = time.monotonic()
        run.sink.close()
        assert time.monotonic() - begin < 2.5


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- who may ask ----


@pytest.mark.parametrize(
    ("host", "code"),
    [("127.0.0.1", 200), ("localhost:8080", 200), ("[::1]:8080", 200), ("192.168.1.7", 200),
     (socket.gethostname(), 200), ("evil.example", 421), ("evil.example:80", 421), ("127.0.0.1.evil.example", 421)],
)  # fmt: skip
def test_a_name_of_another_machine_is_refused(run, host, code):
    assert get(run.port, "/", {"Host": host})[0] == code
    assert get(run.port, "/live", {"Host": host})[0] == code


@pytest.mark.parametrize("path", ["/", "/page.js", "/live", "/healthz", "/metrics"])
def test_a_token_guards_everything(locked, path):
    locked.give()
    token = locked.sink.token
    assert get(locked.port, path)[0] == 401
    assert get(locked.port, path, {"Authorization": f"Bearer {token}"})[0] == 200
    assert get(locked.port, path, {"Authorization": "Bearer wrong"})[0] == 401
    assert get(locked.port, f"{path}?token={token[:-1]}")[0] == 401
    assert get(locked.port, f"{path}?token=%C3%A4")[0] == 401


def test_the_token_turns_into_a_cookie(locked):
    code, headers, _ = get(locked.port, f"/?token={locked.sink.token}")
    assert (code, headers["Location"]) == (303, "/")
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=strict" in headers["Set-Cookie"]
    assert get(locked.port, "/", {"Cookie": headers["Set-Cookie"].partition(";")[0]})[0] == 200


def test_a_token_is_made_up_where_others_can_reach_the_page(run):
    assert run.sink.token is None
    for host in ("0.0.0.0", "::"):
        with contextlib.suppress(UsageError):  # a machine without IPv6
            sink = WebSink(Address(host, 0))
            socket.create_connection(("127.0.0.1", port_of(sink.url))).close()
            sink.close()
            assert len(sink.token) >= 16
            assert sink.url.endswith(f"?token={sink.token}")
            assert "0.0.0.0" not in sink.url


# ---- monitoring ----


@pytest.mark.parametrize("state", list(State))
def test_healthz_is_200_only_while_live(run, state):
    run.camera.enter(state, "a reason")
    code, _, body = get(run.port, "/healthz")
    assert code == (200 if state is State.LIVE else 503)
    assert json.loads(body) == {"state": state.value, "reason": "a reason", "frames": 0}


def test_before_the_run_the_state_is_connecting():
    with WebSink(Address("127.0.0.1", 0)) as sink:
        code, _, body = get(port_of(sink.url), "/healthz")
        assert (code, json.loads(body)["state"]) == (503, "connecting")


def test_metrics_are_what_prometheus_reads(run):
    parser = pytest.importorskip("prometheus_client.parser")
    run.camera.enter(State.STALLED)
    run.camera.counts = Counts(captured=9, dropped=4, stale=1, corrupt=1, reconnects=2)
    run.give()
    run.give(valid=False)
    run.report.dropped = 5
    code, headers, body = get(run.port, "/metrics")
    assert (code, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in parser.text_string_to_metric_families(body.decode())}
    values = {(s.name, *s.labels.values()): s.value for family in families.values() for s in family.samples}
    assert values["edgeseg_frames_total",] == 2
    assert values["edgeseg_frames_dropped_total",] == 5
    assert values["edgeseg_frames_invalid_total",] == 1
    assert values["edgeseg_source_frames_total", "corrupt"] == 1
    assert values["edgeseg_source_reconnects_total",] == 2
    assert [s.labels["state"] for s in families["edgeseg_source_state"].samples if s.value] == ["stalled"]
    assert families["edgeseg_latency_seconds"].type == "histogram"
    assert values["edgeseg_latency_seconds_bucket", "0.01"] == 0
    assert values["edgeseg_latency_seconds_bucket", "0.02"] == 2
    assert values["edgeseg_latency_seconds_bucket", "+Inf"] == values["edgeseg_latency_seconds_count",] == 2
    assert values["edgeseg_latency_seconds_sum",] == pytest.approx(0.030)


# ---- beginning and end ----


@pytest.mark.parametrize(
    ("text", "address"),
    [("8123", ("127.0.0.1", 8123)), (":8123", ("127.0.0.1", 8123)), ("0.0.0.0", ("0.0.0.0", 8080)),
     ("robot-2:80", ("robot-2", 80)), ("robot-2", ("robot-2", 8080)), ("[::1]:81", ("::1", 81)),
     ("[::]", ("::", 8080)), ("10.0.0.7", ("10.0.0.7", 8080))],
)  # fmt: skip
def test_addresses(text, address):
    assert address_from_text(text) == Address(*address)


@pytest.mark.parametrize("text", ["http://robot:80", "robot:http", "::1", "robot:70000", "a b:1", "[::1]8"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError):
        address_from_text(text)


def test_a_taken_port_is_noticed_before_the_model_loads(run, capsys):
    code = cli.main(["run", "--source", "synthetic://street", "--model", "none.onnx", "--serve", str(run.port)])
    assert code == 2
    assert f"Port {run.port} of 127.0.0.1 is in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--serve-token", "long-enough"], "without --serve"), (["--serve", "--serve-token", "short"], "weak"),
     (["--serve", "0", "--serve-token", "no spaces or ;"], "weak"), (["--serve", "192.0.2.7:0"], "no address of this")],
)  # fmt: skip
def test_misused_flags(flags, message, capsys):
    assert cli.main(["run", "--source", "synthetic://street", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_server_names_its_extra_and_frees_the_port(monkeypatch, run):
    run.sink.close()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "edgeseg.web.server")
    with pytest.raises(MissingDependencyError, match=r"edgeseg\[serve\]"):
        WebSink(Address("127.0.0.1", run.port))
    socket.create_server(("127.0.0.1", run.port)).close()


def test_closing_ends_the_server_in_bounded_time_and_frees_the_port(run):
    run.give()
    key = live(run)[0]["picture"]["key"]
    watching = threading.Thread(target=live, args=[run, key])
    watching.start()
    begin = time.monotonic()
    run.sink.close()
    assert time.monotonic() - begin < 1.5
    watching.join()
    socket.create_server(("127.0.0.1", run.port)).close()
    run.sink.close()
    run.give()  # no error


def test_a_run_serves_and_ends_on_sigterm():
    command = [sys.executable, "-m", "edgeseg", "run", "--source", "synthetic://street?size=160x120&rate=10&live=1",
               "--threads", "1", "--headless", "--serve", "127.0.0.1:0"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("the web page is at http://127.0.0.1:")
            port = port_of(line.split()[-1])
            end = time.monotonic() + 60
            while get(port, "/healthz")[0] != 200:
                assert time.monotonic() < end
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            assert process.wait(10) == 0
            assert time.monotonic() - begin < 4  # the promise is 2 s; the interpreter's own end comes on top
        finally:
            process.kill()
