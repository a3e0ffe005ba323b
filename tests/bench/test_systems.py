"""The benchmark of the research systems' engines: that each is of the published size, and what the table says. No test looks at speed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.identity import make_identity
from torch import nn

from bench import report as bench
from bench import systems as bench_systems


@pytest.fixture(scope="module")
def people(collins, hopper):
    identity, _ = make_identity(hopper, detect_faces(hopper))
    return collins, detect_faces(collins)[0], identity


class Half(nn.Module):
    """Half of the target and a tenth of the vector's first number, and something beside it, as GHOST's generator answers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3)[:, :, None, None] / 2
        self.drop = nn.Dropout(.5)  # exporting must not leave the network in training mode

    def forward(self, target, vector):
        return self.drop(self.conv(target)) + vector[:, :1, None, None] / 10, [target]


class Mean(nn.Module):
    def forward(self, x):
        return nn.functional.pad(x.mean((2, 3)), (0, 509))


@pytest.fixture
def small(monkeypatch):
    """GHOST as the benchmark has it, with networks of no cost."""
    kind = bench_systems.ghost_engine.GhostEngine
    monkeypatch.setattr(bench_systems, "SYSTEMS", {"GHOST": lambda: (kind, bench_systems.ghost_engine.GhostNets(Half(), Mean()), {})})


def test_ghost_is_run_beside_its_export(small, people):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (entry,), notes = bench_systems.measure_systems(*people, 1, "cpu")
    assert (entry["system"], entry["device"], entry["size"], entry["parameters"], notes) == ("GHOST", "cpu", 256, 9, [])
    assert {"ratio", "onnx_ms", "generator_ms"} <= entry.keys() and entry["ms"] > 0
    tasks = bench_systems.ghost_tasks(Half().eval())
    np.testing.assert_allclose(tasks["onnx_ms"](), tasks["generator_ms"](), atol=1e-6)
    assert tasks["onnx_ms"]().shape == (1, 3, 256, 256)


def test_without_onnx_the_export_is_missed_in_words(small, people, monkeypatch):
    monkeypatch.setattr(bench_systems, "find_spec", lambda name: None)
    (entry,), notes = bench_systems.measure_systems(*people, 1, "cpu")
    assert "onnx_ms" not in entry and "pip install onnx onnxruntime" in notes[0]


def test_the_table_has_a_row_per_system():
    entries = [{"system": "GHOST", "device": "cpu", "size": 256, "parameters": 250e6, "ms": 812.4, "peak_mb": 90.1, "generator_ms": 700.2,
                "onnx_ms": 912.5, "ratio": 1.3},
               {"system": "FSLSD", "device": "cpu", "size": 1024, "parameters": 437e6, "ms": 5000., "peak_mb": None}]
    about = {"threads": 2, "cores": 2, "torch": "2"}
    lines = bench.table({"machine": about, "repeats": 2, "systems": entries, "notes": []}).splitlines()
    assert lines[-2].split() == ["GHOST", "cpu", "256", "250", "812", "90", "700", "912", "1.30"]
    assert lines[-1].split() == ["FSLSD", "cpu", "1024", "437", "5000", "-", "-", "-", "-"]


# Millions of weights by the facts: generator and identity network (and what else an engine holds), counters and noise included.
SIZES = {"GHOST": 184.4 + 65.2, "ReliableSwap FaceShifter": 285, "ReliableSwap SimSwap": 57.4 + 65.2 + 31.8, "MegaFS": 242.2 + 66.2 + 33.2,
         "FSLSD": 108.6 + 8.6 + 14.9 + 33.2 + 4.7 + 267.4}


@pytest.mark.slow
@pytest.mark.parametrize("name", bench_systems.SYSTEMS)
def test_systems_are_of_the_published_size(name, monkeypatch):
    monkeypatch.setattr(bench_systems, "randomized", lambda make: meta(make))
    monkeypatch.setattr(bench_systems, "keras", lambda graph: nn.Identity())
    _, nets, _ = bench_systems.SYSTEMS[name]()
    count = sum(value.numel() for value in [*nets.parameters(), *nets.buffers()]) / 1e6
    assert count == pytest.approx(SIZES.get(name, count), rel=.02)
    assert count > 90 or name == "FaceDancer"


def meta(make):
    with torch.device("meta"):
        return make()


def test_random_weights_are_the_same_every_time_and_keep_sizes():
    make = lambda: nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3))  # noqa: E731
    once, again = bench_systems.randomized(make).eval(), bench_systems.randomized(make).eval()
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), again.state_dict().values()))
    with torch.inference_mode():
        assert .7 < float(once(torch.randn(1, 8, 24, 24)).std()) < 1.4


def test_devices():
    assert bench_systems.devices("cpu") == ["cpu"] and bench_systems.devices("auto")[0] == "cpu"
