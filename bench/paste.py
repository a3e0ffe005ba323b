"""Crop, paste and the built-in swap of one frame, beside insightface's ``norm_crop`` and ``paste_back``.

insightface's paste is what INSwapper.get needs more with paste_back than without, the network replaced by a stub that answers at
once. Our copy of the frame, owed once however many faces there are, is reported apart from the paste.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.parse import region_mask
from faceloom.models.paste import paste_into
from faceloom.models.pixels.affine import compose, similarity, transform
from faceloom.models.pixels.sampling import warp
from faceloom.models.pixels.tensors import to_uint8
from faceloom.models.swap import swap_faces

from bench.measure import interleaved, peak_memory, ratio

FACE, CROP = 300, 512


def build_frame(portrait: torch.Tensor, face: Face, size: tuple[int, int], count: int) -> tuple[torch.Tensor, Faces]:
    """A frame ``[1, H, W, 3]`` with ``count`` copies of the face, slightly turned, each of ``face_edge`` pixels, and where they are."""
    height, width = size
    image = torch.full((1, height, width, 3), 0.5)
    columns, rows = layout(size, count)
    edge = face_edge(size, count)
    to_square = similarity(face.keypoints, TEMPLATES["arcface_128"] * edge)
    items = []
    for i in range(count):
        center = np.array([(i % columns + 0.5) * width / columns, (i // columns + 0.5) * height / rows])
        angle = 0.1 * (i % 3 - 1) + 0.05
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        placed = compose(np.c_[turn, center - turn @ (edge / 2, edge / 2)], to_square)
        half = np.array([width / columns, height / rows]) / 2
        x0, y0 = np.floor(center - half).astype(int)
        x1, y1 = np.floor(center + half).astype(int)
        there = placed.copy()
        there[:, 2] -= (x0, y0)
        image[0, y0:y1, x0:x1] = warp(portrait[0], there, y1 - y0, x1 - x0).clamp(0, 1)
        box = transform(face.box.reshape(2, 2), placed)
        points68 = None if face.points68 is None else transform(face.points68, placed)
        items.append(Face(0, [*box.min(0), *box.max(0)], transform(face.keypoints, placed), points68=points68))
    return image, Faces(tuple(items), 1, height, width, crop_size=CROP)


def layout(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Columns and rows of faces in a frame: four in a row, and more only where they would not fit below each other."""
    columns = min(count, 4) if count <= 8 else math.ceil(math.sqrt(count * size[1] / size[0]))
    return columns, -(-count // columns)


def face_edge(size: tuple[int, int], count: int) -> int:
    """Edge in pixels of the square that insightface aligns: ``FACE``, or what there is room for."""
    columns, rows = layout(size, count)
    return min(FACE, size[1] // columns, size[0] // rows)


def contest(images: torch.Tensor, faces: Faces, identity: Identity, repeats: int, theirs: bool) -> dict:
    """Milliseconds, ratios and peak memory of one frame."""
    crops = 1 - crop_faces(images, faces)
    masks = region_mask(("face",), CROP, faces=faces)
    out, covered = images.clone(), torch.zeros(images.shape[:3])
    tasks: dict[str, Callable[[], object]] = {
        "crop_ours_512": lambda: crop_faces(images, faces),
        "crop_ours_128": lambda: crop_faces(images, faces, 128),
        "paste_ours": lambda: paste_into(out, covered, images, faces, crops, masks),
        "copy_ours": images.clone,
        "swap_ours": lambda: swap_faces(images, faces, identity),
    }
    if theirs:
        tasks |= insightface_tasks(to_uint8(images[0])[..., ::-1].copy(), faces)
    times = interleaved(tasks, repeats)
    peaks = {name: peak_memory(task) for name, task in tasks.items()}
    result: dict = {
        "crop": {"ours_512_ms": times["crop_ours_512"], "ours_128_ms": times["crop_ours_128"]},
        "paste": {"ours_ms": times["paste_ours"], "ours_peak_mb": peaks["paste_ours"]},
        "copy": {"ours_ms": times["copy_ours"]},
        "swap": {"ours_ms": times["swap_ours"], "ours_peak_mb": peaks["swap_ours"]},
    }
    if theirs:
        pasting = max(times["get_paste"] - times["get_crop"], 0.0)
        result["crop"] |= {"insightface_128_ms": times["norm_crop"], "ratio_128": ratio(times["norm_crop"], times["crop_ours_128"])}
        result["paste"] |= {"insightface_ms": pasting, "insightface_peak_mb": peaks["get_paste"],
                            "ratio": ratio(pasting, times["paste_ours"]),
                            "ratio_with_copy": ratio(pasting, times["paste_ours"] + times["copy_ours"])}
    return result


def insightface_tasks(frame: np.ndarray, faces: Faces) -> dict[str, Callable[[], object]]:
    """insightface's crop, and its swapper with and without pasting, for all faces of a BGR frame one after another."""
    with contextlib.redirect_stdout(io.StringIO()):
        from insightface.model_zoo.inswapper import INSwapper
        from insightface.utils.face_align import norm_crop

    answer = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    swapper = INSwapper.__new__(INSwapper)
    vars(swapper).update(input_mean=0.0, input_std=255.0, input_size=(128, 128), input_names=["target", "source"],
                         output_names=["output"], emap=np.eye(512, dtype=np.float32),
                         session=SimpleNamespace(run=lambda names, feed: [answer]))
    source = SimpleNamespace(normed_embedding=np.full(512, 512**-0.5, np.float32))
    targets = [SimpleNamespace(kps=np.array(face.keypoints, np.float32)) for face in faces]

    def crop() -> None:
        for target in targets:
            norm_crop(frame, target.kps, 128)

    def swap(paste_back: bool) -> None:
        image = frame
        for target in targets:
            answered = swapper.get(image, target, source, paste_back=paste_back)
            image = answered if paste_back else image

    return {"norm_crop": crop, "get_crop": lambda: swap(False), "get_paste": lambda: swap(True)}
