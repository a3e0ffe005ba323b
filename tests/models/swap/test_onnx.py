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
sys.path.insert(0, str(Path(__file__).parents[1]))
import doubles
from contracts import other_templates, unnoticed
from doubles import FFHQ, TRUTHS, save_converter, save_double, source_weights, truth_latent
from faceloom.models.catalogue import Contract, catalogue, rows
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.folders import Folders
from faceloom.models.geometry import crop_faces
from faceloom.models.parse import region_mask
from faceloom.models.runtime import OnnxModel
from faceloom.models.swap import load_engine
from faceloom.models.swap.latent import mix
from faceloom.models.swap.tiles import even_tiles, join_tiles, lattice_pattern, split_tiles

STEP = 1 / 255
SIZE = 96  # of the canonical crops
HEIGHT, WIDTH = 400, 440


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
    return np.stack([.3 + .6 * x, .28 + .7 * y, .95 - .4 * x - .3 * y], -1)


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
        assert picture[inner].min() > 0 and picture[inner].max() < 1
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
    slips += other_templates(contract)
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
            other = "crossface_simswap" if contract.converter == "crossface_ghost" else "crossface_ghost"
            slips += [{"converter": None}, {"converter": other}]
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
    check(load_engine(path_of(folders, name), folders=folders, contract=contract), name, faces=FACES.take([1]))
    return True


# Rows that share another row's contract are tried with the slow tests.
FIRST = {id(truth): name for name, truth in reversed(TRUTHS.items())}.values()


@pytest.mark.parametrize("name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in TRUTHS])
def test_every_slip_is_noticed(name, folders):
    contract = catalogue()[name].contract
    slips = mutations(name)
    assert len(slips) >= 10
    assert not unnoticed(contract, lambda slipped: passes(name, folders, slipped), slips)


def count_rows(monkeypatch) -> list[int]:
    """Notes how many rows each call of a network has."""
    rows: list[int] = []
    run_once = OnnxModel.run_once

    def counted(self, feeds):
        rows.append(max(len(value) for value in feeds.values()))
        return run_once(self, feeds)

    monkeypatch.setattr(OnnxModel, "run_once", counted)
    return rows


BOOSTED = ["inswapper_128", "hyperswap_1a_256", "simswap_256", "uniface_256", "deepfacelive", "instyleswapper_256_c"]


@pytest.mark.parametrize("name", BOOSTED)
@pytest.mark.parametrize("boost", [2, 3])
def test_pixel_boost(name, boost, folders):
    check(load_engine(path_of(folders, name), folders=folders), name, boost)


def test_pixel_boost_of_eight(folders):
    check(load_engine(path_of(folders, "inswapper_128"), folders=folders), "inswapper_128", 8, FACES.take([0]))


def test_faces_and_tiles_go_through_in_one_call(folders, monkeypatch):
    engine = load_engine(path_of(folders, "inswapper_128"), folders=folders)
    calls = count_rows(monkeypatch)
    together, _ = engine.swap(IMAGES, FACES, identity(), SIZE, pixel_boost=2)
    assert calls == [8]  # 2 faces of 4 tiles, though the file was exported for one
    for i in range(2):
        alone, _ = engine.swap(IMAGES, FACES.take([i]), identity(), SIZE, pixel_boost=2)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_a_graph_that_mixes_its_rows_is_run_in_a_loop(folders, monkeypatch, tmp_path):
    engine = load_engine(save_double("hyperswap_1a_256", tmp_path, mixes_rows=True), folders=folders)
    calls = count_rows(monkeypatch)
    check(engine, "hyperswap_1a_256")
    check(engine, "hyperswap_1a_256", 2)
    assert calls == [1] * 10


def test_a_batch_of_one_baked_into_the_graph_is_freed(folders, monkeypatch, tmp_path):
    engine = load_engine(save_double("hyperswap_1a_256", tmp_path, fixed=True), folders=folders)
    calls = count_rows(monkeypatch)
    check(engine, "hyperswap_1a_256", 2)
    assert calls == [8]


def test_source_is_worked_out_once_per_identity(folders):
    engine = load_engine(path_of(folders, "ghost_1_256"), folders=folders)
    calls = []
    run = engine._latents.converter.run
    engine._latents.converter.run = lambda feeds: calls.append(1) or run(feeds)
    who = identity()
    for _ in range(3):
        engine.swap(IMAGES, FACES, who, SIZE)
    assert len(calls) == 1
    engine.swap(IMAGES, FACES, identity(), SIZE)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["inswapper_128", "simswap_256", "ghost_2_256", "hyperswap_1a_256", "alphaface_256"])
