"""Every parser of the catalogue against a double of its network: it names the class whose colour is nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from contracts import refuses_broken, unnoticed
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.catalogue import catalogue, rows
from faceloom.models.files.folders import Folders
from faceloom.models.parse import REGIONS, parse_preview, region_mask
from faceloom.models.parse.labels import sort_sides
from faceloom.models.parse.load import load_parser
from faceloom.models.parse.onnx import OnnxParser
from faceloom.models.runtime.method import Loading
from faceloom.models.runtime.onnx import OnnxModel, open_session
from graphs import IMAGENET, Graph, grid

pytestmark = pytest.mark.usefixtures("one_thread")

ONNX_ROWS = [row.name for row in rows("parser") if row.file.endswith(".onnx")]
# zllrunning's order of the 19 classes, in our words.
ORDER = ["background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear", "earring", "nose",
         "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat"]
# One colour per class; of each pair the left one has less red, and red grows to the right in the pictures below.
PALETTE = np.array([
    [.9, .8, .5], [.5, .2, .6], [.2, .45, .45], [.7, .45, .5], [.25, .6, .35], [.75, .6, .25], [.1, .9, .3], [.05, .3, .6],
    [.95, .35, .4], [.4, .75, .4], [.5, .55, .45], [.6, .85, .3], [.45, .38, .55], [.62, .3, .5], [.3, .15, .7], [.8, .15, .5],
    [.35, .9, .2], [.2, .05, .8], [.95, .6, .6],
])


def slopes(size: int, lean: float = 0.0) -> torch.Tensor:
    """``[size, size, 3]``: colours that change evenly, red to the right, green downwards."""
    place = (grid(size, size) + .5) / size
    x, y = place[..., 0], place[..., 1]
    return torch.from_numpy(np.stack([.02 + .96 * x, .05 + .9 * y, .8 - (.35 + lean) * y - .25 * x], -1)).to(torch.float32)


def nearest(pictures: torch.Tensor) -> np.ndarray:
    """Labels the double must give, as indices into ``REGIONS``."""
    distance = ((pictures.numpy().astype(np.float64)[..., None, :] - PALETTE) ** 2).sum(-1)
    return np.array([REGIONS.index(name) for name in ORDER])[distance.argmin(-1)]


def save_parser(path: Path, *, half: bool = False, rows_: int | str = 1, size: int | str = 512, palette: np.ndarray = PALETTE,
                heads: int = 1, channels: int | str = 3) -> Path:
    graph = Graph(half)
    picture = graph.picture(graph.input("input", [rows_, channels, size, size]), IMAGENET)
    weights = graph.weight((2 * palette)[:, :, None, None])
    scores = graph.node("Conv", picture, weights, graph.weight(-(palette ** 2).sum(1)))
    for head in range(heads):  # the further ones are noise
        value = scores if head == 0 else graph.node("Neg", scores)
        graph.output("output" if head == 0 else f"aux{head}", value, [rows_, len(palette), size, size])
    return graph.save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    for name in ONNX_ROWS:
        save_parser(root / "faceloom" / "parsers" / f"{name}.onnx")
    return Folders((root,))


def mistakes(parser, crops: torch.Tensor) -> float:
    """Share of pixels with another label than the nearest colour's."""
    return float((parser.parse(crops).numpy() != nearest(crops)).mean())


def test_the_pictures_show_every_class_and_the_sides_lie_right():
    labels = torch.from_numpy(nearest(slopes(160)))
    assert len(labels.unique()) >= 16
    assert torch.equal(sort_sides(labels), labels)


@pytest.mark.parametrize("name", ONNX_ROWS)
def test_row(name, folders):
    parser = load_parser(name, Loading(folders))
    crops = torch.stack([slopes(160), slopes(160, .2)])
    labels = parser.parse(crops)
    assert parser.name == name and labels.shape == (2, 160, 160) and labels.dtype == torch.uint8
    assert mistakes(parser, crops) < 2e-3
    mask = region_mask(("nose", "hair"), 160, crops=crops, parser=parser)
    wanted = np.isin(nearest(crops), [REGIONS.index("nose"), REGIONS.index("hair")])
    assert (mask.numpy() != wanted).mean() < 2e-3
    assert parse_preview(crops, labels).shape == crops.shape


@pytest.mark.parametrize("name", ONNX_ROWS)
def test_every_slip_is_noticed(name, tmp_path):
    contract = catalogue()[name].contract
    model = open_session(save_parser(tmp_path / "open.onnx", rows_="n", size="s", channels="c"))  # tells nothing
    slips = [{"color": "bgr"}, {"layout": "nhwc"}, {"std": (1, 1, 1)}, {"mean": (0, 0, 0)}, {"mean": (.5, .5, .5), "std": (.5, .5, .5)}]
    slips += [{"mean": tuple(value + .05 for value in contract.mean)}, {"std": tuple(value * 1.1 for value in contract.std)}]
    assert not unnoticed(contract, lambda slipped: mistakes(OnnxParser("mutant", model, slipped), slopes(160)[None]) < 2e-3, slips)


