"""deepfakes/faceswap: autoencoders that were trained on two people, from the program's own files.

One encoder sees any face; the decoder of one person draws that person with the pose, expression and light of what was seen. A file is run
from the graph in it, so every variant whose layers are known works. Colours are BGR inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...crops.crop import crop_matrices
from ...crops.draw_back import draw_back
from ...crops.faceswap_square import square_matrix
from ...errors import FaceLoomError
from ...faces import Face, Faces, Identity
from ...networks.keras_graph import input_shapes
from ...networks.keras_net import KerasNet, needed_weights
from ...parse import Parser, region_mask
from ...parse.landmarks import points_68
from ...pixels.affine import compose, invert, transform
from ...pixels.resize import resize_bilinear
from ...pixels.sampling import sample_crops
from ...runtime.devices import DeviceManager, TorchModel
from ..pixel_boost import even_tiles, finer, join_tiles, split_tiles
from .deepfakes_mask import finished, landmark_mask
from .engine import TorchEngine
from .options import OUTLINE, DeepfakesOptions
from .regions import FACE, parsed_mask

NOTE = "The person is in this file; the identity is not looked at."


@dataclass(frozen=True)
class Side:
    """The answers for one person: numbers of the graph's outputs, the picture's and (where it was trained to predict one) the mask's, and
    the picture's edge."""

    picture: int
    mask: int | None
    edge: int


class Autoencoder(nn.Module):
    """The network, as something whose weights tell where it is."""

    def __init__(self, net: KerasNet) -> None:
        super().__init__()
        self.net = net

    def parameters(self, recurse: bool = True):
        """A ``KerasNet``'s weights are buffers."""
        return self.buffers(recurse)


