"""The loaders: what they list, what they say about files, what they refuse, and that nothing outlives ComfyUI's cache."""

from __future__ import annotations

import gc
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Loader, its widget, a known file, where it goes, which double it is, and a double of another kind with what is said of it.
LOADERS = [
    ("LoadSwapModel", "file", "hyperswap/hyperswap_1a_256.onnx", "swap", "restorer", "a face restorer, not a swap model"),
    ("LoadFaceDetector", "file", "faceloom/detectors/scrfd_2.5g_bnkps.onnx", "detector", "recognizer",
     "a face recognizer, not a face detector"),
    ("LoadFaceDetector", "age_and_sex", "faceloom/recognizers/genderage.onnx", "attributes", "recognizer",
     "a face recognizer, not an age and sex model"),
    ("LoadFaceRecognizer", "file", "faceloom/recognizers/w600k_r50.onnx", "recognizer", "swap",
     "a swap model, not a face recognizer"),
    ("LoadFaceParser", "parser", "faceloom/parsers/bisenet_resnet_18.onnx", "parser", "occluder", "an occlusion model, not a face parser"),
    ("LoadFaceParser", "occluder", "faceloom/parsers/xseg_3.onnx", "occluder", "parser", "a face parser, not an occlusion model"),
    ("LoadRestoreModel", "file", "facerestore_models/gfpgan_1.4.onnx", "restorer", "swap", "a swap model, not a face restorer"),
]
# Folders whose unknown files each loader lists.
FOREIGN = {"swap": "faceloom/swap", "detector": "faceloom/detectors", "attributes": "insightface", "recognizer": "faceloom/recognizers",
           "parser": "faceloom/parsers", "occluder": "faceloom/parsers", "restorer": "faceloom/restorers"}
STAR = "\\*"  # a star in Markdown
each_loader = pytest.mark.parametrize("node, widget, file, kind, other, said", LOADERS, ids=[f"{row[0]}-{row[1]}" for row in LOADERS])


@pytest.fixture
def models(pack, tmp_path, monkeypatch) -> Path:
    """A models folder with nothing in it, as ComfyUI's and as every known key's only one."""
    import folder_paths
    from faceloom.models.files.folders import FOLDER_DEPTHS

    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "models_dir", str(folder))
    for key in FOLDER_DEPTHS:
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder / key)], {".onnx"}))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.fixture
def error(pack):
    from faceloom.models.errors import FaceLoomError

    return FaceLoomError


@pytest.fixture
def load(nodes):
    """``load("LoadSwapModel", file="…")`` runs a loader with its defaults. Returns its outputs and the text on the node."""

    def execute(name, **given):
        schema = nodes[name].define_schema()
        inputs = {item.id: item.default for item in schema.inputs if not item.optional} | given
        result = nodes[name].execute(**inputs)
        return result.args, result.ui["text"][0]

    return execute


def options(nodes, node, widget) -> list[str]:
    return next(item.options for item in nodes[node].define_schema().inputs if item.id == widget)


@each_loader
def test_lists_what_is_built_in_then_what_is_here_then_what_could_be(nodes, models, networks, node, widget, file, kind, other, said):
    name = Path(file).name
    before = options(nodes, node, widget)
    assert before[0] == "none" or before[0].endswith(" (built in)")
    assert f"{name} (not downloaded)" in before and all(entry.endswith(" (not downloaded)") for entry in before[1:])
    getattr(networks, kind)(models / file)
    after = options(nodes, node, widget)
    assert after[:2] == [before[0], name] and f"{name} (not downloaded)" not in after and len(after) == len(before)


@each_loader
def test_says_where_it_runs_and_under_which_licence(load, models, networks, node, widget, file, kind, other, said):
    from faceloom.models.files.catalogue import row_by_file_name

    row = row_by_file_name(file)
    getattr(networks, kind)(models / file)
    loaded, text = load(node, **{widget: Path(file).name})
    lines = text.splitlines()
    assert f"{Path(file).name} on cpu" in lines and f"Licence: {row.terms}" in lines
    # Doubles have not the hash of what they stand for; some files are published in many exports and have no pinned one.
    assert lines[-1].endswith("it is used because of its name.") == (row.sha256 is not None)
    assert len(repr(next(thing for thing in loaded if thing is not None))) < 160


@each_loader
def test_a_file_that_is_not_there(load, models, error, node, widget, file, kind, other, said):
    for name in (Path(file).name, f"{Path(file).name} (not downloaded)"):
        with pytest.raises(error, match=r"is not on this machine: .*(models get|get it from)") as caught:
            load(node, **{widget: name})
        assert str(models / Path(file).parent) in str(caught.value) and "\n" not in str(caught.value)