@pytest.mark.parametrize("strength", [.3, .75, 1.4])
def test_strength_is_a_turn_in_latent_space(name, strength, folders):
    truth, mirror = TRUTHS[name], Mirror("w600k")
    engine = load_engine(path_of(folders, name), folders=folders, recognizer=mirror)
    crops, masks = engine.swap(IMAGES, FACES, identity(), SIZE, strength=strength)
    source = truth_latent(truth, RAW["w600k"])
    for i, face in enumerate(FACES):
        target = truth_latent(truth, mirror.vectors()[i])
        # Independently: the point on the circle through both that lies at the same share of the angle.
        a, b = unit(target), unit(source)
        angle = np.arccos(a @ b)
        turned = (np.sin((1 - strength) * angle) * a + np.sin(strength * angle) * b) / np.sin(angle)
        length = (1 - strength) * np.linalg.norm(target) + strength * np.linalg.norm(source)
        colour = .15 + length * turned @ doubles.PAINT * doubles.gain(truth)
        picture, _, reach = expectation(name, face, colour)
        inner = (reach > .3) & (masks[i].numpy() > 0)
        assert np.abs(crops[i].numpy() - picture)[inner].max() < STEP
    assert mirror.calls == 1


def test_full_strength_asks_nobody_who_the_target_is(folders):
    mirror = Mirror("w600k")
    load_engine(path_of(folders, "inswapper_128"), folders=folders, recognizer=mirror).swap(IMAGES, FACES, identity(), SIZE)
    assert mirror.calls == 0


def test_the_targets_own_embedding_is_used_where_it_is_known(folders):
    mirror = Mirror("w600k")
    known = replace(FACES, items=tuple(replace(face, embeddings={"w600k": unit(mirror.vectors()[i])}) for i, face in enumerate(FACES)))
    engine = load_engine(path_of(folders, "inswapper_128"), folders=folders, recognizer=mirror)
    asked, _ = engine.swap(IMAGES, FACES, identity(), SIZE, strength=.5)
    told, _ = engine.swap(IMAGES, known, identity(), SIZE, strength=.5)
    assert mirror.calls == 1 and torch.allclose(asked, told, atol=1e-6)


@pytest.mark.parametrize("name", TRUTHS)
def test_strength_of_nothing_is_the_targets_own_crop(name, folders):
    crops, masks = load_engine(path_of(folders, name), folders=folders).swap(IMAGES, FACES, identity(), SIZE, strength=0)
    assert torch.equal(crops, crop_faces(IMAGES, FACES, SIZE)) and not masks.any()


@pytest.mark.parametrize("name", ["blendswap_256", "deepfacelive"])
def test_networks_without_latents_fade(name, folders):
    engine = load_engine(path_of(folders, name), folders=folders)
    own = crop_faces(IMAGES, FACES, SIZE)
    full, masks = engine.swap(IMAGES, FACES, identity(), SIZE)
    third, same = engine.swap(IMAGES, FACES, identity(), SIZE, strength=.3)
    assert torch.equal(masks, same)
    assert torch.allclose(third, own + .3 * (full - own), atol=1e-6)
    with pytest.raises(FaceLoomError, match=r"from 0 to 1"):
        engine.swap(IMAGES, FACES, identity(), SIZE, strength=1.5)


def test_morph_value_is_the_strength(folders, tmp_path):
    engine = load_engine(save_double("deepfacelive", tmp_path, morph=True), folders=folders)
    for strength in (.25, 1.0):
        crops, masks = engine.swap(IMAGES, FACES, identity(), SIZE, strength=strength, pixel_boost=2)
        for i, face in enumerate(FACES):
            picture, _, reach = expectation("deepfacelive", face, np.full(3, .2 * strength))
            inner = (reach > .3) & (masks[i].numpy() > 0)
            assert np.abs(crops[i].numpy() - picture)[inner].max() < STEP


