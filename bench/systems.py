"""The research systems' engines: what each takes per face, with random weights in networks of the published size.

From the frame to the swapped crop; the source's identity is computed once and not counted. GHOST's generator is run beside its own
export to ONNX, with the same weights, in the same run.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Identity
from faceloom.models.networks.aei import AEINet
from faceloom.models.networks.arcface_se import ArcFaceSE
from faceloom.models.networks.faceshifter import FaceShifterNet, FixerNet
from faceloom.models.networks.fslsd import FSLSDNet
from faceloom.models.networks.iresnet import IResNet
from faceloom.models.networks.keras_net import KerasNet, needed_weights
from faceloom.models.networks.megafs import FaceTransfer, HierarchicalEncoder
from faceloom.models.networks.psp import StyleEncoder
from faceloom.models.networks.simswap import SimSwapNet
from faceloom.models.networks.stylegan2 import StyleGAN2
from faceloom.models.options.swap import SwapSettings
from faceloom.models.parse import REGIONS
from faceloom.models.runtime.devices import PlainDevices, TorchModel
from faceloom.models.swap.research import (
    facedancer_engine,
    fslsd_engine,
    ghost_engine,
    megafs_engine,
    reliableswap_engine,
    simswap_engine,
)
from faceloom.models.swap.torch_engine import TorchEngine
from torch import nn

from bench.keras_graphs import generator, identity_graph
from bench.measure import interleaved, peak_memory, ratio
from bench.paste import CROP, build_frame

FRAME = 1080, 1920
SETTINGS = SwapSettings(size=CROP)
NO_EXPORT = "GHOST's export was not measured: it needs onnx and onnxruntime; run: python -m pip install onnx onnxruntime"
OPSET = 17


class Disc:
    """A face parser that sees a disc of skin among background, for engines that cannot do without one."""

    name = "disc"

    def parse(self, crops: torch.Tensor, progress=None) -> torch.Tensor:
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, crops.shape[1])] * 2, indexing="ij")
        disc = torch.where(x**2 + y**2 < .5, REGIONS.index("skin"), REGIONS.index("background")).to(torch.uint8)
        return disc.expand(len(crops), -1, -1)


def ring(crops: torch.Tensor) -> np.ndarray:
    """A 106-point landmarker that sees a circle."""
    angles = np.linspace(0, 2 * np.pi, 106, endpoint=False)
    points = crops.shape[-1] * (.5 + .3 * np.stack([np.cos(angles), np.sin(angles)], -1))
    return np.repeat(points[None], len(crops), 0)


def randomized(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with weights that keep the size of what goes through it, the same every time."""
    with torch.device("meta"):
        net = make()
    net = net.to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and value.ndim > 1:
            value.normal_(0, max(1, value[0].numel()) ** -.5, generator=random)
        else:
            value.fill_(1 if value.is_floating_point() and name.endswith(("weight", "var")) else 0)
    return net


def keras(graph: dict) -> KerasNet:
    random = torch.Generator().manual_seed(0)
    shapes, _ = needed_weights(graph)
    return KerasNet(graph, {key: torch.randn(shape, generator=random) * (int(np.prod(shape[:-1])) or 1) ** -.5 if len(shape) > 1
                            else torch.full(shape, float(key.endswith(("gamma", "variance")))) for key, shape in shapes.items()})


def _ghost() -> tuple[type, nn.Module, dict]:
    return ghost_engine.GhostEngine, ghost_engine.GhostNets(randomized(lambda: AEINet("unet", 2)), randomized(IResNet)), {}


def _faceshifter(large: bool) -> tuple[type, nn.Module, dict]:
    return reliableswap_engine.FaceShifterEngine, randomized(lambda: FaceShifterNet(large, {})), {"size": 512 if large else 256}


def _reliable_simswap() -> tuple[type, nn.Module, dict]:
    nets = (lambda: SimSwapNet(640, matrix=True)), IResNet, FixerNet
    return reliableswap_engine.SimSwapEngine, reliableswap_engine.SimSwapNets(*map(randomized, nets)), {}


def _simswap(large: bool) -> tuple[type, nn.Module, dict]:
    nets = simswap_engine.SimSwapNets(randomized(lambda: SimSwapNet(large=large)), randomized(ArcFaceSE))
    return simswap_engine.SimSwapEngine, nets, {"size": 512 if large else 224}


def _megafs() -> tuple[type, nn.Module, dict]:
    nets = megafs_engine.MegaFSNets(*map(randomized, (HierarchicalEncoder, FaceTransfer, lambda: StyleGAN2(1024))))
    return megafs_engine.MegaFSEngine, nets, {}


