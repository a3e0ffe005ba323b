"""DiffFace on crops, opened from its authors' files: Model.pt with Arcface.tar, FaceParser.pth and GazeEstimator.pt beside it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..crops.crop import crop_faces, crop_matrix
from ..diffusion.crop import composite
from ..diffusion.gaze import build_eyenet, eye_boxes
from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..files.checkpoints import load_weights
from ..files.contents import Contents
from ..files.find import FoundFile, find_companion
from ..files.folders import Folders
from ..identity.photos import check_photos, reference_photos
from ..networks import build
from ..networks.arcface_se import build_arcface
from ..networks.bisenet import build_bisenet
from ..networks.guided_unet import GuidedUNet, guided_unet_for
from ..pixels.affine import transform
from ..pixels.masks import fit_mask
from ..pixels.resize import resize_area_or_lanczos
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.method import Loading, Method, is_row
from ..runtime.options import Value
from .diffface import (
    PRESETS,
    SIZE,
    AttemptRandom,
    Networks,
    Scene,
    Settings,
    choose_attempts,
    embed_portraits,
    identity_distances,
    make_scene,
    paint,
)
from .engine import SystemEngine, engine_method
from .options import DiffFaceOptions

# Bytes that a step needs besides the weights, with the gradient through the denoiser (True) and without.
WORKING_BYTES = {True: 5 << 30, False: 2 << 30}
# An eye's box reaches so far beyond its outer corners, and so far above and below its middle; pixels of 256.
_EYE_MARGIN_X, _EYE_MARGIN_Y = 5, 9
_EYES = (range(36, 42), range(42, 48))  # of 68 points


class DiffFaceNets(nn.Module):
    """The networks as one module that moves between devices. gaze: may be missing."""

    def __init__(self, denoiser: GuidedUNet, recognizer: nn.Module, parser: nn.Module, gaze: nn.Module | None = None) -> None:
        super().__init__()
        self.denoiser, self.recognizer, self.parser, self.gaze = denoiser, recognizer, parser, gaze

    def as_functions(self) -> Networks:
        """Return the networks as ``diffface.paint`` takes them."""
        gaze = self.gaze
        return Networks(self.denoiser, self.recognizer, self.parser, None if gaze is None else lambda eyes: gaze(eyes)[2])


class DiffFace:
    """A face swapper that paints faces into crops. Made by ``load_diffface``. size: edge in pixels of the crops it paints."""

    def __init__(self, name: str, nets: DiffFaceNets, devices: DeviceManager | None = None, size: int = SIZE) -> None:
        self.size = size
        self.model = TorchModel(name, nets, devices)

    def __repr__(self) -> str:
        return f"DiffFace({self.model.name})"

    def swap(self, crops: Tensor, faces: Faces, identity: Identity, settings: Settings, *, masks: Tensor | None = None,
             progress: Progress = silent, show: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """Paint the identity into the crops ``[N, S, S, 3]`` 0..1 of ``faces``; return them and the masks ``[N, S, S]`` of where.

        masks: where to paint; None paints the face that the parser finds. The face at index i follows from ``settings.seed`` + i alone.
        show: is given crops ``[1, n, n, 3]`` 0..1 as they are predicted.
        """
        if len(faces) != len(crops):
            raise FaceLoomError(f"There are {len(crops)} crops but {len(faces)} faces; connect the faces that these crops were cut from.")
        self.check(identity, settings)
        edge = crops.shape[1]
        with torch.inference_mode(False), torch.no_grad():
            networks, device = self._networks(settings)
            targets = to_signed(resize_area_or_lanczos(crops, self.size)).to(device)
            embedding = embed_portraits(networks, cut_portraits(identity, self.size).to(device))
            scene_masks = [None] * len(crops)
            if masks is not None:
                masks = fit_mask(masks, len(crops), edge, edge).clone()
                scene_masks = (resize_area_or_lanczos(masks, self.size) > 0.5).float()[:, None, None].to(device)
            results, painted = [], []
            steps_per_face = settings.repeats * settings.sampled_steps
            for i, (target, mask) in enumerate(zip(targets[:, None], scene_masks, strict=True)):
                boxes = find_eye_boxes(faces.take([i]), self.size) if settings.weights.gaze > 0 else None
                scene = make_scene(networks, target, embedding, settings.weights, mask, boxes)
                randoms = [AttemptRandom(settings.seed + i, attempt) for attempt in range(settings.repeats)]

                def report(done: int, before: int = i * steps_per_face) -> None:
                    progress(before + done, len(crops) * steps_per_face)

                results.append(self._paint_best(networks, scene, settings, randoms, report, show))
                painted.append(scene.masks[:, 0])
            results, painted = (torch.cat(parts).to(crops.device) for parts in (results, painted))
            painted = resize_area_or_lanczos(painted, edge) if masks is None else masks.to(crops.device)
            return composite(crops.clone(), resize_area_or_lanczos(from_signed(results), edge), painted), painted

    def _paint_best(self, networks: Networks, scene: Scene, settings: Settings, randoms: Sequence[AttemptRandom],
                    progress: Callable[[int], None], show: Callable[[Tensor], None] | None) -> Tensor:
        """Make one attempt per entry of ``randoms`` and return the one that the settings ask for; without a mask, the target."""
        if not bool(scene.masks.any()):
            progress(len(randoms) * settings.sampled_steps)
            return scene.targets
        show_signed = None if show is None else lambda clean: show(from_signed(clean))
        attempts = [paint(networks, scene, settings, [random], lambda done, total, number=number: progress(number * total + done),
                          show_signed) for number, random in enumerate(randoms)]
        distances = torch.stack([identity_distances(networks, scene, attempt) for attempt in attempts])
        return choose_attempts(torch.stack(attempts), distances, settings.place)

    def check(self, identity: Identity, settings: Settings) -> None:
        """Raises where a swap with these settings cannot be made."""
        check_photos(identity, "DiffFace")
        if settings.weights.gaze > 0 and self.model.net.gaze is None:
            raise FaceLoomError("gaze_weight needs DiffFace's GazeEstimator.pt beside its Model.pt; put it there, or set weights to own "
                                "and gaze_weight to 0.")
        multiple = self.model.net.denoiser.multiple
        if self.size % multiple:
            raise FaceLoomError(f"The edge of DiffFace's crops must be a multiple of {multiple} pixels, not {self.size}.")

    def _networks(self, settings: Settings) -> tuple[Networks, torch.device]:
        """Load the networks, with weights that allow a gradient, and return them and their device."""
        net, device = self.model.ready(WORKING_BYTES[settings.through])
        if any(value.is_inference() for value in net.state_dict().values()):  # moved while other nodes ran; has no gradient
            net = copy.deepcopy(net)
        return net.as_functions(), device


def to_signed(crops: Tensor) -> Tensor:
    """Turn ``[N, n, n, 3]`` 0..1 into ``[N, 3, n, n]`` -1..1."""
    return crops.movedim(-1, 1) * 2 - 1


def from_signed(crops: Tensor) -> Tensor:
    """Turn ``[N, 3, n, n]`` -1..1 into ``[N, n, n, 3]``, clipped to 0..1."""
    return ((crops + 1) / 2).clamp(0, 1).movedim(1, -1)


def cut_portraits(identity: Identity, size: int) -> Tensor:
    """Cut the identity's photos as the network was trained to see faces: ``[K, 3, size, size]`` -1..1."""
    return to_signed(crop_faces(*reference_photos(identity, "DiffFace"), size).clamp(0, 1))


