"""Every contract in the catalogue, held against a double of its network and against closed forms worked out here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

sys.path.insert(0, str(Path(__file__).parent))
import doubles
from doubles import FFHQ, TRUTHS, V1, save_converter, save_double, source_weights, truth_latent

from faceloom.models.catalogue import Contract, catalogue, rows
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.folders import Folders
from faceloom.models.geometry import crop_faces
from faceloom.models.parse import region_mask
from faceloom.models.swap import load_engine
from faceloom.models.swap.latent import mix
from faceloom.models.swap.tiles import even_tiles, join_tiles, lattice_pattern, split_tiles

STEP = 1 / 255
SIZE = 96  # of the canonical crops
HEIGHT, WIDTH = 400, 440
EXACT = replace(TRUTHS["inswapper_128"])


def fit(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Similarity by linear least squares, ``[2, 3]``."""
    x, y = points.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, np.concatenate([onto[:, 0], onto[:, 1]]), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def scene(points: np.ndarray) -> np.ndarray:
    """The photograph as a function of position: plain slopes, which any resampling leaves alone. ``[..., 2]`` to ``[..., 3]``."""
    x, y = points[..., 0] / WIDTH, points[..., 1] / HEIGHT
    return np.stack([.2 + .6 * x, .15 + .7 * y, .85 - .4 * x - .3 * y], -1)


def grid(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)


