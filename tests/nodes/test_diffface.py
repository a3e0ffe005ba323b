"""DiffFace on the canvas, from its authors' files to the saved picture, with small networks; and a LoRA trained in ComfyUI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
QUICK = {"steps": 2, "skip": 0, "repeats": 1, "weights": "own", "views": 1, "identity_weight": 5.0, "expression_weight": 0.0,
         "gaze_weight": 0.0, "keep_weight": 1.0}


@pytest.fixture(scope="module")
def files(nodes, models_in, tmp_path_factory):
    """DiffFace's files with networks of few channels, where ComfyUI looks for them."""
    from faceloom.models.networks.arcface_se import ArcFaceSE
    from faceloom.models.networks.bisenet import BiSeNet
    from faceloom.models.networks.eyenet import EyeNet
    from faceloom.models.networks.guided_unet import GuidedUNet

    folder = tmp_path_factory.mktemp("models")
    place = folder / "faceloom" / "diffface"
    place.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(GuidedUNet((32, 32), ()).state_dict(), place / "Model.pt")
    torch.save({"model": torch.nn.DataParallel(ArcFaceSE((1, 1, 1, 1)))}, place / "Arcface.tar")
    torch.save(BiSeNet().state_dict(), place / "FaceParser.pth")
    torch.save({"model_state_dict": EyeNet(1, 16, 4).state_dict()}, place / "GazeEstimator.pt")
    with models_in(folder, ".pt"):
        yield place


@pytest.fixture(scope="module")
def loaded(nodes, files):
    with torch.inference_mode():
        return nodes["LoadDiffFace"].execute(file="Model.pt")


@pytest.fixture(scope="module")
def scene(pack, hopper, collins):
    from faceloom.models.crops.crop import crop_faces
    from faceloom.models.detect import detect_faces
    from faceloom.models.identity import make_identity
    from faceloom.models.options.detect import DetectSettings

    faces = detect_faces(hopper, settings=DetectSettings(crop_size=128))
    masks = torch.zeros(1, 128, 128)
    masks[:, 32:100, 36:92] = 1
    return faces, crop_faces(hopper, faces), masks, make_identity(collins, detect_faces(collins))[0]


def swap(nodes, loaded, scene, **changed):
    faces, crops, masks, identity = scene
    defaults = {item.id: item.default for item in nodes["DiffFaceSwap"].define_schema().inputs if hasattr(item, "default")}
    given = defaults | QUICK | {"diffface": loaded.result[0], "faces": faces, "crops": crops, "identity": identity, "mask": masks} | changed
    with torch.inference_mode():
        return nodes["DiffFaceSwap"].execute(**given).result


def test_the_loader_reads_what_the_authors_left(nodes, loaded, files):
    from comfy.model_patcher import ModelPatcher

    system, = loaded.result
    assert isinstance(system.patcher, ModelPatcher) and system.patcher.model is system.model.net
    assert loaded.ui["text"][0].startswith("Model.pt on cpu\nLicence: CC BY-NC 4.0")
    assert not any(value.is_inference() for value in system.model.net.parameters())
    assert nodes["LoadDiffFace"].define_schema().inputs[0].options == ["Model.pt"]
    with pytest.raises(ValueError, match=r"Arcface\.tar.*get it from https://github\.com/hxngiee/DiffFace.*faceloom/diffface"):
        (files / "Arcface.tar").rename(files / "away")
        try:
            nodes["LoadDiffFace"].execute(file="Model.pt")
        finally:
            (files / "away").rename(files / "Arcface.tar")


def test_only_the_mask_is_painted(nodes, loaded, scene):
    _, crops, masks, _ = scene
    painted, where = swap(nodes, loaded, scene, seed=3, steps=3)
    assert torch.equal(where, masks) and torch.equal(painted[masks == 0], crops[masks == 0])
    assert float((painted - crops)[masks == 1].abs().mean()) > .05
    assert not torch.equal(swap(nodes, loaded, scene, seed=3, steps=3, identity_weight=500.0)[0], painted)
    assert not torch.equal(swap(nodes, loaded, scene, seed=3, steps=3, gradient_through="the predicted picture")[0], painted)


def test_no_face_is_no_work(nodes, loaded, scene):
    faces, _, _, identity = scene
    black = torch.zeros(1, 64, 64, 3)
    painted, where = swap(nodes, loaded, (faces.take([]), black, None, identity))
    assert torch.equal(painted, black) and where.shape == (1, 64, 64) and float(where.max()) == 0


def test_previews_and_cancel(nodes, loaded, scene, monkeypatch):
    import comfy.cli_args
    import comfy.model_management as management
    import comfy.utils

    shown = []
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, preview, **_: shown.append((done, total, preview)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0, raising=False)
    swap(nodes, loaded, scene)
    assert shown[-1][:2] == (2, 2) and any(preview and preview[1].size == (256, 256) for _, _, preview in shown)
    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            swap(nodes, loaded, scene)
    finally:
        management.interrupt_current_processing(False)


