"""The bundled workflows: sound as files, the same graph as their API twins, and run by a headless server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
NODE_IDS = json.loads(Path(__file__).with_name("schema.json").read_text())
# What /object_info says of the nodes of other packs that templates use: {pack: {"ver", "repository", "commit", "nodes"}}.
PACKS = json.loads(Path(__file__).with_name("foreign_nodes.json").read_text())
FOREIGN = {name: node for pack in PACKS.values() for name, node in pack["nodes"].items()}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
MATCHED = "COMFY_MATCHTYPE_V3"  # an output of the kind that an input is linked to
# The target picture of each workflow that a server runs here; it saves a changed copy of it.
TARGETS = {"quick-face-swap": "target", "swap-with-masks-and-colour-match": "target", "identity-from-several-photos": "target",
           "group-photo-with-faceselect": "group", "one-shot-swap-with-a-model": "target", "sd15-inpaint-swap": "target",
           "one-shot-then-polish": "target", "compare-engines": "target", "swap-behind-hands": "target",
           "reface-swap": "target", "diffswap-swap": "target",
           "face-adapter-swap": "target"}
# The target video of each workflow for clips, and how many people are in it.
FILMS = {"video-swap": ("target", 1), "video-swap-two-people": ("two_people", 2), "video-swap-batch": ("target", 1)}
# Those that run with doubles in test_diffusion_workflows.py, test_diffface.py and test_face_swap_via_diffusion.py, and those
# whose nodes of other packs are only compared with what they take.
IN_PROCESS = {"flux-fill-ace-swap", "qwen-edit-head-swap", "kontext-head-swap",
              "diffface-swap", "face-swap-via-diffusion"}
NOT_RUN = {"sd15-ipadapter-faceid-swap": {"comfyui_ipadapter_plus"}, "sdxl-instantid-swap": {"comfyui_instantid"}}
# Where each public file goes that a workflow asks for, and which double of networks.py or checkpoints.py stands in for it.
VAE = "vae/vae-ft-mse-840000-ema-pruned.safetensors"
FILES = {"one-shot-swap-with-a-model": {"faceloom/recognizers/arcface_w600k_r50.onnx": "recognizer",
                                        "hyperswap/hyperswap_1a_256.onnx": "swap", "facerestore_models/gfpgan_1.4.onnx": "restorer"},
         "sd15-inpaint-swap": {"faceloom/recognizers/arcface_w600k_r50.onnx": "recognizer", VAE: "vae",
                               "checkpoints/Realistic_Vision_V5.1-inpainting.safetensors": "inpainting"},
         "compare-engines": {"faceloom/recognizers/arcface_w600k_r50.onnx": "recognizer", "hyperswap/hyperswap_1a_256.onnx": "swap",
                             "faceloom/ghost/G_unet_2blocks.pth": "ghost_generator", "faceloom/ghost/backbone.pth": "ghost_arcface"},
         "swap-behind-hands": {"faceloom/parsers/xseg_3.onnx": "occluder"},
         "one-shot-then-polish": {"checkpoints/Realistic_Vision_V6.0_NV_B1_fp16.safetensors": "sd15", VAE: "vae"},
         "reface-swap": {"faceloom/reface/last.ckpt": "reface"},
         "diffswap-swap": {"faceloom/diffswap/diffswap.pth": "diffswap"},
         "face-adapter-swap": {"checkpoints/Realistic_Vision_V6.0_NV_B1_fp16.safetensors": "sd15", VAE: "vae",
                               "faceloom/faceadapter/net_id2token.pth": "face_adapter"},
         "diffface-swap": {"faceloom/diffface/Model.pt": "diffface"}}
# ComfyUI's dialog does not fetch from their address, and nobody has told their hash.
UNLINKED = ("faceloom/ghost/", "faceloom/reface/", "faceloom/diffswap/", "faceloom/faceadapter/", "faceloom/diffface/")
# Settings that a run on a CPU with doubles does with.
QUICK = {"DiffusionInpaintSwap": {"steps": 2, "size": 256, "views": 1}, "KSampler": {"steps": 2}, "BasicScheduler": {"steps": 2}}
# Where ComfyUI's dialog puts a file: its own folders, those of FaceLoom and those of the other packs.
FOLDERS = {"checkpoints", "diffusion_models", "text_encoders", "clip_vision", "controlnet", "loras", "vae", "ipadapter", "instantid"}
RENAMED = {"CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"}  # the name IP-Adapter's users know the file by


def read(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text())


def twin(name: str) -> dict:
    return json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text())


def widget_inputs(info: dict, values: list, prefix: str = "") -> dict:
    """Takes the values of one node's widgets off ``values``, in the order of its ``/object_info`` entry, and names them."""
    named = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info.get(group, {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                kind = "COMBO"
            if options.get("forceInput") or not (kind in WIDGETS or options.get("socketless")):
                continue
            named[prefix + name] = value = values.pop(0)
            if options.get("image_upload") or options.get("video_upload") or options.get("control_after_generate"):
                values.pop(0)
            if options.get("component") == "ImageCrop":
                assert list(value.values()) == [values.pop(0) for _ in value]  # the canvas shows them one by one too
            if kind == "COMFY_DYNAMICCOMBO_V3":
                chosen = next(option for option in options["options"] if option["key"] == value)
                named |= widget_inputs(chosen["inputs"], values, f"{prefix}{name}.")
    return named


def as_api(workflow: dict, info: dict) -> dict:
    """A UI-format workflow without groups, subgraphs or muted nodes as an API-format graph."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        values = list(node.get("widgets_values", []))
        inputs = widget_inputs(info[node["type"]]["input"], values)
        assert not values, f"{node['type']} has {len(values)} widget value(s) too many"
        inputs |= {item["name"]: sources[item["link"]] for item in node["inputs"] if item.get("link") is not None}
        graph[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": node["title"]}}
    return graph


def misfits(graph: dict, info: dict, files: set[str]) -> list[str]:
    """What ``/object_info`` does not allow in an API-format graph. A combo may name any of ``files``."""
    found = []
    for number, node in graph.items():
        where = f"{node['class_type']} {number}"
        if node["class_type"] not in info:
            found.append(f"{where} is not there")
            continue
        given = dict(node["inputs"])
        for group in ("required", "optional"):
            found += [f"{where}.{sentence}" for sentence in _misfits(info[node["class_type"]]["input"].get(group, {}), given, graph, info,
                                                                     files, group == "required")]
        found += [f"{where} has no {name}" for name in given]
    return found


def _misfits(inputs: dict, given: dict, graph: dict, info: dict, files: set[str], required: bool, prefix: str = "") -> list[str]:
    """Takes what one group of inputs describes off ``given``."""
    found = []
    for name, (kind, *rest) in inputs.items():
        options, name = (rest[0] if rest else {}), prefix + name
        if kind == "COMFY_AUTOGROW_V3":
            for key in [key for key in given if key.startswith(name + ".")]:
                given.pop(key)
            continue
        if name not in given:
            found += [f"{name} is missing"] * required
            continue
        value = given.pop(name)
        if isinstance(value, list):
            output = (info | FOREIGN)[graph[value[0]]["class_type"]]["output"][value[1]]
            if output not in (*str(kind).split(","), MATCHED) and kind != "*":
                found.append(f"{name} takes {kind}, not {output}")
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            chosen = [option for option in options["options"] if option["key"] == value]
            found += [f"{name} cannot be {value!r}"] * (not chosen)
            for group, children in chosen[0]["inputs"].items() if chosen else ():
                found += _misfits(children, given, graph, info, files, group == "required", f"{name}.")
        elif isinstance(kind, list) or kind == "COMBO":
            allowed = kind if isinstance(kind, list) else options["options"]
            found += [f"{name} cannot be {value!r}"] * (value not in allowed and value not in files)
        elif kind in ("INT", "FLOAT"):
            right = isinstance(value, int if kind == "INT" else (int, float))
            found += [f"{name} cannot be {value!r}"] * (not right or not options.get("min", value) <= value <= options.get("max", value))
        elif kind in ("STRING", "BOOLEAN"):
            found += [f"{name} cannot be {value!r}"] * (not isinstance(value, str if kind == "STRING" else bool))
        elif not options.get("socketless"):
            found.append(f"{name} takes a link of {kind}")
    return found


def test_there_is_one_for_each_need():
    assert set(NAMES) == set(TARGETS) | set(FILMS) | IN_PROCESS | set(NOT_RUN)


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name):
    path = ROOT / "workflows" / f"{name}.jpg"
    assert path.stat().st_size <= 150_000
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 300


@pytest.mark.parametrize("name", NAMES)
def test_laid_out(name):
    """A note explains, everything is in a group or is the note, and no two nodes overlap."""
    workflow = read(name)
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    for i, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:i]:
            apart = x + width <= other_x or other_x + other_width <= x or y + height <= other_y or other_y + other_height <= y
            assert apart, (x, y)
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1 and notes[0]["widgets_values"][0].startswith("## ")
    assert len(workflow["groups"]) >= 3 and all(group["title"] for group in workflow["groups"])
    assert all(node.get("title") for node in workflow["nodes"])


def test_a_misfit_is_seen():
    """The check of templates against /object_info finds each kind of mistake."""
    inputs = {"required": {"n": ["INT", {"min": 0, "max": 3}], "c": [["x", "y"]]}, "optional": {"i": ["IMAGE"]}}
    info = {"A": {"input": inputs, "output": ["MASK"]}}
    good = {"1": {"class_type": "A", "inputs": {"n": 3, "c": "x"}}}
    assert not misfits(good, info, set())
    for change, sentence in (({"n": 4}, "A 1.n cannot be 4"), ({"n": 1.5}, "A 1.n cannot be 1.5"), ({"c": "z"}, "A 1.c cannot be 'z'"),
                             ({"i": ["1", 0]}, "A 1.i takes IMAGE, not MASK"), ({"i": 2}, "A 1.i takes a link of IMAGE"),
                             ({"b": 1}, "A 1 has no b")):
        assert misfits({"1": {"class_type": "A", "inputs": good["1"]["inputs"] | change}}, info, set()) == [sentence]
    assert misfits({"1": {"class_type": "A", "inputs": {"n": 1}}}, info, set()) == ["A 1.c is missing"]
    assert not misfits({"1": {"class_type": "A", "inputs": {"n": 1, "c": "z"}}}, info, {"z"})
    assert misfits({"1": {"class_type": "B", "inputs": {}}}, info, set()) == ["B 1 is not there"]


def sound_of(path: Path) -> list[bytes]:
    """The packets of a file's sound."""
    import av

    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def linked_files(name: str) -> dict[str, dict]:
    """The files a template links, by name."""
    return {model["name"]: model for node in read(name)["nodes"] for model in node["properties"].get("models", [])}


@pytest.mark.parametrize("name", NAMES)
def test_files_it_asks_for_are_linked(pack, name):
    """What ComfyUI's dialog of missing models needs: the name in the widget, an address of that file, a folder it knows."""
    from faceloom.models.files.catalogue import row_by_file_name
    from faceloom.models.files.folders import FOLDER_DEPTHS

    places = set()
    for node in read(name)["nodes"]:
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith("https://huggingface.co/") and "/resolve/" in model["url"]
            assert ("hash" in model) == ("hash_type" in model) and re.fullmatch(r"[0-9a-f]{64}|", model.get("hash", ""))
            if node["type"] in NODE_IDS:
                row = row_by_file_name(model["name"])
                assert model["url"] in row.urls and row.sha256 and model.get("hash", row.sha256) == row.sha256
                assert model["directory"] in FOLDER_DEPTHS and model["directory"] == row.folder.split("/")[0]
                places.add(f"{row.folder}/{row.file}")
            else:
                assert model["directory"] in FOLDERS and (model["name"] in RENAMED or model["url"].endswith("/" + model["name"]))
                places.add(f"{model['directory']}/{model['name']}")
    assert name not in FILES or places == {file for file in FILES[name] if not file.startswith(UNLINKED)}


@pytest.mark.parametrize("name", sorted(name for name in NAMES if linked_files(name)))
def test_the_note_says_what_to_know(name):
    """Each licence and consent, and the packs it needs."""
    text = next(node["widgets_values"][0] for node in read(name)["nodes"] if node["type"] == "MarkdownNote")
    if name not in ("one-shot-swap-with-a-model", "compare-engines"):
        assert "agreed" in text and any(word in text for word in ("OpenRAIL", "licence", "Apache"))
    for pack in NOT_RUN.get(name, ()):
        assert PACKS[pack]["repository"].rsplit("/", 1)[1] in text


@pytest.fixture
def files(request, base) -> None:
    """The doubles a workflow needs, in the server's models folder while its test runs."""
    wanted = FILES.get(request.getfixturevalue("name"), {})
    doubles = [request.getfixturevalue("networks"), request.getfixturevalue("checkpoints")]
    paths = [next(getattr(module, double) for module in doubles if hasattr(module, double))(base / "models" / file)
             for file, double in wanted.items()]
    yield
    for path in paths:
        path.unlink()


@pytest.mark.slow
class TestServer:
    def test_the_pack_loads(self, server):
        log = server.log.read_text()
        assert "IMPORT FAILED" not in log and "faceloom" in log
        seconds = [line for line in log.splitlines() if "seconds" in line and line.rstrip().endswith("faceloom")]
        assert len(seconds) == 1

    def test_templates_docs_and_words_are_served(self, server):
        assert set(server.json("/workflow_templates")["faceloom"]) == set(NAMES)
        for name in NAMES:
            assert json.loads(server.get(f"/api/workflow_templates/faceloom/{name}.json")) == read(name)
            assert server.get(f"/api/workflow_templates/faceloom/{name}.jpg")[:2] == b"\xff\xd8"
        for path in (ROOT / "js" / "docs").glob("*.md"):
            assert server.get(f"/extensions/faceloom/docs/{path.name}") == path.read_bytes()
        assert {"/extensions/faceloom/text.js", "/extensions/faceloom/pictures.js"} <= set(server.json("/extensions"))
        words = server.json("/i18n")
        for language in ("de", "fr"):
            ours = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
            assert ours.items() <= words[language]["nodeDefs"].items()

    def test_what_a_loader_says_is_there_after_every_run(self, server):
        """js/text.js shows it on nodes that were not run again."""
        graph = {"1": {"class_type": "LoadRestoreModel", "inputs": {"file": "match the photograph (built in)", "provider": "auto"}},
                 "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
        for _ in range(2):
            assert server.run(graph)["outputs"]["1"]["text"] == ["built in, no file is needed"]

    @pytest.mark.parametrize("name", NAMES)
    def test_the_workflow_is_its_api_twin(self, server, name):
        info = server.json("/object_info") | FOREIGN
        workflow = read(name)
        packs = set()
        for node in workflow["nodes"]:
            if node["type"] == "MarkdownNote":
                continue
            pack = node["properties"]["cnr_id"]
            module = info[node["type"]]["python_module"]
            assert pack == (module.removeprefix("custom_nodes.") if module.startswith("custom_nodes.") else "comfy-core")
            for output, kind in zip(node["outputs"], info[node["type"]]["output"], strict=True):
                assert kind in (output["type"], MATCHED)
            if pack in PACKS:
                assert node["properties"]["ver"] == PACKS[pack]["ver"]
                packs.add(pack)
        assert packs == NOT_RUN.get(name, set())
        graph = as_api(workflow, info)
        assert graph == twin(name) and set(NODE_IDS) & {node["class_type"] for node in graph.values()}

    @pytest.mark.parametrize("name", NAMES)
    def test_every_input_fits_its_node(self, server, name, pictures, films):
        files = {*linked_files(name), *(Path(file).name for file in FILES.get(name, ()))}
        assert not misfits(twin(name), server.json("/object_info") | FOREIGN, files)

    @pytest.mark.parametrize("name", sorted(TARGETS))
    def test_the_workflow_runs(self, pack, server, name, pictures, files):
        from faceloom.models.detect import detect_faces

        graph = twin(name)
        for node in graph.values():
            node["inputs"] |= QUICK.get(node["class_type"], {})
        history = server.run(graph)
        assert history["status"]["status_str"] == "success", history["status"]
        saved = next(node for node, what in graph.items() if what["class_type"] == "SaveImage")
        result = server.picture(history["outputs"][saved]["images"][0]).astype(int)
        target = (pictures[TARGETS[name]][0] * 255).round().numpy().astype(int)
        changed = np.abs(result - target).max(-1)
        assert result.shape == target.shape
        # A face's worth of pixels changed visibly; the picture around it is what it was.
        assert (changed > 12).mean() > 0.03 and (changed == 0).mean() > 0.5
        for face in detect_faces(pictures[TARGETS[name]]):
            left, top, right, bottom = (int(value) for value in face.box + face.size * np.array([-0.7, -0.7, 0.7, 0.7]))
            changed[max(0, top):bottom, max(0, left):right] = 0
        assert not changed.any()
        finder = [node for node, what in graph.items() if what["class_type"] == "FaceDetect"][-1]
        assert history["outputs"][finder]["text"][0].split()[0] == ("3" if name.startswith("group") else "1")
        for node, what in graph.items():
            if what["class_type"].startswith("Load") and "file" in what["inputs"]:
                text = history["outputs"][node]["text"][0]
                assert text.startswith(f"{what['inputs']['file']} on cpu\nLicence: ")

    @pytest.mark.parametrize("name", sorted(FILMS))
    def test_the_workflow_for_clips_runs(self, server, name, pictures, films, tmp_path):
        """Every frame has new faces, and nothing else is new; a file that Swap Video wrote has the sound packet by packet."""
        from faceloom.models.detect import detect_faces
        from faceloom.models.files.video import read_frames

        history = server.run(twin(name))
        assert history["status"]["status_str"] == "success", history["status"]
        saved = next(node for node, what in twin(name).items() if what["class_type"] == "SaveVideo")
        (shown,) = history["outputs"][saved]["images"]
        result, source = tmp_path / shown["filename"], server.base / "input" / f"{FILMS[name][0]}.mp4"
        result.write_bytes(server.get(f"/view?filename={shown['filename']}&subfolder={shown['subfolder']}&type={shown['type']}"))
        with read_frames(source) as before, read_frames(result) as after:
            frames = [(one.image(), other.image()) for one, other in zip(before, after, strict=True)]
        assert len(frames) == len(films[FILMS[name][0]])
        for one, other in frames:
            faces = detect_faces(one[None])
            assert len(faces) == FILMS[name][1]
            outside = torch.ones(one.shape[:2], dtype=torch.bool)
            for face in faces:
                x, y = face.keypoints[2].astype(int)
                assert (one - other)[y - 12 : y + 12, x - 12 : x + 12].abs().mean() > .02
                left, top, right, bottom = (max(0, int(v)) for v in face.box + face.size * np.array([-.7, -.7, .7, .7]))
                outside[top:bottom, left:right] = False
            assert (one - other).abs().amax(-1)[outside].mean() < (.03 if name == "video-swap-batch" else .012)  # which is encoded anew
        if name != "video-swap-batch":
            assert sound_of(source) == sound_of(result)

    def test_engines_whose_files_are_not_there_can_be_left_out(self, server, pictures):
        """The note of compare-engines: with the other columns muted and the built-in recognizer nothing is downloaded."""
        graph = twin("compare-engines")
        muted = {node for node, what in graph.items() if what["class_type"] == "LoadSwapModel"}
        for node, what in graph.items():  # sources come before what they feed
            if any(isinstance(value, list) and value[0] in muted for value in what["inputs"].values()):
                muted.add(node)
        left = {node: what for node, what in graph.items() if node not in muted}
        loader = next(what for what in left.values() if what["class_type"] == "LoadFaceRecognizer")
        loader["inputs"]["file"] = "dlib (built in)"
        assert len(muted) == 8 and sum(what["class_type"] == "SaveImage" for what in left.values()) == 1
        history = server.run(left)
        assert history["status"]["status_str"] == "success", history["status"]

    def test_a_file_that_is_not_there_is_one_sentence(self, server, pictures):
        graph = twin("one-shot-swap-with-a-model")
        for node in graph.values():
            if node["class_type"] in ("LoadFaceRecognizer", "LoadRestoreModel"):
                node["inputs"]["file"] = "w600k_mbf.onnx" if node["class_type"] == "LoadFaceRecognizer" else "codeformer.onnx"
        history = server.run(graph)
        message, = (data for event, data in history["status"]["messages"] if event == "execution_error")
        assert message["node_type"].startswith("Load") and message["exception_type"].endswith("FaceLoomError")
        said = re.search("is not on this machine: run `(.*?)`", message["exception_message"])[1]
        asked = subprocess.run(said.replace(" get ", " where "), shell=True, capture_output=True, text=True)  # what is said can be pasted
        assert asked.stderr.strip().removeprefix("faceloom: ") in message["exception_message"]

    def test_a_name_that_leaves_the_folders_is_refused_at_once(self, server, pictures):
        graph = twin("one-shot-swap-with-a-model")
        loader = next(node for node in graph.values() if node["class_type"] == "LoadSwapModel")
        loader["inputs"]["file"] = "../../hyperswap_1a_256.onnx"
        status, answer = server.post("/prompt", {"prompt": graph})
        assert status == 400 and "is not the name of a model file" in json.dumps(answer["node_errors"])