def find_eye_boxes(faces: Faces, size: int) -> np.ndarray:
    """Return boxes ``[N, 2, 4]`` around the eyes in crops of ``size`` pixels: whole pixels x0, y0, x1, y1 (ends excluded).

    They follow from the 68 points where a face has them, else from its keypoints.
    """
    return np.concatenate([eye_boxes(1, size, faces.take([i])) if face.points68 is None
                           else _boxes_of_68_points(transform(face.points68, crop_matrix(face, size, faces.framing)), size)[None]
                           for i, face in enumerate(faces)])


def _boxes_of_68_points(points: np.ndarray, size: int) -> np.ndarray:
    """Return the boxes ``[2, 4]`` around the eyes of points ``[68, 2]`` in a crop of ``size`` pixels."""
    boxes, scale = [], size / SIZE
    for eye in _EYES:
        left, right, middle = points[eye[0], 0], points[eye[3], 0], points[list(eye), 1].mean()
        low = np.array([min(left, right) - _EYE_MARGIN_X * scale, middle - _EYE_MARGIN_Y * scale])
        high = np.array([max(left, right) + _EYE_MARGIN_X * scale, middle + _EYE_MARGIN_Y * scale])
        boxes.append(np.concatenate([np.clip(np.round(low), 0, size - 2), np.clip(np.round(high), 2, size)]))
    return np.array(boxes).astype(int)


