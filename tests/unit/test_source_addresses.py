"""Addresses and options: what is understood, what is refused, and that no password is shown."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys

import pytest

from edgeseg.cli._source_options import add_source_arguments, source_from_args, source_options_from_args
from edgeseg.errors import MissingDependencyError, UsageError
from edgeseg.io.options import SourceOptions
from edgeseg.io.sources import open_source
from edgeseg.io.uri import address_from_text, redacted


@pytest.mark.parametrize(
    ("text", "kind", "target", "parameters"),
    [
        ("0", "camera", "0", ()),
        ("/dev/video3", "camera", "/dev/video3", ()),
        ("v4l2://2?size=640x480", "camera", "2", (("size", "640x480"),)),
        ("v4l2:///dev/video1?codec=MJPG&rate=60", "camera", "/dev/video1", (("codec", "MJPG"), ("rate", "60"))),
        ("csi://1?size=1920x1080", "csi", "1", (("size", "1920x1080"),)),
        ("RTSP://u:p@h/x?channel=1&size=2#transport=udp", "rtsp", "RTSP://u:p@h/x?channel=1&size=2",
         (("transport", "udp"),)),
        ("http://h:8080/video", "http", "http://h:8080/video", ()),
        ("udp://@:5000#max-age=1", "udp", "udp://@:5000", (("max-age", "1"),)),
        ("tcp://h:1234?listen=1", "tcp", "tcp://h:1234?listen=1", ()),
        ("videotestsrc ! appsink", "pipeline", "videotestsrc ! appsink", ()),
        ("rtspsrc location=rtsp://h/x ! decodebin", "pipeline", "rtspsrc location=rtsp://h/x ! decodebin", ()),
        ("file:///a b.mp4?loop=1", "path", "/a b.mp4", (("loop", "1"),)),
        ("replay://runs/r1", "replay", "runs/r1", ()),
        ("synthetic://street?frames=3", "synthetic", "synthetic://street?frames=3", ()),
        ("what?.mp4", "path", "what?.mp4", ()),
        ("a#b.mp4", "path", "a#b.mp4", ()),
    ],
)  # fmt: skip
def test_addresses(text: str, kind: str, target: str, parameters) -> None:
    address = address_from_text(text)
    assert (address.kind, address.target, address.parameters) == (kind, target, parameters)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://admin:s3cret@10.0.0.2:554/cam?channel=1",
        "rtsp://admin:s3c@ret@10.0.0.2/cam",
        "rtsp://admin:a/s3cret@10.0.0.2/cam",
        "rtsp://s3cret@10.0.0.2/cam",
        "http://10.0.0.2/mjpg?user=admin&password=s3cret&fps=5",
        "http://10.0.0.2/mjpg?Access_Token=s3cret",
        "rtspsrc location=rtsp://h/x user-id=admin user-pw=s3cret ! decodebin",
        "rtspsrc location=\"rtsp://admin:s3cret@h/x\" ! decodebin",
    ],
)  # fmt: skip
def test_no_password_is_shown(text: str) -> None:
    shown = address_from_text(text).shown
    assert "s3c" not in shown
    assert "***" in shown
    assert redacted(f"opening {text} failed") == redacted(redacted(f"opening {text} failed"))


def test_an_address_without_a_password_is_shown_as_it_is() -> None:
    for text in ("rtsp://h:554/cam?channel=1", "udp://@:5000", "videotestsrc ! appsink", "a@b.mp4"):
        assert redacted(text) == text
    assert address_from_text("0").shown == "camera 0"


@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("0", {"loop": True}, "option 'loop' means nothing to camera 0"),
        ("v4l2://0?sise=3x4", {}, "did you mean 'size'"),
        ("v4l2://0?size=3x4&size=5x6", {}, "'size' is given twice"),
        ("v4l2://0?size=big", {}, "'big' is not a size"),
        ("v4l2://0?rate=-1", {}, "rate of -1"),
        ("v4l2://0?codec=H.265", {}, "'H.265' is not a pixel format"),
        ("rtsp://h/x#transport=sctp", {}, "'sctp' is not possible for 'transport'"),
        ("rtsp://h/x#read-timeout=0", {}, "0.0 seconds are not possible for read_timeout"),
        ("rtsp://h/x#wait=nan", {}, "'nan' is not a number"),
        ("rtsp://h/x", {"codec": "MJPG"}, "option 'codec' means nothing to rtsp://h/x"),
        ("http://h/x", {"transport": "udp"}, "option 'transport' means nothing to http://h/x"),
        ("synthetic://street", {"wait_s": 3.0}, "option 'wait' means nothing"),
        ("replay://r", {"realtime": True}, "option 'realtime' means nothing to replay://r"),
    ],
)
def test_options_that_mean_nothing_are_refused(uri: str, options: dict, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(uri, SourceOptions(**options))
    assert said in str(caught.value)


def test_a_video_has_a_rate_of_its_own(tmp_path, make_video) -> None:
    with pytest.raises(UsageError, match="has a rate of its own"):
        open_source(make_video(tmp_path / "v.avi"), SourceOptions(rate_hz=5))


def test_images_are_not_decoded_in_hardware(tmp_path) -> None:
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(UsageError, match="leave out 'hwdec'"):
        open_source(tmp_path, SourceOptions(hwdec=True))


def test_the_address_wins_over_the_options(tmp_path, make_video) -> None:
    path = make_video(tmp_path / "v.avi", frames=2)
    with open_source(f"file://{path}?loop=0", SourceOptions(loop=True)) as source:
        assert len(list(source)) == 2


@pytest.mark.parametrize("uri", ["videotestsrc ! videoconvert", "csi://0", "rtspsrc location=rtsp://u:s3cret@h/x ! x"])
def test_without_gstreamer_the_way_to_get_it_is_told(uri: str, monkeypatch) -> None:
    import cv2

    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: backend != cv2.CAP_GSTREAMER)
    with pytest.raises(MissingDependencyError, match="apt install python3-opencv") as caught:
        open_source(uri)
    assert "s3cret" not in str(caught.value)


def test_without_pyav_the_way_to_get_it_is_told(monkeypatch) -> None:
    from edgeseg.io import _pyav

    monkeypatch.setattr(_pyav, "is_installed", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseg\[av\]'"):
        open_source("rtsp://h/x#reader=av")


def test_pyav_is_not_asked_to_decode_in_hardware() -> None:
    pytest.importorskip("av")
    with pytest.raises(UsageError, match="opencv"):
        open_source("rtsp://h/x#reader=av&hwdec=1")


# --- flags -----------------------------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return parser.parse_args(words)


def test_every_option_has_its_flag() -> None:
    args = parsed(
        "--source", "x", "--size", "640x480", "--rate", "15", "--codec", "MJPG", "--flip", "both", "--loop",
        "--realtime", "--transport", "udp", "--reader", "opencv", "--hwdec", "--open-timeout", "2",
        "--read-timeout", "3", "--max-age", "0.5", "--wait", "inf",
    )  # fmt: skip
    options = source_options_from_args(args)
    assert options == SourceOptions(
        (480, 640), 15.0, "MJPG", "both", True, True, "udp", "opencv", True, 2.0, 3.0, 0.5, float("inf")
    )
    assert source_options_from_args(parsed()) == SourceOptions()
    assert len(options.changed()) == 13


def test_a_flag_that_cannot_be_read(capsys) -> None:
    with pytest.raises(SystemExit):
        parsed("--size", "640")
    assert "'640' is not a size; write WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), ("--source", "a", "--camera", "0")])
def test_one_source_is_needed(words) -> None:
    with pytest.raises(UsageError, match="give one of --source SRC and --camera N"):
        source_from_args(parsed(*words))


def test_a_missing_camera_and_a_dead_address_show_no_password() -> None:
    code = (
        "import sys\nfrom edgeseg import open_source\nfrom edgeseg.io.options import SourceOptions\n"
        "for reader in sys.argv[1:]:\n"
        "  for uri in ('rtsp://admin:s3cret@127.0.0.1:9/x', 'http://admin:s3cret@127.0.0.1:9/x'):\n"
        "    try: open_source(uri, SourceOptions(reader=reader))\n"
        "    except Exception as error: print(error); import traceback; traceback.print_exc()\n"
    )
    readers = ["opencv", *(["av"] if importlib.util.find_spec("av") else [])]
    run = subprocess.run([sys.executable, "-c", code, *readers], capture_output=True, text=True, timeout=60)
    assert run.stdout.count("connection refused at 127.0.0.1:9") == 2 * len(readers), run.stdout + run.stderr
    assert "s3cret" not in run.stdout + run.stderr
