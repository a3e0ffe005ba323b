"""The research systems' options: what was published is the default, the rest changes what it says and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Faces
from faceloom.models.files.folders import default_folders
from faceloom.models.identity import make_identity
from faceloom.models.runtime.devices import TorchModel
from faceloom.models.runtime.method import Loading
from faceloom.models.swap import lost_detail
from faceloom.models.swap.load import load_engine, options_by_method, with_options
from faceloom.models.swap.research import ghost as ghost_files
from faceloom.models.swap.research import megafs, reliableswap
from faceloom.models.swap.research.facedancer_engine import FaceDancerEngine, rectangle_mask
from faceloom.models.swap.research.fslsd_engine import grow_masks
from faceloom.models.swap.research.ghost_engine import TEMPLATES, GhostEngine, GhostNets, nearest_template
from faceloom.models.swap.research.ghost_mask import MaskParameters, blend_mask, mask_parameters
from faceloom.models.swap.research.reliableswap_engine import SimSwapEngine, SimSwapNets
from smallest import SMALLEST_ONNX
from swapping import swapped
from torch import nn


class Arc(nn.Module):
    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, target, identity):
        return target * .5, []


class Brighter(nn.Module):
    """Stands in for super-resolution; says how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls: list[tuple[int, bool]] = []

    def forward(self, x, as_published=False):
        self.calls.append((len(x), as_published))
        return x + .25


