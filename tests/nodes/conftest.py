"""A real ComfyUI for the tests of the nodes: in this process, and as a headless server. COMFYUI_DIR says where its checkout is."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="session")
def comfy_dir() -> Path:
    """The checkout named by COMFYUI_DIR; the test is skipped where there is none."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip("COMFYUI_DIR does not name a ComfyUI checkout")
    if not (Path(folder) / "comfy_api").is_dir():
        pytest.skip(f"COMFYUI_DIR={folder} is not a ComfyUI checkout")
    return Path(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A user folder for ComfyUI that has nothing in it but the pack."""
    folder = tmp_path_factory.mktemp("comfyui")
    for name in ("input", "output", "temp", "custom_nodes", "models"):
        (folder / name).mkdir()
    (folder / "custom_nodes" / "faceloom").symlink_to(ROOT, target_is_directory=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What FaceLoom remembers about files, apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """``networks.py`` of this folder: files that look like public networks."""
    pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
    pytest.importorskip("onnxruntime")
    return beside("networks")


def beside(name: str) -> ModuleType:
    """A module of this folder, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"node_test_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pack(comfy_dir, base) -> ModuleType:
    """The pack as ComfyUI imports it, in this process and without a server, under the name ``faceloom``."""
    sys.path.insert(0, str(comfy_dir))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import folder_paths

    folder_paths.set_input_directory(str(base / "input"))
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_temp_directory(str(base / "temp"))
    folder_paths.models_dir = str(base / "models")
    if "faceloom" in sys.modules:  # an installed one that other tests have imported; two copies would have two kinds of Face
        return sys.modules["faceloom"]
    spec = importlib.util.spec_from_file_location("faceloom", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["faceloom"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nodes(pack) -> dict[str, type]:
    """Every node class by its id, through the entry point that ComfyUI calls."""

    async def ask():
        extension = await pack.comfy_entrypoint()
        return await extension.get_node_list()

    return {node.define_schema().node_id: node for node in asyncio.run(ask())}


@pytest.fixture(scope="session")
def models_in(pack) -> Callable:
    """``with models_in(folder, ".pth"):`` ComfyUI looks for face models there and nowhere else."""
    import folder_paths
    from faceloom.models.files.folders import FOLDER_DEPTHS

    @contextmanager
    def use(folder: Path, suffix: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folder_paths, "models_dir", str(folder))
            for key in FOLDER_DEPTHS:
                patch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder / key)], {suffix}))
            yield

    return use


@pytest.fixture(scope="session")
def source(pack, hopper):
    """Grace Hopper's identity."""
    from faceloom.models.detect import detect_faces
    from faceloom.models.identity import make_identity

    return make_identity(hopper, detect_faces(hopper))[0]


@pytest.fixture(scope="session")
def twins(pack, collins) -> Callable:
    """``twins(512)``: two faces of one photograph, by FFHQ's own crop of that size, and their crops."""
    from faceloom.models.crops.crop import crop_faces
    from faceloom.models.crops.squares import align_faces
    from faceloom.models.detect import detect_faces

    def cut(size: int):
        photo = torch.cat([collins[:, :300, 100:400], collins[:, :300, 100:400].flip(2)], 2)
        faces = align_faces(detect_faces(photo), "FFHQ quad", size)
        assert len(faces) == 2
        return faces, crop_faces(photo, faces)

    return cut


@pytest.fixture(scope="session")
def run_graph(pack, nodes):
    """Execute an API-format graph in this process. Returns what its output nodes show, or raises what the failing node raised.

    ``run_graph.executor(graph, targets)`` does the same and returns ComfyUI's executor, which holds the cache.
    """
    import execution

    from nodes import NODE_CLASS_MAPPINGS, init_builtin_extra_nodes

    asyncio.run(init_builtin_extra_nodes())
    for name, node in nodes.items():
        node.GET_SCHEMA()
        NODE_CLASS_MAPPINGS[name] = node

    class Listener:
        client_id = last_node_id = last_prompt_id = None

        def __init__(self):
            self.sockets_metadata, self.errors = {}, []

        def send_sync(self, event, data, sid=None):
            pass

    def execute(graph: dict, targets: list[str]) -> execution.PromptExecutor:
        listener = Listener()
        executor = execution.PromptExecutor(listener, cache_type=execution.CacheType.CLASSIC,
                                            cache_args={"lru": 0, "ram": 0, "ram_inactive": 0})
        identifier = str(uuid.uuid4())
        valid, error, _, problems = asyncio.run(execution.validate_prompt(identifier, graph, None))
        assert valid, (error, problems)
        executor.execute(graph, identifier, {}, targets)
        for event, data in executor.status_messages:
            if event == "execution_error":
                raise RuntimeError(f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}")
        return executor

    def run(graph: dict, targets: list[str]) -> dict:
        return execute(graph, targets).history_result["outputs"]

    run.executor = execute
    return run


