"""Authors' original files in Load Swap Model: listed, recognized, moved by ComfyUI, and swapping, in this process and through a server."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

SOURCE, TARGET = "source.png", "group.png"
SWAP_TESTS = Path(__file__).parents[1] / "models" / "swap" / "research" / "test_systems.py"


@pytest.fixture
def place(pack, tmp_path, monkeypatch) -> Path:
    """``faceloom`` in a models folder with nothing in it, as every known key's only one."""
    import folder_paths
    from faceloom.models.files.folders import FOLDER_DEPTHS

    folder = tmp_path / "models"
    (folder / "faceloom").mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in FOLDER_DEPTHS:
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder / key)], {".onnx"}))
    return folder / "faceloom"


def write(path: Path, net: torch.nn.Module) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return path


def simswap(folder: Path, _=None) -> Path:
    """ReliableSwap's SimSwap form with one block and a small ArcFace."""
    from faceloom.models.networks.faceshifter import FixerNet
    from faceloom.models.networks.iresnet import IResNet
    from faceloom.models.networks.simswap import SimSwapNet

    torch.manual_seed(0)
    write(folder / "backbone.pth", IResNet(18))
    write(folder / "mouth_net_28_56_84_112.pth", FixerNet(128, depth=18))
    return write(folder / "G_mouth1_st5.pth", SimSwapNet(640, 1, matrix=True))


def facedancer(folder: Path, _=None) -> Path:
    """A small Keras graph of FaceDancer's layers, as ``models convert`` writes it."""
    from faceloom.models.networks.keras_net import KerasNet, keras_metadata
    from safetensors.torch import save_file

    spec = importlib.util.spec_from_file_location("swap_test_systems", SWAP_TESTS)
    doubles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doubles)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, (graph, shapes) in {"FaceDancer_config_small": doubles.keras_generator(), "ArcFace-Res50": doubles.keras_identity()}.items():
        weights = {key: torch.from_numpy(random.normal(size=shape).astype(np.float32)) * .3 for key, shape in shapes.items()}
        save_file(weights, folder / f"{name}.safetensors", keras_metadata(KerasNet(graph, weights)))
    return folder / "FaceDancer_config_small.safetensors"


def deepfakes(folder: Path, _=None) -> Path:
    """A small autoencoder in the layout of faceswap's files."""
    spec = importlib.util.spec_from_file_location("deepfakes_files", SWAP_TESTS.parents[3] / "deepfakes_files.py")
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    folder.mkdir(parents=True, exist_ok=True)
    graph = files.original(32, (4, 6, 8), 8, 4, 6, 5, (6, 5), masks=True)
    files.write_keras(folder / "couple.keras", graph, files.random_weights(graph))
    return folder / "couple.keras"


def ghost(folder: Path, networks) -> Path:
    networks.ghost_arcface(folder / "backbone.pth")
    return networks.ghost_generator(folder / "G_unet_1block.pth")


def super_resolution() -> torch.nn.Module:
    """GHOST's super-resolution network, whole, with singular vectors that belong to its weights."""
    from faceloom.models.networks.ghost_sr import SpectralConv, SuperResolutionNet

    torch.manual_seed(2)
    net = SuperResolutionNet()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, SpectralConv):
                layer.weight_orig.normal_()
                layer.weight_u.copy_(torch.nn.functional.normalize(torch.randn_like(layer.weight_u), dim=0))
                layer.weight_v.copy_(torch.nn.functional.normalize(layer.weight_orig.flatten(1).t() @ layer.weight_u, dim=0))
                if layer.bias is not None:
                    layer.bias.zero_()
    return net


def files_of(nodes) -> list[str]:
    return next(item.options for item in nodes["LoadSwapModel"].define_schema().inputs if item.id == "file")


