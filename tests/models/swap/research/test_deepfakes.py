"""faceswap's files from the disk to crops, with small networks in the published layouts and with doubles whose answer is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.crops.faceswap_square import square_matrix
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Faces
from faceloom.models.files.find import list_research_files
from faceloom.models.files.folders import Folders
from faceloom.models.interop.convert import convert
from faceloom.models.networks.keras_net import KerasNet
from faceloom.models.parse import REGIONS
from faceloom.models.parse.landmarks import points68_of
from faceloom.models.pixels.affine import compose, invert, transform
from faceloom.models.pixels.sampling import sample_crops, warp
from faceloom.models.swap.load import load_engine, with_options
from faceloom.models.swap.research.deepfakes_engine import NOTE, deepfakes_engine
from faceloom.models.swap.research.deepfakes_mask import finish_mask, landmark_mask, square_fade
from scipy import ndimage

pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
import deepfakes_files as files
from swapping import swapped

# What the doubles do to red, green and blue.
SHADES = {"A": (.2, .9, .5), "B": (.8, .3, .6)}
SIZE = 192


@pytest.fixture(scope="module")
def scene(collins):
    images = torch.cat([collins, collins.flip(2)])
    return images, detect_faces(images)


def double(edge=64, scale=1, mask=None):
    """An autoencoder that shades what it sees, and enlarges it; ``mask``: it predicts that everywhere. Returns its graph and weights."""
    used = Counter()
    encoder = files.Model("encoder", [edge, edge, 3], used)
    coded = encoder.conv("code", encoder.source, 3, 1)
    weights = {"code/kernel": torch.eye(3)[None, None], "code/bias": torch.zeros(3)}
    decoders = []
    for side in "ab":
        decoder = files.Model(f"decoder_{side}", [edge, edge, 3], used)
        x = decoder.source
        if scale > 1:
            x = decoder.auto("UpSampling2D", x, size=[scale, scale], interpolation="bilinear")
        outputs = [decoder.conv(f"face_{side}", x, 3, 1)]
        weights |= {f"face_{side}/kernel": torch.diag(torch.tensor(SHADES[side.upper()][::-1]))[None, None],
                    f"face_{side}/bias": torch.zeros(3)}
        if mask is not None:
            outputs.append(decoder.conv(f"mask_{side}", x, 1, 1))
            weights |= {f"mask_{side}/kernel": torch.zeros(1, 1, 3, 1), f"mask_{side}/bias": torch.tensor([mask])}
        decoders.append((decoder, outputs))
    return files.wired("double", edge, encoder, coded, decoders), weights


def engine_of(*args, parser=None, color="none", double_=None, **options):
    return deepfakes_engine(KerasNet(*(double_ or double(*args))), parser=parser, color=color, **options)


@pytest.mark.parametrize("centering", ["face", "legacy", "head"])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("side", "AB")
def test_the_other_persons_decoder_draws_what_is_seen_where_it_is(scene, centering, scale, side):
    images, faces = scene
    engine = engine_of(64, scale, centering=centering, swap="A to B" if side == "B" else "B to A", coverage=87.5)
    assert engine.size == 64 * scale
    crops, masks = swapped(engine, images, faces, None, SIZE)
    plain = crop_faces(images, faces, SIZE)
    sure = masks > .99
    assert sure.sum() > .05 * SIZE * SIZE * len(faces)
    off = crops[sure] - plain[sure] * torch.tensor(SHADES[side])
    assert off.abs().mean() < .02 and off.mean(0).abs().max() < .004
    assert torch.equal(crops[masks == 0], plain[masks == 0])


@pytest.mark.parametrize("shift", [1.5, -1.5])
def test_a_square_beside_the_published_one_would_be_seen(scene, monkeypatch, shift):
    """The sharp double at 256 pixels tells squares that are a pixel and a half apart."""
    from faceloom.models.swap import square
    from faceloom.models.swap.research import deepfakes_engine

    images, faces = scene
    plain = crop_faces(images, faces, SIZE) * torch.tensor(SHADES["B"])

    def off():
        crops, masks = swapped(engine_of(256), images, faces, None, SIZE)
        return float((crops - plain)[masks > .99].abs().mean())

    right = off()
    for module in (square, deepfakes_engine):
        monkeypatch.setattr(module, "sample_crops", lambda images, frames, matrices, edge:
                            sample_crops(images, frames, matrices + np.array([[0, 0, shift], [0, 0, 0]]), edge))
    assert off() > 2 * right


def test_the_network_sees_bgr_in_its_own_square(scene, tmp_path):
    """The whole way with a small network of the published form, step by step."""
    images, faces = scene
    graph = files.original(32, (4, 6, 8), 8, 4, 6, 5, (6, 5))
    weights = files.random_weights(graph)
    files.write_keras(tmp_path / "couple.keras", graph, weights)
    engine = load_engine(tmp_path / "couple.keras", color="none", mask="whole square")
    assert engine.note == NOTE and engine.name == "couple"
    matrices = np.stack([square_matrix(face.points68.astype(np.float64), "face", 32) for face in faces])
    seen = sample_crops(images, faces.frame_indices, matrices, 32).clamp(0, 1).permute(0, 3, 1, 2).flip(1)
    _, drawn = KerasNet(graph, weights)(torch.zeros_like(seen), seen)
    answered, own = engine.run(seen.flip(1).permute(0, 2, 3, 1), torch.zeros(len(faces), 0))
    assert own is None and torch.allclose(answered, drawn.flip(1).permute(0, 2, 3, 1).clamp(0, 1), atol=1e-5)
    rows, columns = np.mgrid[4:28, 4:28]
    to_crop = compose(crop_matrices(faces, 512), invert(matrices))[0]
    places = transform(np.stack([columns, rows], -1).reshape(-1, 2), to_crop)
    inside = ((places > 0) & (places < 511)).all(1)
    crop, mask = (each[0].numpy() for each in swapped(engine, images, faces, None, 512))
    magnified = warp(answered[0], to_crop, 512, 512).clamp(0, 1).numpy()
    there, wanted = (np.stack([ndimage.map_coordinates(picture[..., c], places[inside].T[::-1], order=1) for c in range(3)], -1)
                     for picture in (crop, magnified))
    assert np.abs(there - wanted).mean() < .01
    assert np.abs(there - answered[0, 4:28, 4:28].reshape(-1, 3)[inside].numpy()).mean() < .05 and inside.sum() > 300  # noise, magnified
    assert abs(mask[256, 256] - 1) < 1e-6 and drawn.std() > .02


@pytest.mark.parametrize("write", [files.write_keras, files.write_h5])
def test_files_of_both_ages_and_converted_ones_swap_alike(scene, write, tmp_path):
    images, faces = scene
    graph, weights = double(mask=.7)
    path = tmp_path / ("a.keras" if write is files.write_keras else "a.h5")
    write(path, graph, weights)
    wanted = swapped(deepfakes_engine(KerasNet(graph, weights)), images, faces, None, SIZE)
    for file in (path, convert(path)):
        for got, right in zip(swapped(load_engine(file), images, faces, None, SIZE), wanted, strict=True):
            assert torch.allclose(got, right, atol=1e-6)


def test_masks(scene):
    images, faces = scene
    faces = faces.take([0])
    matrix = square_matrix(faces[0].points68.astype(np.float64), "face", 128)
    points = transform(faces[0].points68, matrix)

    class Half:
        name = "half"

        def parse(self, crops, progress=None):
            labels = torch.full(crops.shape[:3], REGIONS.index("hair"), dtype=torch.uint8)
            labels[:, :, : crops.shape[2] // 2] = REGIONS.index("nose")
            return labels

    half = np.zeros((128, 128), np.float32)
    half[:, :64] = 1
    raw = {"extended": landmark_mask(points, 128, True), "components": landmark_mask(points, 128), "parsed": half,
           "predicted": np.full((128, 128), .7, np.float32), "whole square": np.ones((128, 128), np.float32)}
    areas = {}
    for kind, mask in raw.items():
        for erode in (0, 20):
            engine = engine_of(double_=double(128, mask=.7), parser=Half(), mask=kind, erode=erode)
            got = swapped(engine, images, faces, None, 512)[1][0]
            to_crop = compose(crop_matrices(faces, 512), invert(matrix[None]))[0]
            seen = sample_crops(got[None, ..., None].expand(-1, -1, -1, 3), [0], invert(to_crop)[None], 128)[0, ..., 0].numpy()
            inner = (slice(12, -12),) * 2  # outside of that what is drawn fades
            assert np.abs(seen - finish_mask(mask, erode))[inner].mean() < .01, kind
            areas[kind, erode] = float(got.sum())
    assert areas["components", 0] < areas["extended", 0] < areas["whole square", 0]
    assert all(areas[kind, 20] < .9 * areas[kind, 0] for kind in ("extended", "components", "parsed"))
    outline = swapped(engine_of(128, mask="face outline"), images, faces, None, 512)[1]
    assert outline.max() == 1 and outline.sum() > .5 * areas["components", 0]


def test_average_color_is_the_targets_where_the_mask_is(scene):
    images, faces = scene
    faces = faces.take([0])
    plain = swapped(engine_of(128, color="none"), images, faces, None, SIZE)[0]
    crops, masks = swapped(engine_of(128, color="average"), images, faces, None, SIZE)
    target = crop_faces(images, faces, SIZE)
    sure = masks > .99
    assert (crops[sure].mean(0) - target[sure].mean(0)).abs().max() < .02
    assert (plain[sure].mean(0) - target[sure].mean(0)).abs().max() > .1
    shifted = crops[sure] - plain[sure]
    clipped = (crops[sure] > .999) | (crops[sure] < .001)
    assert shifted[~clipped.any(1)].std(0).max() < .01  # one number per colour, nothing else


def test_strength_fades_and_boost_gets_finer(scene):
    images, faces = scene
    engine = engine_of(64)
    whole, masks = swapped(engine, images, faces, None, SIZE)
    plain = crop_faces(images, faces, SIZE)
    half, same = swapped(engine, images, faces, None, SIZE, strength=.5)
    shown = masks > 0
    assert torch.equal(same, masks) and torch.allclose(half[shown], (whole[shown] + plain[shown]) / 2, atol=1e-5)
    none, empty = swapped(engine, images, faces, None, SIZE, strength=0)
    assert torch.equal(none, plain) and empty.max() == 0
    with pytest.raises(FaceLoomError, match="no latent space"):
        swapped(engine, images, faces, None, SIZE, strength=1.2)
    fine, finer = swapped(engine, images, faces, None, SIZE, pixel_boost=3)
    sure = (masks > .99) & (finer > .99)
    shaded = plain * torch.tensor(SHADES["B"])
    assert (fine - shaded)[sure].abs().mean() < .7 * (whole - shaded)[sure].abs().mean()
    assert (finer - masks).abs().mean() < .01


def test_faces_with_five_points_only_and_none_at_all(scene):
    images, faces = scene
    poor = Faces(tuple(replace(face, points68=None) for face in faces), faces.frames, faces.height, faces.width)
    engine = engine_of(64)
    crops, masks = swapped(engine, images, poor, None, SIZE)
    sure = masks > .99
    assert sure.any() and (crops - crop_faces(images, poor, SIZE) * torch.tensor(SHADES["B"]))[sure].abs().mean() < .03
    np.testing.assert_allclose(engine.alignment(poor.keypoints), engine._squares([points68_of(face) for face in poor]))
    crops, masks = swapped(engine, images, faces.take([]), None, SIZE)
    assert len(crops) == len(masks) == 0


def test_options_that_the_file_or_the_machine_cannot_do_are_told(scene):
    engine = engine_of(64)
    with pytest.raises(FaceLoomError, match="was not trained to predict masks"):
        with_options(engine, "deepfakes", mask="predicted")
    with pytest.raises(FaceLoomError, match="needs a face parser"):
        engine.with_options(mask="parsed")
    with pytest.raises(FaceLoomError, match=r"Coverage must be from 62\.5"):
        engine.with_options(coverage=10)
    with pytest.raises(FaceLoomError, match='Swap must be one of A to B, B to A, not "A"'):
        engine.with_options(swap="A")
    other = engine.with_options(swap="B to A")
    assert engine.side.picture == 1 and other.side.picture == 0


def test_graphs_that_are_no_autoencoder_of_two_are_told():
    graph, weights = double()
    graph["config"]["output_layers"] = graph["config"]["output_layers"][:1]
    with pytest.raises(FaceLoomError, match="picture for each of two people"):
        deepfakes_engine(KerasNet(graph, weights))


def test_files_are_listed_from_their_folder(tmp_path):
    """Also as converted, of which nothing but the folder tells."""
    place = tmp_path / "faceloom" / "deepfakes"
    place.mkdir(parents=True)
    for name in ("couple.keras", "old.h5", "other.safetensors"):
        (place / name).write_bytes(b"x")
    here = {choice.path.name: choice.row and choice.row.name for choice in list_research_files("swap", Folders((tmp_path,))) if choice.path}
    assert here == {"couple.keras": "deepfakes_faceswap", "old.h5": None, "other.safetensors": None}


def test_the_squares_own_border_fades_in_the_mask(scene):
    images, faces = scene
    _, masks = swapped(engine_of(64, mask="whole square", centering="legacy"), images, faces, None, 512)
    assert masks.max() == 1 and float(square_fade(64)[0].max()) < .3
