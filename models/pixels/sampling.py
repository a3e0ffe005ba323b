"""Alignment: templates, similarity transforms, and sampling crops of faces.

A matrix is ``[2, 3]`` float64 and maps image pixel coordinates to crop pixel coordinates, integers being pixel centres.
``crop_matrix`` is the one place that knows the canonical crop.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..files.picture import expand_rgb
from .magnify import twice

# Left eye, right eye, nose tip, left and right mouth corner, as fractions of the crop's edge.
TEMPLATES: dict[str, np.ndarray] = {
    name: np.array(values, np.float64).reshape(5, 2)
    for name, values in {
        "arcface_112_v1": (.35473214, .45658929, .64526786, .45658929, .5, .61154464, .37913393, .776875, .62086607, .776875),
        "arcface_112_v2": (.34191607, .46157411, .65653393, .45983393, .500225, .64050536, .37097589, .82469196, .63151696, .82325089),
        "arcface_128": (.36167656, .40387734, .63696719, .40235469, .50019687, .56044219, .38710391, .72160547, .61507734, .72034453),
        "dfl_whole_face": (.35342266, .39285716, .62797622, .39285716, .48660713, .5401786, .38839287, .68750011, .59821427, .68750011),
        "ffhq_512": (.37691676, .46864664, .62285697, .46912813, .50123859, .61331904, .39308822, .725411, .61150205, .72490465),
        "mtcnn_512": (.36562865, .46733799, .63305391, .46585885, .50019127, .61942959, .39032951, .77598822, .61178945, .77476328),
        "styleganex_384": (.42353745, .52289879, .57725008, .52319972, .50123859, .61331904, .43364461, .68337652, .57015325, .68306005),
    }.items()
}

# From this many image pixels per crop pixel on, a crop is area filtered; below, a bicubic look-up aliases too little to see.
_SHRINKS = 1.25
# Up to this many image pixels per crop pixel, the image is made twice as fine first.
_GROWS = 0.5


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and translation from ``[..., K, 2]`` source points to target points.

    Closed form (Umeyama 1991, without reflection; in two dimensions it is one complex division). Returns ``[..., 2, 3]`` float64.
    Points that fix no similarity (all in one place, not numbers, or without any resemblance to the target's layout) are an error.
    """
    a, b = (np.ascontiguousarray(points, np.float64).view(np.complex128)[..., 0] for points in (source, target))
    a_mean, b_mean = (c.sum(-1, keepdims=True) / c.shape[-1] for c in (a, b))
    a, b = a - a_mean, b - b_mean
    energy, target_energy = ((c.real**2 + c.imag**2).sum(-1) for c in (a, b))
    overlap = (a.conj() * b).sum(-1)
    if not np.all((energy > 1e-6) & (np.abs(overlap) > 1e-3 * np.sqrt(energy * target_energy))):
        raise FaceLoomError("A face's keypoints lie in one place or in no order a face can have; remove that face with Face Select.")
    turn = overlap / energy
    shift = b_mean[..., 0] - turn * a_mean[..., 0]
    return np.stack([turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag], -1).reshape(*turn.shape, 2, 3)


def template_matrix(keypoints: np.ndarray, template: str, size: int) -> np.ndarray:
    """``[..., 5, 2]`` keypoints to ``[..., 2, 3]``: the alignment a network was trained with (insightface's convention:
    template times size is a pixel coordinate)."""
    return similarity(keypoints, TEMPLATES[template] * size)


def crop_matrix(face: Face | np.ndarray, size: int, framing: float = 1.0) -> np.ndarray:
    """Image → canonical crop of ``size`` pixels, ``[2, 3]`` (or ``[..., 2, 3]`` for ``[..., 5, 2]`` keypoints).

    The template is a fraction of the crop's edge counted from its border, so crops of different sizes show exactly the same
    square of the photograph. ``framing`` 1.0 is FFHQ; 1.25 takes in a quarter more in each direction. A face that has a ``square`` of
    its own is cropped by that one.
    """
    return _at_size(_square(face), size, framing)


def _square(face: Face | np.ndarray) -> np.ndarray:
    """Image → the unit square that a face, or faces of these keypoints, are cropped by."""
    if isinstance(face, Face):
        return similarity(face.keypoints, TEMPLATES["ffhq_512"]) if face.square is None else face.square
    return similarity(face, TEMPLATES["ffhq_512"])


def _at_size(square: np.ndarray, size: int, framing: float) -> np.ndarray:
    """Image → unit square ``[..., 2, 3]`` to image → crop that shows ``framing`` times as much."""
    matrix = square * (size / framing)
    matrix[..., 2] += size * (0.5 - 0.5 / framing) - 0.5
    return matrix


