"""The Flux and Qwen templates run as they are, but for their loaders and sizes: small models of the real architectures, made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEADS = ["qwen-edit-head-swap", "kontext-head-swap"]
FILL = "flux-fill-ace-swap"
# The method that loads, the folder and the widgets that name files.
LOADERS = {"UNETLoader": ("load_unet", "diffusion_models", "unet_name"), "CLIPLoader": ("load_clip", "text_encoders", "clip_name"),
           "DualCLIPLoader": ("load_clip", "text_encoders", "clip_name1", "clip_name2"), "VAELoader": ("load_vae", "vae", "vae_name"),
           "LoraLoaderModelOnly": ("", "loras", "lora_name")}
# Everything is a quarter of its size, so that all that has to agree still does.
SIZES = {"FaceDetect": ("crop_size",), "SolidMask": ("width", "height"), "MaskComposite": ("x",), "FaceParseMask": ("grow", "feather")}


class Words:
    """A CLIP that answers every prompt with tokens of its own, and remembers what it was asked and shown."""

    def __init__(self, width: int, pooled: int) -> None:
        self.width, self.pooled = width, pooled
        self.asked: list[tuple[str, list]] = []

    def tokenize(self, text, images=(), **options):
        self.asked.append((text, list(images)))
        return len(text)

    def encode_from_tokens_scheduled(self, number):
        generator = torch.Generator().manual_seed(number)
        return [[torch.randn(1, 8, self.width, generator=generator), {"pooled_output": torch.randn(1, self.pooled, generator=generator)}]]


@pytest.fixture(scope="module")
def models(doubles):
    """{template: (MODEL, CLIP, VAE)}."""
    with torch.inference_mode():
        vae = doubles.vae(16)
        return {FILL: (doubles.flux(96), Words(64, 32), vae), "kontext-head-swap": (doubles.flux(), Words(64, 32), vae),
                "qwen-edit-head-swap": (doubles.qwen(), Words(64, 1), doubles.video_vae())}


@pytest.fixture
def run(models, run_graph, pictures, base, tmp_path, monkeypatch):
    """``run(name, change)``: the template with its graph changed by ``change(graph, find)``. Gives the saved picture and the target."""
    import comfy.utils
    import folder_paths

    import nodes as core

    kinds, upscale = core.NODE_CLASS_MAPPINGS, comfy.utils.common_upscale
    monkeypatch.setattr(comfy.utils, "common_upscale", lambda picture, *size_and_how: upscale(
        picture, *(size if size < 512 else 256 for size in size_and_how[:2]), *size_and_how[2:]))
    monkeypatch.setattr(sys.modules[kinds["FluxKontextImageScale"].__module__], "PREFERRED_KONTEXT_RESOLUTIONS", [(256, 256)])

    def load(node: dict, made) -> None:
        method, folder, *names = LOADERS[node["class_type"]]
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for name in names:
            save_file({"nothing": torch.zeros(1)}, place / node["inputs"][name])
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(place)], {".safetensors"}))
        folder_paths.filename_list_cache.clear()
        if method:
            monkeypatch.setattr(kinds[node["class_type"]], method, lambda *_, **__: (made,))

    def execute(name: str, change=lambda graph, find: None) -> tuple[np.ndarray, np.ndarray]:
        graph = json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text())
        model, clip, vae = models[name]
        given = {"UNETLoader": model, "CLIPLoader": clip, "DualCLIPLoader": clip, "VAELoader": vae, "LoraLoaderModelOnly": None}

        def find(kind: str) -> list[dict]:
            return [node for node in graph.values() if node["class_type"] == kind]

        for node in graph.values():
            inputs = node["inputs"]
            if node["class_type"] in LOADERS:
                load(node, given[node["class_type"]])
            for size in SIZES.get(node["class_type"], ()):
                inputs[size] //= 4
            if node["class_type"] == "ImageCropV2":
                inputs["crop_region"] = {key: value // 4 for key, value in inputs["crop_region"].items()}
            if "steps" in inputs:
                inputs |= {"steps": 2} | ({"size": 256} if "size" in inputs else {})
        change(graph, find)
        saved, = (number for number, node in graph.items() if node["class_type"] == "SaveImage")
        shown, = run_graph(graph, [saved])[saved]["images"]
        result = np.asarray(Image.open(base / "output" / shown["subfolder"] / shown["filename"])).astype(int)
        return result, (pictures["target"][0] * 255).round().numpy().astype(int)

    return execute


@pytest.mark.parametrize("name", [FILL, *HEADS])
def test_the_mask_is_repainted_and_nothing_else(pack, run, models, pictures, name):
    """And the person counts: with the target's own portrait in their place another picture comes out."""
    from faceloom.models.detect import detect_faces

    clip = models[name][1]
    clip.asked.clear()
    result, target = run(name)
    changed = np.abs(result - target).max(-1)
    assert (changed > 12).mean() > 0.03
    face = detect_faces(pictures["target"])[0]
    reach = 0.7 if name == FILL else 1.2
    left, top, right, bottom = (max(0, int(value)) for value in face.box + face.size * np.array([-reach, -reach, reach, reach]))
    changed[top:bottom, left:right] = 0
    assert not changed.any()

    if name == "qwen-edit-head-swap":
        (text, images), = ((text, images) for text, images in clip.asked if "head_swap" in text)
        assert text.index("Picture 1:") < text.index("Picture 2:") and len(images) == 2
        # Grace Hopper's crop, blue and dark, is the first; Eileen Collins's has a light wall.
        assert float(images[0].mean()) < float(images[1].mean()) - 0.1
    other, _ = run(name, lambda graph, find: find("LoadImage")[0]["inputs"].update(image="person_1.png"))
    assert (result != other).any()  # all else is the same


