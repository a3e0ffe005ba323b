"""Numbers of selecting, smoothing, masks, swapping, restoring, diffusion and the published systems are checked before the work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.diffusion.blending import step_mask
from faceloom.models.diffusion.crop import sampling_size
from faceloom.models.diffusion.dreambooth import DreamBoothSettings
from faceloom.models.diffusion.lora import LoraLayers
from faceloom.models.diffusion.swap import GuidanceStrengths
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.options.paste import PasteSettings
from faceloom.models.options.swap import SwapSettings
from faceloom.models.parse import MaskEdge, region_labels, region_mask
from faceloom.models.parse.occlude import occlusion_mask
from faceloom.models.paste import paste
from faceloom.models.pixels.masks import feather_mask, grow_mask
from faceloom.models.restore import restore_crops
from faceloom.models.select.rules import RANKS, SelectionRule, select_faces
from faceloom.models.select.smooth import smooth_faces
from faceloom.models.select.track import assign_tracks
from faceloom.models.swap import swap_faces
from faceloom.models.systems import diffface, diffswap, face_adapter_swap, reface

FACE = Face(0, (40, 40, 120, 120), FFHQ_TEMPLATE * 120 + 20)
FACES = Faces(tuple(replace(FACE, frame=frame) for frame in range(3)), 3, 160, 160, crop_size=64)
IMAGES, CROPS, MASK = torch.zeros(3, 160, 160, 3), torch.zeros(3, 64, 64, 3), torch.ones(1, 64, 64)
NEVER = (float("nan"), float("inf"), -float("inf"), 1e25, 10**30, -1e25, "x", None, torch.ones(3), np.ones(2))
WHOLE = (2.5,)


class Untouched:
    """An engine, network or parser that must not be asked."""

    name = "untouched"

    def prepare(self, *_):
        raise AssertionError("work began before the numbers were checked")

    swap = restore = parse = visible = prepare


def swapping(value, name):
    return swap_faces(IMAGES, FACES, None, Untouched(), SwapSettings(**{name: value}))


def masking(value, name):
    return region_mask("face", 64, faces=FACES, crops=CROPS, parser=Untouched(), edge=MaskEdge(**{name: value}))


CASES = {
    "paste feather": (lambda v: paste(IMAGES, FACES, CROPS, MASK, PasteSettings(feather=v)), (-0.1, 0.6)),
    "paste opacity": (lambda v: paste(IMAGES, FACES, CROPS, MASK, PasteSettings(opacity=v)), (-0.1, 1.1)),
    "swap strength": (lambda v: swapping(v, "strength"), (-0.1, 2.1)),
    "swap pixel_boost": (lambda v: swapping(v, "pixel_boost"), (0, 9, *WHOLE)),
    "swap size": (lambda v: swapping(v, "size"), (0, -64, 10**6, *WHOLE)),
    "restore amount": (lambda v: restore_crops(CROPS, restorer=Untouched(), amount=v), (-0.1, 1.1)),
    "restore fidelity": (lambda v: restore_crops(CROPS, restorer=Untouched(), fidelity=v), (-0.1, 1.1)),
    "mask grow": (lambda v: masking(v, "grow"), (-20000, 20000)),
    "mask feather": (lambda v: masking(v, "feather"), (-1, 20000)),
    "mask side": (lambda v: masking(v, "side"), ("outside",)),
    "mask size": (lambda v: region_mask("face", v, faces=FACES, crops=CROPS, parser=Untouched()), (0, -64, 10**6, *WHOLE)),
    "label size": (lambda v: region_labels(FACES, v), (0, -64, 10**6, *WHOLE)),
    "occlusion size": (lambda v: occlusion_mask(IMAGES, FACES, v, Untouched()), (0, -64, 10**6, *WHOLE)),
    "occlusion grow": (lambda v: occlusion_mask(IMAGES, FACES, 64, Untouched(), grow=v), (-20000, 20000)),
    "occlusion feather": (lambda v: occlusion_mask(IMAGES, FACES, 64, Untouched(), feather=v), (-1, 20000)),
    "grow_mask": (lambda v: grow_mask(MASK, v), ()),
    "feather_mask": (lambda v: feather_mask(MASK, v), (-1,)),
    "track gap": (lambda v: assign_tracks(FACES, v), (-1, *WHOLE)),
    "smooth gap": (lambda v: smooth_faces(FACES, gap=v), (-1, *WHOLE)),
    "smooth reach": (lambda v: smooth_faces(FACES, reach=v), (-1, *WHOLE)),
    "smooth jump": (lambda v: smooth_faces(FACES, jump=v), (-1,)),
    "smooth process": (lambda v: smooth_faces(FACES, "kalman", process=v), (-1,)),
    "smooth measure": (lambda v: smooth_faces(FACES, "kalman", measure=v), (-1, 0)),
    "smooth window": (lambda v: smooth_faces(FACES, "savitzky-golay", window=v), (-1, 0, *WHOLE)),
    "smooth order": (lambda v: smooth_faces(FACES, "savitzky-golay", order=v), (-1, 21, *WHOLE)),
    "smooth other": (lambda v: smooth_faces(FACES, "kalman", reach=v), (2,)),
    "blend start": (lambda v: step_mask(MASK, 0.5, "target-preserving", v), (-0.1, 1.1)),
    "blend end": (lambda v: step_mask(MASK, 0.5, "target-preserving", 0, v), (-0.1, 1.1)),
    "sampling size": (lambda v: sampling_size(v, 8), (0, -512)),
    "latent pixel": (lambda v: sampling_size(512, v), (0, -8, *WHOLE)),
    "lora rank": (lambda v: LoraLayers({}, v), (0, -1, *WHOLE)),
}
for rule in ("index", *RANKS, "size", "score", "age", "same-person", "first-person"):
    for name, more in {"count": (0, -1, *WHOLE), "minimum": (-1,), "maximum": (-1,), "similarity": (-1, 1.1), "margin": (-1, 3)}.items():
        CASES[f"{rule} {name}"] = (lambda v, rule=rule, name=name: select_faces(FACES, replace(SelectionRule(rule), **{name: v})), more)
for kind in (reface.Settings, diffswap.Settings, face_adapter_swap.Settings, diffface.Settings, diffface.LossWeights):
    for name, default in vars(kind()).items():
        if isinstance(default, int | float) and not isinstance(default, bool):
            CASES[f"{kind.__module__.split('.')[-1]} {name}"] = (lambda v, kind=kind, name=name: kind(**{name: v}), (-1,))
for name in ("identity", "expression", "gaze", "views", "seed"):
    CASES[f"guidance {name}"] = (lambda v, name=name: GuidanceStrengths(**{name: v}).check(1, None, None, None, None), (-1,))
for name in vars(DreamBoothSettings()):
    CASES[f"dreambooth {name}"] = (lambda v, name=name: DreamBoothSettings(**{name: v}).check(), (-1,))


@pytest.mark.parametrize("case", CASES)
def test_a_number_that_makes_no_sense_is_one_sentence(case):
    work, more = CASES[case]
    for value in (*NEVER, *more):
        if value is None and case == "swap size":  # the faces' own
            continue
        with pytest.raises(FaceLoomError) as caught:
            work(value)
        assert str(caught.value).endswith("."), value
