"""Options that say where frames come from."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgeseg.cli._options import filled
from edgeseg.errors import UsageError
from edgeseg.io.options import FLIPS, READERS, TRANSPORTS, SourceOptions, number_from_text, size_from_text

if TYPE_CHECKING:
    from edgeseg.io.base import Source

_DEFAULTS = SourceOptions()


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """``--source``, ``--camera``, and how to open what they name."""
    parser.add_argument(
        "--source",
        type=filled,
        metavar="SRC",
        help="camera number, /dev/videoN, v4l2://, csi://N, rtsp://, http://, udp://, tcp://, a GStreamer pipeline, "
        "video, image, folder, quoted glob, .txt list, synthetic://street or replay://DIR",
    )
    parser.add_argument("--camera", type=int, metavar="N", help="short for --source N")
    group = parser.add_argument_group("how the source is opened (an address can say the same: see the guide)")
    group.add_argument("--size", type=_read_by(size_from_text), metavar="WxH", help="ask a camera for this size")
    group.add_argument(
        "--rate", type=_read_by(number_from_text), metavar="HZ", help="ask a camera for this rate; pace of still images"
    )
    group.add_argument("--codec", metavar="FOUR", help="ask a camera for this pixel format: MJPG, YUYV, ...")
    group.add_argument("--flip", choices=FLIPS, help="mirror left and right (h), up and down (v), or both")
    group.add_argument("--loop", action="store_true", default=None, help="begin again at the end of a file")
    group.add_argument(
        "--realtime", action="store_true", default=None, help="play a file at its own pace, dropping like a camera"
    )
    group.add_argument("--transport", choices=TRANSPORTS, help="of RTSP (tcp)")
    group.add_argument("--reader", choices=READERS, help="av needs the extra 'av'; auto prefers it on the network")
    group.add_argument("--hwdec", action="store_true", default=None, help="decode in hardware where the reader can")
    for flag, default, what in (
        ("--open-timeout", _DEFAULTS.open_timeout_s, "give up one attempt to open after S seconds"),
        ("--read-timeout", _DEFAULTS.read_timeout_s, "open a live source again after S seconds without a frame"),
        ("--max-age", _DEFAULTS.max_age_s, "use no frame of a live source older than S seconds"),
        ("--wait", _DEFAULTS.wait_s, "wait S seconds for a live source that is not there yet; inf: for ever"),
    ):
        group.add_argument(flag, type=_read_by(number_from_text), metavar="S", help=f"{what} ({default:g})")
    group.add_argument("--record", type=filled, metavar="DIR", help="keep frames and their times for replay://DIR")


def source_from_args(args: argparse.Namespace) -> Source:
    """Open the source that the flags name. A live one is there when this returns, and its frames are not counted yet.

    Raises:
        EdgesegError: see ``edgeseg.io.sources.open_source``; both or none of ``--source`` and ``--camera``.
    """
    from edgeseg.io.sources import open_source

    if (args.source is None) == (args.camera is None):
        raise UsageError(
            "No source is given" if args.source is None else "Both --source and --camera are given",
            "give one of --source SRC and --camera N",
        )
    return open_source(args.source if args.source is not None else args.camera, source_options_from_args(args))


def source_options_from_args(args: argparse.Namespace) -> SourceOptions:
    """The options that were given as flags.

    Raises:
        UsageError: a value is not possible.
    """
    fields = {
        "size_hw": args.size,
        "rate_hz": args.rate,
        "codec": args.codec,
        "flip": args.flip,
        "loop": args.loop,
        "realtime": args.realtime,
        "transport": args.transport,
        "reader": args.reader,
        "hwdec": args.hwdec,
        "open_timeout_s": args.open_timeout,
        "read_timeout_s": args.read_timeout,
        "max_age_s": args.max_age,
        "wait_s": args.wait,
    }
    return SourceOptions(**{name: value for name, value in fields.items() if value is not None})


def _read_by(value_from_text: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same for argparse, which has its own error."""

    def read(text: str) -> Any:
        try:
            return value_from_text(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(f"{error.problem[0].lower()}{error.problem[1:]}; {error.mend}") from None

    return read
