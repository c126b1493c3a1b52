from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError, SourceError, TruncatedSourceError
from edgeseg.frame import Frame, State
from edgeseg.io.base import flipped
from edgeseg.io.files import ImageSource, VideoSource
from edgeseg.io.options import SourceOptions
from edgeseg.io.sources import FrameList, Source, open_source
from edgeseg.io.synthetic import StreetSource

RNG = np.random.default_rng(0)


def save_image(path: Path, picture: np.ndarray | tuple[int, int] = (6, 8)) -> Path:
    import cv2

    picture = RNG.integers(0, 256, (*picture, 3), np.uint8) if isinstance(picture, tuple) else picture
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
    return path


def read_until_error(source: Source) -> tuple[list[int], SourceError]:
    """Indices of the good frames, and the error after them."""
    seen: list[int] = []
    with source, pytest.raises(SourceError) as caught:
        seen.extend(frame.index for frame in source)
    return seen, caught.value


# --- frames in memory ------------------------------------------------------------------------------------------


def test_frame_list() -> None:
    images = [np.zeros((2, 3, 3), np.uint8)] * 3
    with FrameList(images, rate_hz=10) as source:
        frames = list(source)
        assert source.read() is None
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.pts_s for f in frames] == [0.0, 0.1, 0.2]
    assert (source.frame_count, source.rate_hz, source.live, source.state) == (3, 10, False, State.ENDED)
    assert frames[0].size_hw == (2, 3)
    assert all(f.capture_ms >= 0 for f in frames)
    assert [f.captured_at for f in frames] == sorted(f.captured_at for f in frames)
    source.close()


def test_a_failing_source_says_so_in_its_state() -> None:
    class Failing(Source):
        def _read(self):
            raise SourceError("gone", "plug it in")

    source = Failing("x")
    with pytest.raises(SourceError, match="gone"):
        source.read()
    assert source.state is State.FAILED


# --- images ----------------------------------------------------------------------------------------------------


def test_one_image(tmp_path: Path) -> None:
    source = open_source(save_image(tmp_path / "street.PNG"))
    (frame,) = source
    assert isinstance(source, ImageSource)
    assert (frame.name, frame.index, frame.size_hw) == ("street.PNG", 0, (6, 8))
    assert (source.frame_count, source.rate_hz, source.live) == (1, None, False)


def test_a_folder_in_natural_order_without_what_is_no_image(tmp_path: Path) -> None:
    for name in ("f10.png", "f9.jpg", "f1.bmp", "f²2.png"):
        save_image(tmp_path / name)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "folder.png").mkdir()
    assert [f.name for f in open_source(str(tmp_path))] == ["f1.bmp", "f9.jpg", "f10.png", "f²2.png"]


def test_frames_may_change_size_and_kind(tmp_path: Path) -> None:
    pictures = [
        RNG.integers(0, 256, (1, 1, 3), np.uint8),
        RNG.integers(0, 256, (3, 4097, 3), np.uint8),
        RNG.integers(0, 256, (5, 7), np.uint8),
        RNG.integers(0, 65536, (5, 7), np.uint16),
        RNG.integers(0, 256, (5, 7, 4), np.uint8),
    ]
    for i, picture in enumerate(pictures):
        save_image(tmp_path / f"{i}.png", picture)
    frames = list(open_source(tmp_path))
    assert [f.image.shape for f in frames] == [(1, 1, 3), (3, 4097, 3), (5, 7, 3), (5, 7, 3), (5, 7, 3)]
    assert all(f.image.dtype == np.uint8 for f in frames)


