"""Tiles and batches: pixel boost, and many faces in one call of the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from doubles import save_double
from faceloom.models.runtime.method import Loading
from faceloom.models.runtime.onnx import OnnxModel
from faceloom.models.swap.load import load_engine
from faceloom.models.swap.pixel_boost import even_tiles, join_tiles, lattice_pattern, split_tiles
from graphs import grid
from swap_scene import FACES, IMAGES, SIZE, Mirror, check, identity, path_of, scene
from swapping import swapped

pytestmark = pytest.mark.usefixtures("one_thread")


def count_rows(monkeypatch) -> list[int]:
    """Notes how many rows each call of a network has."""
    rows: list[int] = []
    run_once = OnnxModel.run_once

    def counted(self, feeds):
        rows.append(max(len(value) for value in feeds.values()))
        return run_once(self, feeds)

    monkeypatch.setattr(OnnxModel, "run_once", counted)
    return rows


BOOSTED = ["inswapper_128", "blendswap_256", "hyperswap_1a_256", "simswap_256", "uniface_256", "deepfacelive", "instyleswapper_256_c"]


@pytest.mark.parametrize("name", BOOSTED)
@pytest.mark.parametrize("boost", [2, 3])
def test_pixel_boost(name, boost, folders):
    check(load_engine(path_of(folders, name), Loading(folders)), name, boost)


@pytest.mark.parametrize("boost", range(4, 9))
def test_pixel_boost_up_to_eight(boost, folders):
    check(load_engine(path_of(folders, "inswapper_128"), Loading(folders)), "inswapper_128", boost, FACES.take([0]))


def test_faces_and_tiles_go_through_in_one_call(folders, monkeypatch):
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    calls = count_rows(monkeypatch)
    together, _ = swapped(engine, IMAGES, FACES, identity(), SIZE, pixel_boost=2)
    assert calls == [8]  # 2 faces of 4 tiles, though the file was exported for one
    for i in range(2):
        alone, _ = swapped(engine, IMAGES, FACES.take([i]), identity(), SIZE, pixel_boost=2)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


@pytest.mark.parametrize(("name", "boost", "wanted"), [("inswapper_128", 1, [20]), ("inswapper_128", 2, [64, 16]),
                                                       ("simswap_512_unoff", 1, [16, 4])])
def test_the_larger_the_pictures_the_fewer_are_held_at_once(name, boost, wanted, folders, monkeypatch):
    engine, rounds = load_engine(path_of(folders, name), Loading(folders)), []

    def answer(tiles, feeds, progress):
        rounds.append(len(tiles))
        return tiles, None

    monkeypatch.setattr(engine, "_run", answer)
    swapped(engine, IMAGES, replace(FACES, items=FACES.items * 10), identity(), 32, pixel_boost=boost)
    assert rounds == wanted


def test_every_tile_gets_its_own_faces_latent(folders):
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders, recognizer=Mirror("w600k")))
    together, _ = swapped(engine, IMAGES, FACES, identity(), SIZE, strength=.4, pixel_boost=2)
    for i in range(2):
        alone, _ = swapped(engine, IMAGES, FACES.take([i]), identity(), SIZE, strength=.4, pixel_boost=2)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_a_graph_that_mixes_its_rows_is_run_in_a_loop(folders, monkeypatch, tmp_path):
    engine = load_engine(save_double("hyperswap_1a_256", tmp_path, mixes_rows=True), Loading(folders))
    calls = count_rows(monkeypatch)
    check(engine, "hyperswap_1a_256")
    check(engine, "hyperswap_1a_256", 2)
    assert calls == [1] * 10


def test_a_batch_of_one_baked_into_the_graph_is_freed(folders, monkeypatch, tmp_path):
    engine = load_engine(save_double("hyperswap_1a_256", tmp_path, fixed=True), Loading(folders))
    calls = count_rows(monkeypatch)
    check(engine, "hyperswap_1a_256", 2)
    assert calls == [8]


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


def test_a_network_that_gives_every_tile_a_tone_shows_no_pattern(folders, monkeypatch):
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    wanted, _ = swapped(engine, IMAGES, FACES, identity(), 384, pixel_boost=3)
    run, tone = engine.model.run, torch.linspace(-.1, .1, 9).repeat(2).reshape(18, 1, 1, 1)
    monkeypatch.setattr(engine.model, "run", lambda feeds, progress: [picture + tone for picture in run(feeds, progress)])
    crops, _ = swapped(engine, IMAGES, FACES, identity(), 384, pixel_boost=3)
    assert torch.allclose(crops, wanted, atol=1e-5)


def test_progress_counts_tiles_and_may_stop(folders):
    seen = []
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    swapped(engine, IMAGES, FACES, identity(), SIZE, pixel_boost=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 18), (16, 18), (18, 18)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swapped(engine, IMAGES, FACES, identity(), SIZE, progress=stop)
