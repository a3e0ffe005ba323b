"""Reads and writes clips frame by frame: a video file, GIF, APNG, animated WebP or TIFF of several pages comes in, its frames with their
times go out and back into a file, in memory that does not grow with the clip's length.

``probe`` says what a clip is, ``read_frames`` gives its frames, ``open_writer`` takes them back.
PyAV is imported when the first clip is opened.
"""

from .animation import AnimationWriter
from .frame import ClipFrame
from .hdr import put_back, tone_mapped
from .info import ClipInfo, ColorMarks, StreamInfo, count_frames, probe
from .lossless import write_lossless
from .open import open_writer
from .read import FrameReader, read_frames
from .settings import CODECS, CONTAINERS, EncodeSettings, check_output, quality_of, suffix_for
from .write import ClipWriter

__all__ = [
    "CODECS",
    "CONTAINERS",
    "AnimationWriter",
    "ClipFrame",
    "ClipInfo",
    "ClipWriter",
    "ColorMarks",
    "EncodeSettings",
    "FrameReader",
    "StreamInfo",
    "check_output",
    "count_frames",
    "open_writer",
    "probe",
    "put_back",
    "quality_of",
    "read_frames",
    "suffix_for",
    "tone_mapped",
    "write_lossless",
]