@each_loader
def test_files_that_are_none(load, models, networks, error, node, widget, file, kind, other, said):
    """No ONNX at all, a part of one, a pickled module, another kind under this name and under its own."""
    path, name = models / file, Path(file).name
    whole = getattr(networks, kind)(path).read_bytes()
    for content in (b"<!DOCTYPE html><html>404</html>", b"", whole[:len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(error, match=name.replace(".", r"\.")):
            load(node, **{widget: name})
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(error, match="PyTorch"):
        load(node, **{widget: name})
    path.unlink()
    getattr(networks, other)(models / FOREIGN[kind] / "mine.onnx")
    with pytest.raises(error, match=said):
        load(node, **{widget: "mine.onnx"})


@pytest.mark.parametrize("node, widget, file", [("LoadFaceParser", "parser", "faceloom/parsers/79999_iter.pth"),
                                                ("LoadFaceParser", "occluder", "sams/sam_vit_b_01ec64.pth"),
                                                ("LoadRestoreModel", "file", "facerestore_models/GFPGANv1.4.pth")])
def test_pickled_modules_are_refused(load, models, error, node, widget, file):
    (models / file).parent.mkdir(parents=True)
    torch.save(torch.nn.Linear(2, 2), models / file)
    with pytest.raises(error, match=r"holds Python objects.*convert it once"):
        load(node, **{widget: Path(file).name})


@each_loader
@pytest.mark.parametrize("name", ["../mine.onnx", "/etc/passwd", "a/../../mine.onnx", "C:\\mine.onnx", "\0", ""])
def test_names_that_leave_the_folders(nodes, load, models, networks, error, node, widget, file, kind, other, said, name):
    networks.constants(models.parent / "mine.onnx", {"x": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]})
    widgets = ("file", "age_and_sex", "parser", "occluder")
    names = {item.id: item.default for item in nodes[node].define_schema().inputs if item.id in widgets and hasattr(item, "default")}
    assert "is not the name of a model file" in nodes[node].validate_inputs(**names | {widget: name})
    with pytest.raises(error, match="is not the name of a model file"):
        load(node, **{widget: name})


def test_a_file_beside_the_program_is_not_a_model(load, models, networks, error, monkeypatch):
    """What lies in the current folder can be named without any path."""
    networks.swap(models.parent / "hyperswap_1a_256.onnx")
    monkeypatch.chdir(models.parent)
    with pytest.raises(error, match="is not on this machine"):
        load("LoadSwapModel", file="hyperswap_1a_256.onnx")


def test_folders_a_user_configured_are_searched(nodes, load, models, networks, tmp_path):
    import folder_paths

    networks.swap(tmp_path / "elsewhere" / "hyperswap_1a_256.onnx")
    folder_paths.add_model_folder_path("hyperswap", str(tmp_path / "elsewhere"))
    assert options(nodes, "LoadSwapModel", "file")[1] == "hyperswap_1a_256.onnx"
    assert load("LoadSwapModel", file="hyperswap_1a_256.onnx")[0][0].name == "hyperswap_1a_256"


def test_registering_keeps_what_others_set(models, tmp_path):
    import faceloom.nodes._models as ours
    import folder_paths

    names = folder_paths.folder_names_and_paths
    names["sams"] = ([str(tmp_path / "mine")], {".pth"})
    names["faceloom"] = ([], set())
    ours.register_folders()
    assert names["sams"] == ([str(tmp_path / "mine"), str(models / "sams")], {".pth"})
    assert names["faceloom"][0] == [str(models / "faceloom")] and {".onnx", ".pth", ".safetensors"} <= names["faceloom"][1]


def test_the_lists_of_other_packs_show_what_comfyui_shows(models):
    """A folder that nobody had named gets ComfyUI's own suffixes, in a set of its own: .onnx and .task belong in our loaders only."""
    import faceloom.nodes._models as ours
    import folder_paths

    names = folder_paths.folder_names_and_paths
    for key in ("sams", "ultralytics", "facerestore_models"):
        names.pop(key, None)
    ours.register_folders()
    for file in ("sam_vit_b.pth", "sam.onnx", "face.task", "old.h5"):
        (models / "sams").mkdir(exist_ok=True)
        (models / "sams" / file).write_bytes(b"x")
    assert folder_paths.get_filename_list("sams") == ["sam_vit_b.pth"]
    assert all(names[key][1] == folder_paths.supported_pt_extensions for key in ("sams", "ultralytics", "facerestore_models"))
    assert names["sams"][1] is not folder_paths.supported_pt_extensions and names["sams"][1] is not names["ultralytics"][1]


def test_identities_outside_the_models_folder_are_listed(models, tmp_path, monkeypatch):
    import folder_paths
    from faceloom.nodes import identity_files

    for key in ("faceloom", "reactor", "reactor_faces", identity_files.FOLDER):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([], set()))
    folder_paths.add_model_folder_path("faceloom", str(tmp_path / "ours"))
    folder_paths.add_model_folder_path("reactor", str(tmp_path / "theirs"))
    identity_files.register_identity_folders()
    paths = folder_paths.get_folder_paths(identity_files.FOLDER)
    assert paths[0] == str(models / "faceloom" / "identities") and str(models / "reactor" / "faces") in paths
    assert str(tmp_path / "ours" / "identities") in paths and str(tmp_path / "theirs" / "faces") in paths


