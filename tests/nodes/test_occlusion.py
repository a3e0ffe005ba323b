"""What hides a face stays: one mask, made once, through the swap, Restore, the diffusion model and Paste Back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

API = Path(__file__).parents[1] / "api"
MAGENTA = torch.tensor([1.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def photo(hopper) -> tuple[torch.Tensor, torch.Tensor]:
    """Grace Hopper with a magenta bar across a cheek and the mouth, and where it is, ``[600, 512]``."""
    y, x = torch.meshgrid(torch.arange(600.0), torch.arange(512.0), indexing="ij")
    behind = ((y - 0.4 * x - 170).abs() < 15) & (x < 330)
    return torch.where(behind[None, ..., None], MAGENTA, hopper), behind


@pytest.fixture
def counted(pack, monkeypatch) -> list[str]:
    """The names of the ONNX networks that run, one for each time."""
    from faceloom.models.runtime.onnx import OnnxModel

    names, run = [], OnnxModel.run
    monkeypatch.setattr(OnnxModel, "run", lambda self, *given, **more: names.append(self.name) or run(self, *given, **more))
    return names


@pytest.fixture(scope="module")
def run(nodes):
    """``run("PasteBack", image=…)`` executes a node with its defaults for what is not given. Returns its outputs."""

    def execute(name, /, **given):
        items = nodes[name].define_schema().inputs
        defaults = {item.id: item.default for item in items if getattr(item, "default", None) is not None and not item.optional}
        return nodes[name].execute(**defaults | given).args

    return execute


@pytest.fixture(scope="module")
def models(networks, tmp_path_factory) -> Path:
    """A models folder with the occluder, a recognizer and a swap network."""
    folder = tmp_path_factory.mktemp("models")
    networks.occluder_of_magenta(folder / "faceloom/parsers/xseg_3.onnx")
    networks.recognizer(folder / "faceloom/recognizers/arcface_w600k_r50.onnx")
    networks.swap(folder / "hyperswap/hyperswap_1a_256.onnx")
    return folder


def negative():
    """A research system's engine whose network is none: it answers every face with its blurred negative."""
    from faceloom.models.crops.templates import template_matrix
    from faceloom.models.runtime.devices import TorchModel
    from faceloom.models.runtime.options import Options
    from faceloom.models.swap.torch_engine import TorchEngine

    class Negative(TorchEngine):
        mixes = False
        options = Options()

        def alignment(self, keypoints):
            return template_matrix(keypoints, "arcface_128", self.size)

        def encode_faces(self, images, faces):
            return torch.zeros(len(faces), 1)

        def generate(self, targets, sources):
            return torch.nn.functional.avg_pool2d(1 - targets, 5, 1, 2), None

    return Negative("negative", TorchModel("negative", torch.nn.Linear(1, 1)))


@pytest.fixture(params=["mesh", "ONNX", "research"])
def swapped(request, run, models, models_in, photo, collins, hopper, counted) -> dict:
    """Eileen Collins behind the bar, by each kind of engine."""
    from faceloom.models.crops.crop import crop_faces

    with models_in(models, ".pth"):
        occluder = run("LoadFaceParser", occluder="xseg_3.onnx")[1]
        recognizer = run("LoadFaceRecognizer", file="arcface_w600k_r50.onnx")[0]
        engine = {"mesh": lambda: None, "research": negative,
                  "ONNX": lambda: run("LoadSwapModel", file="hyperswap_1a_256.onnx", recognizer=recognizer)[0]}[request.param]()
    people = run("FaceDetect", image=collins, keep="first")[0]
    identity = run("ArcFaceEmbed", image=[collins], faces=[people], how=["average"], name=["Eileen"], recognizer=[recognizer])[0]
    faces = run("FaceDetect", image=hopper, crop_size=256)[0]
    crops = crop_faces(photo[0], faces)
    counted.clear()
    mask = run("FaceParseMask", crops=crops, faces=faces, regions={"regions": "face"}, occluder=occluder, image=photo[0])[0]
    made = {"image": photo[0], "faces": faces, "identity": identity, "swap_model": engine}
    return {"faces": faces, "target": crops, "seen": mask, "without": run("OneShotSwap", **made),
            "with": run("OneShotSwap", **made, mask=mask)}