@pytest.mark.parametrize("edge", [512, 200, 900])
def test_borders_lie_where_the_scores_cross(edge, tmp_path):
    """Two classes meet in a slanted line: no pixel further than 0.2 from it may be on the wrong side, at any crop size."""
    palette = np.full((19, 3), 9.0)
    palette[1], palette[17] = (.3, .5, .5), (.5, .4, .5)
    parser = load_parser(save_parser(tmp_path / "bisenet_resnet_18.onnx", palette=palette))
    picture = slopes(edge)
    labels = parser.parse(picture[None])[0].numpy()
    score = ((picture.numpy() - palette[1]) ** 2).sum(-1) - ((picture.numpy() - palette[17]) ** 2).sum(-1)
    steep = np.hypot(*np.gradient(score))
    clear = np.abs(score) > .2 * steep
    margin = slice(edge // 32, -(edge // 32))  # resampling bends the colours at the picture's own edge
    wrong = ((labels == REGIONS.index("hair")) != (score > 0)) & clear
    assert not wrong[margin, margin].any()


def test_fp16_a_batch_and_further_heads(tmp_path):
    crops = torch.stack([slopes(120, lean) for lean in (0, .1, .2, .3)])
    wanted = load_parser(save_parser(tmp_path / "bisenet_resnet_18.onnx")).parse(crops)
    for label, how in {"half": {"half": True}, "free": {"rows_": "n"}, "heads": {"heads": 3}}.items():
        parser = load_parser(save_parser(tmp_path / label / "bisenet_resnet_34.onnx", **how))
        got = parser.parse(crops)
        assert (got != wanted).float().mean() < (1e-2 if label == "half" else 1e-6)
        assert torch.equal(torch.cat([parser.parse(crop[None]) for crop in crops]), got)


def test_a_batch_goes_through_in_one_call(tmp_path, monkeypatch):
    rows_seen = []
    run_once = OnnxModel.run_once
    monkeypatch.setattr(OnnxModel, "run_once", lambda self, feeds: rows_seen.append(len(feeds["input"])) or run_once(self, feeds))
    parser = load_parser(save_parser(tmp_path / "bisenet_resnet_18.onnx", rows_="n"))
    seen = []
    parser.parse(slopes(64).expand(10, -1, -1, -1), lambda done, total: seen.append((done, total)))
    assert rows_seen == [8, 2] and seen[-1] == (10, 10) and seen == sorted(seen)


def side_map(*parts: tuple[str, int, int]) -> torch.Tensor:
    labels = torch.ones(20, 40, dtype=torch.uint8)
    for name, start, stop in parts:
        labels[5:9, start:stop] = REGIONS.index(name)
    return labels


@pytest.mark.parametrize(("drawn", "wanted"), [
    ([("right_eye", 8, 14), ("left_eye", 25, 31)], [("left_eye", 8, 14), ("right_eye", 25, 31)]),
    ([("left_eye", 8, 14), ("right_eye", 25, 31)], [("left_eye", 8, 14), ("right_eye", 25, 31)]),
    ([("left_ear", 33, 39)], [("right_ear", 33, 39)]),
    ([("left_ear", 12, 16), ("nose", 4, 8)], [("right_ear", 12, 16), ("nose", 4, 8)]),
    ([("right_brow", 2, 28), ("left_brow", 39, 40)], [("left_brow", 2, 28), ("right_brow", 39, 40)]),
])
def test_left_and_right_are_told_by_place(drawn, wanted):
    assert torch.equal(sort_sides(side_map(*drawn)), side_map(*wanted))


def test_files_that_are_no_parser(tmp_path):
    with pytest.raises(FaceLoomError, match=r"\?×5×\?×\?|1×5×512×512"):
        load_parser(save_parser(tmp_path / "bisenet_five.onnx", palette=PALETTE[:5]))
    refuses_broken(load_parser, tmp_path, save_parser(tmp_path / "whole.onnx").read_bytes())
    graph = Graph()
    graph.output("out", graph.node("Sigmoid", graph.input("in", [1, 3, 512, 512])), [1, 3, 512, 512])
    restorer = graph.save(tmp_path / "unknown.onnx")
    with pytest.raises(FaceLoomError, match="is a face restorer, not a face parser"):
        load_parser(restorer)
    with pytest.raises(FaceLoomError, match="should take one square colour picture of 512×512"):
        load_parser(save_parser(tmp_path / "bisenet_resnet_34.onnx", size=256))
    with pytest.raises(FaceLoomError, match="choose one from the list"):
        load_parser("../bisenet_resnet_34.onnx", Loading(Folders((tmp_path,))))
    with pytest.raises(FaceLoomError, match="models get bisenet_resnet_18"):
        load_parser("bisenet_resnet_18", Loading(Folders((tmp_path,))))


class Pickled:
    pass


def test_checkpoints_that_are_no_parser(tmp_path):
    torch.save(Pickled(), tmp_path / "parser.pth")
    with pytest.raises(FaceLoomError, match=r"Python objects.*refused.*convert"):
        load_parser(tmp_path / "parser.pth")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 768)}, tmp_path / "something.pth")
    with pytest.raises(FaceLoomError, match="is an occlusion model, not a face parser"):
        load_parser(tmp_path / "something.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "nothing.pth")
    with pytest.raises(FaceLoomError, match="is not a whole BiSeNet"):
        load_parser(tmp_path / "nothing.pth")


def test_a_foreign_file_is_told_by_its_graph(tmp_path):
    parser = load_parser(save_parser(tmp_path / "mine.onnx", size=256))
    assert parser.name == "mine" and mistakes(parser, slopes(100)[None]) < 5e-3 and parser.contract.size == 256


def test_an_answer_that_is_no_score(tmp_path):
    graph = Graph()
    value = graph.node("ReduceMean", graph.input("input", [1, 3, 512, 512]), axes=[1], keepdims=1)
    graph.output("output", value, ["a", "b", "c", "d"])
    parser = load_parser(graph.save(tmp_path / "bisenet_resnet_34.onnx"))
    with pytest.raises(FaceLoomError, match=r"returned \(1, 1, 512, 512\)"):
        parser.parse(slopes(64)[None])
