"""MATLAB files: the values scipy reads, and one sentence for every damaged file."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.basel_model import load_basel_model
from faceloom.models.files.matlab import read_matlab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

RANDOM = np.random.default_rng(3)
KINDS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
ARRAYS = {f"a_{kind}": (RANDOM.normal(0, 40, (3, 5)) if kind[0] == "f" else RANDOM.integers(0, 99, (2, 3, 4))).astype(kind)
          for kind in KINDS}  # fmt: skip
OTHERS = {"text": "words", "cell": np.array([1, "two"], object), "struct": {"a": 1.0}, "complex": np.array([1 + 2j]),
          "none": np.zeros((0, 2))}  # fmt: skip


def saved(arrays, packed: bool) -> bytes:
    stream = io.BytesIO()
    savemat(stream, arrays, do_compression=packed)
    return stream.getvalue()


def element(kind: int, data: bytes, order: str = "<", length: int | None = None) -> bytes:
    return struct.pack(f"{order}II", kind, len(data) if length is None else length) + data + bytes(-len(data) % 8)


def array(numbers: bytes, shape=(1, 2), name=b"x", order: str = "<", kind: int = 6, stored: int = 9, length: int | None = None) -> bytes:
    flags = element(6, struct.pack(f"{order}II", kind, 0), order)
    return element(14, flags + element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
                   + element(1, name, order) + element(stored, numbers, order, length), order)


def header(order: str = "<") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")


@pytest.fixture
def read(tmp_path):
    def read(data: bytes, *names: str):
        path = tmp_path / "model.mat"
        path.write_bytes(data)
        return read_matlab(path, names)

    return read


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_are_those_that_scipy_reads(read, packed):
    data = saved(OTHERS | ARRAYS, packed)
    ours, scipys = read(data, *ARRAYS, "none", "missing"), loadmat(io.BytesIO(data))
    assert set(ours) == {*ARRAYS, "none"}
    for name, values in ours.items():
        assert values.shape == scipys[name].shape and values.dtype == scipys[name].dtype and np.array_equal(values, scipys[name])


def test_numbers_that_are_stored_smaller_and_the_other_order_of_bytes(read):
    assert read(header() + array(bytes([7, 250]), stored=2), "x")["x"].tolist() == [[7.0, 250.0]]
    big = read(header(">") + array(struct.pack(">2d", -1.5, 8), order=">"), "x")["x"]
    assert big.tolist() == [[-1.5, 8.0]] and big.dtype == np.float64


def test_version_73(read, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "model.mat", "w", userblock_size=512) as file:
        file["x"] = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(read((tmp_path / "model.mat").read_bytes(), "x")["x"], np.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize(("data", "words"), [
    (header() + array(bytes(16), shape=(1, 3)), "is not a whole MATLAB file"),
    (header() + array(bytes(16), shape=(-1, -2)), "is not a whole MATLAB file"),
    (header() + array(bytes(16), shape=(1 << 30, 1 << 30)), "is not a whole MATLAB file"),
    (header() + array(bytes(16), length=1 << 31), "is not a whole MATLAB file"),
    (header() + array(bytes(16), stored=14), "is not a whole MATLAB file"),
    (header() + array(bytes(16), kind=1), "holds something else than real numbers in x"),
    (header() + element(14, b"", length=1 << 31), "is not a whole MATLAB file"),
    (header() + struct.pack("<II", 15, 9) + b"not packed"[:9], "is not a whole MATLAB file"),
    (header() + array(bytes(16))[:-1], "is not a whole MATLAB file"),
    (b"<html>gone</html>", "is not a MATLAB file but a web page"),
    (b"", "is not a MATLAB file but empty"),
    (b"\x89HDF\r\n\x1a\n" + bytes(90), "is not a whole HDF5 file"),
])  # fmt: skip
def test_damaged_files_are_one_sentence(read, data, words):
    with pytest.raises(FaceLoomError, match=rf"^model\.mat {words}[^\n]*\.$"):
        read(data, "x")


def test_a_small_file_that_declares_much_is_refused(read):
    packed = zlib.compress(array(bytes(8_000_000), shape=(1, 1_000_000)), 9)
    with pytest.raises(FaceLoomError, match=r"^model\.mat declares at least 8 MB but has only"):
        read(header() + struct.pack("<II", 15, len(packed)) + packed, "x")


@pytest.mark.parametrize("shape", [{"meanshape": (1, 8)}, {"idBase": (5, 3)}, {"keypoints": (1, 67)}, {"exBase": (9, 0)}])
def test_a_face_model_of_other_sizes_is_one_sentence(tmp_path, shape):
    sizes = {"meanshape": (1, 9), "idBase": (9, 80), "exBase": (9, 64), "keypoints": (1, 68)} | shape
    path = tmp_path / "BFM_model_front.mat"
    savemat(path, {name: np.ones(size) for name, size in sizes.items()})
    with pytest.raises(FaceLoomError, match="holds arrays of other sizes than"):
        load_basel_model(path)


def test_vertices_that_are_not_there_and_values_that_are_no_numbers(tmp_path):
    whole = {"meanshape": np.ones((1, 9)), "idBase": np.ones((9, 80)), "exBase": np.ones((9, 64)), "keypoints": np.full((1, 68), 3)}
    path = tmp_path / "BFM_model_front.mat"
    savemat(path, whole)
    assert load_basel_model(path).identity.shape == (68, 3, 80)
    for wrong, words in (({"keypoints": np.full((1, 68), 4)}, "other sizes"), ({"idBase": np.full((9, 80), np.nan)}, "not numbers")):
        savemat(path, whole | wrong)
        with pytest.raises(FaceLoomError, match=words):
            load_basel_model(path)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_is_values_or_one_sentence(tmp_path, data):
    path = tmp_path / "model.mat"
    whole = bytearray(saved(ARRAYS, data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, len(whole)), st.integers(120, 240)))
        how = data.draw(st.sampled_from(["flip", "cut", "size", "random"]))
        if how == "cut":
            del whole[at:]
        else:
            most = {"flip": 1, "size": 4, "random": 40}[how]
            whole[at:at + most] = data.draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])) if how == "size" else data.draw(
                st.binary(min_size=1, max_size=most))
    path.write_bytes(whole)
    try:
        assert set(read_matlab(path, list(ARRAYS))) <= set(ARRAYS)
    except FaceLoomError as refused:
        assert str(refused).startswith("model.mat ") and "\n" not in str(refused)