def test_every_stage_leaves_it_alone(run, photo, swapped, counted):
    image, behind = photo
    shot, faces = {"image": image, "faces": swapped["faces"]}, swapped["faces"]
    crops, mask = swapped["with"]
    hidden = swapped["seen"] == 0
    assert torch.equal(crops[hidden], swapped["target"][hidden]) and torch.equal(mask, swapped["without"][1] * swapped["seen"])
    restored = run("Restore", crops=crops, **shot, mask=mask)[0]
    assert torch.equal(restored[hidden], swapped["target"][hidden]) and not torch.equal(restored, crops)
    for blend in ("feather", "multi-band", "poisson"):
        pasted, where = run("PasteBack", **shot, crops=restored, mask=mask, color_match="low-frequency", blend=blend)
        assert torch.equal(pasted[0][behind], image[0][behind]) and not where[0][behind].any()
        assert torch.equal(pasted[where == 0], image[where == 0])
        x, y = faces[0].keypoints[2].astype(int)  # the nose is seen, and new
        assert (pasted - image)[0, y - 12:y, x - 8:x + 8].abs().mean() > 0.02
    assert counted.count("xseg_3.onnx") == 1, "the mask is made once"
    crops, mask = swapped["without"]
    pasted, where = run("PasteBack", **shot, crops=run("Restore", crops=crops, **shot, mask=mask)[0], mask=mask)
    changed = (pasted - image)[0].abs().amax(-1) > 0.1
    assert changed[behind].float().mean() > 0.3, "without the mask the bar is painted over"


@pytest.mark.parametrize("swapped", ["mesh"], indirect=True)
def test_and_so_does_a_diffusion_model(run, photo, swapped, doubles, counted):
    image, behind = photo
    crops, mask = swapped["with"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        painted = run("DiffusionInpaintSwap", model=doubles.sd15(), vae=doubles.vae(), positive=doubles.conditioning(1),
                      negative=doubles.conditioning(2), crops=crops, mask=mask, seed=3, steps=2, cfg=2.0, size=64)[0]
    torch.set_num_threads(threads)
    hidden = swapped["seen"] == 0
    assert torch.equal(painted[hidden], swapped["target"][hidden])
    assert (painted - crops)[mask > 0.9].abs().mean() > 0.02
    pasted = run("PasteBack", image=image, faces=swapped["faces"], crops=painted, mask=mask)[0]
    assert torch.equal(pasted[0][behind], image[0][behind]) and not torch.equal(pasted, image)
    assert counted.count("xseg_3.onnx") == 1


@pytest.mark.parametrize("masked", [True, False])
def test_the_template(run_graph, pictures, base, photo, models, models_in, counted, masked):
    """The bundled graph keeps the bar to the last bit; it is its mask that does."""
    image, behind = photo
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(base / "input" / "behind.png")
    graph = json.loads((API / "swap-behind-hands.json").read_text())
    target = next(node for node in graph.values() if node["inputs"].get("image") == "target.png")
    target["inputs"]["image"] = "behind.png"
    swap = next(node for node in graph.values() if node["class_type"] == "OneShotSwap")
    if not masked:
        del swap["inputs"]["mask"]
    saved = next(number for number, node in graph.items() if node["class_type"] == "SaveImage")
    with models_in(models, ".pth"):
        shown = run_graph(graph, [saved])[saved]["images"][0]
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (base / "input" / "behind.png",
                                                                          base / "output" / shown["subfolder"] / shown["filename"]))
    changed = np.abs(after - before).max(-1)
    if not masked:
        assert (changed[behind.numpy()] > 24).mean() > 0.3
        return
    assert not changed[behind.numpy()].any()
    assert (changed[150:250, 200:330] > 8).mean() > 0.5 and counted == ["xseg_3.onnx"]
