"""dlib's models are used by one thread at a time, and what they raise becomes one sentence."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect.dlib import DlibDetector, hog_detectors, load_model
from faceloom.models.detect.dlib_calls import DlibModel
from faceloom.models.errors import FaceLoomError


class Model:
    """A model that counts who is in it."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.inside = self.most = 0

    def __call__(self, error=None):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.002)
        self.inside -= 1
        if error is not None:
            raise error
        return self.most

    run = __call__


@pytest.fixture(autouse=True)
def fresh():
    Model.made = 0


@pytest.mark.parametrize("error", [RuntimeError("bad\nallocation in dlib::image"), ValueError("x"), MemoryError(), IndexError("deque"),
                                   TypeError("no"), OverflowError("o")], ids=repr)
def test_errors_are_one_sentence_and_drop_the_model(error):
    model = DlibModel("face detector", Model)
    with pytest.raises(FaceLoomError, match=r"^dlib's face detector failed on this picture \([^\n]+\); try [^.]+\.$"):
        model(error)
    assert model.call("run") == 1
    assert Model.made == 2


def test_an_interrupt_goes_through():
    model = DlibModel("face detector", Model)
    with pytest.raises(KeyboardInterrupt):
        model(KeyboardInterrupt())
    assert model() == 1


@pytest.mark.parametrize("copies", [1, 3])
def test_no_two_threads_in_one_model(copies):
    model, seen = DlibModel("face detector", Model, copies), []
    threads = [threading.Thread(target=lambda: seen.extend(model() for _ in range(5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}
    assert len(seen) == 40
    assert Model.made <= copies


def test_threads_find_what_one_finds(collins, hopper):
    pictures = [collins, hopper, torch.rand(1, 240, 320, 3, generator=torch.Generator().manual_seed(3))]
    wanted = [[face.points68.tolist() for face in detect_faces(picture)] for picture in pictures]
    detector, found = DlibDetector(), {}

    def work(number):
        for i, picture in enumerate(pictures):
            found[number, i] = [face.points68.tolist() for face in detect_faces(picture, detector if number % 2 else None)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 18
    assert all(found[number, i] == wanted[i] for number, i in found)


def test_every_model_of_dlib_goes_this_way():
    assert all(isinstance(load_model(kind), DlibModel) for kind in ("points68", "points5", "recognizer"))
    hogs = hog_detectors()
    assert all(isinstance(hog, DlibModel) for hog in (hogs.every, hogs.enlarged, hogs.half))