class DeepfakesEngine(TorchEngine):
    """A ``SwapEngine``; its options are ``DeepfakesOptions``."""

    options = DeepfakesOptions()
    mixes = False
    note = NOTE

    def __init__(self, name: str, model: TorchModel, sides: dict[str, Side], parser: Parser | None = None, **options) -> None:
        self.sides, self.parser = sides, parser
        self.seen = input_shapes(model.net.net.graph)[0][0]  # edge of what the encoder looks at
        super().__init__(name, model, **options)

    @property
    def side(self) -> Side:
        """Who is drawn."""
        return self.sides[self.options.swap[-1]]

    @property
    def size(self) -> int:
        """Edge of the picture that is drawn, which may be larger than what is looked at."""
        return self.side.edge

    def check(self) -> None:
        if self.options.mask == "predicted" and self.side.mask is None:
            raise FaceLoomError(f"{self.name} was not trained to predict masks; choose another mask.")
        if self.options.mask == "parsed" and self.parser is None:
            raise FaceLoomError("A parsed mask needs a face parser; connect one to Load Swap Model, or choose another mask.")

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return self._squares([points_68(Face(0, np.zeros(4), points)) for points in keypoints])

    def of_photos(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """``[N, 0]``: the network takes nothing of a source."""
        return torch.zeros(len(faces), 0)

    def source(self, identity: Identity | None) -> torch.Tensor:
        return torch.zeros(1, 0)

    def _squares(self, points: list[np.ndarray]) -> np.ndarray:
        return np.stack([square_matrix(each, self.options.centering, self.seen, self.options.coverage / 100) for each in points])

    def _draw(self, images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, sources: torch.Tensor, strength: float,
              boost: int) -> None:
        points = [points_68(face) for face in faces]
        to_seen = self._squares(points)
        to_drawn = finer(to_seen, self.size / self.seen)  # the same square: what is drawn was trained to show what is seen
        tiles = split_tiles(sample_crops(images, faces.frame_indices, finer(to_seen, boost), self.seen * boost).clamp(0, 1), boost)
        answers, own = self.run(tiles, sources)
        answers = join_tiles(even_tiles(answers, tiles, boost), boost)
        targets = sample_crops(images, faces.frame_indices, to_drawn, self.size).clamp(0, 1)
        own = None if own is None else join_tiles(own[..., None], boost)[..., 0]
        hard = self._masks(points, to_drawn, targets, own)
        if self.options.color == "average":
            answers = (answers + _mean_difference(answers, targets, hard)[:, None, None]).clamp(0, 1)
        if self.options.mask == OUTLINE:
            outlines = region_mask(("face",), crops.shape[1], faces=faces).to(crops)
        else:
            soft = torch.from_numpy(np.stack([finished(mask, self.options.erode) for mask in hard.cpu().numpy()])).to(crops)
            outlines = resize_bilinear(soft, self.size * boost, self.size * boost)[..., None]
        to_crop = compose(crop_matrices(faces, crops.shape[1]), invert(finer(to_drawn, boost)))
        for each in zip(crops, masks, answers, to_crop, outlines, strict=True):
            draw_back(*each, strength)

    def _masks(self, points: list[np.ndarray], matrices: np.ndarray, targets: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """``[N, size, size]`` 0..1: where the faces are, as hard as the chosen way of telling is."""
        kind = self.options.mask
        if kind == "predicted":
            return resize_bilinear(own, self.size, self.size)
        if kind == "parsed":
            return parsed_mask(self.parser, targets.permute(0, 3, 1, 2), FACE)
        if kind == "whole square":
            return torch.ones_like(targets[..., 0])
        hulls = [landmark_mask(transform(each, matrix), self.size, kind != "components") for each, matrix in zip(points, matrices)]
        return torch.from_numpy(np.stack(hulls)).to(targets)

    @torch.inference_mode()
    def run(self, tiles: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures ``[n, size, size, 3]`` of the other person for tiles ``[n, seen, seen, 3]``, and the predicted masks if wanted."""
        (targets,) = self.moved(tiles.permute(0, 3, 1, 2))
        pictures, masks = self.answer(targets, sources)
        return self.answered(pictures, masks, tiles.device)

    def answer(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Either input's picture goes through the one encoder, so both get the target, and only the wanted person's decoder runs."""
        bgr = targets.flip(1)
        if self.options.mask != "predicted":
            return self.model.net.net(bgr, bgr, outputs=(self.side.picture,)).flip(1), None
        picture, mask = self.model.net.net(bgr, bgr, outputs=(self.side.picture, self.side.mask))
        return picture.flip(1), mask[:, 0]


def _mean_difference(answers: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """``[N, 3]``: by how much the target is brighter than the answer, where the mask is. (The program adds it twice over; the second time
    nothing is left of it.)"""
    size = answers.shape[1]
    weights = resize_bilinear(masks, size, size)[..., None]
    old = resize_bilinear(targets.permute(0, 3, 1, 2).flatten(0, 1), size, size).unflatten(0, (len(targets), 3)).permute(0, 2, 3, 1)
    return ((old - answers) * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-6)


def is_autoencoder(net: KerasNet) -> bool:
    """Whether a Keras model takes two pictures, as these do."""
    shapes = input_shapes(net.graph)
    return len(shapes) == 2 and all(len(shape) == 3 for shape in shapes)


def deepfakes_engine(net: KerasNet, *, name: str = "deepfakes", parser: Parser | None = None, devices: DeviceManager | None = None,
                     dtype: torch.dtype = torch.float32, **options) -> DeepfakesEngine:
    """The engine for a graph of ``networks.keras_net.load_keras``; options: ``DeepfakesOptions``. parser: for the mask ``parsed``."""
    _, answers = needed_weights(net.graph)
    half = len(answers) // 2
    sides = {who: _side(answers, range(first, first + half)) for who, first in (("A", 0), ("B", half))}
    if len(answers) % 2 or not all(sides.values()):
        raise FaceLoomError(f"{name} should answer a picture for each of two people, but answers {len(answers)} of other shapes.")
    return DeepfakesEngine(name, TorchModel(name, Autoencoder(net.to(dtype)), devices), sides, parser, **options)


def _side(answers: list[tuple], numbers: range) -> Side | None:
    """The largest picture, and the largest mask, among one person's answers."""
    def largest(channels: int) -> int | None:
        return max((number for number in numbers if answers[number][0] == channels), key=lambda number: answers[number][-1], default=None)

    picture = largest(3)
    return None if picture is None else Side(picture, largest(1), answers[picture][-1])