class TestListing:
    def test_engines_are_listed_and_their_companions_are_not(self, nodes, place):
        listed = files_of(nodes)
        for name in ("G_unet_2blocks.pth", "G_mouth1_t512_4.pth", "ftm_final.pth", "FaceDancer_config_c_HQ.h5", "CELEBA-HQ-1024.pt"):
            assert f"{name} (not downloaded)" in listed
        for name in ("backbone.pth", "10_net_G.pth", "psp_ffhq_encode.pt", "last.ckpt", "stylegan2-ffhq-config-f.pth"):
            assert not [entry for entry in listed if entry.startswith(name)]

    def test_every_form_of_a_file_is_listed_where_it_is(self, nodes, place):
        for name in ("ghost/G_unet_2blocks.safetensors", "ghost/backbone.safetensors", "ghost/mine.pth", "megafs/ftm_final.pth",
                     "megafs/ftm_final.safetensors", "facedancer/FaceDancer_config_d.h5", "facedancer/FaceDancer_config_e.safetensors",
                     "swap/other.pth", "swap/G_unet_1block.pth", "deepfakes/couple.keras", "deepfakes/old.h5"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(b"x")
        here = [entry for entry in files_of(nodes)[1:] if not entry.endswith("(not downloaded)")]
        assert sorted(here) == ["FaceDancer_config_d.h5", "FaceDancer_config_e.safetensors", "G_unet_2blocks.safetensors",
                                "couple.keras", "deepfakes/old.h5", "ftm_final.pth", "ftm_final.safetensors", "ghost/mine.pth"]
        assert "G_unet_2blocks.pth (not downloaded)" not in files_of(nodes)

    def test_the_form_that_is_chosen_is_the_one_that_is_loaded(self, pack, place):
        from faceloom.models.files.find import find_by_name
        from faceloom.models.files.folders import default_folders

        for name in ("ftm_final.pth", "ftm_final.safetensors"):
            (place / "megafs").mkdir(exist_ok=True)
            (place / "megafs" / name).write_bytes(b"x")
        folders = default_folders(place.parent)
        for name in ("ftm_final.pth", "ftm_final.safetensors"):
            found = find_by_name(name, folders, "swap")
            assert found.path.name == name and found.row.name == "megafs_ftm"

    def test_what_is_missing_is_named_with_how_to_get_it(self, nodes, place):
        from faceloom.models.errors import FaceLoomError

        load = nodes["LoadSwapModel"].execute
        with pytest.raises(FaceLoomError, match=r"G_unet_2blocks\.pth \(Apache-2\.0.*models get ghost_G_unet_2blocks"):
            load(file="G_unet_2blocks.pth (not downloaded)", provider="auto")
        with pytest.raises(FaceLoomError, match=r"ftm_final\.pth .*get it from https://drive.*put it into .*megafs"):
            load(file="ftm_final.pth", provider="auto")
        facedancer(place / "facedancer")
        (place / "facedancer" / "ArcFace-Res50.safetensors").unlink()
        with pytest.raises(FaceLoomError, match=r"needs FaceDancer's ArcFace \(ArcFace-Res50\.h5, MIT.*models get facedancer_arcface"):
            load(file="FaceDancer_config_small.safetensors", provider="auto")
        torch.save({"encoder_lmk": {"a": torch.zeros(1)}, "decoder": {"a": torch.zeros(1)}}, place / "swap.pt")
        (place / "fslsd").mkdir()
        (place / "swap.pt").rename(place / "fslsd" / "CELEBA-HQ-1024.pt")
        with pytest.raises(FaceLoomError, match=r"a face parser \(connect one.*79999_iter`\) and a 106-point landmarker .*2d106det"):
            load(file="CELEBA-HQ-1024.pt", provider="auto")


@pytest.mark.slow
def test_an_original_file_swaps_on_comfyuis_devices(nodes, place, hopper):
    from comfy.model_patcher import ModelPatcher
    from faceloom.models.detect import detect_faces
    from faceloom.models.identity import make_identity
    from faceloom.models.options.swap import SwapSettings

    simswap(place / "reliableswap")
    loaded = nodes["LoadSwapModel"].execute(file="G_mouth1_st5.pth", provider="auto")
    (engine,) = loaded.result[:1]
    assert isinstance(engine.model.handle, ModelPatcher) and engine.patcher is engine.model.handle
    lines = loaded.ui["text"][0].splitlines()
    assert lines[0] == "G_mouth1_st5.pth on cpu" and "non-commercial" in lines[1] and "face's outline" in lines[-1]
    faces = detect_faces(hopper)
    identity, _ = make_identity(hopper, faces)
    crops, masks = engine.swap(hopper, faces, engine.prepare(identity), SwapSettings(size=256))
    assert crops.shape == (1, 256, 256, 3) and .1 < float(masks.mean()) < .7 and torch.isfinite(crops).all()


@pytest.mark.slow
def test_super_resolution_is_loaded_when_it_is_chosen_and_belongs_to_comfyui(nodes, place, networks, hopper):
    from comfy.model_patcher import ModelPatcher
    from faceloom.models.detect import detect_faces
    from faceloom.models.errors import FaceLoomError
    from faceloom.models.identity import make_identity
    from faceloom.models.options.swap import SwapSettings

    ghost(place / "ghost", networks)
    (engine,) = nodes["LoadSwapModel"].execute(file="G_unet_1block.pth", provider="auto").result[:1]
    chosen = {"system": "GHOST", "enhance": "eval", "templates": "five", "mask": {"mask": "face outline"}}
    with pytest.raises(FaceLoomError, match=r"needs GHOST's super-resolution \(10_net_G\.pth, CC BY-NC.*get ghost_super_resolution"):
        nodes["SwapModelOptions"].execute(engine, chosen)
    write(place / "ghost" / "10_net_G.pth", super_resolution())
    made = {kind: nodes["SwapModelOptions"].execute(engine, chosen | {"enhance": kind}) for kind in ("off", "eval", "as published")}
    assert made["off"].ui.get("text") is None and "CC BY-NC-SA 4.0" in made["eval"].ui["text"][0]
    engines = {kind: result.result[0] for kind, result in made.items()}
    assert isinstance(engines["eval"].enhancer().handle, ModelPatcher) and engines["eval"].enhancer() is engines["as published"].enhancer()
    faces = detect_faces(hopper)
    identity, _ = make_identity(hopper, faces)
    crops = {kind: each.swap(hopper, faces, each.prepare(identity), SwapSettings(size=128))[0] for kind, each in engines.items()}
    assert all(torch.isfinite(picture).all() for picture in crops.values())
    for one, other in (("off", "eval"), ("eval", "as published")):
        assert float((crops[one] - crops[other]).abs().mean()) > .001


def test_networks_published_in_half_precision_follow_comfyui(nodes, place, monkeypatch):
    import comfy.model_management as management

    facedancer(place / "facedancer")
    for half, kind in ((False, torch.float32), (True, torch.float16)):
        monkeypatch.setattr(management, "should_use_fp16", lambda device, half=half: half)
        loaded = nodes["LoadSwapModel"].execute(file="FaceDancer_config_small.safetensors", provider="auto")
        assert {value.dtype for value in loaded.result[0].model.net.parameters()} == {kind}
        assert loaded.ui["text"][0].splitlines()[0].endswith("on cpu" + " in float16" * half)


@pytest.fixture
def landmarked(nodes, networks, place):
    networks.points106(place.parent / "insightface" / "models" / "buffalo_l" / "2d106det.onnx")
    return nodes["LoadFaceDetector"].execute(file="dlib (built in)", age_and_sex="none", provider="auto", landmarks="2d106det.onnx")


def test_a_detector_brings_106_landmarks(nodes, landmarked, place, hopper, pack):
    from faceloom.models.errors import FaceLoomError
    from faceloom.nodes._sockets import as_landmarker

    (detector,) = landmarked.result
    assert "2d106det.onnx on cpu" in landmarked.ui["text"][0] and "non-commercial" in landmarked.ui["text"][0]
    points = as_landmarker(detector)(torch.zeros(2, 3, 224, 224))
    assert points.shape == (2, 106, 2) and np.allclose(points.mean(1), 112, atol=1)
    assert len(detector.detect(hopper, .5)[0]) == 1
    plain = nodes["LoadFaceDetector"].execute(file="dlib (built in)", age_and_sex="none", provider="auto").result[0]
    with pytest.raises(FaceLoomError, match=r"dlib.* comes without 106 landmarks"):
        as_landmarker(plain)
    assert as_landmarker(None) is None


def test_parser_and_landmarks_go_from_the_sockets_to_the_system(nodes, landmarked, place, monkeypatch):
    """FSLSD cannot do without either."""
    from faceloom.models.swap.research import fslsd_engine

    (place / "fslsd").mkdir()
    torch.save({"encoder_lmk": {"a": torch.zeros(1)}}, place / "fslsd" / "CELEBA-HQ-1024.pt")
    torch.save({"state_dict": {"encoder.a": torch.zeros(1)}, "latent_avg": torch.zeros(18, 512)}, place / "fslsd" / "psp_ffhq_encode.pt")
    given = {}
    monkeypatch.setattr(fslsd_engine, "fslsd_engine", lambda *positional, **named: given.update(named, positional=positional))
    parser = object()
    nodes["LoadSwapModel"].execute(file="CELEBA-HQ-1024.pt", provider="auto", parser=parser, detector=landmarked.result[0])
    _, _, average, landmarker, connected = given["positional"]
    assert landmarker is landmarked.result[0].landmarker and connected is parser and average.shape == (18, 512)


# File, its maker, what is connected besides, options (dotted, as a graph has them), and what the node says of it.
SYSTEMS = {
    "GHOST": ("ghost", ghost, {"detector"}, {"enhance": "off", "templates": "five", "mask": "own numbers", "mask.shrink": 3,
                                             "mask.blur_x": 4.0, "mask.blur_y": 4.0}, "Apache-2.0, commercial use allowed"),
    "ReliableSwap": ("reliableswap", simswap, {"parser"}, {"align": True, "mask": "as published"}, "non-commercial"),
    "FaceDancer": ("facedancer", facedancer, set(), {"mask": "low rectangle"}, "CC BY-NC-SA 4.0, no commercial use"),
}
if importlib.util.find_spec("h5py"):  # which reads its files
    SYSTEMS["deepfakes"] = (
        "deepfakes", deepfakes, {"parser"},
        {"swap": "B to A", "mask": "components", "erode": 5.0, "color": "none", "centering": "legacy", "coverage": 87.5},
        "each file its own, and the likeness of a real person",
    )


def graph_of(system: str, file: str, connected: set[str], options: dict) -> dict:
    """From two pictures to the pasted and saved result, through every socket."""
    detect = {"threshold": .5, "order": "left-right", "keep": "all", "crop_size": 256, "min_size": 0, "framing": 1.0, "no_face": "error"}
    graph = {
        "1": ("LoadImage", {"image": SOURCE}), "2": ("LoadImage", {"image": TARGET}),
        "3": ("FaceDetect", detect | {"image": ["1", 0]}), "4": ("FaceDetect", detect | {"image": ["2", 0]}),
        "5": ("ArcFaceEmbed", {"image": ["1", 0], "faces": ["3", 0], "how": "average", "name": ""}),
        "6": ("LoadSwapModel", {"file": file, "provider": "auto", **{name: [name, 0] for name in connected}}),
        "7": ("SwapModelOptions", {"swap_model": ["6", 0], "system": system, **{f"system.{name}": options[name] for name in options}}),
        "8": ("OneShotSwap", {"image": ["2", 0], "faces": ["4", 0], "identity": ["5", 0], "swap_model": ["7", 0], "strength": 1.0,
                              "which": "all", "pixel_boost": 1}),
        "9": ("PasteBack", {"image": ["2", 0], "faces": ["4", 0], "crops": ["8", 0], "mask": ["8", 1], "color_match": "none",
                            "blend": "feather", "feather": 0.0, "opacity": 1.0}),
        "10": ("SaveImage", {"images": ["9", 0], "filename_prefix": f"systems/{system}"}),
        "11": ("MaskToImage", {"mask": ["9", 1]}), "12": ("SaveImage", {"images": ["11", 0], "filename_prefix": f"systems/{system}-mask"}),
    }
    if "detector" in connected:
        graph["detector"] = ("LoadFaceDetector", {"file": "dlib (built in)", "age_and_sex": "none", "provider": "auto",
                                                  "landmarks": "2d106det.onnx"})
    if "parser" in connected:
        graph["parser"] = ("LoadFaceParser", {"parser": "79999_iter.pth", "occluder": "none", "provider": "auto"})
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in graph.items()}