def test_mix():
    a, b = np.float32([[3, 0, 0]]), np.float32([[0, 5, 0]])
    assert np.allclose(mix(a, b, 0), a, atol=1e-6) and np.allclose(mix(a, b, 1), b, atol=1e-6)
    assert np.allclose(mix(a, b, .5), 4 * np.sqrt(.5) * np.float32([[1, 1, 0]]), atol=1e-6)
    assert np.allclose(mix(a, b, 1.5), 6 * np.sqrt(.5) * np.float32([[-1, 1, 0]]), atol=1e-5)
    assert np.allclose(mix(b, b, .4), b)
    assert np.allclose(unit(mix(a, b, 9)), [[-1, 0, 0]], atol=1e-6)  # the opposite is as far as it goes


def test_norms_missing_from_the_identity_come_from_its_photos(folders):
    bare = replace(identity(), norms={})

    class Photographer(Mirror):
        def embed_raw(self, images, faces, progress=None):
            assert images.shape == (1, 120, 120, 3) and (faces.frames, faces.height, faces.width) == (1, 120, 120)
            assert np.allclose(faces[0].keypoints, photo()[1].keypoints)
            return RAW["w600k"][None].astype(np.float32)

    check_with = load_engine(path_of(folders, "ghost_1_256"), folders=folders, recognizer=Photographer("w600k"))
    known, _ = check_with.swap(IMAGES, FACES, identity(), SIZE)
    asked, _ = check_with.swap(IMAGES, FACES, bare, SIZE)
    assert torch.allclose(known, asked, atol=1e-5)
    nobody = replace(bare, crops=np.zeros((0, 8, 8, 3)), faces=())
    with pytest.raises(FaceLoomError, match="no w600k embedding and no photos"):
        check_with.swap(IMAGES, FACES, nobody, SIZE)
    with pytest.raises(FaceLoomError, match="looks at a photo"):
        load_engine(path_of(folders, "uniface_256"), folders=folders).swap(IMAGES, FACES, nobody, SIZE)


def test_tiles_are_the_pictures_of_every_kth_pixel():
    picture = torch.arange(2 * 12 * 12 * 3, dtype=torch.float32).reshape(2, 12, 12, 3)
    tiles = split_tiles(picture, 3)
    assert tiles.shape == (18, 4, 4, 3)
    assert torch.equal(tiles[9 + 3 * 1 + 2], picture[1, 1::3, 2::3])
    assert torch.equal(join_tiles(tiles, 3), picture)


def test_a_tone_that_differs_from_tile_to_tile_is_taken_out():
    smooth = torch.from_numpy(scene(grid(24, 24) * 16)).to(torch.float32)[None]
    tiles = split_tiles(smooth, 3)
    tone = torch.linspace(-.1, .1, 9).reshape(9, 1, 1, 1)
    assert torch.allclose(lattice_pattern(tiles + tone, tiles, 3)[0], tone.reshape(9, 1).expand(9, 3), atol=1e-6)
    assert torch.allclose(join_tiles(even_tiles(tiles + tone, tiles, 3), 3), smooth, atol=1e-6)
    assert even_tiles(tiles, tiles, 1) is tiles


def test_progress_counts_tiles_and_may_stop(folders):
    seen = []
    engine = load_engine(path_of(folders, "inswapper_128"), folders=folders)
    engine.swap(IMAGES, FACES, identity(), SIZE, pixel_boost=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 18), (16, 18), (18, 18)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.swap(IMAGES, FACES, identity(), SIZE, progress=stop)


