"""DiffFace from its authors' files: Model.pt with Arcface.tar, FaceParser.pth and GazeEstimator.pt beside it, and crops through them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..crops.crop import crop_faces, crop_matrix
from ..diffusion.crop import composite
from ..diffusion.gaze import build_eyenet, eye_boxes
from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity
from ..files.checkpoints import load_weights
from ..files.find import FoundFile, find_companion
from ..files.folders import Folders
from ..networks import build
from ..networks.arcface_se import arcface_of
from ..networks.bisenet import bisenet_from
from ..networks.guided_unet import guided_unet_of
from ..pixels.affine import transform
from ..pixels.masks import fit_mask
from ..pixels.resize import resize_area_or_lanczos
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from .diffface import SIZE, Chance, Experts, Scene, Settings, best_of, distances, identity_of, paint, set_scene

# Bytes that a step needs besides the weights, with the gradient through the denoiser and without.
MEMORY = {True: 5 << 30, False: 2 << 30}
# Around the outer corners of an eye to the sides, and around its middle up and down; pixels of 256.
_BESIDE, _ABOVE = 5, 9
_EYES = (range(36, 42), range(42, 48))


class DiffFaceNets(nn.Module):
    """The networks, as one thing that moves between devices. gaze may be missing."""

    def __init__(self, denoiser: nn.Module, recognizer: nn.Module, parser: nn.Module, gaze: nn.Module | None = None) -> None:
        super().__init__()
        self.denoiser, self.recognizer, self.parser, self.gaze = denoiser, recognizer, parser, gaze

    def experts(self) -> Experts:
        """As callables."""
        return Experts(self.denoiser, self.recognizer, self.parser, self.gaze and (lambda eyes: self.gaze(eyes)[2]))


class DiffFace:
    """A face swapper that paints. Make it with ``load_diffface``. size: edge of the pictures it paints, pixels."""

    def __init__(self, name: str, nets: DiffFaceNets, devices: DeviceManager | None = None, size: int = SIZE) -> None:
        self.size = size
        self.model = TorchModel(name, nets, devices)

    def __repr__(self) -> str:
        return f"DiffFace({self.model.name})"

    def swap(self, crops: Tensor, faces: Faces, identity: Identity, settings: Settings, *, masks: Tensor | None = None, seed: int = 0,
             place: int = 1, progress: Progress = silent, show: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """Crops ``[N, S, S, 3]`` 0..1 of ``faces`` with the identity painted in, and where: masks ``[N, S, S]``.

        masks: where to swap instead of where the parser sees a face. Of ``settings.repeats`` tries per face the ``place``-th most alike is
        taken. The face at place i has the chances of ``seed`` + i. show: is given pictures ``[1, n, n, 3]`` 0..1 as they come about.
        """
        if len(faces) != len(crops):
            raise FaceLoomError(f"There are {len(crops)} crops but {len(faces)} faces; connect the faces that these crops were cut from.")
        self._check(identity, settings)
        edge = crops.shape[1]
        with torch.inference_mode(False), torch.no_grad():
            experts, device = self._experts(settings)
            targets = signed(resize_area_or_lanczos(crops, self.size)).to(device)
            wanted = identity_of(experts, portraits_of(identity, self.size).to(device))
            holes = [None] * len(crops)
            if masks is not None:
                masks = fit_mask(masks, len(crops), edge, edge).clone()
                holes = (resize_area_or_lanczos(masks, self.size) > 0.5).float()[:, None, None].to(device)
            results, inside = [], []
            total = len(crops) * settings.repeats * settings.first
            for i, (target, hole) in enumerate(zip(targets[:, None], holes, strict=True)):
                boxes = eyes_of(faces.take([i]), self.size) if settings.weights.gaze > 0 else None
                scene = set_scene(experts, target, wanted, settings.weights, hole, boxes)
                chances = [Chance(seed + i, attempt) for attempt in range(settings.repeats)]

                def report(done: int, before: int = i * settings.repeats * settings.first) -> None:
                    progress(before + done, total)

                results.append(self._best(experts, scene, settings, chances, place, report, show))
                inside.append(scene.masks[:, 0])
            results, inside = (torch.cat(parts).to(crops.device) for parts in (results, inside))
            inside = resize_area_or_lanczos(inside, edge) if masks is None else masks.to(crops.device)
            return composite(crops.clone(), resize_area_or_lanczos(unsigned(results), edge), inside), inside

    def _best(self, experts: Experts, scene: Scene, settings: Settings, chances: Sequence[Chance], place: int,
              progress: Callable[[int], None], show: Callable[[Tensor], None] | None) -> Tensor:
        if not bool(scene.masks.any()):
            progress(len(chances) * settings.first)
            return scene.targets
        seen = None if show is None else lambda clean: show(unsigned(clean))
        tries = [paint(experts, scene, settings, [chance], lambda done, total, number=number: progress(number * total + done), seen)
                 for number, chance in enumerate(chances)]
        return best_of(torch.stack(tries), torch.stack([distances(experts, scene, made) for made in tries]), place)

    def _check(self, identity: Identity, settings: Settings) -> None:
        if not len(identity.crops):
            raise FaceLoomError("DiffFace looks at a photo of the source, and this identity has none; make it with ArcFace Embed.")
        if settings.weights.gaze > 0 and self.model.net.gaze is None:
            raise FaceLoomError("gaze_weight needs DiffFace's GazeEstimator.pt beside its Model.pt; put it there, or set weights to own "
                                "and gaze_weight to 0.")
        if self.size % self.model.net.denoiser.multiple:
            raise FaceLoomError(f"DiffFace's pictures must be a multiple of {self.model.net.denoiser.multiple} pixels, not {self.size}.")

    def _experts(self, settings: Settings) -> tuple[Experts, torch.device]:
        net, device = self.model.ready(MEMORY[settings.through])
        if any(value.is_inference() for value in net.state_dict().values()):  # moved while other nodes ran; has no gradient
            net = copy.deepcopy(net)
        return net.experts(), device


def signed(pictures: Tensor) -> Tensor:
    """``[N, n, n, 3]`` 0..1 to ``[N, 3, n, n]`` -1..1."""
    return pictures.movedim(-1, 1) * 2 - 1


def unsigned(pictures: Tensor) -> Tensor:
    """``[N, 3, n, n]`` -1..1 to ``[N, n, n, 3]`` 0..1."""
    return ((pictures + 1) / 2).clamp(0, 1).movedim(1, -1)


def portraits_of(identity: Identity, size: int) -> Tensor:
    """``[K, 3, size, size]`` -1..1: the reference photos as the network was trained to see faces."""
    photos = torch.from_numpy(np.array(identity.crops))
    items = tuple(replace(face, frame=i) for i, face in enumerate(identity.faces))
    return signed(crop_faces(photos, Faces(items, len(photos), *photos.shape[1:3]), size).clamp(0, 1))


def eyes_of(faces: Faces, size: int) -> np.ndarray:
    """``[N, 2, 4]`` whole pixels x0, y0, x1, y1 (ends excluded) around the eyes in crops of ``size``, from the 68 points where a face has
    them, else from its keypoints."""
    return np.concatenate([eye_boxes(1, size, faces.take([i])) if face.points68 is None else _boxes(face, size, faces.framing)[None]
                           for i, face in enumerate(faces)])


def _boxes(face: Face, size: int, framing: float) -> np.ndarray:
    points, scale = transform(face.points68, crop_matrix(face, size, framing)), size / SIZE
    boxes = []
    for eye in _EYES:
        left, right, middle = points[eye[0], 0], points[eye[3], 0], points[list(eye), 1].mean()
        low = np.array([min(left, right) - _BESIDE * scale, middle - _ABOVE * scale])
        high = np.array([max(left, right) + _BESIDE * scale, middle + _ABOVE * scale])
        boxes.append(np.concatenate([np.clip(np.round(low), 0, size - 2), np.clip(np.round(high), 2, size)]))
    return np.array(boxes).astype(int)


def load_diffface(path: str | os.PathLike | FoundFile, *, folders: Folders | None = None, devices: DeviceManager | None = None,
                  half: bool = False) -> DiffFace:
    """DiffFace whose Model.pt this is; the other files are looked for beside it and in ``folders``.

    Without GazeEstimator.pt the gaze cannot be held. The recognizer is a pickled module, of which only the weights are read. half: the
    denoiser in half precision, as it was published.
    """
    path = path.path if isinstance(path, FoundFile) else Path(path)
    with torch.inference_mode(False):
        weights = load_weights(path)
        denoiser = build(lambda: guided_unet_of(weights, path.name), weights, path.name, dtype=torch.float16 if half else torch.float32)
        arcface = find_companion(path, "diffface_arcface", "simswap_arcface_checkpoint", folders=folders)
        recognizer = arcface_of(load_weights(arcface, objects=True), arcface.name)
        parsing = find_companion(path, "79999_iter", folders=folders)
        parser = bisenet_from(load_weights(parsing), parsing.name)
        gaze = find_companion(path, "diffface_gaze", folders=folders, needed=False)
        eyes = gaze and build_eyenet(load_weights(gaze), gaze.name)
        return DiffFace(path.stem, DiffFaceNets(denoiser, recognizer, parser, eyes), devices)