def test_the_template_runs(run_graph, files, pictures, base, monkeypatch):
    """The bundled workflow, but for its number of steps; the parser's face is an ellipse, because the small parser knows none."""
    from faceloom.models.detect import detect_faces
    from faceloom.models.systems import diffface

    def ellipse(experts, targets):
        places = torch.linspace(-1, 1, targets.shape[-1])
        inside = (places[:, None] / .7) ** 2 + (places / .5) ** 2 < 1
        return inside.float().expand(len(targets), 1, -1, -1).clone()

    monkeypatch.setattr(diffface, "find_face_masks", ellipse)
    graph = json.loads((ROOT / "tests" / "api" / "diffface-swap.json").read_text())
    for node in graph.values():
        if node["class_type"] == "DiffFaceSwap":
            node["inputs"] |= QUICK
    saved = next(number for number, node in graph.items() if node["class_type"] == "SaveImage")
    shown, = run_graph(graph, [saved])[saved]["images"]
    result = np.asarray(Image.open(base / "output" / shown["subfolder"] / shown["filename"])).astype(int)
    changed = np.abs(result - (pictures["target"][0] * 255).round().numpy().astype(int)).max(-1)
    assert (changed > 12).mean() > .03
    face = detect_faces(pictures["target"])[0]
    left, top, right, bottom = (max(0, int(value)) for value in face.box + face.size * np.array([-.7, -.7, .7, .7]))
    changed[top:bottom, left:right] = 0
    assert not changed.any()


@pytest.fixture(scope="module")
def clip(pack):
    """A CLIP of Stable Diffusion's shape with few channels."""
    import comfy.sd
    import comfy.sd1_clip

    config = json.loads(Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json").read_text())
    config |= {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128}

    def make(**given):
        return comfy.sd1_clip.SD1ClipModel(clip_model=comfy.sd1_clip.SDClipModel, textmodel_json_config=config, **given)

    with torch.inference_mode():
        made = comfy.sd.CLIP(SimpleNamespace(clip=make, tokenizer=comfy.sd1_clip.SD1Tokenizer, params={}))
        generator = torch.Generator().manual_seed(0)
        for name, value in made.cond_stage_model.named_parameters():
            value.data = torch.randn(value.shape, generator=generator) * .1 if value.ndim > 1 else torch.full_like(
                value, float(name.endswith("weight")))
    return made


class TestTraining:
    @pytest.fixture(scope="class")
    def parts(self, doubles, clip):
        with torch.inference_mode():
            return {"model": doubles.sd15(), "clip": clip, "vae": doubles.vae()}

    @pytest.fixture()
    def train(self, nodes, parts, collins, tmp_path, monkeypatch):
        import folder_paths

        monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))

        def run(**changed):
            defaults = {item.id: item.default for item in nodes["TrainFaceLoRA"].define_schema().inputs if hasattr(item, "default")}
            given = defaults | {"photos": collins, "class_count": 0, "steps": 3, "rate": 1e-2, "text_rate": 1e-2, "size": 64} | changed
            with torch.inference_mode():
                return nodes["TrainFaceLoRA"].execute(**parts, **given)

        return run

    def test_the_file_is_what_load_lora_reads(self, train, parts, tmp_path):
        import comfy.sd
        from safetensors.torch import load_file

        answer = train(class_count=2)
        model, clip, name = answer.result
        weights = load_file(tmp_path / name)
        assert name == "face.safetensors" and "loss" in answer.ui["text"][0]
        # 16 transformers of nine layers in the UNet, two text layers of four.
        assert len(weights) == 2 * (16 * 9 + 2 * 4)
        assert weights["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"].shape == (4, 32)
        trained = {key for key, value in weights.items() if "lora_up" in key and float(value.abs().max()) > 0}
        # Where pictures have shrunk to one pixel, queries and keys make no difference.
        assert {key for key in weights if re.search(r"(to_v|to_out_0|proj|v_proj|out_proj)\.lora_up", key)} <= trained | {
            key for key in weights if re.search(r"[qk]_proj", key)}
        again = comfy.sd.load_lora_for_models(parts["model"], parts["clip"], weights, 1.0, 1.0)
        assert len(again[0].patches) == len(model.patches) == 16 * 9
        assert len(again[1].patcher.patches) == len(clip.patcher.patches) == 2 * 4
        assert not parts["model"].patches and not parts["clip"].patcher.patches
        assert train(steps=1).result[2] == "face_2.safetensors"

    def test_training_lowers_the_loss_on_the_photo(self, train, tmp_path):
        told = [train(steps=steps, rate=3e-3, text_rate=0.0, filename=f"person {steps}").ui["text"][0] for steps in (40,)]
        first, last = (float(word) for word in told[0].replace(",", "").split() if word.replace(".", "").isdigit() and "." in word)
        assert last < first
        from safetensors.torch import load_file

        assert not any(key.startswith("lora_te") for key in load_file(tmp_path / "person 40.safetensors"))

    def test_cancel_stops_it_and_leaves_no_file(self, train, tmp_path):
        import comfy.model_management as management

        management.interrupt_current_processing(True)
        try:
            with pytest.raises(management.InterruptProcessingException):
                train()
        finally:
            management.interrupt_current_processing(False)
        assert not list(tmp_path.iterdir())

    def test_names_that_leave_the_folder(self, train):
        with pytest.raises(ValueError, match="cannot be a file name"):
            train(filename="../face")
