"""Users without a home folder, as containers have them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.files import home
from faceloom.models.files.folders import default_folders


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """No HOME and no entry among the accounts."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE", "FACELOOM_CACHE", "FACELOOM_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(home.Path, "home", nowhere)
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))


def test_caches_and_models_have_a_place(homeless, tmp_path):
    own = os.getuid() if hasattr(os, "getuid") else os.getpid()
    assert home.home_folder() is None and home.cache_folder() == tmp_path / f"faceloom-{own}"
    assert default_folders().roots[-1] == home.cache_folder() / "models"
    assert default_folders("~nobody-has-this-name/models").roots[0].name == "models"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owner here")
def test_a_folder_of_somebody_else_is_not_trusted(homeless, tmp_path, monkeypatch):
    monkeypatch.setattr(home.os, "getuid", lambda: 4242)
    (tmp_path / "faceloom-4242").mkdir()
    with pytest.raises(FaceLoomError, match="belongs to another user; set FACELOOM_CACHE"):
        home.cache_folder()


def test_where_there_is_a_home_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.delenv("FACELOOM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(home.Path, "home", lambda: tmp_path)
    assert home.cache_folder() == tmp_path / ".cache/faceloom"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert home.cache_folder() == tmp_path / "xdg/faceloom"
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "own"))
    assert home.cache_folder() == tmp_path / "own"


NO_ACCOUNT = """
import pwd, sys

def nobody(number):
    raise KeyError(number)

pwd.getpwuid = nobody
from faceloom.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="accounts have no numbers here")
@pytest.mark.parametrize("command, said", [(("models", "where", "inswapper_128"), "is not on this machine"), (("models", "list"), "")])
def test_commands_run_for_a_user_without_an_account(tmp_path, command, said):
    without = ("HOME", "XDG_CACHE_HOME", "FACELOOM_CACHE", "FACELOOM_MODELS")
    environment = {key: value for key, value in os.environ.items() if key not in without} | {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", NO_ACCOUNT, *command], env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr and said in ran.stderr and ran.returncode == (1 if said else 0)