@pytest.fixture(scope="module")
def running(server, networks, pack):
    """A server whose models folder has three systems' files, a parser and 106 landmarks."""
    from faceloom.models.networks.bisenet import BiSeNet

    models = server.base / "models"
    made = [make(models / "faceloom" / folder, networks).parent for folder, make, *_ in SYSTEMS.values()]
    torch.manual_seed(1)
    made.append(write(models / "faceloom" / "parsers" / "79999_iter.pth", BiSeNet()).parent)
    made.append(networks.points106(models / "insightface" / "models" / "buffalo_l" / "2d106det.onnx").parent)
    yield server
    for folder in made:
        shutil.rmtree(folder)


def picture_of(server, entry: dict, number: str) -> np.ndarray:
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return server.picture(entry["outputs"][number]["images"][0])[..., :3]


@pytest.mark.slow
@pytest.mark.parametrize("server", ["default cache"], indirect=True)
@pytest.mark.parametrize("system", SYSTEMS)
def test_through_a_server_from_the_pictures_to_the_pasted_result(running, pictures, system):
    from faceloom.models.detect import detect_faces
    from faceloom.models.detect.load import load_landmarker
    from faceloom.models.files.folders import default_folders
    from faceloom.models.identity import make_identity
    from faceloom.models.options.detect import DetectSettings
    from faceloom.models.parse.load import load_parser
    from faceloom.models.paste import paste
    from faceloom.models.runtime.method import Loading
    from faceloom.models.swap import swap_faces
    from faceloom.models.swap.load import load_engine

    folder, _, connected, options, terms = SYSTEMS[system]
    place = running.base / "models" / "faceloom" / folder
    file = next(path for path in sorted(place.iterdir()) if path.name.startswith(("G_", "FaceDancer_", "couple")))
    graph = graph_of(system, file.name, connected, options)
    entry = running.run(graph)
    result, mask = picture_of(running, entry, "10").astype(int), picture_of(running, entry, "12")[..., 0]
    said = entry["outputs"]["6"]["text"][0]
    assert said.startswith(f"{file.name} on ") and f"Licence: {terms}" in said.replace("no licence file, the README says non-", "non-")
    # The same by the models alone.
    source, group = (torch.from_numpy((pictures[name].numpy() * 255).round() / 255).float() for name in ("source", "group"))
    given = {"parser": load_parser(place.parent / "parsers" / "79999_iter.pth")} if "parser" in connected else {}
    if "detector" in connected:
        given["landmarker"] = load_landmarker(running.base / "models" / "insightface" / "models" / "buffalo_l" / "2d106det.onnx")
    engine = load_engine(file, Loading(default_folders(running.base / "models"), **given),
                         **{name.split(".")[-1]: value for name, value in options.items()})
    settings = DetectSettings(order="left-right", crop_size=256)
    found = {name: detect_faces(image, settings=settings) for name, image in (("source", source), ("group", group))}
    identity, _ = make_identity(source, found["source"], how="average")
    crops, masks = swap_faces(group, found["group"], identity, engine)
    assert len(crops) == 3
    right, area = paste(group, found["group"], crops, masks)
    assert np.abs((right[0].numpy() * 255).round() - result).max() <= 2 and np.abs(area[0].numpy() * 255 - mask).max() <= 2
    target, outside = (group[0].numpy() * 255).round().astype(int), area[0].numpy() == 0
    assert np.array_equal(result[outside], target[outside]) and outside.mean() > .3
    assert np.abs(result - target)[mask > 250].mean() > 5
    # What ComfyUI unloads it loads again.
    assert running.post("/free", {"unload_models": True})[0] == 200
    graph["8"]["inputs"]["strength"] = .999
    again = picture_of(running, running.run(graph), "10").astype(int)
    assert np.abs(again - result).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("server", ["default cache"], indirect=True)
def test_options_of_another_system_stop_the_graph_with_a_sentence(running):
    graph = graph_of("MegaFS", "FaceDancer_config_small.safetensors", set(), {"stretch": True, "refine": False, "mask": "as published"})
    entry = running.run(graph)
    message = next(data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert message["node_type"] == "SwapModelOptions"
    assert "These are the options of MegaFS, but FaceDancer_config_small is FaceDancer" in message["exception_message"]
