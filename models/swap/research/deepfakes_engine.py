"""deepfakes/faceswap as an engine: autoencoders that were trained on two people.

One encoder sees any face; the decoder of one person draws that person with the pose, expression and light of what was seen. A file is run
from the graph in it, so every variant whose layers are known works. Colours are BGR inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...crops.faceswap_square import square_matrix
from ...errors import FaceLoomError, given
from ...faces import Face, Faces, Identity
from ...networks.keras_graph import input_shapes
from ...networks.keras_net import KerasNet, needed_weights
from ...options.swap import SwapSettings
from ...parse import Parser
from ...parse.landmarks import points68_of
from ...pixels.affine import transform
from ...pixels.resize import resize_bilinear
from ...pixels.sampling import sample_crops
from ...runtime.devices import DeviceManager, TorchModel
from ...runtime.options import Value
from .. import open_files
from ..pixel_boost import finer, join_tiles
from ..square import draw_outputs, join_outputs, sample_tiles
from ..torch_engine import TorchEngine
from .deepfakes import DeepfakesOptions
from .deepfakes_mask import finish_mask, landmark_mask
from .regions import FACE, parsed_mask
from .words import OUTLINE

NOTE = "The person is in this file; the identity is not looked at."


@dataclass(frozen=True)
class Side:
    """The outputs for one person. picture: number of the graph's output. mask: the same; None where it was not trained to predict one.
    edge: of the picture, pixels."""

    picture: int
    mask: int | None
    edge: int


class Autoencoder(nn.Module):
    """The network as a module whose ``parameters`` tell its device and precision."""

    def __init__(self, net: KerasNet) -> None:
        super().__init__()
        self.net = net

    def parameters(self, recurse: bool = True):
        """Yields the weights, which a ``KerasNet`` keeps as buffers."""
        return self.buffers(recurse)


class DeepfakesEngine(TorchEngine[Autoencoder, DeepfakesOptions]):
    """A ``SwapEngine``; its options are ``DeepfakesOptions``."""

    options = DeepfakesOptions()
    mixes = False
    note = NOTE

    def __init__(self, name: str, model: TorchModel[Autoencoder], sides: dict[str, Side], parser: Parser | None = None, **options: Value
                 ) -> None:
        self.sides, self.parser = sides, parser
        edge = input_shapes(model.net.net.graph)[0][0]  # of the picture the encoder sees
        self.input_edge = given(edge, f"{name} does not say how large the pictures are that it takes; export it with fixed sizes.")
        super().__init__(name, model, **options)

    @property
    def side(self) -> Side:
        """Who is drawn."""
        return self.sides[self.options.swap[-1]]

    @property
    def size(self) -> int:
        """Edge of the picture that is drawn, which may be larger than the encoder's."""
        return self.side.edge

    def check(self) -> None:
        if self.options.mask == "predicted" and self.side.mask is None:
            raise FaceLoomError(f"{self.name} was not trained to predict masks; choose another mask.")
        if self.options.mask == "parsed" and self.parser is None:
            raise FaceLoomError("A parsed mask needs a face parser; connect one to Load Swap Model, or choose another mask.")

    def open_helpers(self, settings: SwapSettings) -> None:
        """See ``OpensLate``."""
        open_files(self.parser if self.options.mask == "parsed" else None)

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return self._squares([points68_of(Face(0, np.zeros(4), points)) for points in keypoints])

    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns ``[N, 0]``: the network takes nothing of a source."""
        return torch.zeros(len(faces), 0)

    def prepare(self, identity: Identity) -> None:
        """Returns None: the network takes nothing of an identity."""
        return None

    def mixed_sources(self, images: torch.Tensor, faces: Faces, source: None, strength: float) -> torch.Tensor:
        return self.encode_faces(images, faces)

    def _squares(self, points: list[np.ndarray]) -> np.ndarray:
        """Returns image → network input ``[N, 2, 3]`` for the 68 points of each face."""
        return np.stack([square_matrix(each, self.options.centering, self.input_edge, self.options.coverage / 100) for each in points])

    def _draw(self, images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, sources: torch.Tensor,
              settings: SwapSettings) -> None:
        boost, points = settings.pixel_boost, [points68_of(face) for face in faces]
        to_input = self._squares(points)
        to_output = finer(to_input, self.size / self.input_edge)  # the same square: what is drawn was trained to show what is seen
        tiles = sample_tiles(images, faces, finer(to_input, boost), self.input_edge * boost, boost)
        outputs, own = self.run(tiles, sources)
        outputs = join_outputs(outputs, tiles, boost)
        targets = sample_crops(images, faces.frame_indices, to_output, self.size).clamp(0, 1)
        own = None if own is None else join_tiles(own[..., None], boost)[..., 0]
        hard = self._masks(points, to_output, targets, own)
        if self.options.color == "average":
            outputs = (outputs + _mean_difference(outputs, targets, hard)[:, None, None]).clamp(0, 1)
        soft = None
        if self.options.mask != OUTLINE:
            soft = torch.from_numpy(np.stack([finish_mask(mask, self.options.erode) for mask in hard.cpu().numpy()])).to(crops)
            soft = resize_bilinear(soft, self.size * boost, self.size * boost)[..., None]
        draw_outputs(outputs, soft, finer(to_output, boost), faces, crops, masks, settings.strength)

    def _masks(self, points: list[np.ndarray], matrices: np.ndarray, targets: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """Returns ``[N, size, size]`` 0..1: where the faces are, without a soft border."""
        kind = self.options.mask
        if kind == "predicted":
            return resize_bilinear(given(own, f"{self.name} predicted no mask; choose another mask."), self.size, self.size)
        if kind == "parsed":
            parser = given(self.parser, "A parsed mask needs a face parser; choose another mask.")
            return parsed_mask(parser, targets.permute(0, 3, 1, 2), FACE)
        if kind == "whole square":
            return torch.ones_like(targets[..., 0])
        hulls = [landmark_mask(transform(each, matrix), self.size, kind != "components") for each, matrix in zip(points, matrices)]
        return torch.from_numpy(np.stack(hulls)).to(targets)

    @torch.inference_mode()
    def run(self, tiles: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns pictures ``[n, size, size, 3]`` of the other person for tiles ``[n, input_edge, input_edge, 3]``, and the predicted masks
        if wanted."""
        (targets,) = self.to_network(tiles.permute(0, 3, 1, 2))
        pictures, masks = self.generate(targets, sources)
        return self.from_network(pictures, masks, tiles.device)

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See ``TorchEngine.generate``. Both people's inputs lead to the same encoder, so both get the target; only the chosen person's
        decoder runs."""
        bgr = targets.flip(1)
        if self.options.mask != "predicted":
            return self.model.net.net(bgr, bgr, outputs=(self.side.picture,)).flip(1), None
        picture, mask = self.model.net.net(bgr, bgr, outputs=(self.side.picture, self.side.mask))
        return picture.flip(1), mask[:, 0]


def _mean_difference(outputs: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Returns ``[N, 3]``: the mean over the mask of target minus output. (The published program adds it twice; the second difference is
    0.)"""
    size = outputs.shape[1]
    weights = resize_bilinear(masks, size, size)[..., None]
    old = resize_bilinear(targets.permute(0, 3, 1, 2).flatten(0, 1), size, size).unflatten(0, (len(targets), 3)).permute(0, 2, 3, 1)
    return ((old - outputs) * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-6)


