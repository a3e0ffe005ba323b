"""Writes frames and sound that are in memory to a file that ``read_frames`` gives back as they were."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import FaceLoomError
from .library import require_av, writing_to
from .planes import planes_of

if TYPE_CHECKING:
    from av.container import OutputContainer

_SOUND_BITS = 256_000  # a second; sound is encoded as AAC, which every container holds
_SOUND_FRAME = 1024  # samples


def write_lossless(path: Path, frames: torch.Tensor, rate: Fraction, *, bits: int = 8, sound: tuple[torch.Tensor, int] | None = None
                   ) -> None:
    """Write a Matroska file of frames ``[B, H, W, 3]`` 0..1, rounded to ``bits`` (8, or 10 for any larger number), without further loss.

    rate: frames per second. sound: samples ``[C, N]`` float in -1..1 and how many there are a second. FaceLoomError where it cannot be
    written.
    """
    av = require_av()
    if not len(frames):
        raise FaceLoomError("The video has no frames.")
    pixel_format, top = ("bgr0", 255) if bits <= 8 else ("gbrp10le", 1023)
    with writing_to(path), av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=rate, options={"level": "3", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixel_format
        stream.codec_context.color_range = 2
        track = file.add_stream("aac", rate=sound[1], layout=_layout_of(sound[0])) if sound is not None else None
        if track is not None:
            track.bit_rate = _SOUND_BITS
        for number, image in enumerate(frames):
            values = (image[..., :3].detach().to("cpu", torch.float32).clamp(0, 1) * top).round().numpy()
            frame = av.VideoFrame(frames.shape[2], frames.shape[1], pixel_format)
            if bits <= 8:
                lines = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)
                lines[:, : 4 * frame.width].reshape(frame.height, frame.width, 4)[..., 2::-1] = values
            else:
                for plane, channel in zip(planes_of(frame), (1, 2, 0)):
                    plane[:] = values[..., channel].astype(np.uint16)
            frame.pts, frame.time_base = number, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if track is not None and sound is not None:
            _write_sound(file, track, *sound)


def _layout_of(samples: torch.Tensor) -> str:
    """Return FFmpeg's name of the layout of channels ``[C, N]``; more than two are mixed down to stereo."""
    return "mono" if len(samples) == 1 else "stereo"


def _write_sound(file: OutputContainer, track, samples: torch.Tensor, rate: int) -> None:
    """Encode samples ``[C, N]``."""
    av = require_av()
    layout = _layout_of(samples)
    wave = samples.detach().to("cpu", torch.float32)
    wave = (wave if len(wave) <= 2 else wave.mean(0, keepdim=True).expand(2, -1)).contiguous().numpy()
    for begin in range(0, wave.shape[1], _SOUND_FRAME):
        piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, begin : begin + _SOUND_FRAME]), "fltp", layout)
        piece.sample_rate, piece.pts, piece.time_base = rate, begin, Fraction(1, rate)
        file.mux(track.encode(piece))
    file.mux(track.encode(None))
