"""What ``swap`` can be told about clips: its arguments, their help, and the settings they make. Loads no torch before a swap begins."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.errors import FaceLoomError
from ..models.options.clip import CODECS, MOST_FRAMES, SMOOTHING, FollowSettings

if TYPE_CHECKING:
    from ..models.clip.run import Section
    from ..models.files.video import ClipInfo, EncodeSettings

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)
_SMOOTHING = {name.replace(" ", "-"): name for name in SMOOTHING}
# What is said of faces goes for animated pictures too; the others are for video files.
OF_FACES = ("fill", "smooth", "fade", "who")
OF_FILES = ("start", "end", "codec", "quality", "audio", "resume", "keep_damaged")


@dataclass(frozen=True)
class ClipOptions:
    """What the arguments say about clips. start, end: seconds from a clip's beginning, or None. who: the picture of who is there."""

    follow: FollowSettings = field(default_factory=FollowSettings)
    start: float | None = None
    end: float | None = None
    codec: str = "auto"
    quality: float | None = None
    audio: str = "copy"
    keep_damaged: bool = False
    resume: bool = True
    who: Path | None = None

    def section(self, info: ClipInfo) -> Section:
        """Returns the section that is taken of a clip, in its own clock, whose first frame need not be at 0."""
        from ..models.clip.run import Section

        start, end = (None if at is None else at + float(info.start) for at in (self.start, self.end))
        return Section(start, end, self.keep_damaged)

    def encoding(self, keep_tags: bool = True, tags: dict[str, str] | None = None) -> EncodeSettings:
        """Returns how clips are encoded."""
        from ..models.files.video import EncodeSettings

        return EncodeSettings(self.codec, self.quality, self.audio, keep_tags=keep_tags, tags=tags or {})


def seconds(text: str) -> float:
    """Reads a time: seconds, or minutes and hours before them, such as 90, 1:30 or 0:01:30.5."""
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write seconds, or [hours:]minutes:seconds, such as 90 or 1:30.5")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    if (match[2] and rest >= 60) or (match[1] and minutes >= 60):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: minutes and seconds end at 59")
    return hours * 3600 + minutes * 60 + rest


def frames(text: str) -> int:
    """Reads a number of frames."""
    if not (text.isascii() and text.isdigit() and int(text[:6]) <= MOST_FRAMES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MOST_FRAMES}")
    return int(text)


def quality(text: str) -> float:
    """Reads a number; the codec says which."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def add_clip_arguments(add: Callable) -> None:
    """Adds the arguments about clips. All are None where they are not given."""
    default = FollowSettings()
    add("--start", type=seconds, metavar="TIME", help="where in the clip to begin: seconds, or [hours:]minutes:seconds (default: its first "
                                                      "frame)")
    add("--end", type=seconds, metavar="TIME", help="where to end, as --start (default: its last frame)")
    add("--codec", choices=CODECS, help="of the video; auto is the clip's own, or h264 where OUT cannot hold that (default: auto)")
    add("--quality", type=quality, metavar="NUMBER",
        help="the codec's constant rate factor, lower is better: h264 and hevc 0 to 51, av1 1 to 63, vp9 0 to 63 (default: 17, 19, 22, 20)")
    add("--audio", choices=("copy", "none"), help="sound and subtitles: all tracks as they are, or none (default: copy)")
    add("--fill", type=frames, metavar="FRAMES",
        help=f"a face that is missed for at most so many frames is put in between; 0 for none (default: {default.fill})")
    add("--smooth", choices=(*_SMOOTHING, "off"), help=f"how faces are kept from trembling (default: {default.smooth.replace(' ', '-')})")
    add("--fade", type=frames, metavar="FRAMES",
        help="over how many frames a swap comes and goes where somebody appears, leaves or turns too far away; 0 for at once (default: "
             f"{default.fade})")
    add("--who", type=Path, metavar="FILE",
        help="writes a picture of everybody in the clip with their number for --faces and when they are there; with TARGET alone, "
             '"swap clip.mp4 --who people.png", nothing is swapped')
    add("--resume", action=argparse.BooleanOptionalAction,
        help="go on where the same command was interrupted; --no-resume begins anew (default: --resume)")
    add("--keep-damaged", action="store_const", const=True, help="take what can be read of a damaged clip, instead of an error")


def clip_options_of(arguments: argparse.Namespace) -> ClipOptions:
    """Returns the options that the arguments make, checked; FaceLoomError where they contradict each other."""
    given = {name: value for name in (*OF_FACES, *OF_FILES) if (value := getattr(arguments, name)) is not None}
    if "smooth" in given:
        given["smooth"] = _SMOOTHING.get(given["smooth"], "off")
    follow = FollowSettings(**{name: given.pop(name) for name in ("fill", "smooth", "fade") if name in given})
    follow.check()
    options = ClipOptions(follow, **given)
    if options.end is not None and options.end <= (options.start or 0):
        raise FaceLoomError(f"--end {options.end:g} s is not after --start {options.start or 0:g} s; choose a later end.")
    return options


def check_places(arguments: argparse.Namespace, animated: bool) -> None:
    """Raises FaceLoomError where an option for clips was given and TARGET is none. animated: it is an animated picture, or has some."""
    if words := given_options(arguments, OF_FILES if animated else (*OF_FACES, *OF_FILES)):
        what = "video files" if animated else "clips"
        raise FaceLoomError(f"{words} can only be used with {what}, and {arguments.target} has none; leave it out.")


def given_options(arguments: argparse.Namespace, names: tuple[str, ...]) -> str:
    """Returns those of the options that were given, in words; "" where none was."""
    words = ["--no-resume" if name == "resume" and not arguments.resume else f"--{name.replace('_', '-')}"
             for name in names if getattr(arguments, name) is not None]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