def test_built_in_entries(load, models):
    assert load("LoadSwapModel")[0][0].name == "mesh"
    assert load("LoadFaceDetector")[0][0].name == "dlib"
    assert load("LoadFaceRecognizer")[0][0].space == "dlib128"
    # None leaves a socket as if nothing were connected.
    assert load("LoadFaceParser")[0] == (None, None) and load("LoadRestoreModel")[0] == (None,)
    assert all(load(node)[1] == "built in, no file is needed" for node in ("LoadSwapModel", "LoadFaceParser", "LoadRestoreModel"))


def test_a_provider_that_is_not_there_is_a_warning(load, models, networks):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime can use CUDA")
    networks.swap(models / "hyperswap" / "hyperswap_1a_256.onnx")
    _, text = load("LoadSwapModel", file="hyperswap_1a_256.onnx", provider="CUDA")
    assert "Warning: onnxruntime runs on cpu because the installed build has no cuda support" in text
    assert "pip install onnxruntime-gpu" in text
    assert "Warning" not in load("LoadSwapModel", file="hyperswap_1a_256.onnx", provider="CPU")[1]


def test_unknown_files_say_so(load, models, networks):
    networks.recognizer(models / "faceloom" / "recognizers" / "office" / "people.onnx")
    networks.recognizer(models / "faceloom" / "recognizers" / "people.onnx")
    (recognizer,), text = load("LoadFaceRecognizer", file="people.onnx")
    assert recognizer.space == "people" and "Licence: unknown" in text and "is not in the catalogue" in text


def test_age_and_sex(load, models, networks, hopper, nodes):
    networks.attributes(models / "insightface" / "models" / "buffalo_l" / "genderage.onnx")
    (detector,), text = load("LoadFaceDetector", age_and_sex="genderage.onnx")
    assert "built in" in text and "genderage.onnx on cpu" in text
    found = detector.detect(torch.cat([hopper, torch.zeros_like(hopper), hopper]), 0.5)
    assert [len(faces) for faces in found] == [1, 0, 1]
    assert all(face.sex == "female" and face.age == pytest.approx(47) and face.frame == i for i in (0, 2) for face in found[i])