def _facedancer() -> tuple[type, nn.Module, dict]:
    return facedancer_engine.FaceDancerEngine, facedancer_engine.FaceDancerNets(keras(generator(mapping=512)), keras(identity_graph())), {}


def _fslsd() -> tuple[type, nn.Module, dict]:
    nets = fslsd_engine.FSLSDNets(randomized(FSLSDNet), randomized(StyleEncoder), torch.zeros(18, 512))
    return fslsd_engine.FSLSDEngine, nets, {"landmarker": ring, "parser": Disc()}


SYSTEMS: dict[str, Callable[[], tuple[type[TorchEngine], nn.Module, dict]]] = {
    "GHOST": _ghost, "ReliableSwap FaceShifter": lambda: _faceshifter(False), "ReliableSwap FaceShifter 512": lambda: _faceshifter(True),
    "ReliableSwap SimSwap": _reliable_simswap, "SimSwap 224": lambda: _simswap(False), "SimSwap 512": lambda: _simswap(True),
    "FaceDancer": _facedancer, "MegaFS": _megafs, "FSLSD": _fslsd,
}


def measure_systems(portrait: torch.Tensor, face: Face, identity: Identity, repeats: int, device: str = "auto",
                    names: list[str] | None = None) -> tuple[list[dict], list[str]]:
    """One entry per system and device; and notes."""
    images, faces = build_frame(portrait, face, FRAME, 1)
    results = []
    for where in devices(device):
        for name in names or SYSTEMS:
            kind, nets, options = SYSTEMS[name]()
            engine = kind(name, TorchModel(name, nets, PlainDevices(where)), **options)
            entry = {"system": name, "device": where, "size": engine.size, **_parameters(nets)}
            frame = images.to(where)
            source = engine.prepare(identity)
            task = _finished(lambda engine=engine, frame=frame, source=source: engine.swap(frame, faces, source, SETTINGS), where)
            entry["peak_mb"] = peak_memory(task)  # which warms up, too
            tasks = {"ms": task}
            if name == "GHOST" and where == "cpu" and find_spec("onnx") and find_spec("onnxruntime"):
                tasks |= ghost_tasks(nets.generator)
            times = interleaved(tasks, repeats)
            entry |= {key: round(value, 1) for key, value in times.items()}
            if "onnx_ms" in times:
                entry["ratio"] = ratio(times["onnx_ms"], times["generator_ms"])
            results.append(entry)
            print(f"{name} on {where} measured", file=sys.stderr)
            del engine, nets, task, tasks
            gc.collect()
    missing = any(entry["system"] == "GHOST" and entry["device"] == "cpu" and "onnx_ms" not in entry for entry in results)
    return results, [NO_EXPORT] if missing else []


def devices(request: str) -> list[str]:
    """Where torch can run, of what is asked for."""
    return [request] if request != "auto" else ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _parameters(nets: nn.Module) -> dict[str, float]:
    values = [*nets.parameters(), *nets.buffers()]
    return {"parameters": sum(value.numel() for value in values),
            "weights_mb": round(sum(value.numel() * value.element_size() for value in values) / 2**20)}


def _finished(task: Callable[[], object], where: str) -> Callable[[], object]:
    """A graphics card answers before it has computed."""
    return task if where == "cpu" else lambda: (task(), torch.cuda.synchronize())


class Picture(nn.Module):
    """A generator's picture alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, target: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        return self.net(target, vector)[0]


def ghost_tasks(net: nn.Module) -> dict[str, Callable[[], object]]:
    """The generator in torch, as the engine runs it, and in a session of its export; they answer alike."""
    import onnxruntime

    random = torch.Generator().manual_seed(1)
    target = torch.rand(1, 3, 256, 256, generator=random).contiguous(memory_format=torch.channels_last)
    vector = torch.randn(1, 512, generator=random)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ghost.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the newer exporter is to be used, which needs another package; shapes are constants here
            torch.onnx.export(Picture(net).eval(), (target, vector), path, input_names=["target", "source"], opset_version=OPSET,
                              dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"target": target.numpy(), "source": vector.numpy()}

    @torch.inference_mode()
    def ours() -> np.ndarray:
        return net(target, vector)[0].numpy()

    def theirs() -> np.ndarray:
        return session.run(None, feed)[0]

    off = float(np.abs(ours() - theirs()).max())
    if off > .01:
        raise FaceLoomError(f"GHOST's export answers otherwise than its network, by up to {off:.3f}; there is nothing to compare.")
    return {"generator_ms": ours, "onnx_ms": theirs}