# Every stage asks for the crops of the same faces.
_squares: weakref.WeakKeyDictionary[Faces, np.ndarray] = weakref.WeakKeyDictionary()


def crop_matrices(faces: Faces, size: int | None = None) -> np.ndarray:
    """``[N, 2, 3]``: the canonical crop of every face, at ``size`` or the faces' own crop size."""
    if faces not in _squares:
        mixed = any(face.square is not None for face in faces)
        _squares[faces] = np.stack([_square(face) for face in faces]) if mixed else _square(faces.keypoints)
    return _at_size(_squares[faces], size or faces.crop_size, faces.framing)


def around(faces: Faces, times: float = 2.0) -> list[tuple[slice, slice, slice]]:
    """Frames (one each), rows and columns of the upright rectangle around all crops of each frame that has any, every crop taken
    ``times`` as wide and high about its middle."""
    found: dict[int, list[float]] = {}
    margin = (times - 1) / 2
    for face, matrix in zip(faces, invert(crop_matrices(faces, 1))):  # integers are pixel centres: a crop of one pixel is -0.5 to 0.5
        x0, y0, x1, y1 = bounds(matrix, -0.5 - margin, -0.5 - margin, 0.5 + margin, 0.5 + margin)
        box = found.setdefault(face.frame, [x0, y0, x1, y1])
        box[:] = min(x0, box[0]), min(y0, box[1]), max(x1, box[2]), max(y1, box[3])
    return [(slice(frame, frame + 1), slice(max(0, math.floor(y0)), max(0, math.ceil(y1) + 1)), slice(max(0, math.floor(x0)),
            max(0, math.ceil(x1) + 1))) for frame, (x0, y0, x1, y1) in sorted(found.items())]


def bounds(matrix: np.ndarray, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of the upright rectangle around a rectangle's image under ``[2, 3]``. (In plain numbers: arrays of four points take
    many times as long, and this is asked for many times a face.)"""
    (a, b, x), (c, d, y) = matrix.tolist()
    across, down = (left + right) / 2, (top + bottom) / 2
    x, y = a * across + b * down + x, c * across + d * down + y
    half, tall = (right - left) / 2, (bottom - top) / 2
    width, height = abs(a) * half + abs(b) * tall, abs(c) * half + abs(d) * tall
    return x - width, y - height, x + width, y + height


def invert(matrix: np.ndarray) -> np.ndarray:
    """Inverse of ``[..., 2, 3]`` affine matrices."""
    a, b, x, c, d, y = (matrix[..., i, j] for i in (0, 1) for j in (0, 1, 2))
    determinant = a * d - b * c
    out = np.empty(matrix.shape, np.float64)
    out[..., 0, 0], out[..., 0, 1], out[..., 0, 2] = d, -b, b * y - d * x
    out[..., 1, 0], out[..., 1, 1], out[..., 1, 2] = -c, a, c * x - a * y
    return out / determinant[..., None, None]


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The affine matrix that applies ``first``, then ``second``."""
    linear = second[..., :2] @ first[..., :2]
    return np.concatenate([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], -1)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply ``[..., 2, 3]`` to ``[..., K, 2]`` points."""
    return np.asarray(points, np.float64) @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


def scale_of(matrix: np.ndarray) -> np.ndarray:
    """Crop pixels per image pixel, ``[...]``."""
    return np.sqrt(np.abs(matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]))


def sampling_grid(to_image: np.ndarray, height: int, width: int, image_height: int, image_width: int,
                  device: torch.device | str = "cpu", step: float = 1.0) -> torch.Tensor:
    """``[N, height, width, 2]`` grid for ``grid_sample(align_corners=False)`` that reads an image at ``to_image`` (crop → image).

    ``step`` reads only the middle of every ``step``-th crop pixel in both directions: a lattice. The memory lies in two planes, which
    are made several times as fast as pairs.
    """
    m = _to_grid(np.asarray(to_image).reshape(-1, 2, 3), image_height, image_width)
    across = m[..., :1] * lattice(width, step) + m[..., 2:]
    down = m[..., 1:2] * lattice(height, step)
    planes = torch.from_numpy(across).to(device)[:, :, None] + torch.from_numpy(down).to(device)[..., None]
    return planes.permute(0, 2, 3, 1)


def _to_grid(to_image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``[..., 2, 3]`` to pixels of an image into ``[..., 2, 3]`` float32 to what ``grid_sample`` calls them."""
    size = np.array([width, height], np.float64)
    m = np.asarray(to_image, np.float64) * (2 / size)[:, None]
    m[..., 2] += 1 / size - 1
    return m.astype(np.float32)