@pytest.fixture(scope="session")
def doubles(pack) -> ModuleType:
    """``diffusion_doubles.py`` of this folder: small MODELs and VAEs."""
    return beside("diffusion_doubles")


@pytest.fixture(scope="session")
def checkpoints(pack) -> ModuleType:
    """``checkpoints.py`` of this folder: files that ComfyUI loads as diffusion models."""
    return beside("checkpoints")


class Server(SimpleNamespace):
    """A running ComfyUI. ``url``, ``log`` (a file), ``base`` (its user folder)."""

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def json(self, path: str):
        return json.loads(self.get(path))

    def post(self, path: str, value) -> tuple[int, dict]:
        request = urllib.request.Request(self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def run(self, graph: dict, seconds: float = 300) -> dict:
        """Queue an API-format graph and wait for it. Returns its history entry."""
        status, answer = self.post("/prompt", {"prompt": graph})
        assert status == 200 and not answer["node_errors"], answer
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.json("/history/" + answer["prompt_id"])
            if history:
                return history[answer["prompt_id"]]
            time.sleep(0.2)
        raise TimeoutError(self.log.read_text()[-2000:])

    def picture(self, shown: dict) -> np.ndarray:
        """A picture that a node shows, as ``[H, W, C]`` uint8."""
        path = f"/view?filename={shown['filename']}&subfolder={shown['subfolder']}&type={shown['type']}"
        return np.asarray(Image.open(io.BytesIO(self.get(path))))


def start_server(comfy_dir: Path, base: Path, *options: str) -> tuple[subprocess.Popen, Server]:
    """Start ComfyUI headless on the CPU with no pack but ours, and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = base / f"server-{port}.log"
    command = [sys.executable, "main.py", "--cpu", "--base-directory", str(base), "--database-url", "sqlite:///:memory:",
               "--disable-api-nodes", "--disable-all-custom-nodes", "--whitelist-custom-nodes", "faceloom", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=comfy_dir, stdout=log.open("wb"), stderr=subprocess.STDOUT,
                               env=os.environ | {"OMP_NUM_THREADS": "2"})
    server = Server(url=f"http://127.0.0.1:{port}", log=log, base=base)
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            server.get("/system_stats")
            return process, server
        except OSError:
            time.sleep(0.3)
    process.kill()
    raise RuntimeError("ComfyUI did not start:\n" + log.read_text()[-3000:])


@pytest.fixture(scope="module", params=["default cache", "no cache"])
def server(request, comfy_dir, base, pictures):
    process, running = start_server(comfy_dir, base, *(["--cache-none"] if request.param == "no cache" else []))
    yield running
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def films(pack, base, collins, hopper) -> dict[str, torch.Tensor]:
    """The videos that the bundled workflows ask for, in ComfyUI's input folder and as frames ``[F, H, W, 3]``: people that move by two
    pixels a frame, with sound."""
    from faceloom.models.files.video import EncodeSettings, open_writer, probe, read_frames, write_lossless

    photo = F.interpolate(torch.cat([hopper[:, :500, :500], collins[:, :500, :500]]).movedim(-1, 1), (360, 360), mode="area").movedim(1, -1)
    both = torch.cat([photo[1], photo[0]], 1)
    made = {"target": torch.stack([photo[0, :320, 2 * i : 2 * i + 320] for i in range(10)]),
            "two_people": torch.stack([both[:320, 2 * i : 2 * i + 680] for i in range(10)])}
    for name, frames in made.items():
        lossless, path = base / f"{name}.mkv", base / "input" / f"{name}.mp4"
        write_lossless(lossless, frames, Fraction(25), sound=(torch.sin(torch.arange(19200) * .05)[None] * .2, 48000))
        with open_writer(path, lossless, probe(lossless), EncodeSettings("h264")) as writer, read_frames(lossless) as read:
            for frame in read:
                writer.write(frame)
    return made


@pytest.fixture(scope="session")
def pictures(base, collins, hopper) -> dict[str, torch.Tensor]:
    """The pictures that the bundled workflows ask for, in ComfyUI's input folder and as ``[1, H, W, 3]``."""
    shown = torch.cat([F.interpolate(part.movedim(-1, 1), (600, 400), mode="area") for part in (
        collins[:, :, 56:397], hopper[:, :, 60:460], collins.flip(2)[:, :, 115:456])], -1).movedim(1, -1)
    made = {
        "source": collins, "target": hopper, "person_1": hopper, "person_2": collins, "group": shown,
        "photo_1": collins[:, :300, 100:400], "photo_2": (collins * 0.85).flip(2), "photo_3": collins[:, :420, 40:460],
    }
    for name, picture in made.items():
        Image.fromarray((picture[0] * 255).round().byte().numpy()).save(base / "input" / f"{name}.png")
    return made
