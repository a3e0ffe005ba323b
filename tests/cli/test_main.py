"""The front door: which command runs, and what an error looks like."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from faceloom.cli import COMMANDS, INTERRUPTED, USER_ERROR, main
from PIL import Image


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == USER_ERROR
    out = capsys.readouterr().out
    assert all(name in out and text in out for name, text in COMMANDS.items())


def test_help_is_a_success(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0 and "COMMAND --help tells more" in capsys.readouterr().out


def test_unknown_command_and_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["swop"])
    assert stopped.value.code == USER_ERROR and "swop" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith("faceloom 0.")


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_tells_how_it_is_used(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"faceloom {name}" in capsys.readouterr().out


def test_user_errors_are_one_sentence_without_a_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-m", "faceloom", "swap", "none.jpg", "none.png", "out.png"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == USER_ERROR and done.stdout == ""
    assert done.stderr == "faceloom: The source none.jpg does not exist.\n"
    assert not list(tmp_path.iterdir())


def test_output_that_is_no_terminals_is_written_to_as_it_is(monkeypatch):
    written, told = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setattr("faceloom.cli._run", lambda *_: sys.stdout.write("→\n") - 2)
    assert main(["demo"]) == 0 and written.getvalue() == "→\n" and told.getvalue() == ""


def test_a_missing_package_without_a_name_is_not_made_up(monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError("something else")

    monkeypatch.setattr("faceloom.cli.import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="something else"):
        main(["demo"])


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("faceloom.cli._run", interrupt)
    assert main(["demo"]) == INTERRUPTED
    assert capsys.readouterr().err == "faceloom: interrupted.\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(f'"{sys.executable}" -u -m faceloom models list | head -1', shell=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_a_terminal_without_arrows_shows_question_marks(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "→.png")
    done = subprocess.run([sys.executable, "-m", "faceloom", "swap", "→.png", "→.png", "out.png"], cwd=tmp_path, capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == USER_ERROR
    assert done.stderr.startswith(b"faceloom: There is no face in ?.png;") and done.stderr.count(b"\n") == 1


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch, capsys):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'skimage'", name="skimage")

    monkeypatch.setattr("faceloom.cli.import_module", missing)
    assert main(["demo"]) == USER_ERROR
    error = capsys.readouterr().err
    assert "needs the Python package scikit-image" in error and error.endswith("-m pip install scikit-image\n")


def test_our_own_missing_module_is_not_blamed_on_the_user(monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'faceloom.nowhere'", name="faceloom.nowhere")

    monkeypatch.setattr("faceloom.cli.import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        main(["demo"])