def keypoints_at(center: tuple[float, float], angle: float, eyes: float) -> np.ndarray:
    """Five points of an imagined face, not quite anybody's template."""
    shape = (FFHQ - .5) / .246 * eyes + np.array([[0, 2], [1, -1], [3, 1], [-2, 0], [1, 3]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return shape @ turn.T + center


IMAGES = torch.from_numpy(np.stack([scene(grid(HEIGHT, WIDTH))] * 2)).to(torch.float32)
FACES = Faces(
    tuple(Face(frame, [0, 0, 1, 1], keypoints_at(*where)) for frame, where in ((0, ((215, 190), .2, 62)), (1, ((225, 205), -.35, 55)))),
    2, HEIGHT, WIDTH, 1.1, SIZE,
)
RAW = {space: np.random.default_rng(i).normal(0, 1, 512) for i, space in enumerate(("w600k", "simswap", "ghost", "cscs", "cscs_adapter"))}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def photo() -> tuple[np.ndarray, Face]:
    """The source's reference crop: slopes again, and a face that is not quite in the middle."""
    points = grid(120, 120) / 120
    picture = np.stack([.9 - .7 * points[..., 1], .1 + .6 * points[..., 0], .2 + .5 * points[..., 1]], -1)
    return picture, Face(0, [0, 0, 1, 1], FFHQ * 120 * .9 + (5, 8))


def identity() -> Identity:
    picture, face = photo()
    return Identity({space: unit(raw) for space, raw in RAW.items()}, picture[None], (face,),
                    norms={space: float(np.linalg.norm(raw)) for space, raw in RAW.items()})


class Mirror:
    """A recogniser that knows the two faces of the scene by heart."""

    def __init__(self, space: str) -> None:
        self.space = space
        self.calls = 0

    def vectors(self) -> np.ndarray:
        return np.stack([np.random.default_rng(50 + i).normal(0, .9, 512) for i in range(2)])

    def embed_raw(self, images, faces, progress=None) -> np.ndarray:
        self.calls += 1
        return self.vectors()[[face.frame for face in faces]].astype(np.float32)

    def embed(self, images, faces, progress=None) -> np.ndarray:
        return unit(self.embed_raw(images, faces))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    """A models folder with every double and the converters."""
    root = tmp_path_factory.mktemp("models")
    place = root / "faceloom" / "swap"
    for name in doubles.CONVERTERS:
        save_converter(name, place)
    for name in TRUTHS:
        save_double(name, place)
    return Folders((root,))


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    """No cache of the user's, and one thread: the pictures are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    torch.set_num_threads(threads)


def path_of(folders: Folders, name: str) -> Path:
    return folders.roots[0] / "faceloom" / "swap" / ("someone.dfm" if name == "deepfacelive" else f"{name}.onnx")


def source_colour(name: str) -> np.ndarray:
    """``[3]``: what the double makes of the identity, from this file's own account of the steps."""
    truth = TRUTHS[name]
    if truth.source_picture:
        template, edge = truth.source_picture
        _, face = photo()
        to_photo = np.linalg.inv(np.vstack([fit(np.float64(face.keypoints), template * edge), [0, 0, 1]]))[:2]
        seen = (grid(edge, edge) @ to_photo[:, :2].T + to_photo[:, 2]) / 120
        picture = np.stack([.9 - .7 * seen[..., 1], .1 + .6 * seen[..., 0], .2 + .5 * seen[..., 1]], -1)
        return (picture * source_weights(edge)).mean((0, 1))
    if name == "deepfacelive":
        return np.zeros(3)
    if truth.adapter:
        latent = unit(RAW[truth.space]) + unit(RAW[truth.adapter])
        return .15 + latent @ doubles.PAINT * doubles.gain(truth)
    return .15 + truth_latent(truth, RAW[truth.space]) @ doubles.PAINT * doubles.gain(truth)


def expectation(name: str, face: Face, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crop, the engine's own mask (or None) and how far its square reaches, at every pixel of the canonical crop."""
    truth = TRUTHS[name]
    points = np.float64(face.keypoints)
    canonical = fit(points, ((FFHQ - .5) / FACES.framing + .5) * SIZE - .5)
    back = np.linalg.inv(np.vstack([canonical, [0, 0, 1]]))[:2]
    where = grid(SIZE, SIZE) @ back[:, :2].T + back[:, 2]
    square = fit(points, truth.template * truth.size)
    at = where @ square[:, :2].T + square[:, 2]
    u, v = at[..., 0] / truth.size, at[..., 1] / truth.size
    ramp = np.stack([.25 * u, .25 * v, .12 + .06 * (u + v)], -1)
    inside = np.clip(np.minimum(at + .5, truth.size - .5 - at).min(-1) / truth.size * 16, 0, 1)
    return scene(where) * (.4, .2, .1) + ramp + colour, (.1 + .8 * u if truth.mask else None), inside * inside * (3 - 2 * inside)


def check(engine, name: str, boost: int = 1, faces: Faces = FACES) -> None:
    """Every pixel of what the engine answers, within 1/255."""
    crops, masks = engine.swap(IMAGES, faces, identity(), SIZE, pixel_boost=boost)
    untouched = crop_faces(IMAGES, faces, SIZE)
    hull = region_mask(("face",), SIZE, faces=faces).numpy()
    for i, face in enumerate(faces):
        picture, own, reach = expectation(name, face, source_colour(name))
        crop, mask = crops[i].numpy().astype(np.float64), masks[i].numpy()
        wanted = (hull[i] if own is None else np.clip(own, 0, 1)) * reach
        assert np.abs(mask - wanted).max() < STEP
        assert (mask > .9).any() or own is not None
        inner = (reach > .3) & (mask > 0)
        assert inner.mean() > .2
        assert 0 < picture[inner].min() and picture[inner].max() < 1
        assert np.abs(crop - picture)[inner].max() < STEP
        assert torch.equal(crops[i][masks[i] == 0], untouched[i][masks[i] == 0])


def test_doubles_cover_the_catalogue():
    assert set(TRUTHS) == {row.name for row in rows("swap")}


@pytest.mark.parametrize("name", TRUTHS)
def test_row(name, folders):
    engine = load_engine(path_of(folders, name), folders=folders)
    assert engine.name == ("someone" if name == "deepfacelive" else name)
    assert engine.size == TRUTHS[name].size
    check(engine, name)


def mutations(name: str) -> list[dict]:
    """Slips of the pen in a contract that change what comes out."""
    contract, truth = catalogue()[name].contract, TRUTHS[name]
    slips = [
        {"color": "rgb" if contract.color == "bgr" else "bgr"},
        {"mean": tuple(value + .05 for value in contract.mean)},
        {"std": tuple(value * 1.1 for value in contract.std)},
        {"output_mean": tuple(value + .02 for value in contract.output_mean)},
        {"output_std": tuple(value * 1.1 for value in contract.output_std)},
        {"layout": "nhwc" if contract.layout == "nchw" else "nchw"},
    ]
    slips += [{"template": other} for other in ("arcface_112_v1", "arcface_112_v2", "arcface_128", "ffhq_512", "mtcnn_512", "dfl_whole_face")
              if other != contract.template]
    if contract.size:
        slips.append({"size": contract.size * 2})
    if contract.mask_output is not None:
        slips.append({"mask_output": None})
    if name == "deepfacelive":
        slips += [{"picture_output": 0}, {"mask_output": 0}]
    if contract.source == "image":
        slips += [{"source_template": "arcface_128"}, {"source_mean": (.1, .1, .1)}, {"source_std": (.8, .8, .8)},
                  {"source_size": 224}, {"source": "embedding"}]
    if contract.source == "embedding":
        slips += [{"space": "cscs_adapter"}, {"source": "image", "source_template": "ffhq_512", "source_size": 256}]
        if contract.emap:
            slips.append({"emap": False})
        if contract.converter:
            slips += [{"converter": None}, {"converter": "crossface_ghost" if contract.converter != "crossface_ghost" else "crossface_simswap"}]
        if contract.adapter:
            slips.append({"adapter": None})
        # A step that another makes good is no slip: a unit vector stays one, and a matrix does not mind the length it gets if the
        # outcome is made a unit vector anyway.
        if contract.converter or not contract.latent_unit:
            slips.append({"unit": not contract.unit})
        if contract.latent_unit and truth.latent != ("unit", "unit"):
            slips.append({"latent_unit": False})
        if not contract.latent_unit and truth.latent != ("unit",):
            slips.append({"latent_unit": True})
        if contract.adapter:
            slips.append({"latent_unit": True})
    return slips


def passes(name: str, folders: Folders, contract: Contract) -> bool:
    try:
        check(load_engine(path_of(folders, name), folders=folders, contract=contract), name, faces=FACES.take([1]))
    except (AssertionError, FaceLoomError):
        return False
    return True


# Rows that share another row's contract are tried with the slow tests.
FIRST = {id(truth): name for name, truth in reversed(TRUTHS.items())}.values()


@pytest.mark.parametrize("name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in TRUTHS])
def test_every_slip_is_noticed(name, folders):
    contract = catalogue()[name].contract
    slips = mutations(name)
    assert len(slips) >= 10
    assert passes(name, folders, contract)
    assert not [slip for slip in slips if passes(name, folders, replace(contract, **slip))]
