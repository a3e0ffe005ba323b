"""Settings of clips; ``clip/`` follows and swaps their faces, ``files/video/`` reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass

from .ranges import check_choice, check_fields

# Video codecs that are written; auto is the source's own where it can be.
CODECS = ("auto", "h264", "hevc", "av1", "vp9", "prores", "ffv1")
# Suffixes of the video files that are written, and FFmpeg's names of their containers.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# Methods by which faces are smoothed along a clip.
SMOOTHING = ("running mean", "kalman", "savitzky-golay")
MOST_FRAMES = 1000


@dataclass(frozen=True)
class FollowSettings:
    """How faces are followed along a clip.

    fill: for how many frames in a row a face may be missed and is put in, 0 for none. smooth: one of ``SMOOTHING``, or "off". fade: over
    how many frames a swap comes where a person appears within a shot, and goes where they leave or turn too far away; 0 for at once.
    """

    fill: int = 12
    smooth: str = "running mean"
    fade: int = 4

    def check(self) -> None:
        """Raise FaceLoomError where a value is none of the choices or out of its range."""
        check_choice("smooth", self.smooth, (*SMOOTHING, "off"))
        check_fields(self, dict.fromkeys(("fill", "fade"), (0, MOST_FRAMES, True)))
