"""Makes small clips with PyAV, and reads files the plain way, for tests to compare with."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import torch

TICKS = Fraction(1, 12800)


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A smooth coloured picture ``[H, W, 3]`` in 0..1 that differs from frame to frame and is nowhere the same when turned or mirrored."""
    y, x = np.mgrid[:height, :width]
    waves = [x / width, y / height, (np.sin(x / 19 + y / 23 + number / 3) + 1) / 2]
    return np.clip(np.stack(waves, -1) * 0.8 + 0.02 * (number % 8), 0, 1)


def yuv_frame(rgb: np.ndarray, fmt: str, full: bool, weights: tuple[float, float], alpha: np.ndarray | None = None) -> av.VideoFrame:
    """A frame of the planar format whose values follow from the definition of Y'CbCr alone. weights: of red and blue in luma."""
    height, width = rgb.shape[:2]
    frame = av.VideoFrame(width, height, fmt)
    bits = frame.format.components[0].bits
    red, blue = weights
    luma = rgb @ [red, 1 - red - blue, blue]
    planes = [luma, (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    for number, plane in enumerate(frame.planes):
        lines = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16).reshape(plane.height, -1)
        if number == 3:
            values = alpha * top
        elif number == 0:
            values = planes[0] * top if full else planes[0] * 219 * unit + 16 * unit
        else:
            values = planes[number] * (top if full else 224 * unit) + 128 * unit
            high, wide = -(-height // plane.height), -(-width // plane.width)
            values = np.pad(values, ((0, -height % high), (0, -width % wide)), "edge")
            values = values.reshape(plane.height, high, plane.width, wide).mean((1, 3))
        lines[:, : plane.width] = np.rint(values).clip(0, top)
    return frame


WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def make_clip(
    path,
    codec="libx264",
    fmt="yuv420p",
    size=(96, 64),
    pts=range(0, 512 * 24, 512),
    time_base=TICKS,
    matrix=1,
    full=False,
    *,
    primaries=2,
    transfer=2,
    rotation=0,
    options=None,
    alpha=None,
    sound=(),
    subtitles=(),
    container=None,
    metadata=None,
    chapters=(),
    title="",
):
    """Encode a clip of ``picture`` frames at these times. sound: a frequency a track; subtitles and chapters: (start, end, text) in
    seconds."""
    format_name = container or {".mkv": "matroska"}.get(str(getattr(path, "suffix", "")))
    with av.open(path if isinstance(path, io.BytesIO) else str(path), "w", format=format_name) as file:
        stream = file.add_stream(codec, rate=25)
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = *size, fmt
        context.time_base = stream.time_base = time_base
        context.colorspace, context.color_range = matrix, 2 if full else 1
        context.color_primaries, context.color_trc = primaries, transfer
        context.options = {"x265-params": "log-level=none", **(options or {})} if codec == "libx265" else options or {}
        stream.metadata.update(metadata or {})
        if rotation:
            stream.set_display_rotation(rotation)
        tracks = [_sound_track(file, number) for number in range(len(sound))]
        if title:
            file.metadata["title"] = title
        if chapters:
            file.set_chapters([{"id": number, "start": round(start * 1000), "end": round(end * 1000), "time_base": Fraction(1, 1000),
                                "metadata": {"title": text}} for number, (start, end, text) in enumerate(chapters, 1)])
        texts = file.add_mux_stream("subrip") if subtitles else None
        if texts is not None:
            texts.time_base = Fraction(1, 1000)
        for number, at in enumerate(pts):
            frame = yuv_frame(picture(number, *size), fmt, full, WEIGHTS.get(matrix, WEIGHTS[1]), alpha)
            frame.pts, frame.time_base = at, time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for track, frequency in zip(tracks, sound):
            _play(file, track, frequency, float((max(pts) - min(pts)) * time_base), float(min(pts) * time_base))
        for start, end, text in subtitles:
            packet = av.Packet(text.encode())
            packet.stream, packet.time_base = texts, Fraction(1, 1000)
            packet.pts = packet.dts = round(start * 1000)
            packet.duration = round((end - start) * 1000)
            file.mux(packet)
    return path


def _sound_track(file, number):
    track = file.add_stream("aac", rate=48000, layout="stereo" if number else "mono")
    track.metadata["language"] = ("eng", "deu")[number % 2]
    return track


def _play(file, track, frequency, seconds, start):
    at = np.arange(int(seconds * 48000)) / 48000
    wave = np.tile(np.sin(at * frequency * 2 * np.pi).astype(np.float32) * 0.3, (track.layout.nb_channels, 1))
    for begin in range(0, wave.shape[1], 1024):
        piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, begin : begin + 1024]), "fltp", track.layout.name)
        piece.sample_rate, piece.pts, piece.time_base = 48000, begin + round(start * 48000), Fraction(1, 48000)
        file.mux(track.encode(piece))
    file.mux(track.encode(None))


def decoded(path) -> list[tuple[Fraction, list[np.ndarray]]]:
    """Time and planes of every frame of a file, as FFmpeg decodes them."""
    with av.open(str(path)) as file:
        return [(frame.pts * frame.time_base, planes(frame)) for frame in file.decode(video=0)]


def planes(frame) -> list[np.ndarray]:
    """Copies of the planes of a frame."""
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].copy() for plane in frame.planes]


def packets(path, kind: str) -> list[list[tuple[float, bytes]]]:
    """Time and bytes of the packets of each stream of a kind."""
    with av.open(str(path)) as file:
        found: dict[int, list] = {stream.index: [] for stream in file.streams if stream.type == kind}
        for packet in file.demux():
            if packet.stream.index in found and packet.size:
                found[packet.stream.index].append((float(packet.pts * packet.time_base), bytes(packet)))
        return list(found.values())


def equal(one, other) -> bool:
    """True where two decoded clips have the same times and the same values."""
    return len(one) == len(other) and all(a == b and all(map(np.array_equal, p, q)) for (a, p), (b, q) in zip(one, other))


def mean_error(image: torch.Tensor, expected: np.ndarray) -> float:
    """Mean distance in levels of 8 bits."""
    return float((image.double() - torch.from_numpy(np.ascontiguousarray(expected))).abs().mean() * 255)