def load_diffface(path: str | os.PathLike | FoundFile, *, folders: Folders | None = None, devices: DeviceManager | None = None,
                  half: bool = False) -> DiffFace:
    """Open the DiffFace whose Model.pt this is; the other files are looked for beside it and in ``folders``.

    Without GazeEstimator.pt the gaze cannot be held. The recognizer is a pickled module, of which only the weights are read. half: the
    denoiser in half precision, as it was published.
    """
    path = path.path if isinstance(path, FoundFile) else Path(path)
    with torch.inference_mode(False):
        weights = load_weights(path)
        denoiser = build(lambda: guided_unet_for(weights, path.name), weights, path.name, dtype=torch.float16 if half else torch.float32)
        arcface = find_companion(path, "diffface_arcface", "simswap_arcface_checkpoint", folders=folders)
        recognizer = build_arcface(load_weights(arcface, objects=True), arcface.name)
        parsing = find_companion(path, "79999_iter", folders=folders)
        parser = build_bisenet(load_weights(parsing), parsing.name)
        gaze = find_companion(path, "diffface_gaze", folders=folders, needed=False)
        eyes = gaze and build_eyenet(load_weights(gaze), gaze.name)
        return DiffFace(path.stem, DiffFaceNets(denoiser, recognizer, parser, eyes), devices)


METHOD = Method("DiffFace", kind="research",
                recognizes=is_row("diffface_unet", lambda file: "id_embed.0.weight" in file.tensors),
                open=lambda file, loading: load_diffface(file.path, folders=loading.folders, devices=loading.devices, half=loading.half))


class DiffFaceEngine(SystemEngine):
    """DiffFace as a swap engine, which paints the faces' own crops."""

    name = "DiffFace"

    def __init__(self, system: DiffFace, settings: Settings) -> None:
        self.system, self.settings = system, settings

    def prepare(self, identity: Identity) -> Identity:
        """Returns the identity; FaceLoomError where it has no photo, or where the guidance lacks a network."""
        self.system.check(identity, self.settings)
        return identity

    def paint_faces(self, images: Tensor, faces: Faces, identity: Identity, progress: Progress) -> tuple[Tensor, Tensor]:
        """Returns painted crops and masks; see ``SystemEngine``."""
        return self.system.swap(crop_faces(images, faces), faces, identity, self.settings, progress=progress)


def _open_engine(file: Contents, loading: Loading, **options: Value) -> DiffFaceEngine:
    chosen = DiffFaceOptions().changed(METHOD.name, **options)
    system = METHOD.open(file, loading)
    weights = PRESETS[chosen.weights]
    return DiffFaceEngine(system, Settings(chosen.steps, chosen.steps // 4, chosen.repeats, weights, seed=chosen.seed))


ENGINE = engine_method(METHOD, _open_engine, DiffFaceOptions)
