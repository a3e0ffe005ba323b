"""One thread for small computations: nothing of it stays behind."""

from __future__ import annotations

import threading

import pytest
import torch
from faceloom.models.runtime.threads import one_thread


@pytest.fixture
def three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_inside_and_as_many_as_before_outside(three):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        torch.zeros(3)
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_threads_that_overlap_leave_the_number_as_it_was(three):
    inside, first_left = threading.Event(), threading.Event()
    seen = []

    def second():
        with one_thread():
            inside.set()
            first_left.wait(10)
        seen.append(torch.get_num_threads())

    with one_thread():
        other = threading.Thread(target=second)
        other.start()
        assert inside.wait(10)
    assert torch.get_num_threads() == 3
    first_left.set()
    other.join()
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3, 3] and torch.get_num_threads() == 3
