"""Opens Face-Adapter from its authors' files: net_id2token.pth and what lies beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FaceLoomError
from ..face3d.basel_model import load_basel_model
from ..files.catalogue import as_net_contract, catalogue
from ..files.checkpoints import load_weights
from ..files.find import FoundFile, find_companion
from ..files.folders import Folders
from ..networks import Network, build
from ..networks.bisenet import build_bisenet
from ..networks.face_adapter import AreaNet, CoefficientNet, ID2Token, Image2Token, TokenDecoder, token_decoder_for
from ..networks.iresnet import IResNet, iresnet_depth
from ..networks.reface import to_clip
from ..parse import Parser
from ..parse.bisenet import BiSeNetParser
from ..pixels.resize import resize_bicubic
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.method import Method, is_row
from .face_adapter import FaceAdapter, FaceAdapterNets

# The authors' folders: other people's files, the CLIP vision model they trained with, and their ControlNet.
THIRD_PARTY_FOLDER, VISION_FOLDER, CONTROL_FOLDER = "third_party", "vision_encoder", "controlnet"
_PARSER = "79999_iter"
_VISION_BYTES = 1 << 26  # that a crop takes in the CLIP vision model, besides its weights


def load_face_adapter(path: str | os.PathLike | FoundFile, *, folders: Folders | None = None, devices: DeviceManager | None = None
                      ) -> FaceAdapter:
    """Open the adapter whose net_id2token.pth this is.

    The other files are looked for in its folder, in ``third_party`` there, and in ``folders``. Without net_seg_res18.pth there is no
    reenactment, without 79999_iter.pth no parser of its own.
    """
    path = path.path if isinstance(path, FoundFile) else Path(path)

    arcface = _load_net(_find_file(path, "faceadapter_glint360k", folders),
                        lambda weights: IResNet(iresnet_depth(weights), len(weights["fc.weight"])))
    id_tokens = _load_token_decoder(ID2Token, path)
    image_tokens = _load_token_decoder(Image2Token, _find_file(path, "faceadapter_image2token", folders))
    coefficients = _load_net(_find_file(path, "faceadapter_d3dfr", folders), lambda weights: CoefficientNet())
    area_file = _find_file_if_there(path, "faceadapter_seg", folders)
    area = None if area_file is None else _load_net(area_file, lambda weights: AreaNet())
    nets = FaceAdapterNets(arcface, id_tokens, image_tokens, coefficients, area)
    shape = load_basel_model(_find_file(path, "faceadapter_bfm", folders))
    return FaceAdapter("face-adapter", TorchModel(path.stem, nets, devices), shape, _load_parser(path, folders, devices))


def _find_file(path: Path, row_name: str, folders: Folders | None) -> Path:
    return find_companion(path, row_name, folders=folders, inside=(THIRD_PARTY_FOLDER,))


def _find_file_if_there(path: Path, row_name: str, folders: Folders | None) -> Path | None:
    return find_companion(path, row_name, folders=folders, inside=(THIRD_PARTY_FOLDER,), needed=False)


def _load_net(file: Path, make: Callable[[dict[str, Tensor]], Network]) -> Network:
    """Build the network that ``make`` makes for the weights of a file."""
    weights = load_weights(file)
    return build(lambda: make(weights), weights, file.name)


def find_weights_in_folder(path: Path, folder: str) -> Path | None:
    """Return the weights file in one of the authors' folders beside ``path``, if there is one."""
    found = sorted((path.parent / folder).glob("*.safetensors")) + sorted((path.parent / folder).glob("*.bin"))
    return found[0] if found else None


class ClipVision:
    """A CLIP vision model in transformers' layout (a folder with config.json) that is a ``face_adapter.Vision``."""

    def __init__(self, folder: str | os.PathLike, devices: DeviceManager | None = None) -> None:
        try:
            from transformers import CLIPVisionModel
        except ImportError as error:
            raise FaceLoomError("Without ComfyUI Face-Adapter needs transformers; run: pip install faceloom[research].") from error
        net = CLIPVisionModel.from_pretrained(folder, local_files_only=True)
        size = net.config.image_size
        if not isinstance(size, int):
            raise FaceLoomError(f"Face-Adapter needs a CLIP vision model of square pictures, and {folder} has one of {size}; use its own "
                                "vision_encoder.")
        self.size = size
        self.model = TorchModel("CLIP vision", net, devices)

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        net, device = self.model.ready(len(crops) * _VISION_BYTES)
        pixels = to_clip(resize_bicubic(crops, self.size).movedim(-1, 1))
        return net(pixel_values=pixels.to(device, net.dtype)).last_hidden_state.float().to(crops.device).clone()


def _load_token_decoder(kind: type[TokenDecoder], file: Path) -> TokenDecoder:
    weights = load_weights(file)
    shapes = {key: list(tensor.shape) for key, tensor in weights.items()}
    if f"{kind.projection}.weight" not in shapes or "query" not in shapes:
        raise FaceLoomError(f"{file.name} is not one of Face-Adapter's token networks; it begins with {', '.join(list(shapes)[:3])}.")
    return build(lambda: token_decoder_for(kind, shapes), weights, file.name)


def _load_parser(path: Path, folders: Folders | None, devices: DeviceManager | None) -> Parser | None:
    """Open BiSeNet with the authors' input: crops in [-1, 1], though it was trained with ImageNet's mean and standard deviation."""
    file = _find_file_if_there(path, _PARSER, folders)
    if file is None:
        return None
    contract = replace(as_net_contract(catalogue()[_PARSER].contract), mean=(0.5,) * 3, std=(0.5,) * 3)
    return BiSeNetParser(_PARSER, build_bisenet(load_weights(file), file.name), contract, devices)


METHOD = Method("Face-Adapter", kind="research",
                recognizes=is_row("faceadapter_id2token", lambda file: f"{ID2Token.projection}.weight" in file.tensors),
                open=lambda file, loading: load_face_adapter(file.path, folders=loading.folders, devices=loading.devices))
