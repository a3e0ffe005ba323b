"""What .ci/run says about skipped tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = """# run most missing reason
quick 2 - could not import '(cv2|mediapipe)
quick 3 reference no golden vectors
slow  1 - no server here
"""
A_FILE = "('/tests/test_x.py', 18, \"Skipped: could not import 'cv2': No module named 'cv2'\")"


@pytest.fixture(scope="module")
def skips():
    spec = importlib.util.spec_from_file_location("ci_skips", ROOT / ".ci" / "skips.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(skips, tmp_path, capsys):
    """``run({run: [(reason, text), ...]}, *options)``: exit code and what stderr says. ``None`` is a test that ran."""

    def check(reports, *options, table=TABLE):
        (tmp_path / "table.txt").write_text(table)
        pairs = []
        for name, tests in reports.items():
            suite = ET.Element("testsuite")
            for reason in tests:
                case = ET.SubElement(suite, "testcase", name="test_it")
                if reason is not None:
                    kind, message, text = reason if isinstance(reason, tuple) else ("pytest.skip", reason, "")
                    ET.SubElement(case, "skipped", type=kind, message=message).text = text
            ET.ElementTree(suite).write(tmp_path / f"{name}.xml")
            pairs.append(f"{name}={tmp_path / name}.xml")
        code = skips.main([str(tmp_path / "table.txt"), *pairs, *options])
        said = capsys.readouterr()
        assert all(f"{name}: {len(tests)} tests" in said.out for name, tests in reports.items())
        return code, said.err.splitlines()

    return check


CV2, MEDIAPIPE, GOLDEN = "could not import 'cv2': No module", "could not import 'mediapipe': No module", "no golden vectors in /a"


def test_as_many_as_allowed(run):
    assert run({"quick": [None, CV2, MEDIAPIPE], "slow": ["no server here"]}) == (0, [])
    assert run({"quick": [None], "slow": []}) == (0, [])


def test_one_more_than_allowed_counts_all_reasons_of_a_row(run):
    assert run({"quick": [CV2, CV2, MEDIAPIPE]}) == (1, ["quick: 3 skipped where 2 may: could not import '(cv2|mediapipe)"])


def test_a_reason_that_nobody_wrote_down(run):
    code, said = run({"quick": [None, "the moon is full"], "slow": [CV2]})
    assert code == 1
    assert said == ["quick: 1 skipped for a reason that is not in the table: the moon is full",
                    f"slow: 1 skipped for a reason that is not in the table: {CV2}"]


def test_what_must_be_missing(run):
    assert run({"quick": [GOLDEN]}) == (1, [f"quick: 1 skipped for a reason that is not in the table: {GOLDEN}"])
    assert run({"quick": [GOLDEN]}, "--without", "reference") == (0, [])


def test_a_file_that_was_skipped_whole_and_tests_that_are_expected_to_fail(run):
    assert run({"quick": [("pytest.skip", "collection skipped", A_FILE), ("pytest.xfail", "one day", "")]}) == (0, [])
    assert run({"slow": [("pytest.skip", "collection skipped", A_FILE)]})[0] == 1


@pytest.mark.parametrize("line", ["quick two - reason", "quick 2 -", "quick 2 - (open"])
def test_a_line_that_is_none(run, line):
    with pytest.raises(SystemExit, match="line 2 of the table"):
        run({"quick": []}, table="# a comment\n" + line + "\n")


def test_the_projects_own_table_can_be_read(skips):
    table = skips.read_table((ROOT / ".ci" / "skips.txt").read_text(encoding="utf-8"))
    assert {row.run for row in table} <= {"quick", "slow", "nodes"} and {row.missing for row in table} <= {"-", "reference"}
    assert Counter((row.run, row.reason) for row in table).most_common(1)[0][1] == 1


def test_pytests_own_reports_are_understood(skips, tmp_path):
    """The shape of the reports is pytest's own affair, so one is made."""
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n")
    (tmp_path / "test_single.py").write_text(
        "import pytest\ndef test_b(): pytest.skip('said so')\n@pytest.mark.skip('by a mark')\ndef test_c(): pass\n"
        "@pytest.mark.xfail\ndef test_d(): assert 0\ndef test_e(): pass\n")
    alone = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    subprocess.run([sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "-p", "no:cacheprovider", "--rootdir=."], cwd=tmp_path,
                   env=alone, check=True, capture_output=True)
    found = Counter(skips.reasons(ET.parse(tmp_path / "report.xml").getroot()))
    assert found.pop("said so") == found.pop("by a mark") == 1
    assert [reason.split(":")[0] for reason in found] == ["could not import 'no_such_module'"]