def read_grid(planes: torch.Tensor, grid: torch.Tensor, mode: str, padding: str) -> torch.Tensor:
    """``grid_sample(align_corners=False)`` of ``planes`` ``[1, C, h, w]`` at ``grid`` ``[1, H, W, 2]``: ``[C, H, W]``.

    On the CPU torch gives each picture of a batch to one thread and a single picture to a single one, so the grid's rows are dealt
    out as a batch.
    """
    parts = min(torch.get_num_threads(), grid.shape[1] // 32) if planes.device.type == "cpu" else 1
    if parts < 2:
        return F.grid_sample(planes, grid, mode=mode, padding_mode=padding, align_corners=False)[0]
    share = grid.shape[1] // parts
    dealt = grid[0].unfold(0, grid.shape[1] - share * (parts - 1), share).permute(0, 3, 1, 2)  # the last few rows of a part twice
    out = F.grid_sample(planes.expand(parts, -1, -1, -1), dealt, mode=mode, padding_mode=padding, align_corners=False)
    return torch.cat([*out[:-1, :, :share], out[-1]], 1)


def lattice(edge: int, step: float) -> np.ndarray:
    """Whole pixel positions, float32, about ``step`` apart and centred on an edge of ``edge`` pixels; all of them when ``step`` is 1."""
    if step <= 1:
        return np.arange(edge, dtype=np.float32)
    return np.floor(np.arange(step / 2, edge, step, dtype=np.float32))


def read_region(image: torch.Tensor, to_image: np.ndarray, height: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """The part of ``image`` ``[H, W, C]`` that a ``height`` × ``width`` crop needs, ready for one bicubic look-up per crop pixel.

    ``to_image`` ``[2, 3]`` is crop → image. Returns the region ``[1, C, h, w]`` float32 and crop → region. Where the crop is
    coarser than the image the region has been area filtered: averaged over whole blocks down to about two samples per crop pixel
    (finer than the crop, so that the bicubic look-up costs no sharpness), then through a three-tap kernel that has, together with
    the blocks, the response of a box as wide as a crop pixel at half the band.
    """
    shrink = float(scale_of(to_image))  # image pixels per crop pixel
    pool = max(1, int(shrink / 2 + 0.75)) if shrink > _SHRINKS else 1
    rest = shrink / pool
    left, top, right, bottom = bounds(to_image, -.5, -.5, width - .5, height - .5)
    margin = max(3 * pool, 4)  # as far as a bicubic look-up reaches, and what makes pictures finer
    image_height, image_width = image.shape[:2]
    x0, y0 = min(max(math.floor(left) - margin, 0), image_width - 1), min(max(math.floor(top) - margin, 0), image_height - 1)
    x1, y1 = (min(max(math.ceil(high) + margin + 1, low + 1), limit)
              for low, high, limit in ((x0, right, image_width), (y0, bottom, image_height)))
    region = image[y0:y1, x0:x1].to(torch.float32)
    to_region = to_image.copy()
    to_region[:, 2] -= (x0, y0)
    if pool > 1:
        region = _block_means(_block_means(region, pool, 0), pool, 1)
        to_region /= pool
        to_region[:, 2] += 0.5 / pool - 0.5
    if shrink > _SHRINKS:
        side = (1 - np.sinc(rest / 4) / (np.sinc(0.25) if pool > 1 else 1)) / 2
        region = _soften(_soften(region, side, 0), side, 1)
    return region.permute(2, 0, 1)[None], to_region


def _block_means(region: torch.Tensor, count: int, dim: int) -> torch.Tensor:
    """Means of ``count`` neighbours along ``dim`` of ``[h, w, C]``; the last one repeats to fill the last block."""
    size = region.shape[dim]
    blocks = -(-size // count)
    total = region.new_zeros([blocks if d == dim else edge for d, edge in enumerate(region.shape)])
    for i in range(count):
        whole = (size - i + count - 1) // count
        picked = region[i::count] if dim == 0 else region[:, i::count]
        total.narrow(dim, 0, whole).add_(picked)
        if whole < blocks:
            total.narrow(dim, whole, 1).add_(region.narrow(dim, size - 1, 1))
    return total.div_(count)


def _soften(region: torch.Tensor, side: float, dim: int) -> torch.Tensor:
    """The kernel ``side, 1 - 2 side, side`` along ``dim`` of ``[h, w, C]``, the border repeating."""
    last = region.shape[dim] - 1
    out = region * (1 - 2 * side)
    out.narrow(dim, 1, last).add_(region.narrow(dim, 0, last), alpha=side)
    out.narrow(dim, 0, last).add_(region.narrow(dim, 1, last), alpha=side)
    out.narrow(dim, 0, 1).add_(region.narrow(dim, 0, 1), alpha=side)
    out.narrow(dim, last, 1).add_(region.narrow(dim, last, 1), alpha=side)
    return out


def warp(image: torch.Tensor, matrix: np.ndarray, height: int, width: int, padding: str = "border", step: float = 1.0,
         mode: str = "bicubic") -> torch.Tensor:
    """One image ``[H, W, C]`` through image → crop ``matrix`` ``[2, 3]`` to ``[height, width, C]`` float32.

    Bicubic where the crop is as fine as the image or finer, and Lanczos' filter where it is more than twice as fine; where it is coarser,
    an area filter, so that nothing aliases.
    ``padding``: ``"border"`` repeats the edge, ``"zeros"`` gives 0 outside. Only the region needed is read. ``step`` above 1
    computes only the crop pixels of that ``lattice``, with the same values. ``mode="bilinear"``: for masks, which must not ring.
    """
    to_image = invert(np.asarray(matrix, np.float64))
    region, to_region = read_region(image, to_image, height, width)
    if mode == "bicubic" and float(scale_of(to_image)) <= _GROWS:
        region, to_region, mode = twice(region), 2 * to_region, "bilinear"
        to_region[:, 2] += 0.5
    grid = sampling_grid(to_region, height, width, region.shape[2], region.shape[3], image.device, step)
    return read_grid(region, grid, mode, padding).permute(1, 2, 0)


def sample_crops(images: torch.Tensor, frames: Sequence[int] | np.ndarray, matrices: np.ndarray, size: int,
                 step: float = 1.0) -> torch.Tensor:
    """Crops ``[N, size, size, C]`` float32 from ``images`` ``[B, H, W, C]`` (any device and float type), one per matrix.

    ``frames`` names the image of each crop, ``matrices`` are ``[N, 2, 3]`` image → crop. Outside the image the border repeats.
    ``step`` above 1 gives only the pixels of that ``lattice``.
    """
    edge = len(lattice(size, step))
    out = torch.empty((len(matrices), edge, edge, images.shape[-1]), dtype=torch.float32, device=images.device)
    for i, (frame, matrix) in enumerate(zip(frames, matrices, strict=True)):
        out[i] = warp(images[int(frame)], matrix, size, size, step=step).clamp_(0, 1)
    return out


def crop_faces(images: torch.Tensor, faces: Faces, size: int | None = None) -> torch.Tensor:
    """The canonical crops ``[N, S, S, 3]`` of all faces; ``[0, S, S, 3]`` when there are none. Alpha is dropped, grey becomes RGB.

    They are the caller's own, to write in. Crops that ``hand_out_crops`` cut before are copied."""
    faces.check_image(images.shape)
    size = size or faces.crop_size
    cut_before = [handed_out(images, face, faces.framing, size) for face in faces]
    if all(crop is None for crop in cut_before):
        return sample_crops(expand_rgb(images), faces.frame_indices, crop_matrices(faces, size), size)
    crops = torch.empty((len(faces), size, size, 3), dtype=torch.float32, device=images.device)
    for i, before in enumerate(cut_before):
        crops[i] = crop_faces(images, faces.take([i]), size)[0] if before is None else before
    return crops


# Where a face's crop is, as long as somebody holds it and its photograph: both, its number, its framing, and what it adds up to.
_handed_out: weakref.WeakKeyDictionary[Face, tuple[weakref.ref, weakref.ref, int, float, float]] = weakref.WeakKeyDictionary()


def hand_out_crops(images: torch.Tensor, faces: Faces) -> torch.Tensor:
    """``crop_faces`` for crops that, like ``images``, nobody writes in: all stages after this one want the same crops again, and need
    not cut them while these are still there."""
    crops = crop_faces(images, faces)
    for i, face in enumerate(faces):
        _handed_out[face] = weakref.ref(images), weakref.ref(crops), i, faces.framing, float(crops[i].sum())
    return crops


def handed_out(images: torch.Tensor, face: Face, framing: float, size: int) -> torch.Tensor | None:
    """The crop ``[size, size, 3]`` of a face of this very ``images`` from ``hand_out_crops``, not to be written in; None where there is
    none, or where somebody wrote in it all the same."""
    photograph, crops, number, framed, total = _handed_out.get(face, (None, None, 0, 0.0, 0.0))
    if photograph is None or photograph() is not images or framed != framing:
        return None
    crops = crops()
    if crops is None or crops.shape[1] != size:
        return None
    crop = crops[number]
    return crop if float(crop.sum()) == total else None