def test_the_right_half_is_the_targets_crop(run):
    """Stitched and cut out again with no model between, the crop is what it was, and so is the photograph; the left half is not."""

    def short(graph, find):
        crop, = find("ImageCropV2")
        crop["inputs"]["image"] = [next(number for number, node in graph.items() if node["class_type"] == "ImageStitch"), 0]

    def left(graph, find):
        short(graph, find)
        find("ImageCropV2")[0]["inputs"]["crop_region"]["x"] = 0

    result, target = run(FILL, short)
    assert np.array_equal(result, target)
    result, target = run(FILL, left)
    assert (np.abs(result - target).max(-1) > 12).mean() > 0.05


def test_flux_fill_is_masked_on_the_right_only(run, monkeypatch):
    """What Flux is to fill is nowhere on the person and in the middle of the target's crop."""
    import nodes as core

    seen = []
    encode = core.InpaintModelConditioning.encode

    def look(self, *, pixels, mask, **given):
        seen.append((pixels, mask))
        return encode(self, pixels=pixels, mask=mask, **given)

    monkeypatch.setattr(core.InpaintModelConditioning, "encode", look)
    run(FILL, lambda graph, find: find("KSampler")[0]["inputs"].update(steps=1))
    (pixels, mask), = seen
    assert pixels.shape == (1, 192, 384, 3) and mask.shape == (1, 192, 384)
    assert float(mask[:, :, :192].max()) == 0 and float(mask[0, 96, 192 + 96]) == 1


def test_no_denoising_gives_the_photograph_back(run):
    result, target = run("kontext-head-swap", lambda graph, find: find("DiffusionInpaintSwap")[0]["inputs"].update(denoise=0.0))
    assert np.array_equal(result, target)


@pytest.mark.parametrize(("name", "file", "edge"), [
    ("sd15-ipadapter-faceid-swap", "faceloom/recognizers/arcface_w600k_r50.onnx", 512),
    ("sdxl-instantid-swap", "insightface/models/antelopev2/glintr100.onnx", 1024)])
def test_what_the_nodes_of_other_packs_are_given(run_graph, pictures, base, networks, name, file, edge):
    """The graph without the diffusion model and what hangs on it: the picture of the person, and the control picture of the crop."""
    graph = json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text())
    kinds = {node["class_type"]: number for number, node in graph.items()}
    target = next(number for number, node in graph.items() if node["class_type"] == "FaceDetect" and "change" in node["_meta"]["title"])
    hint = kinds.get("FaceControlHints") or kinds["FaceKeypointsImage"]
    kept, left = {}, [kinds["IdentityForAdapters"], hint, target]
    while left:
        number = left.pop()
        kept[number] = graph[number]
        left += [value[0] for value in graph[number]["inputs"].values() if isinstance(value, list)]
    assert not {"CheckpointLoaderSimple", "ControlNetLoader"} & {node["class_type"] for node in kept.values()}
    for key, source in {"person": [kinds["IdentityForAdapters"], 0], "hint": [hint, 0], "crop": [target, 1]}.items():
        kept[key] = {"class_type": "SaveImage", "inputs": {"images": source, "filename_prefix": f"{name}-{key}"}}
    double = networks.recognizer(base / "models" / file)
    try:
        shown = run_graph(kept, ["person", "hint", "crop"])
    finally:
        double.unlink()
    person, control, crop = (np.asarray(Image.open(base / "output" / shown[key]["images"][0]["filename"]))
                             for key in ("person", "hint", "crop"))
    assert person.shape == control.shape == crop.shape == (edge, edge, 3)
    assert 0.001 < (control.max(-1) > 0).mean() < 0.2  # a drawing on black
    border = round(edge * (1 - 1 / 1.3) / 2)
    assert not person[:border - 1].any() and person[border + 1:-border - 1, border + 1:-border - 1].mean() > 60