def deepfakes_engine(net: KerasNet, *, name: str = "deepfakes", parser: Parser | None = None, devices: DeviceManager | None = None,
                     dtype: torch.dtype = torch.float32, **options: Value) -> DeepfakesEngine:
    """Makes the engine of a graph of ``networks.keras_net.load_keras``; options: ``DeepfakesOptions``. parser: for the mask ``parsed``."""
    _, outputs = needed_weights(net.graph)
    half = len(outputs) // 2
    found = {who: _side(outputs, range(first, first + half)) for who, first in (("A", 0), ("B", half))}
    sides = {who: side for who, side in found.items() if side is not None}
    if len(outputs) % 2 or len(sides) < 2:
        raise FaceLoomError(f"{name} should return a picture for each of two people, but returns {len(outputs)} of other shapes.")
    return DeepfakesEngine(name, TorchModel(name, Autoencoder(net.to(dtype)), devices), sides, parser, **options)


def _side(outputs: list[tuple], numbers: range) -> Side | None:
    """Finds the largest picture and the largest mask among one person's outputs; None where there is no picture."""
    def largest(channels: int) -> int | None:
        return max((number for number in numbers if outputs[number][0] == channels), key=lambda number: outputs[number][-1], default=None)

    picture = largest(3)
    return None if picture is None else Side(picture, largest(1), outputs[picture][-1])
