"""Every contract in the catalogue, held against a double of its network and against closed forms worked out here."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from contracts import other_templates, unnoticed
from doubles import TRUTHS
from faceloom.models.files.catalogue import SwapContract, catalogue, rows
from faceloom.models.files.folders import Folders
from faceloom.models.runtime.method import Loading
from faceloom.models.swap.load import load_engine
from swap_scene import FACES, check, path_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_doubles_cover_the_catalogue():
    assert set(TRUTHS) == {row.name for row in rows("swap")}


@pytest.mark.parametrize("name", TRUTHS)
def test_row(name, folders):
    engine = load_engine(path_of(folders, name), Loading(folders))
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
    if contract.mask_outputs:
        slips.append({"mask_outputs": ()})
    if name == "deepfacelive":
        slips += [{"picture_output": 0}, {"mask_outputs": (0,)}, {"mask_outputs": (2,)}]
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


def passes(name: str, folders: Folders, contract: SwapContract) -> bool:
    check(load_engine(path_of(folders, name), Loading(folders, contract=contract)), name, faces=FACES.take([1]))
    return True


# Rows that share another row's contract are tried with the slow tests.
FIRST = {id(truth): name for name, truth in reversed(TRUTHS.items())}.values()


@pytest.mark.parametrize("name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in TRUTHS])
def test_every_slip_is_noticed(name, folders):
    contract = catalogue()[name].contract
    slips = mutations(name)
    assert len(slips) >= 10
    assert not unnoticed(contract, lambda slipped: passes(name, folders, slipped), slips)
