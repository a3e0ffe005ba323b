"""What every test of ``models/`` shares."""

from __future__ import annotations

import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.identity import make_identity


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What the tests find out about files is not remembered on this machine."""
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def one_thread():
    """For pictures too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def source(hopper):
    return make_identity(hopper, detect_faces(hopper))[0]


@pytest.fixture(scope="session")
def group(collins):
    """Two faces of the same photograph, side by side and mirrored."""
    photo = torch.cat([collins[:, :300, 100:400], collins[:, :300, 100:400].flip(2)], 2)
    faces = detect_faces(photo)
    assert len(faces) == 2
    return photo, faces


@pytest.fixture
def reports():
    """``reports(run)``: what ``run(progress)`` tells its progress, after it has been seen to stop when that raises."""

    class Stop(Exception):
        pass

    def stop(done, total):
        if done:
            raise Stop

    def collect(run) -> list[tuple[int, int]]:
        seen = []
        run(lambda done, total: seen.append((done, total)))
        with pytest.raises(Stop):
            run(stop)
        return seen

    return collect