class Ring:
    """106 points on a circle, wider by ``step`` at every later call's pictures; the swapped side is the first call of each pair."""

    def __init__(self, *inside: float) -> None:
        self.inside = list(inside)
        self.pairs = 0

    def __call__(self, crops):
        angle = np.linspace(0, 2 * np.pi, 106, endpoint=False)
        ring = np.stack([112 + 60 * np.cos(angle), 112 + 70 * np.sin(angle)], -1)
        swapped = self.pairs % 2 == 0
        self.pairs += 1
        offset = self.inside[self.pairs // 2 % len(self.inside)] if swapped else 0.
        return np.stack([ring + np.array([offset, 0]) for _ in crops])


def ghost(landmarker=None, enhancer=None, **options) -> GhostEngine:
    model = TorchModel("ghost", GhostNets(Gan(), Arc()))
    return GhostEngine("ghost", model, landmarker=landmarker, enhancer=enhancer, **options)


@pytest.fixture(scope="module")
def scene(collins, hopper):
    return collins, detect_faces(collins), make_identity(hopper, detect_faces(hopper))[0]


def test_options_leave_the_engine_they_came_from_alone(scene):
    images, faces, identity = scene
    net = Brighter()
    plain = ghost(enhancer=lambda: TorchModel("sr", net))
    before, _ = swapped(plain, images, faces, identity, 128)
    brighter = with_options(plain, "GHOST", enhance="eval")
    after, masks = swapped(brighter, images, faces, identity, 128)
    assert brighter.note.endswith("Licence of the super-resolution: CC BY-NC-SA 4.0 parts, no commercial use")
    assert brighter.model is plain.model and plain.options.enhance == "off"
    assert torch.equal(swapped(plain, images, faces, identity, 128)[0], before)
    inside = (masks == 1) & (before.amax(-1) < .7)
    assert torch.allclose((after - before)[inside], torch.tensor(.25), atol=1e-3)
    both = Faces(faces.items * 2, 1, *images.shape[1:3])
    swapped(with_options(plain, "GHOST", enhance="as published"), images, both, identity, 128)
    assert net.calls == [(1, False), (1, True), (1, True)]  # one picture at a time as published


def test_the_super_resolution_is_read_when_it_is_asked_for():
    read = []
    late = ghost(enhancer=lambda: read.append(1) or TorchModel("sr", Brighter()))
    assert not read
    late.with_options(enhance="eval")
    assert read


def test_a_generator_in_half_precision_is_fed_so_and_super_resolution_in_its_own(scene):
    images, faces, identity = scene
    seen = []

    class Half(Gan):
        def forward(self, target, identity):
            seen.append((target.dtype, identity.dtype))
            return super().forward(target, identity)

    whole = ghost(enhancer=lambda: TorchModel("sr", Brighter()), enhance="eval")
    nets = GhostNets(Half(), Arc()).half()
    half = GhostEngine("ghost", TorchModel("ghost", nets), enhancer=lambda: TorchModel("sr", Brighter()), enhance="eval")
    (crops, masks), (right, _) = (swapped(engine, images, faces, identity, 128) for engine in (half, whole))
    assert seen == [(torch.float16, torch.float16)] and crops.dtype == masks.dtype == torch.float32
    assert 0 < float((crops - right).abs().max()) < 2e-3


def test_options_of_another_system_are_not_ignored():
    with pytest.raises(FaceLoomError, match="These are the options of MegaFS, but ghost is GHOST; choose the options of GHOST"):
        with_options(ghost(), "MegaFS", stretch=False)
    with pytest.raises(FaceLoomError, match="mesh has no options; connect it to One-Shot Swap directly"):
        with_options(load_engine("mesh"), "GHOST")
    with pytest.raises(FaceLoomError, match="ghost has no option stretch; it has enhance, templates"):
        ghost().with_options(stretch=False)
    with pytest.raises(FaceLoomError, match='Enhance must be one of off, eval, as published, not "yes"'):
        ghost(enhance="yes")
    with pytest.raises(FaceLoomError, match="106 landmarks"):
        ghost(mask="whole clip")
    assert "2d106det.onnx" in ghost().note and not ghost(mask="face outline").note and not ghost(Ring(0)).note


def test_every_default_is_an_engine_as_published():
    for kind in options_by_method().values():
        kind()
        for option in fields(kind):
            for choice in option.metadata["choices"]:
                replace(kind(), **{option.name: choice})


@pytest.mark.parametrize("page", ["docs/research-systems.md", "js/docs/SwapModelOptions.md"])
def test_the_pages_name_every_option_and_every_choice(page):
    text = (Path(__file__).parents[4] / page).read_text(encoding="utf-8")
    for method, kind in options_by_method().items():
        row = text
        if page.startswith("docs"):  # a table whose last column has what each system's options take, the published value first
            row = next(line for line in text.split("| system | as published | options |")[1].splitlines() if line.startswith(f"| {method}"))
        for option in fields(kind):
            assert f"`{option.name}`" in row or f"**{option.name}**" in row, (method, option.name)
            about = row.split(f"`{option.name}`")[-1].split(" · ")[0] if page.startswith("docs") else row
            choices = option.metadata["choices"] or (["on", "off"] if isinstance(option.default, bool) else [])
            if page.startswith("docs") or option.name == "mask":
                assert all(choice in about for choice in choices), (method, option.name, about)
            if page.startswith("docs"):
                default = {True: "on", False: "off"}.get(option.default, option.default) if choices else f"{option.default:g}"
                assert default in about.split(",")[0], (method, option.name, about)


def test_the_frontal_template_alone(scene):
    _, faces, _ = scene
    profile = replace(faces[0], keypoints=TEMPLATES[0] + 30)
    taken = [ghost(templates=which).alignment(profile.keypoints[None]) for which in ("five", "frontal")]
    assert np.allclose(taken[0][0, :, :2], np.eye(2) * 256 / 224, atol=1e-6) and not np.allclose(*taken, atol=.05)
    assert np.allclose(nearest_template(profile.keypoints[None], TEMPLATES[2:3])[0] * 256 / 224, taken[1], atol=.2)


def test_a_clips_mask_keeps_its_first_frames_parameters_until_the_face_is_gone(scene):
    images, faces, identity = scene
    clip = images.expand(4, -1, -1, -1)
    items = tuple(replace(faces[0], frame=i) for i in (0, 1, 3))
    found = Faces(items, 4, *images.shape[1:3])
    ring = Ring(0)
    angle = np.linspace(0, 2 * np.pi, 106, endpoint=False)
    own = np.stack([112 + 60 * np.cos(angle), 112 + 70 * np.sin(angle)], -1)
    assert mask_parameters(own, own) == MaskParameters(5, 5, 5)
    seen = []

    class Engine(GhostEngine):
        def own_masks(self, pictures, targets):
            seen.append((len(pictures), self.options.mask, self.options.shrink, self.options.blur_x, self.options.blur_y))
            return super().own_masks(pictures, targets)

    engine = Engine("ghost", TorchModel("ghost", GhostNets(Gan(), Arc())), landmarker=ring, mask="whole clip")
    done = []
    crops, masks = swapped(engine, clip, found, identity, 128, progress=lambda *at: done.append(at))
    assert seen == [(2, "own numbers", 5, 5, 5), (1, "own numbers", 5, 5, 5)]
    assert done[-1] == (3, 3) and [at[0] for at in done] == sorted(at[0] for at in done)
    each, same = swapped(ghost(Ring(0)), clip, found, identity, 128)
    assert torch.allclose(crops, each, atol=1e-5) and torch.allclose(masks, same, atol=1e-5)
    wider = Ring(5, 0)  # the first picture of the clip is 5 pixels off, the next are not
    offset = with_options(Engine("ghost", engine.model, landmarker=wider), "GHOST", mask="whole clip")
    seen.clear()
    swapped(offset, clip[:2], Faces(items[:2], 2, *images.shape[1:3]), identity, 128)
    first = mask_parameters(own + np.array([5., 0]), own)
    assert first == MaskParameters(15, 15, 10) and seen == [(2, "own numbers", 15, 15, 10)]


def test_own_numbers_of_the_mask():
    angle = np.linspace(0, 2 * np.pi, 106, endpoint=False)
    ring = np.stack([112 + 50 * np.cos(angle), 112 + 50 * np.sin(angle)], -1)
    none, some, more = (blend_mask(ring, ring, 224, MaskParameters(edge, 1, 1)).sum() for edge in (0, 9, -9))
    assert some < none < more
    assert np.sqrt(none / np.pi) - np.sqrt(some / np.pi) == pytest.approx(5, abs=.8)  # 4 across, 5.7 along the diagonals of the square


def test_facedancers_rectangles(scene):
    images, faces, identity = scene

    class Plain(nn.Module):
        def forward(self, x, *_):
            return x if x.shape[-1] == 256 else x.mean((2, 3))

    class Nets(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.arcface, self.weight = Plain(), Plain(), nn.Parameter(torch.zeros(1))

    engine = FaceDancerEngine("dancer", TorchModel("dancer", Nets()))
    kinds = ("rectangle", "low rectangle", "face outline")
    masks = [swapped(engine.with_options(mask=kind), images, faces, identity, 128)[1] for kind in kinds]
    assert float(rectangle_mask("low rectangle")[88, 128]) < .1 < .9 < float(rectangle_mask()[88, 128])
    assert masks[1].sum() < masks[0].sum() and not torch.equal(masks[2], masks[1])


def test_pixels_that_crops_have_no_room_for_are_told(scene):
    _, faces, _ = scene
    engine = ghost()
    engine.size = 1024
    large = replace(faces, crop_size=128)
    assert "ghost draws 1024 pixels, and crops of 128" in lost_detail(large, engine) and "crop_size 1024" in lost_detail(large, engine)
    assert not lost_detail(replace(faces, crop_size=1024), engine)
    assert not lost_detail(replace(faces, crop_size=512), engine)  # the face has fewer in the photograph
    assert "draws 2048 pixels" in lost_detail(replace(faces, crop_size=128), engine, 2)
    assert not lost_detail(large, None) and not lost_detail(Faces((), 1, 10, 10, crop_size=128), engine)


def test_an_onnx_file_has_no_options(tmp_path):
    (tmp_path / "hyperswap_1a_256.onnx").write_bytes(SMALLEST_ONNX)
    with pytest.raises(FaceLoomError, match=r"hyperswap_1a_256\.onnx is opened as ONNX, which has no options; leave enhance out"):
        load_engine(tmp_path / "hyperswap_1a_256.onnx", enhance="eval")


def test_companions_lie_beside_the_file_or_where_the_models_folders_have_them(tmp_path):
    loading = Loading(default_folders(tmp_path / "models"))
    main = tmp_path / "models" / "faceloom" / "mine" / "G.pth"
    with pytest.raises(FaceLoomError, match=r"G\.pth needs GHOST's ArcFace \(backbone\.pth, .*get ghost_arcface_backbone_pth`.*mine"):
        ghost_files.ARCFACE.find(main, loading)
    with pytest.raises(FaceLoomError, match=r"stylegan2-ffhq-config-f\.pth.*get it from https://.*put it into .*mine"):
        megafs.STYLEGAN2.find(main, loading)
    assert reliableswap.FIXERNET.find(main, loading, needed=False) is None
    for place in ("reliableswap", "ghost", "mine"):
        made = main.parent.with_name(place) / "backbone.safetensors"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"x")
        own = reliableswap.ARCFACE if place == "reliableswap" else ghost_files.ARCFACE
        assert own.find(main, loading) == made  # another system's file of the same name is not taken


def test_simswap_has_no_alignment_to_leave_out():
    model = TorchModel("simswap", SimSwapNets(Gan(), Arc(), None))
    with pytest.raises(FaceLoomError, match="SimSwap form, for which the source is never moved"):
        SimSwapEngine("G_mouth1_st5", model, 256, align=False)


@pytest.mark.parametrize("pixels", [0, 4, 50])
def test_a_dilated_pixel_is_a_square(pixels):
    mask = torch.zeros(1, 1, 128, 128)
    mask[0, 0, 64, 60] = 1
    at = torch.nonzero(grow_masks(mask, pixels)[0, 0])
    assert at.min(0).values.tolist() == [64 - pixels // 2, 60 - pixels // 2]
    assert at.max(0).values.tolist() == [64 + pixels // 2, 60 + pixels // 2] and len(at) == (2 * (pixels // 2) + 1) ** 2