class TestOneShotSwap:
    @pytest.fixture
    def swapping(self, load, models, networks, nodes, hopper, collins):
        networks.swap(models / "hyperswap" / "hyperswap_1a_256.onnx")
        networks.recognizer(models / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx")
        (recognizer,), _ = load("LoadFaceRecognizer", file="w600k_r50.onnx")
        (engine,), _ = load("LoadSwapModel", file="hyperswap_1a_256.onnx", recognizer=recognizer)
        def detect(picture):
            return nodes["FaceDetect"].execute(picture, 0.5, "large-small", "all", 256, 0, 1.0, "pass").args[0]

        identity = nodes["ArcFaceEmbed"].execute([collins], [detect(collins)], ["average"], [""], [recognizer]).args[0]
        faces = detect(hopper)

        def swap(strength=1.0, pixel_boost=1):
            return nodes["OneShotSwap"].execute(hopper, faces, identity, strength, "all", pixel_boost, engine).args

        return swap

    def test_pixel_boost_and_strength_beyond_one(self, swapping):
        plain, mask = swapping()
        assert plain.shape == (1, 256, 256, 3) and 0.1 < float(mask.max()) <= 0.91
        far, _ = swapping(strength=2.0)
        near, _ = swapping(strength=0.5)
        boosted, _ = swapping(pixel_boost=8)
        assert (far - plain).abs().max() > 0.01 and (near - plain).abs().max() > 0.01
        assert boosted.shape == plain.shape and (boosted - plain).abs().mean() < 0.05

    def test_the_widgets_reach_that_far(self, nodes):
        inputs = {item.id: item for item in nodes["OneShotSwap"].define_schema().inputs}
        assert (inputs["strength"].min, inputs["strength"].max) == (0.0, 2.0)
        assert (inputs["pixel_boost"].min, inputs["pixel_boost"].max) == (1, 8)


class TestInsightFace:
    """FaceAnalysis objects as IP-Adapter's and InstantID's loaders make them."""

    @pytest.fixture
    def analysis(self, shared, networks):
        made = {"detection": "scrfd_2.5g_bnkps", "recognition": "mobilefacenet_128"}
        return types.SimpleNamespace(models={task: types.SimpleNamespace(model_file=str(shared / "models" / f"{name}.onnx"))
                                             for task, name in made.items()})

    def test_detects_and_recognizes(self, nodes, analysis, hopper):
        faces, _, _, count = nodes["FaceDetect"].execute(hopper, 0.5, "large-small", "all", 256, 0, 1.0, "pass", detector=analysis).args
        assert count == 1 and 180 < faces[0].keypoints[2, 0] < 300
        identity = nodes["ArcFaceEmbed"].execute([hopper], [faces], ["average"], ["Grace"], [analysis]).args[0]
        (space, vector), = identity.embeddings.items()
        assert space != "dlib128" and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        rule = {"rule": "same-person", "identity": identity, "image": hopper, "similarity": 0.5, "one_per_frame": True, "margin": 0.0,
                "recognizer": analysis}
        assert len(nodes["FaceSelect"].execute(faces, rule).args[0]) == 1

    def test_age_and_sex_where_a_rule_asks(self, nodes, analysis, hopper, networks, tmp_path):
        faces = nodes["FaceDetect"].execute(hopper, 0.5, "large-small", "all", 256, 0, 1.0, "pass", detector=analysis).args[0]
        with pytest.raises(Exception, match=r"The sex of these faces is not known; .* connect the image and an InsightFace object"):
            nodes["FaceSelect"].execute(faces, {"rule": "sex", "sex": "female", "image": None, "insightface": None})
        analysis.models["genderage"] = types.SimpleNamespace(model_file=str(networks.attributes(tmp_path / "genderage.onnx")))
        more = {"image": hopper, "insightface": analysis}
        assert len(nodes["FaceSelect"].execute(faces, {"rule": "sex", "sex": "female"} | more).args[0]) == 1
        chosen, rest = nodes["FaceSelect"].execute(faces, {"rule": "age", "minimum": 46, "maximum": 48} | more).args
        assert chosen[0].age == pytest.approx(47) and len(rest) == 0

    def test_sockets_accept_them(self, nodes):
        kinds = {"INSIGHTFACE", "FACEANALYSIS"}
        for node, socket in (("FaceDetect", "detector"), ("ArcFaceEmbed", "recognizer"), ("LoadSwapModel", "recognizer")):
            item = next(item for item in nodes[node].define_schema().inputs if item.id == socket)
            assert kinds < set(item.get_io_type().split(","))


class TestMemory:
    @pytest.fixture
    def bisenet(self, models):
        from faceloom.models.networks.bisenet import BiSeNet

        torch.manual_seed(0)
        (models / "faceloom" / "parsers").mkdir(parents=True)
        torch.save(BiSeNet().state_dict(), models / "faceloom" / "parsers" / "79999_iter.pth")

    def test_torch_networks_belong_to_comfyui(self, load, bisenet, detected_crops):
        import comfy.model_management as management
        import comfy.model_patcher

        (parser, _), text = load("LoadFaceParser", parser="79999_iter.pth")
        assert text.startswith(f"79999_iter.pth on {management.get_torch_device()}")
        assert isinstance(parser.patcher, comfy.model_patcher.ModelPatcher) and parser.patcher.model is parser.model.net
        assert comfy.model_patcher.is_model_patcher_output(parser)
        labels = parser.parse(detected_crops)
        assert labels.shape == detected_crops.shape[:3] and labels.dtype == torch.uint8
        assert any(loaded.model is parser.patcher for loaded in management.current_loaded_models)
        gone = weakref.ref(parser.model.net)
        del parser
        gc.collect()
        management.cleanup_models()
        assert gone() is None

    def test_core_upscale_models_keep_their_patcher(self, run_graph, models, pictures, base, monkeypatch):
        """A real network through ComfyUI's own loader."""
        import folder_paths

        shapes = {"body.0.weight": (8, 3, 3, 3), "body.0.bias": (8,), "body.1.weight": (8,), "body.2.weight": (8, 8, 3, 3),
                  "body.2.bias": (8,), "body.3.weight": (8,), "body.4.weight": (12, 8, 3, 3), "body.4.bias": (12,)}
        weights = {name: torch.zeros(shape) for name, shape in shapes.items()}  # leaves the skip connection: nearest neighbours
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "upscale_models", ([str(models)], {".pth"}))
        torch.save({"params": weights}, models / "tiny.pth")
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "source.png"}},
            "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "tiny.pth"}},
            "3": {"class_type": "Restore", "inputs": {"crops": ["1", 0], "restore_model": ["2", 0], "fidelity": 0.5, "amount": 1.0}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "restored"}},
        }
        shown = run_graph(graph, ["4"])["4"]["images"][0]
        before, after = (np.asarray(Image.open(path).convert("RGB"), int) for path in (
            base / "input" / "source.png", base / "output" / shown["filename"]))
        assert before.shape == after.shape and np.abs(before - after).mean() < 3

    @pytest.mark.parametrize("free, kept, emptied", [(4 << 30, 0, False), (4 << 30, 3 << 30, True), (1 << 30, 0, True)])
    def test_room_is_made_for_sessions_on_the_card(self, nodes, monkeypatch, free, kept, emptied):
        import comfy.model_management as management
        from faceloom.models.runtime import memory

        done = []
        monkeypatch.setattr(management, "free_memory", lambda size, device: done.append((size, device)))
        monkeypatch.setattr(management, "soft_empty_cache", lambda: done.append("emptied"))
        monkeypatch.setattr(management, "get_free_memory", lambda device, torch_free_too: (free, kept))
        memory.request_card_memory(2 << 30)
        assert not done, "there is no card"
        card = torch.device("cuda:0")
        monkeypatch.setattr(management, "get_torch_device", lambda: card)
        memory.request_card_memory(2 << 30)
        assert done == [((2 << 30) + management.extra_reserved_memory(), card)] + ["emptied"] * emptied
        done.clear()
        memory.request_card_memory(None)
        assert done == [(1e30, card), "emptied"]

    @pytest.mark.parametrize("node, widget, file, kind, socket", [(*row[:4], socket) for row, socket in zip(
        LOADERS, ["SWAP_MODEL", "FACE_DETECTOR", "FACE_DETECTOR", "FACE_RECOGNIZER", "FACE_PARSER", "FACE_OCCLUDER", "RESTORE_MODEL"],
        strict=True)], ids=[f"{row[0]}-{row[1]}" for row in LOADERS])
    def test_sessions_go_with_the_cache(self, run_graph, nodes, models, networks, node, widget, file, kind, socket):
        from comfy_api.latest import io

        from nodes import NODE_CLASS_MAPPINGS

        seen = []

        class Look(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id="Look", inputs=[io.Custom(socket).Input("thing")], outputs=[], is_output_node=True)

            @classmethod
            def execute(cls, thing):
                thing = getattr(thing, "attributes", thing)
                seen.append(weakref.ref(thing.model._session))
                return io.NodeOutput()

        Look.GET_SCHEMA()
        getattr(networks, kind)(models / file)
        schema = nodes[node].define_schema()
        inputs = {item.id: item.default for item in schema.inputs if not item.optional} | {widget: Path(file).name}
        output = [out.get_io_type() for out in schema.outputs].index(socket)
        NODE_CLASS_MAPPINGS["Look"] = Look
        try:
            graph = {"1": {"class_type": node, "inputs": inputs}, "2": {"class_type": "Look", "inputs": {"thing": ["1", output]}}}
            executor = run_graph.executor(graph, ["2"])
        finally:
            del NODE_CLASS_MAPPINGS["Look"]
        gc.collect()
        assert seen[0]() is not None  # ComfyUI keeps the output for the next run
        executor.reset()
        gc.collect()
        assert seen[0]() is None


@pytest.fixture
def detected_crops(nodes, hopper):
    return nodes["FaceDetect"].execute(hopper, 0.5, "large-small", "all", 256, 0, 1.0, "pass").args[1]


def test_help_pages_list_every_known_file_with_its_licence(pack):
    from faceloom.models.files.catalogue import rows

    kinds = {"LoadSwapModel": ["swap"], "LoadFaceDetector": ["detector"], "LoadFaceRecognizer": ["recognizer"],
             "LoadFaceParser": ["parser", "occluder"], "LoadRestoreModel": ["restorer"]}
    for node, shown in kinds.items():
        page = (Path(__file__).parents[2] / "js" / "docs" / f"{node}.md").read_text()
        known = [row for kind in shown for row in rows(kind) if row.contract] + [row for row in rows("research") if row.loads in shown]
        for row in known:
            assert f"| {row.file.replace('*', STAR)} | {row.folder} | {row.terms} |" in page
