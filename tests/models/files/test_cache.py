"""Files are written whole or not at all: full disks, long names, links, permissions."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Identity
from faceloom.models.files import cache
from faceloom.models.files.cache import replacement_path, write_file, write_json
from faceloom.models.files.picture import write_image
from faceloom.models.identity.files import identity_path, load_identity, save_identity

NOISE = torch.rand(60, 70, 3, generator=torch.Generator().manual_seed(1))


def picture(path: Path) -> None:
    write_image(path, NOISE)


def identity(path: Path) -> None:
    save_identity(Identity({"dlib128": np.float32([1] + [0] * 127)}, np.zeros((0, 256, 256, 3)), ()), path)


def data(path: Path) -> None:
    write_file(path, b"12345678" * 100)


WRITERS = {"a.jpg": picture, "a.png": picture, "a.webp": picture, "a.tif": picture, "a.gif": picture, "a.safetensors": identity,
           "report.json": data}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fits", [0, 1, 100, 0.5, -1])
def test_a_disk_that_is_full_after_any_byte_keeps_the_old_file(name, fits, tmp_path, monkeypatch):
    """fits: how many bytes the disk takes, or the part of the file; -1: all but one."""
    path, real = tmp_path / name, Path.write_bytes
    WRITERS[name](path)
    size = path.stat().st_size
    path.write_bytes(b"the good file")

    def full(self, data):
        room = int(size * fits) if 0 < fits < 1 else size - 1 if fits < 0 else fits
        real(self, bytes(data)[:room])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(FaceLoomError, match=rf"{name} cannot be written \(No space left on device\)"):
            WRITERS[name](path)
    assert path.read_bytes() == b"the good file" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("lost", [1, 7])
def test_bytes_that_do_not_arrive_without_an_error_are_noticed(lost, tmp_path, monkeypatch):
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: real(self, data[:-lost]) and len(data))
    (tmp_path / "a").touch()
    with pytest.raises(FaceLoomError, match=f"{8 - lost} of 8 bytes"):
        write_file(tmp_path / "a", b"12345678")
    assert (tmp_path / "a").read_bytes() == b"" and len(os.listdir(tmp_path)) == 1


def test_a_disk_that_says_so_only_when_it_is_flushed(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"good")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FaceLoomError, match="No space left"):
        write_file(tmp_path / "a", b"new")
    with pytest.raises(OSError, match="No space left"), replacement_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
    write_json(tmp_path / "a", {"new": 1})
    assert (tmp_path / "a").read_bytes() == b"good" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("number", sorted(cache._NO_FSYNC))
def test_file_systems_without_fsync_are_written_to(number, tmp_path, monkeypatch):
    def cannot(_):
        raise OSError(number, "not supported")

    monkeypatch.setattr(os, "fsync", cannot)
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_files_may_not_grow_in_a_real_system(suffix, tmp_path):
    """The system itself stops the file, wherever the library writes it."""
    script = ("import resource, sys, torch\nfrom pathlib import Path\nfrom faceloom.models.files.picture import write_image\n"
              "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\nwrite_image(Path(sys.argv[1]), torch.rand(90, 90, 3))")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"good")
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert f"FaceLoomError: {path} cannot be written (File too large)." in done.stderr
    assert path.read_bytes() == b"good" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("stem", ["a" * 251, "私" * 83, "🙂" * 62, "é" * 125])
def test_names_as_long_as_file_systems_take_them(stem, tmp_path):
    name = f"{stem}.png"
    assert 245 < len(name.encode()) <= 255
    picture(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_identities_have_names_of_up_to_255_bytes(tmp_path):
    path = identity_path(tmp_path, "私" * 81)
    identity(path)
    assert load_identity(path).embeddings["dlib128"].tolist() == [1] + [0] * 127
    with pytest.raises(FaceLoomError, match="cannot be a file name"):
        identity_path(tmp_path, "私" * 82)


@pytest.mark.skipif(os.name == "nt", reason="links need a right that users do not have")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.png", tmp_path / "link.png"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    picture(link)
    assert link.is_symlink() and target.read_bytes()[:4] == b"\x89PNG"
    assert os.listdir(tmp_path / "elsewhere") == ["real.png"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_that_is_replaced_hands_on_its_permissions(tmp_path):
    path = tmp_path / "private.png"
    picture(path)
    path.chmod(0o600)
    picture(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
