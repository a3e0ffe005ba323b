"""The diffusion systems as engines of ``swap``, from tiny files of their authors' forms to the picture that is written."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch
from faceloom.cli import OK, USER_ERROR, main
from faceloom.models.files.picture import read_image, write_image
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.bisenet import BiSeNet
from faceloom.models.networks.eyenet import EyeNet
from faceloom.models.networks.guided_unet import GuidedUNet
from faceloom.models.systems import diffface, reface
from faceloom.models.systems.diffface import PRESETS, LossWeights
from faceloom.models.systems.face_adapter_load import CONTROL_FOLDER, VISION_FOLDER

WIDE = 24  # of Face-Adapter's prompts and CLIP


def save_reface(folder: Path) -> Path:
    from reface_files import save_reface

    return save_reface(folder / "last.ckpt")


def save_diffswap(folder: Path) -> Path:
    from diffswap_files import save_diffswap

    return save_diffswap(folder / "diffswap.pth")


def save_diffface(folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save(GuidedUNet((32,) * 5, (4,)).state_dict(), folder / "Model.pt")
    torch.save({"model": torch.nn.DataParallel(ArcFaceSE((1, 1, 1, 1)))}, folder / "Arcface.tar")
    torch.save(BiSeNet().state_dict(), folder / "FaceParser.pth")
    torch.save({"nstack": 1, "model_state_dict": EyeNet(1, 16, 4).state_dict()}, folder / "GazeEstimator.pt")
    return folder / "Model.pt"


def save_face_adapter(folder: Path) -> Path:
    import diffusers
    from face_adapter_files import save_face_adapter, save_vision
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    save_vision(folder / VISION_FOLDER, WIDE)
    common = {"block_out_channels": (32, 32), "layers_per_block": 1, "cross_attention_dim": WIDE, "attention_head_dim": 2,
              "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    base = folder / "base"
    diffusers.UNet2DConditionModel(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **common).save_pretrained(base / "unet")
    diffusers.ControlNetModel(conditioning_embedding_out_channels=(16, 16, 16, 16), **common).save_pretrained(folder / CONTROL_FOLDER)
    diffusers.AutoencoderKL(block_out_channels=(32,) * 4, layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4,
                            up_block_types=("UpDecoderBlock2D",) * 4).save_pretrained(base / "vae")
    CLIPTextModel(CLIPTextConfig(hidden_size=WIDE, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
                  ).save_pretrained(base / "text_encoder")
    return save_face_adapter(folder, WIDE, WIDE)


MAKERS = {"REFace": save_reface, "DiffSwap": save_diffswap, "DiffFace": save_diffface, "Face-Adapter": save_face_adapter}
# What each is run with, beside its file, and options that change its result.
RUNS = {"REFace": ("--steps 1", "--seed 1 --cfg 1"), "DiffSwap": ("--steps 1", "--steps 2 --seed 1"),
        "DiffFace": ("--steps 2 --option repeats=1", "--steps 3 --seed 1"),
        "Face-Adapter": ("--steps 1 --option base=BASE", "--steps 2 --seed 1 --cfg 1")}  # fmt: skip


@pytest.fixture(scope="module")
def photo(tmp_path_factory, hopper):
    """Grace Hopper's head, small."""
    path = tmp_path_factory.mktemp("photo") / "hopper.png"
    write_image(path, torch.nn.functional.avg_pool2d(hopper.permute(0, 3, 1, 2), 2)[0].permute(1, 2, 0)[:192, 50:210])
    return path


@pytest.fixture(scope="module")
def file(request, tmp_path_factory):
    pytest.importorskip("diffusers")
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """REFace's sizes are not in its file; DiffFace is guided by the likeness alone, in one view, and paints the middle of
    the crop, because an untrained parser finds no face."""
    from reface_files import SMALL_UNET, SMALL_VAE

    monkeypatch.setattr(reface, "load_reface", functools.partial(reface.load_reface, unet=SMALL_UNET, vae=SMALL_VAE))
    monkeypatch.setitem(PRESETS, "released", LossWeights(identity=60, expression=0, gaze=0, views=1))
    monkeypatch.setattr(diffface, "find_face_masks", lambda networks, targets: torch.nn.functional.pad(
        torch.ones_like(targets[:, :1, 64:-64, 64:-64]), (64,) * 4))


def swap(photo: Path, out: Path, file: Path, words: str) -> int:
    words = words.replace("BASE", str(file.parent / "base")).split()
    return main(["swap", str(photo), str(photo), str(out), "--engine", str(file), "--device", "cpu", "--quiet", "--restore", "0", *words])


@pytest.mark.slow
@pytest.mark.parametrize(("file", "name"), [(name, name) for name in MAKERS], indirect=["file"])
def test_a_photograph_is_painted(file, name, photo, tmp_path):
    """The face changes and the border stays; the options of sampling count, and so does the mask."""
    first, more = RUNS[name]
    black = tmp_path / "black.png"
    write_image(black, torch.zeros(8, 8, 3))
    runs = {"first": first, "other": f"{first} {more}", "nowhere": f"{first} --mask {black}"}
    for out, words in runs.items():
        assert swap(photo, tmp_path / f"{out}.png", file, words) == OK
    before, first, other, nowhere = (read_image(path) for path in (photo, *(tmp_path / f"{out}.png" for out in runs)))
    changed = (first != before).any(-1)
    assert 0.02 < float(changed.float().mean()) < 0.9 and not torch.equal(first, other)
    assert torch.equal(nowhere, before)


@pytest.mark.parametrize(("file", "words", "said"), [
    ("DiffSwap", "--cfg 2", "DiffSwap has no option cfg; it has steps, seed, target_guidance, shape, organ_source."),
    ("DiffFace", "--cfg 2", "DiffFace has no option cfg; it has steps, seed, repeats, weights."),
    ("DiffFace", "--steps 1", "Steps must be a whole number from 2 to 1000, not 1."),
    ("DiffSwap", "--strength 0.5", "DiffSwap paints whole new faces of one size; leave strength and pixel boost at 1."),
    ("Face-Adapter", "", "Face-Adapter paints with Stable Diffusion 1.5; name its folder with --option base=FOLDER."),
    ("Face-Adapter", "--option base=/no/such/folder", "has no unet/config.json."),
], indirect=["file"])
def test_what_a_system_cannot_do_is_refused(file, words, said, photo, tmp_path, capsys):
    assert swap(photo, tmp_path / "out.png", file, words) == USER_ERROR
    err = capsys.readouterr().err
    assert err.endswith(f"{said}\n") and err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["REFace"], indirect=True)
def test_without_diffusers_one_sentence_says_what_to_install(file, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers.loaders.single_file_utils", None)
    assert swap(photo, tmp_path / "out.png", file, "--steps 1") == USER_ERROR
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install faceloom[research]" in err