def test_a_glob(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/3.md"):
        save_image(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("x")
    assert [f.name for f in open_source(str(tmp_path / "*" / "*.png"))] == ["1.png", "2.png", "3.png"]
    assert [f.name for f in open_source(str(tmp_path / "**"))] == ["1.png", "2.png", "3.png"]
    with pytest.raises(SourceError, match="Nothing that matches"):
        open_source(str(tmp_path / "*.png"))
    with pytest.raises(SourceError, match=r"Nothing that matches .* is an image"):
        open_source(str(tmp_path / "b" / "*.md"))


def test_brackets_in_a_name_are_a_name_where_it_exists(tmp_path: Path) -> None:
    save_image(tmp_path / "[1].png")
    assert [f.name for f in open_source(tmp_path / "[1].png")] == ["[1].png"]


def test_a_list_of_images(tmp_path: Path) -> None:
    inside, outside = save_image(tmp_path / "lists" / "a.png"), save_image(tmp_path / "b.png")
    path = tmp_path / "lists" / "all.txt"
    path.write_text(f"\ufeff{inside.name}\r\n\r\n  ../b.png \n{outside}\n", encoding="utf-8")
    assert [f.name for f in open_source(path)] == ["a.png", "b.png", "b.png"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n \n", "lists no image"),
        (b"hello world\n", "lists 'hello world', which is not an image"),
        (b"a.png\nvideo.mp4\n", "lists 'video.mp4'"),
        (b"\xff\xfe\x00a", "not a text file"),
    ],
)
def test_a_file_that_is_no_list(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / "x.txt")
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_images_that_cannot_be_read_are_passed_over_and_named_at_the_end(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.jpg", "d.png"):
        save_image(tmp_path / name, (60, 80))
    for name in ("a.png", "c.jpg"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:500])
    source = open_source(tmp_path)
    seen, error = read_until_error(source)
    assert seen == [1, 3]
    assert "2 of the 4 images" in str(error)
    assert str(tmp_path / "a.png") in str(error)
    assert error.exit_code == 1
    assert source.state is State.FAILED
    assert source.read() is None


def test_a_listed_file_that_is_missing_is_not_passed_over_silently(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "x.txt").write_text("none.png\na.png\n")
    seen, error = read_until_error(open_source(tmp_path / "x.txt"))
    assert seen == [1]
    assert "none.png" in str(error)


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    for source, said in (
        (open_source(tmp_path), "2 of the 2 images"),
        (open_source(tmp_path / "a.png"), "a.png is not an image"),
    ):
        seen, error = read_until_error(source)
        assert seen == []
        assert said in str(error)
        assert error.exit_code == 2


# --- videos ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_every_frame_of_a_video(tmp_path: Path, make_video, suffix: str) -> None:
    path = make_video(tmp_path / f"v{suffix}", frames=12, rate_hz=25)
    with open_source(path) as source:
        frames = list(source)
        assert source.read() is None
    assert isinstance(source, VideoSource)
    assert (source.frame_count, source.rate_hz, source.live, source.state) == (12, 25.0, False, State.ENDED)
    assert [f.index for f in frames] == list(range(12))
    assert [f.pts_s for f in frames] == pytest.approx([i / 25 for i in range(12)], abs=0.002)
    assert all(f.image.shape == (48, 64, 3) for f in frames)
    means = [f.image.mean() for f in frames]
    assert means == sorted(means), "each frame must keep its own pixels"
    source.close()


def test_a_video_without_frames(tmp_path: Path, make_video) -> None:
    for suffix in (".mp4", ".avi", ".mkv"):
        path = make_video(tmp_path / f"zero{suffix}", frames=0)
        with pytest.raises(SourceError) as caught:
            list(open_source(path))
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 2


def test_a_video_of_one_frame(tmp_path: Path, make_video) -> None:
    for suffix in (".mp4", ".avi", ".mkv"):
        (frame,) = open_source(make_video(tmp_path / f"one{suffix}", frames=1))
        assert (frame.index, frame.size_hw) == (0, (48, 64))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_with_damaged_bytes_ends_all_the_same(tmp_path: Path, make_video, bounded, suffix: str) -> None:
    path = make_video(tmp_path / f"damaged{suffix}", frames=40)
    content = bytearray(path.read_bytes())
    for place in RNG.integers(len(content) // 4, 3 * len(content) // 4, 60):
        content[place] ^= 0xFF
    path.write_bytes(content)

    def watch() -> tuple[int, str]:
        seen = 0
        try:
            for frame in open_source(path):
                assert frame.image.shape == (48, 64, 3)
                seen += 1
        except SourceError as error:
            return seen, str(error)
        return seen, str(path)

    seen, said = bounded(watch)
    assert 5 < seen <= 40
    assert str(path) in said


def with_the_index_first(mp4: bytes) -> bytes:
    """The same file with ``moov`` before ``mdat``, as for the web: a part of it can be decoded."""
    boxes, at = {}, 0
    while at < len(mp4):
        size, kind = struct.unpack(">I4s", mp4[at : at + 8])
        boxes[kind] = mp4[at : at + size]
        at += size
    moov, shift = bytearray(boxes[b"moov"]), len(boxes[b"moov"])
    table = moov.index(b"stco") + 8
    (count,) = struct.unpack(">I", moov[table : table + 4])
    for i in range(count):
        place = slice(table + 4 + 4 * i, table + 8 + 4 * i)
        moov[place] = struct.pack(">I", struct.unpack(">I", moov[place])[0] + shift)
    rest = b"".join(box for kind, box in boxes.items() if kind not in (b"ftyp", b"moov"))
    return boxes[b"ftyp"] + bytes(moov) + rest


@pytest.mark.parametrize("form", [".avi", ".mkv", "faststart.mp4"])
def test_a_video_cut_in_half_gives_its_half_and_then_says_so(tmp_path: Path, make_video, form: str) -> None:
    path = tmp_path / f"cut{Path(form).suffix or form}"
    whole = make_video(path, frames=60).read_bytes()
    whole = with_the_index_first(whole) if form == "faststart.mp4" else whole
    path.write_bytes(whole)
    assert len(list(open_source(path))) == 60
    path.write_bytes(whole[: len(whole) // 2])
    seen, error = read_until_error(open_source(path))
    assert 10 < len(seen) < 50
    assert seen == list(range(len(seen)))
    assert isinstance(error, TruncatedSourceError)
    assert f"breaks off after {len(seen)} of 60 frames" in str(error)
    assert error.exit_code == 1


def test_an_mp4_that_lost_its_index_cannot_be_decoded(tmp_path: Path, make_video) -> None:
    path = make_video(tmp_path / "cut.mp4", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="may be cut off") as caught:
        open_source(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["x.mp4", "x.avi", "x.mkv", "x.onnx", "x", "001.mp4"])
def test_text_is_no_video(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello\n" * 100)
    with pytest.raises(SourceError, match="not a video or image"):
        open_source(tmp_path / name)


def test_a_name_that_is_not_utf_8_does_not_crash_opencv(tmp_path: Path, make_video) -> None:
    video = make_video(tmp_path / "v.avi")
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.avi"))
    try:
        video.rename(strange)
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(SourceError, match="UTF-8"):
        open_source(strange)


def test_closing_while_another_thread_reads(tmp_path: Path, make_video, bounded) -> None:
    source = open_source(make_video(tmp_path / "v.avi", frames=100))
    reader = threading.Thread(target=lambda: [None for _ in range(200) if source._capture.read() is not None])
    reader.start()
    bounded(source.close)
    reader.join(10)
    assert not reader.is_alive()
    source.close()


# --- what cannot be opened -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("none.mp4", "no file, folder or camera none.mp4"),
        ("none/", "no file, folder or camera"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("-1", "no file, folder or camera -1"),
        ("²", "no file, folder or camera"),
        ("x" * 300, "cannot be opened"),
        ("gopher://user:secret@host/stream", "gopher:// cannot be read"),
        ("https://user:secret@host/x.mp4", "https://***@host/x.mp4 is a file, not a stream"),
        ("csi://left", "names no camera"),
        ("/dev/zero", "is empty"),
    ],
)
def test_what_is_not_there(source: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(source)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("camera", [99, "99", 10**12, "/dev/video77"])
def test_a_camera_that_does_not_exist(camera, bounded) -> None:
    with pytest.raises(SourceError, match=rf"camera {camera} cannot be opened: there is no such camera") as caught:
        bounded(lambda: open_source(camera))
    assert caught.value.exit_code == 2


def test_empty_files_and_folders(tmp_path: Path) -> None:
    for name in ("x.mp4", "x.png", "x.txt"):
        (tmp_path / name).touch()
        with pytest.raises(SourceError, match="is empty"):
            open_source(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no image"):
        open_source(tmp_path / "empty")


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path, bounded) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SourceError):
        bounded(lambda: open_source(tmp_path / "pipe.mp4"))


def test_a_device_by_another_name_is_a_camera(tmp_path: Path) -> None:
    link = tmp_path / "usb-camera"
    link.symlink_to("/dev/video77")
    with pytest.raises(SourceError, match=r"camera .*usb-camera cannot be opened"):
        open_source(link)


# --- the synthetic street --------------------------------------------------------------------------------------


def test_the_street_waits_to_be_read() -> None:
    with open_source("synthetic://street?size=32x24&frames=3&rate=10") as source:
        frames = list(source)
        assert source.read() is None
    assert isinstance(source, StreetSource)
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.pts_s for f in frames] == [0.0, 0.1, 0.2]
    assert all(f.image.shape == (24, 32, 3) and f.truth.shape == (24, 32) for f in frames)
    assert (source.live, source.dropped, source.frame_count) == (False, 0, 3)


@pytest.mark.parametrize("uri", ["synthetic:street?frames=1&frames=2", "synthetic://steet", "synthetic://street?fps=3"])
def test_a_misspelt_street(uri: str) -> None:
    with pytest.raises(EdgesegError) as caught:
        open_source(uri)
    assert caught.value.exit_code == 2


def test_the_live_street_counts_what_nobody_fetched(bounded) -> None:
    def watch():
        with open_source("synthetic://street?size=16x16&frames=40&rate=100&live=1") as source:
            time.sleep(0.1)  # a model loads: its frames are nobody's loss
            seen = [source.read()]
            time.sleep(0.15)
            seen += list(source)
            return seen, source.counts, source.state

    seen, counts, state = bounded(watch)
    indices = [f.index for f in seen]
    assert (indices[0], indices[-1]) == (0, 39)
    assert indices == sorted(set(indices))
    assert counts.dropped > 0, "what appeared meanwhile was passed over"
    assert counts.captured == 40 == len(seen) + counts.dropped + counts.stale
    assert state is State.ENDED
    assert seen[-1].captured_at - seen[0].captured_at >= 39 / 100 - 1e-6


def test_a_file_in_real_time_takes_its_time_and_drops(tmp_path: Path, make_video, bounded) -> None:
    path = make_video(tmp_path / "v.avi", frames=20, rate_hz=50)

    def watch():
        with open_source(path, SourceOptions(realtime=True)) as source:
            assert source.live
            start = time.monotonic()
            first = source.read()
            time.sleep(0.1)
            rest = list(source)
            return time.monotonic() - start, [first, *rest], source.counts

    took_s, seen, counts = bounded(watch)
    assert 0.35 < took_s < 2
    assert counts.captured == 20 == len(seen) + counts.dropped + counts.stale
    assert counts.dropped >= 3
    assert seen[-1].index == 19


def test_an_error_of_a_file_in_real_time_reaches_the_reader(tmp_path: Path, make_video, bounded) -> None:
    path = make_video(tmp_path / "cut.avi", frames=60, rate_hz=500)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(path, SourceOptions(realtime=True))
    seen, error = bounded(lambda: read_until_error(source))
    assert seen
    assert isinstance(error, TruncatedSourceError)
    assert source.state is State.FAILED


# --- what is done to every source ------------------------------------------------------------------------------


def test_a_loop_begins_again_and_time_goes_on(tmp_path: Path, make_video) -> None:
    path = make_video(tmp_path / "v.avi", frames=4, rate_hz=25)
    with open_source(path, SourceOptions(loop=True)) as source:
        frames = [source.read() for _ in range(10)]
    assert source.frame_count is None
    assert [f.index for f in frames] == list(range(10))
    assert [f.pts_s for f in frames] == pytest.approx([i / 25 for i in range(10)], abs=0.002)
    assert np.array_equal(frames[9].image, frames[1].image)
    assert not np.array_equal(frames[9].image, frames[0].image)


@pytest.mark.parametrize(("flip", "axes"), [("h", 1), ("v", 0), ("both", (0, 1))])
def test_flips(tmp_path: Path, flip: str, axes) -> None:
    picture = RNG.integers(0, 256, (6, 8, 3), np.uint8)
    source = open_source(save_image(tmp_path / "a.png", picture), SourceOptions(flip=flip))
    assert np.array_equal(source.read().image, np.flip(picture, axes))
    with_truth = flipped(Frame(picture, 0, 0.0, truth=picture[..., 0]), flip)
    assert np.array_equal(with_truth.truth, np.flip(picture[..., 0], axes))


def test_images_with_a_rate(tmp_path: Path) -> None:
    for i in range(3):
        save_image(tmp_path / f"{i}.png")
    source = open_source(tmp_path, SourceOptions(rate_hz=10))
    assert source.rate_hz == 10
    assert [f.pts_s for f in source] == [0.0, 0.1, 0.2]


def test_frames_of_a_program_may_be_grey_or_have_four_channels() -> None:
    images = [np.full((4, 5), 7, np.uint8), np.full((4, 5, 1), 7, np.uint8), np.full((4, 5, 4), 7, np.uint8)]
    frames = list(FrameList(images))
    assert all(f.image.shape == (4, 5, 3) and (f.image == 7).all() for f in frames)


def test_callbacks_are_told_of_every_state() -> None:
    told = []
    source = FrameList([np.zeros((2, 2, 3), np.uint8)])
    source.on_state(lambda old, new, reason: told.append((old, new, reason)))
    list(source)
    list(source)
    assert told == [(State.LIVE, State.ENDED, "")]


def test_a_file_is_its_own_newest(tmp_path: Path) -> None:
    source = open_source(save_image(tmp_path / "a.png"))
    assert source.latest(0.1).index == 0
    assert source.next(0.1) is None
    assert source.state is State.ENDED
    assert source.counts.captured == 1
