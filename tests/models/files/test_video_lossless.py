"""Frames and sound in memory, written and read again."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

av = pytest.importorskip("av")

from faceloom.models.errors import FaceLoomError
from faceloom.models.files.video import probe, read_frames, write_lossless


@pytest.mark.parametrize("bits, top", [(8, 255), (10, 1023)])
@pytest.mark.parametrize("size", [(64, 96), (33, 51)])
def test_frames_come_back_as_they_were(tmp_path, bits, top, size):
    frames = (torch.rand(5, *size, 3, generator=torch.Generator().manual_seed(2)) * top).round() / top
    write_lossless(tmp_path / "a.mkv", frames, Fraction(30000, 1001), bits=bits)
    with read_frames(tmp_path / "a.mkv") as read:
        assert (read.info.width, read.info.height, read.info.rate) == (size[1], size[0], Fraction(30000, 1001))
        back = list(read)
    assert len(back) == 5 and all((frame.image() - image).abs().max() < 1 / 4000 for frame, image in zip(back, frames))
    assert [frame.time for frame in back] == pytest.approx([i * 1001 / 30000 for i in range(5)], abs=1e-3)


@pytest.mark.parametrize("channels, kept", [(1, 1), (2, 2), (6, 2)])
def test_sound_comes_along(tmp_path, channels, kept):
    wave = torch.sin(torch.arange(48000) * 440 * 2 * torch.pi / 48000).expand(channels, -1) * .3
    write_lossless(tmp_path / "a.mkv", torch.zeros(25, 32, 32, 3), Fraction(25), sound=(wave, 48000))
    (stream,) = probe(tmp_path / "a.mkv").streams
    assert (stream.kind, stream.codec) == ("audio", "aac")
    with av.open(str(tmp_path / "a.mkv")) as file:
        played = torch.cat([torch.from_numpy(frame.to_ndarray()) for frame in file.decode(audio=0)], 1)
    assert len(played) == kept and played.shape[1] >= 48000 and abs(float(played[:, 4800:43200].abs().max()) - .3) < .03


def test_a_video_without_frames_is_one_sentence(tmp_path):
    with pytest.raises(FaceLoomError, match="no frames"):
        write_lossless(tmp_path / "a.mkv", torch.zeros(0, 32, 32, 3), Fraction(25))
