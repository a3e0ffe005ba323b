"""Shows high dynamic range as standard range, and puts what was changed there back into the clip's own range."""

from __future__ import annotations

import torch

from .marks import BT2020, HLG, PQ, ColorMarks

_WHITE = 203.0  # cd/m² of diffuse white (ITU-R BT.2408)
_PEAK = 1000.0  # cd/m² of the display that HLG is shown on
_KNEE, _SHOULDER = 0.6, 0.4  # the curve is straight up to the knee; the shoulder fills the rest up to 1
_GAIN = 0.8
_CHANGED = 0.1  # a pixel that differs by this much from what it was keeps nothing of it
_NEARLY_WHITE = 1 - 1e-4  # the curve reaches 1 at infinite light only

_BT2020_TO_BT709 = torch.tensor([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=torch.float64)
_HLG_LUMA = torch.tensor([0.2627, 0.6780, 0.0593])


def is_hdr(transfer: int) -> bool:
    """Tell whether a transfer of H.273 is one of high dynamic range: PQ or HLG."""
    return transfer in (PQ, HLG)


def tone_mapped(image: torch.Tensor, transfer: int, primaries: int = BT2020) -> torch.Tensor:
    """Show high dynamic range as standard range, for networks that know only that.

    image: ``[..., 3]`` float32 in the clip's own transfer, in 0..1. transfer, primaries: the clip's marks (16 PQ, 18 HLG; every other
    transfer gives the image back as it is). Light up to three quarters of diffuse white (203 cd/m², ITU-R BT.2408) keeps its proportions,
    what is brighter is rolled off, and colours go from BT.2020 to BT.709 where the marks say BT.2020. Result: the same shape, in BT.709's
    transfer.
    """
    if not is_hdr(transfer):
        return image
    values = image.to(torch.float32).clamp(0, 1)
    light = (_pq_light(values) if transfer == PQ else _hlg_light(values)) / _WHITE
    if primaries == BT2020:
        light = light @ _BT2020_TO_BT709.to(light).T
    light = light.clamp_min(0)
    brightest = light.amax(-1, keepdim=True).clamp_min(1e-6)
    # The curve of the brightest channel applies to all three, which keeps the hue.
    linear = _GAIN * brightest
    mapped = torch.where(linear <= _KNEE, linear, 1 - _SHOULDER * torch.exp((_KNEE - linear) / _SHOULDER))
    light = (light * (mapped / brightest)).clamp(0, 1)
    return torch.where(light < 0.018, 4.5 * light, 1.099 * light.clamp_min(0.018) ** 0.45 - 0.099)


def put_back(image: torch.Tensor, seen: torch.Tensor, changed: torch.Tensor, marks: ColorMarks) -> torch.Tensor:
    """Bring what was changed in a tone-mapped picture into the picture of high dynamic range that it was made of.

    image: ``[..., 3]`` in the clip's own transfer. seen: ``tone_mapped`` of it. changed: ``seen`` with a new face. Return what is shown as
    ``changed``, in the clip's transfer and within 0..1. Unchanged pixels come out bit for bit, and what the tone curve cannot give back of
    a pixel (light above its end, colours outside BT.709) fades as the pixel changes, so that a soft border stays soft. Where the clip has
    standard range the result is ``changed``.
    """
    if not is_hdr(marks.transfer):
        return changed
    lost = image - _signal(seen, marks)
    kept = (1 - (changed - seen).abs().amax(-1, keepdim=True) / _CHANGED).clamp_min(0)
    return torch.where(changed == seen, image, (_signal(changed, marks) + kept * lost).clamp(0, 1))


def _signal(picture: torch.Tensor, marks: ColorMarks) -> torch.Tensor:
    """Return what ``tone_mapped`` shows as ``picture`` ``[..., 3]``, in the clip's own transfer."""
    light = torch.where(picture < 0.081, picture / 4.5, ((picture.clamp_min(0.081) + 0.099) / 1.099) ** (1 / 0.45))
    brightest = light.amax(-1, keepdim=True).clamp(1e-6, _NEARLY_WHITE)
    linear = torch.where(brightest <= _KNEE, brightest, _KNEE - _SHOULDER * torch.log((1 - brightest) / _SHOULDER))
    light = light * (linear / _GAIN / brightest) * _WHITE
    if marks.primaries == BT2020:
        light = light @ torch.linalg.inv(_BT2020_TO_BT709).to(light).T
    return _pq_values(light) if marks.transfer == PQ else _hlg_values(light)


def _pq_light(values: torch.Tensor) -> torch.Tensor:
    """Return cd/m² of PQ values (SMPTE ST 2084)."""
    power = values ** (1 / 78.84375)
    return 10_000 * ((power - 0.8359375).clamp_min(0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def _pq_values(light: torch.Tensor) -> torch.Tensor:
    """Return the PQ values of cd/m²."""
    power = (light / 10_000).clamp(0, 1) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def _hlg_light(values: torch.Tensor) -> torch.Tensor:
    """Return cd/m² of HLG values on a display of 1,000 cd/m² (ITU-R BT.2100)."""
    scene = torch.where(values <= 0.5, values.square() / 3, (torch.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luma = (scene * _HLG_LUMA.to(scene)).sum(-1, keepdim=True)
    return _PEAK * scene * luma.clamp_min(1e-6) ** 0.2


def _hlg_values(light: torch.Tensor) -> torch.Tensor:
    """Return the HLG values of cd/m² on a display of 1,000 cd/m²."""
    shown = (light / _PEAK).clamp(0, 1)
    luma = (shown * _HLG_LUMA.to(shown)).sum(-1, keepdim=True)
    scene = (shown / luma.clamp_min(1e-9) ** (0.2 / 1.2)).clamp(0, 1)
    bright = 0.17883277 * torch.log((12 * scene - 0.28466892).clamp_min(1e-6)) + 0.55991073
    return torch.where(scene <= 1 / 12, (3 * scene).sqrt(), bright).clamp(0, 1)