def test_many_faces_over_a_clip(folders):
    many = replace(FACES, items=FACES.items * 20)
    engine = load_engine(path_of(folders, "inswapper_128"), folders=folders)
    seen = []
    crops, _ = engine.swap(IMAGES, many, identity(), 32, pixel_boost=2, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 160 and seen == sorted(seen)
    few, _ = engine.swap(IMAGES, FACES, identity(), 32, pixel_boost=2)
    assert torch.allclose(crops[38:], few, atol=1e-6)


def test_no_faces(folders):
    crops, masks = load_engine(path_of(folders, "inswapper_128"), folders=folders).swap(IMAGES, FACES.take([]), identity(), SIZE)
    assert crops.shape == (0, SIZE, SIZE, 3) and masks.shape == (0, SIZE, SIZE)


WRONG = [{"pixel_boost": 0}, {"pixel_boost": 9}, {"pixel_boost": 1.5}, {"strength": -.1}, {"strength": float("nan")}]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings(wrong, folders):
    with pytest.raises(FaceLoomError, match=r"must be"):
        load_engine(path_of(folders, "inswapper_128"), folders=folders).swap(IMAGES, FACES, identity(), SIZE, **wrong)


def test_strength_with_an_adapter_mixes_both_vectors(folders):
    spaces, random = ("cscs", "cscs_adapter"), np.random.default_rng(9)
    own = [{space: unit(random.normal(0, 1, 512)) for space in spaces} for _ in FACES]
    known = replace(FACES, items=tuple(replace(face, embeddings=vectors) for face, vectors in zip(FACES, own, strict=True)))
    crops, masks = load_engine(path_of(folders, "cscs_256"), folders=folders).swap(IMAGES, known, identity(), SIZE, strength=.5)
    source = unit(RAW["cscs"]) + unit(RAW["cscs_adapter"])
    for i, face in enumerate(FACES):
        target = own[i]["cscs"] + own[i]["cscs_adapter"]
        middle = unit(unit(target) + unit(source)) * (np.linalg.norm(target) + np.linalg.norm(source)) / 2
        picture, _, reach = expectation("cscs_256", face, .15 + middle @ doubles.PAINT * doubles.gain(TRUTHS["cscs_256"]))
        inner = (reach > .3) & (masks[i].numpy() > 0)
        assert np.abs(crops[i].numpy() - picture)[inner].max() < STEP


def test_identity_of_another_space_is_looked_up_in_its_photos(folders):
    class Photographer(Mirror):
        def embed_raw(self, images, faces, progress=None):
            return RAW["w600k"][None].astype(np.float32)

    engine = load_engine(path_of(folders, "inswapper_128"), folders=folders, recognizer=Photographer("w600k"))
    known, _ = engine.swap(IMAGES, FACES, identity(), SIZE)
    other = replace(identity(), embeddings={"dlib128": unit(np.ones(128))}, norms={})
    asked, _ = engine.swap(IMAGES, FACES, other, SIZE)
    assert torch.allclose(known, asked, atol=1e-5)


def test_a_known_direction_is_kept_when_only_its_length_is_missing(folders):
    """A blend of people has photos of each, which must not replace the blended vector."""
    class Stranger(Mirror):
        def embed_raw(self, images, faces, progress=None):
            vector = np.random.default_rng(77).normal(0, 1, (1, 512))
            return (unit(vector) * np.linalg.norm(RAW["w600k"])).astype(np.float32)

    engine = load_engine(path_of(folders, "alphaface_256"), folders=folders, recognizer=Stranger("w600k"))
    known, _ = engine.swap(IMAGES, FACES, identity(), SIZE)
    blended, _ = engine.swap(IMAGES, FACES, replace(identity(), norms={}), SIZE)
    assert torch.allclose(known, blended, atol=1e-5)


def test_an_answer_of_another_size(folders, tmp_path):
    helper, kind = doubles.helper, doubles.TensorProto.FLOAT
    nodes = [helper.make_node("Concat", ["target", "target"], ["output"], axis=2)]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, shape in
             (("target", [1, 3, 256, 256]), ("source", [1, 512]), ("output", [1, 3, None, None]))]
    path = doubles.save(tmp_path / "alphaface_256.onnx", nodes, ports[:2], ports[2:], [])
    with pytest.raises(FaceLoomError, match=r"answered pictures of \(512, 256, 3\), not of \(256, 256, 3\)"):
        load_engine(path, folders=folders).swap(IMAGES, FACES, identity(), SIZE)
