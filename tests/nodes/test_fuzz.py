"""Chains of nodes with any options and pictures of any shape: a valid result or one sentence, never anything else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WORDS = st.sampled_from(["all", "first", "0", "7", "-1", "0-3", "1,0", "", "x", "0,,1", "-9-9", "²"])
FLOATS = st.one_of(st.floats(0, 1), st.sampled_from([math.nan, math.inf, -1.0, 1e9, 0.0001, 2.0]))
SIZES = st.one_of(st.integers(64, 200), st.sampled_from([1, 2, 7, 300, 2000]))


@st.composite
def pictures(draw, portrait: torch.Tensor) -> torch.Tensor:
    """A portrait, noise or one colour, of any shape, number of channels, float type and range."""
    height, width = draw(SIZES), draw(SIZES)
    if height * width > 300_000:
        height = 64
    kind = draw(st.sampled_from(["portrait", "portrait", "noise", "plain"]))
    frames, channels = draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 3, 4]))
    if kind == "portrait":
        picture = torch.nn.functional.interpolate(portrait.movedim(-1, 1), (height, width), mode="bilinear")[0].movedim(0, -1)
    elif kind == "noise":
        picture = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    else:
        picture = torch.full((height, width, 3), draw(st.floats(0, 1)))
    picture = picture.mean(-1, keepdim=True) if channels == 1 else picture
    if channels == 4:
        picture = torch.cat([picture, torch.full_like(picture[..., :1], draw(st.sampled_from([0.0, .5, 1.0])))], -1)
    picture = picture * draw(st.sampled_from([1.0, 1.0, 1.7, 6.0])) - draw(st.sampled_from([0.0, 0.0, .2]))
    return picture[None].expand(frames, -1, -1, -1).to(draw(st.sampled_from(KINDS))).contiguous()


def masks(draw, faces, size: int) -> torch.Tensor | None:
    """No mask, one, one for each face, several, one of NaN, or one of no size."""
    count = draw(st.sampled_from([0, 1, len(faces), 3]))
    edge = draw(st.sampled_from([1, 17, 64, size]))
    value = draw(st.sampled_from([0.0, .5, 1.0, 2.0, -1.0, math.nan]))
    return None if count == 0 else torch.full((count, edge, edge), value)


def chain(data, nodes, source, portrait) -> None:
    """One graph of random nodes and options; raises what any of them raises."""
    draw = data.draw
    image = draw(pictures(portrait))
    low, high = float(image.min()), float(image.max())
    faces, crops, boxes, count = nodes["FaceDetect"].execute(
        image, draw(FLOATS), draw(st.sampled_from(["large-small", "best-score", "left-right"])), draw(WORDS),
        draw(st.sampled_from([64, 128, 100])), draw(st.sampled_from([0, 30, -1])), draw(st.sampled_from([1.0, .5, 2.0, 0.0])),
        draw(st.sampled_from(["pass", "error"]))).args
    assert count == len(faces) and len(boxes) == len(image) and len(crops) == max(1, count)
    if draw(st.booleans()):
        faces, crops = nodes["FaceAlign"].execute(image, faces, draw(st.sampled_from(["FFHQ", "FFHQ quad", "box"])),
                                                  draw(st.sampled_from([0, 64, 96])), draw(FLOATS)).args
    if draw(st.booleans()):
        faces, _ = nodes["FaceSelect"].execute(faces, {"rule": "index", "index": draw(WORDS)}).args
        crops = nodes["FaceAlign"].execute(image, faces, "FFHQ", 0, 1.0).args[1]
    mask = masks(draw, faces, faces.crop_size)
    if draw(st.booleans()):
        crops, mask = nodes["OneShotSwap"].execute(image, faces, source, draw(FLOATS), draw(WORDS), 1, mask=mask).args
    if draw(st.booleans()):
        mask = nodes["FaceParseMask"].execute(crops, {"regions": draw(st.sampled_from(["face", "mouth", "hair"]))},
                                              draw(st.integers(-9, 9)), draw(st.integers(0, 9)), "inside", faces=faces).args[0]
    if draw(st.booleans()):
        crops, = nodes["Restore"].execute(crops, draw(FLOATS), draw(FLOATS), image=image, faces=faces, mask=mask).args
    for values in (crops, mask):
        assert values is None or not values.isfinite().all() or 0 <= float(values.min()) <= float(values.max()) <= 1
    crops = image if draw(st.sampled_from([False] * 9 + [True])) else crops
    pasted, covered = nodes["PasteBack"].execute(
        image, faces, crops, draw(st.sampled_from(["none", "mean-std", "mkl", "low-frequency"])),
        draw(st.sampled_from(["feather", "multi-band", "poisson"])), draw(FLOATS), draw(FLOATS), mask=mask).args
    assert pasted.shape == image.shape and covered.shape == image.shape[:3]
    assert float(pasted.min()) >= min(low, 0) and float(pasted.max()) <= max(high, 1) + 1e-2 * (high > 1)
    assert float(covered.min()) >= 0 and float(covered.max()) <= 1
    assert torch.equal(pasted[covered == 0], image.to(pasted.dtype)[covered == 0])


def tried(examples: int):
    return settings(max_examples=examples, deadline=None, derandomize=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])


@tried(40)
@given(data=st.data())
def test_a_chain_gives_a_result_or_one_sentence(data, nodes, source, collins, error):
    try:
        chain(data, nodes, source, collins[:, :300, 100:400])
    except error as refused:
        assert "\n" not in str(refused) and str(refused).endswith((".", ")"))


@pytest.mark.slow
@tried(400)
@given(data=st.data())
def test_many_chains_give_a_result_or_one_sentence(data, nodes, source, collins, error):
    try:
        chain(data, nodes, source, collins[:, :300, 100:400])
    except error as refused:
        assert "\n" not in str(refused) and str(refused).endswith((".", ")"))


@pytest.fixture(scope="module")
def error(pack):
    from faceloom.models.errors import FaceLoomError

    return FaceLoomError
