"""The template of Han et al.'s face swap via diffusion, from two photographs to a third, in a real ComfyUI with small networks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "face-swap-via-diffusion"
# The double of checkpoints.py for each file, by the node that loads it and the widget that names it.
FILES = {("CheckpointLoaderSimple", "ckpt_name"): ("checkpoints", "sd15"), ("VAELoader", "vae_name"): ("vae", "vae"),
         ("ControlNetLoader", "control_net_name"): ("controlnet", "controlnet"),
         ("LoadFaceParser", "parser"): ("faceloom/parsers", "bisenet")}
QUICK = {"TrainFaceLoRA": {"steps": 2, "class_count": 1, "size": 64, "rate": 1e-2, "text_rate": 1e-2},
         "DiffusionInpaintSwap": {"steps": 2, "size": 128}}


@pytest.fixture(scope="module")
def models(nodes, checkpoints, tmp_path_factory):
    """The folder of ComfyUI's models, with every file the template names."""
    import folder_paths
    from faceloom.models.files.folders import FOLDER_DEPTHS

    folder = tmp_path_factory.mktemp("models")
    for node in template().values():
        for (kind, widget), (place, double) in FILES.items():
            if node["class_type"] == kind:
                getattr(checkpoints, double)(folder / place / node["inputs"][widget])
    (folder / "loras").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "models_dir", str(folder))
        for key in (*FOLDER_DEPTHS, "checkpoints", "vae", "controlnet", "loras"):
            patch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder / key)], {".safetensors", ".pth"}))
        folder_paths.filename_list_cache.clear()
        yield folder
    folder_paths.filename_list_cache.clear()


def template() -> dict:
    graph = json.loads((ROOT / "tests" / "api" / f"{NAME}.json").read_text())
    for node in graph.values():
        node["inputs"] |= QUICK.get(node["class_type"], {})
    return graph


def only(graph: dict, kind: str) -> tuple[str, dict]:
    found, = ((number, node["inputs"]) for number, node in graph.items() if node["class_type"] == kind)
    return found


@pytest.fixture(scope="module")
def run(run_graph, pictures, base, models):
    """``run(graph)``: the picture it saves, ``[H, W, 3]`` integers."""

    def execute(graph: dict) -> np.ndarray:
        saved, _ = only(graph, "SaveImage")
        shown, = run_graph(graph, [saved])[saved]["images"]
        return np.asarray(Image.open(base / "output" / shown["subfolder"] / shown["filename"])).astype(int)

    return execute


@pytest.fixture(scope="module")
def whole(run, models):
    """The template's run: its picture, the LoRA files it left, and what was seen on the way."""
    import comfy.cldm.cldm
    import comfy.ldm.modules.diffusionmodules.openaimodel as openai
    from faceloom.nodes import _backprop

    seen = SimpleNamespace(hints=[], controls=[], tokens=[])
    control, unet, improved = comfy.cldm.cldm.ControlNet.forward, openai.UNetModel.forward, _backprop._improved

    def look(self, x, hint, timesteps, context, **given):
        seen.hints.append(hint[0].detach().clone())
        return control(self, x, hint, timesteps, context, **given)

    def denoise(self, *given, control=None, **more):
        if control is not None:
            seen.controls.append(max(float(part.abs().max()) for parts in control.values() for part in parts if part is not None))
        return unet(self, *given, control=control, **more)

    def optimise(guidance, guider, *given):
        before = [cond["model_conds"][_backprop.TEXT].cond.clone() for cond in guider.conds["positive"]]
        after = improved(guidance, guider, *given)
        seen.tokens.append(max(float((cond["model_conds"][_backprop.TEXT].cond - old).abs().max())
                               for cond, old in zip(after, before, strict=True)))
        return after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.cldm.cldm.ControlNet, "forward", look)
        patch.setattr(openai.UNetModel, "forward", denoise)
        patch.setattr(_backprop, "_improved", optimise)
        seen.picture = run(template())
    seen.loras = sorted((models / "loras").iterdir())
    return seen


def test_the_face_is_repainted_and_nothing_else(whole, pictures):
    from faceloom.models.detect import detect_faces

    changed = np.abs(whole.picture - (pictures["target"][0] * 255).round().numpy().astype(int)).max(-1)
    face = detect_faces(pictures["target"])[0]
    left, top, right, bottom = (max(0, int(value)) for value in face.box + face.size * np.array([-.7, -.7, .7, .7]))
    assert (changed > 12).mean() > .03
    changed[top:bottom, left:right] = 0
    assert not changed.any()


def test_load_lora_reads_the_file(whole):
    from safetensors.torch import load_file

    from nodes import NODE_CLASS_MAPPINGS

    path, = whole.loras
    assert path.name == "face.safetensors"
    learned = [key for key, value in load_file(path).items() if "lora_up" in key and bool(value.any())]
    assert any(key.startswith("lora_unet_") for key in learned) and any(key.startswith("lora_te_") for key in learned)
    _, checkpoint = only(template(), "CheckpointLoaderSimple")
    with torch.inference_mode():
        model, clip, _ = NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"]().load_checkpoint(**checkpoint)
        model, clip = NODE_CLASS_MAPPINGS["LoraLoader"]().load_lora(model, clip, path.name, 1.0, 1.0)
    # Four transformers of nine layers in the UNet, twelve text layers of four.
    assert len(model.patches) == 4 * 9 and len(clip.patcher.patches) == 12 * 4


def test_both_controlnets_reach_the_sampler(whole):
    """Edges are black and white, the mesh is in colours; the UNet is called with what both ControlNets make of them."""
    edges = [hint for hint in whole.hints if set(hint.unique().tolist()) == {0.0, 1.0} and torch.equal(hint[0], hint[1])]
    meshes = [hint for hint in whole.hints if not torch.equal(hint[0], hint[1])]
    assert len(edges) == len(meshes) == len(whole.hints) / 2 == len(whole.controls) >= QUICK["DiffusionInpaintSwap"]["steps"]
    assert min(whole.controls) > 0


def test_the_text_is_improved_at_every_step(whole):
    assert len(whole.tokens) == QUICK["DiffusionInpaintSwap"]["steps"] and min(whole.tokens) > 0
