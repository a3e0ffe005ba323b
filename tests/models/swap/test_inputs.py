"""Exports whose inputs and outputs have other names, another order, another type or another shape than the published ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

import doubles
from doubles import TRUTHS, call, edited, reorder, retype, save_double
from faceloom.models.errors import FaceLoomError
from faceloom.models.runtime.method import Loading
from faceloom.models.swap.load import load_engine
from swap_scene import FACES, IMAGES, SIZE, check, identity
from swapping import swapped

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", TRUTHS)
def test_ports_of_other_precision(name, folders, tmp_path):
    """Exports of users in half and in double precision."""
    for kind in ("FLOAT16", "DOUBLE"):
        path = edited(save_double(name, tmp_path), retype(getattr(doubles.TensorProto, kind)))
        check(load_engine(path, Loading(folders)), name, faces=FACES.take([1]))


@pytest.mark.parametrize("name", ["inswapper_128", "deepfacelive"])
def test_ports_of_whole_numbers_are_refused(name, folders, tmp_path):
    path = edited(save_double(name, tmp_path), retype(doubles.TensorProto.UINT8))
    with pytest.raises(FaceLoomError, match=r"works with whole numbers, .*\(uint8\).*export it again"):
        load_engine(path, Loading(folders))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_answers_are_found_by_their_names(order, folders, tmp_path):
    engine = load_engine(edited(save_double("deepfacelive", tmp_path), reorder(*order)), Loading(folders))
    check(engine, "deepfacelive", faces=FACES.take([1]))


def test_the_mask_may_come_first(folders, tmp_path):
    engine = load_engine(edited(save_double("hyperswap_1a_256", tmp_path), reorder(1, 0)), Loading(folders))
    check(engine, "hyperswap_1a_256", faces=FACES.take([1]))


@pytest.mark.parametrize("name", [name for name in TRUTHS if name != "uniface_256"])
def test_ports_of_other_names_are_told_by_their_shapes(name, folders, tmp_path):
    path = edited(save_double(name, tmp_path), call(input0="x", input1="y", output0="p", output1="q", output2="r"))
    check(load_engine(path, Loading(folders)), name, faces=FACES.take([1]))


def test_a_mask_of_another_size_is_an_error(folders, tmp_path):
    def halve(graph):
        mask = next(node for node in graph.node if node.output[0] == "mask")
        mask.output[0] = "whole"
        graph.node.append(doubles.helper.make_node("MaxPool", ["whole"], ["mask"], kernel_shape=[2, 2], strides=[2, 2]))
        graph.output[1].type.tensor_type.ClearField("shape")

    engine = load_engine(edited(save_double("hyperswap_1a_256", tmp_path), halve), Loading(folders))
    with pytest.raises(FaceLoomError, match=r"returned masks of \(1, 128, 128\) for pictures of \(256, 256, 3\)"):
        swapped(engine, IMAGES, FACES, identity(), SIZE)


def test_a_second_answer_that_is_no_mask_is_left_alone(folders, tmp_path):
    truth = replace(TRUTHS["hififace_unofficial_256"], masks=())

    def triple(graph):
        next(node for node in graph.node if node.output[0] == "mask").output[0] = "single"
        graph.node.append(doubles.helper.make_node("Concat", ["single"] * 64, ["mask"], axis=1))
        graph.output[1].type.tensor_type.shape.dim[1].dim_value = 64

    engine = load_engine(edited(save_double("hififace_unofficial_256", tmp_path), triple), Loading(folders))
    crops, masks = swapped(engine, IMAGES, FACES, identity(), SIZE)
    plain = load_engine(save_double("hififace_unofficial_256", tmp_path, truth=replace(truth, outputs=("output",))), Loading(folders))
    wanted, outline = swapped(plain, IMAGES, FACES, identity(), SIZE)
    assert torch.equal(masks, outline) and torch.equal(crops, wanted)


def test_an_answer_of_another_size(folders, tmp_path):
    helper, kind = doubles.helper, doubles.TensorProto.FLOAT
    nodes = [helper.make_node("Concat", ["target", "target"], ["output"], axis=2)]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, shape in
             (("target", [1, 3, 256, 256]), ("source", [1, 512]), ("output", [1, 3, None, None]))]
    path = doubles.save(tmp_path / "alphaface_256.onnx", nodes, ports[:2], ports[2:], [])
    with pytest.raises(FaceLoomError, match=r"returned pictures of \(512, 256, 3\), not of \(256, 256, 3\)"):
        swapped(load_engine(path, Loading(folders)), IMAGES, FACES, identity(), SIZE)
