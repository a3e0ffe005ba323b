"""``python -m bench.card`` runs whole on a CPU with tiny networks, its figures fit its raw times, and a broken section stops no other."""

from __future__ import annotations

import json
import statistics
from importlib.util import find_spec

import pytest

from bench.card import run
from bench.card.table import table
from bench.card.tools import sum_transfers

MEASURED = ("machine", "precision", "batches", "overhead", "paste", "memory")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("card")
    code = run.main(["--tiny", "--device", "cpu", "--out", str(out)])
    written = json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert code == 0, (out / "card.log").read_text(encoding="utf-8")
    assert (out / "card.txt").read_text(encoding="utf-8") == table(written) + "\n"
    return written


def rows(report: dict, name: str) -> list[dict]:
    section = report["sections"][name]
    assert section["status"] == "done" and section["rows"], section
    return [row for row in section["rows"] if "note" not in row]


@pytest.mark.slow
class TestTinyRun:
    def test_every_section_is_there(self, report):
        assert list(report["sections"]) == [section.name for section in run.SECTIONS]
        with_onnx = ("providers", "binding") if find_spec("onnx") and find_spec("onnxruntime") else ()
        for name in (*MEASURED, *with_onnx):
            assert report["sections"][name]["status"] == "done"
        for name, section in report["sections"].items():
            assert section["status"] == "done" or section["reason"], name

    def test_half_precision_is_near_float32_but_not_it(self, report):
        found = {(row["system"], row["dtype"]): row for row in rows(report, "precision")}
        assert set(found) == {(system, dtype) for system in ("GHOST", "SimSwap 224") for dtype in ("float16", "bfloat16")}
        for row in found.values():
            assert row["finite"] and 0 < row["difference_mean"] < row["difference_max"] < 0.05
            assert row["times_as_fast"] == pytest.approx(statistics.median(row["runs_float32_ms"]) / statistics.median(row["runs_ms"]))
        for system in ("GHOST", "SimSwap 224"):
            assert found[system, "float16"]["difference_mean"] < found[system, "bfloat16"]["difference_mean"]

    def test_ratios_are_those_of_the_raw_times(self, report):
        for row in rows(report, "batches"):
            together, alone = (statistics.median(row[key]) for key in ("together_ms", "one_by_one_ms"))
            assert row["ratio"] == pytest.approx(alone / together) and row["difference"] < 1e-4
            assert row["together_per_second"] == pytest.approx(1000 * row["faces"] / together)
        for row in rows(report, "overhead"):
            beyond = statistics.median(total - network for total, network in zip(row["runs_ms"], row["runs_network_ms"]))
            assert row["beyond_percent"] == pytest.approx(100 * beyond / statistics.median(row["runs_network_ms"]))
            assert 0 < row["network_ms"] < row["ms"] and row["changed"] > 0.05

    def test_results_and_memory(self, report):
        assert all(row["same"] and row["difference"] == 0 for row in rows(report, "paste"))
        for row in rows(report, "memory"):
            assert row["left_mb"] == pytest.approx(row["dropped_host_mb"] - row["before_host_mb"]) and row["left_mb"] < 64

    def test_onnxruntime_reads_and_writes_in_place(self, report):
        if report["sections"]["binding"]["status"] == "skipped":
            assert "not installed" in report["sections"]["binding"]["reason"]
            return
        for row in rows(report, "binding"):
            assert row["inputs_in_place"] and row["outputs_in_place"] and row["difference_to_cpu"] < 1e-4
        found = {(row["network"], row["provider"]): row for row in report["sections"]["providers"]["rows"]}
        assert found["trivial", "cpu"]["loads"] and found["trivial", "cpu"]["nodes"].endswith("CPU")
        for row in found.values():
            assert row["loads"] == (row["runs_on"] == row["provider"]) and (row["loads"] or row["note"])


@pytest.mark.slow
def test_a_broken_section_is_reported_and_the_others_run(tmp_path, monkeypatch):
    (tmp_path / "broken_sections.py").write_text(
        "import os, time\n"
        "def fails(setup):\n    yield {'a': 1}\n    raise ValueError('no such card\\nmore')\n"
        "def crashes(setup):\n    yield {'a': 1}\n    print('bad address', flush=True)\n    os._exit(139)\n"
        "def hangs(setup):\n    yield {'a': 2}\n    time.sleep(600)\n"
        "def works(setup):\n    yield {'a': float('nan'), 'tiny': setup.tiny}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits = {"fails": 120, "crashes": 120, "works": 120}
    sections = [run.Section(name, "?", f"broken_sections:{name}", seconds) for name, seconds in limits.items()]
    found = run.run_sections(sections, tmp_path, tiny=True, device="cpu")["sections"]
    assert found["fails"]["status"] == "failed" and found["fails"]["reason"] == "ValueError: no such card"
    assert found["crashes"]["status"] == "failed" and "139" in found["crashes"]["reason"] and "bad address" in found["crashes"]["reason"]
    assert found["fails"]["rows"] == found["crashes"]["rows"] == [{"a": 1}]
    assert found["works"]["status"] == "done" and found["works"]["rows"] == [{"a": "nan", "tiny": True}]
    hangs = run.Section("hangs", "?", "broken_sections:hangs", 20)
    late = run.run_sections([hangs], tmp_path, tiny=True, device="cpu")["sections"]["hangs"]
    assert late["status"] == "failed" and "ended after 20 s" in late["reason"] and late["rows"] in ([], [{"a": 2}])


def test_limits_add_up_and_copies_are_counted():
    assert sum(section.seconds for section in run.SECTIONS) <= run.LIMIT < 480
    events = [{"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pageable -> Device)", "args": {"bytes": 12}}, {"cat": "kernel", "name": "DtoH"},
              {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 5}},
              {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)", "args": {"bytes": 99}}]
    assert sum_transfers(events) == {"to_card_copies": 1, "to_card_bytes": 12, "to_host_copies": 1, "to_host_bytes": 5}
