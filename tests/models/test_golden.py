"""Our networks beside the research systems' own, on weights and inputs that follow from names alone.

``FACELOOM_GOLDEN`` names the folder of vectors (default ``../shared/golden``); its own ``fill.py`` makes the weights, so any set of vectors
of these systems will do. Per vector: the state dict has the published file's keys and shapes, every output is the reference's, and every
mistake the vector names would have been noticed.
"""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_adapters import adapter_of
from golden_adapters.base import Golden, Unmade, uninitialised

log = logging.getLogger(__name__)
FOLDER = Path(os.environ.get("FACELOOM_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
SLOW = 5_000_000  # weights from which on a network takes more than a second or two here
CLEAR = 10  # a mistake moves the output this many times as far as we may be off
SAME = .02  # how closely a mistake made with our network moves the output as it did the reference's


def vectors() -> list:
    names = sorted(path.stem for path in FOLDER.glob("*.json") if (FOLDER / f"{path.stem}.npz").is_file() or "." not in path.stem)
    if not names:
        return [pytest.param(None, marks=pytest.mark.skip(f"no golden vectors in {FOLDER} (set FACELOOM_GOLDEN)"))]
    return [pytest.param(name, id=name, marks=[pytest.mark.slow] if weights_of(Golden(FOLDER, name)) > SLOW else []) for name in names]


def weights_of(golden: Golden) -> int:
    return sum(int(np.prod(shape)) for part in golden.shapes.values() for shape, _ in part.values())


@pytest.mark.parametrize("name", vectors())
def test_golden(name: str) -> None:
    golden = Golden(FOLDER, name)
    adapter = adapter_of(name)
    if adapter is None:
        pytest.skip(f"no adapter yet: {name}")
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            check(golden, adapter)
    finally:
        torch.set_num_threads(threads)
        gc.collect()


def check(golden, adapter) -> None:
    with uninitialised():
        nets = adapter.build(golden)
    parts = nets if isinstance(nets, dict) else {"": nets} if nets is not None else {}
    if golden.data.get("state_dict"):
        for part, shapes in golden.shapes.items():
            fill(golden, adapter, parts[part], shapes, part)
    right = {key: as_array(value) for key, value in adapter.run(golden, nets).items()}
    for key, output in golden.data.get("outputs", {}).items():
        if "stored" in output:
            check_output(golden, adapter, key, output, right[key])
    for mistake, moved in golden.mistakes.items():
        check_mistake(golden, adapter, nets, right, mistake, moved)


def fill(golden, adapter, net, shapes, part) -> None:
    state = net.state_dict()
    have = {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in state.items()}
    assert have == shapes, difference(have, shapes)
    golden.fill.fill(state, adapter.rules(golden, part), adapter.prefix)
    if golden.data.get("finish_spectral"):
        golden.fill.finish_spectral(state)
    net.eval()


def difference(have: dict, want: dict) -> str:
    missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    other = [(key, have[key], want[key]) for key in have.keys() & want.keys() if have[key] != want[key]]
    return f"missing {missing[:5]} of {len(missing)}, not in the file {extra[:5]} of {len(extra)}, different {other[:5]} of {len(other)}"


def check_output(golden, adapter, key, output, got) -> None:
    assert list(got.shape) == output["stats"]["shape"], key
    for stored in output["stored"]:
        want = golden.arrays[stored["array"]]
        off = golden.fill.compare(np.reshape(golden.fill.take(got, stored["sub"]), want.shape), want)
        log.info(f"{golden.name} {stored['array']}: rel_std {off['rel_std']:.2e}, max {off['max_abs']:.2e}")
        assert off["rel_std"] < adapter.limits.get(stored["array"], adapter.limit), (stored["array"], off)


def check_mistake(golden, adapter, nets, right, mistake, moved) -> None:
    """The limit tells right from wrong by the json's figure, and our network, made to err alike, moves as far as the reference did."""
    assert moved > CLEAR * adapter.limit, (mistake, moved)
    key = adapter.moved(golden, mistake)
    try:
        wrong = as_array(adapter.run(golden, nets, mistake)[key])
    except Unmade:
        log.info(f"{golden.name} {mistake}: not made here")
        return
    off = golden.fill.compare(wrong, right[key])["rel_std"]
    log.info(f"{golden.name} {mistake}: moves {off:.5f}, the reference {moved:.5f}")
    assert off > CLEAR * adapter.limit, (mistake, off)
    if not mistake.startswith("other "):
        assert abs(off - moved) <= SAME * moved, (mistake, off, moved)


def as_array(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
