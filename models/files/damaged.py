"""Says what a file is that should be a model and is none: empty, cut short, a web page, a placeholder, something else.

Only the standard library looks at the file here, so that the answer is the same whether or not the packages are installed that would open
a whole one.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from ..errors import FaceLoomError
from .json_text import read_object
from .onnx import name_other_format, read_onnx

# What a file with this suffix should be.
WANTED = {
    **dict.fromkeys((".onnx", ".dfm"), "an ONNX model"), **dict.fromkeys((".h5", ".hdf5"), "a Keras (HDF5) file"),
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".tar"), "a PyTorch checkpoint"),
    ".safetensors": "a safetensors file", ".keras": "a Keras archive", ".mat": "a MATLAB file",
}  # fmt: skip
# How files begin that are no models, and what they are.
_BEGINNINGS = {
    b"\x1f\x8b": "a gzip archive; unpack it", b"7z\xbc\xaf": "a 7z archive; unpack it", b"Rar!": "a RAR archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it", b"\xfd7zXZ": "an xz archive; unpack it", b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it",
    b"PK\x05\x06": "an empty zip file; fetch it again", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture", b"GIF8": "a picture",
    b"RIFF": "a picture or a sound",
    b"%PDF": "a PDF document", b"MZ": "a program for Windows", b"\x7fELF": "a program", b"GGUF": "a GGUF language model",
}  # fmt: skip
_HDF5_MARK = b"\x89HDF\r\n\x1a\n"
_TAR_MARK = slice(257, 262)  # where a tar archive has the letters ``ustar``
_HEAD_BYTES = 1024
# As large as the header of a safetensors file may be, by its own rules.
_MOST_HEADER_BYTES = 100_000_000
_UNKNOWN = "bytes that no model begins with; fetch it again"
_CUT = "the download was probably cut short, so fetch it again"


def check_model_file(path: Path) -> None:
    """Raise FaceLoomError where a file is not what its suffix says, or only a part of it."""
    fault = fault_of(path)
    if fault:
        raise FaceLoomError(f"{path.name} {fault}.")


def fault_of(path: Path) -> str | None:
    """Say what is wrong with a file, to be read after its name; None where nothing is to be seen from its beginning and its size.

    Files with a suffix that is not in ``WANTED`` have a fault only where no format of any program begins so.
    """
    suffix = path.suffix.lower()
    wanted = WANTED.get(suffix, "a model")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    instead = _no_model(head) if suffix in WANTED else _placeholder(head)
    if instead is None and suffix in WANTED:
        found = _format_of(path, head)
        pickled = wanted == "a PyTorch checkpoint" and found in ("a safetensors file", "a Python pickle or an old PyTorch checkpoint")
        instead = None if found == wanted or pickled else found
    if instead:
        return f"is not {wanted} but {instead}"
    return _part(path, suffix, size)


def _placeholder(head: bytes) -> str | None:
    """Name what servers and programs put in the place of a file."""
    if not head:
        return "empty; fetch it again"
    if not head.strip(b"\0") and len(head) == _HEAD_BYTES:
        return "only zeros, as downloads leave that broke off; fetch it again"
    text = _text(head)
    if text is not None:
        page = "a web page that was saved in its place; fetch it again" if text.startswith("<") else None
        return name_other_format(text.encode()) or page
    return None


def _no_model(head: bytes) -> str | None:
    """Name what a file is that is no model of any format; None for models and for what is not known."""
    placeholder = _placeholder(head)
    if placeholder:
        return placeholder
    text = _text(head)
    if text is not None:
        if text.startswith(("{", "[")):
            return "a JSON text, such as servers answer with; fetch it again"
        return f"a text that begins with {text.splitlines()[0][:40]!r}; fetch it again" if text else "a text; fetch it again"
    if head[_TAR_MARK] == b"ustar":
        return "a tar archive; unpack it"
    return next((name for beginning, name in _BEGINNINGS.items() if head.startswith(beginning)), None)


def _text(head: bytes) -> str | None:
    """Return the text that a file begins with, without blanks before it; None where it is no text."""
    head = head[:-4] if len(head) == _HEAD_BYTES else head  # its last letter may be cut
    try:
        text = head.decode("utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if any(ord(letter) < 32 and letter not in "\t\n\r\f\x1b" for letter in text) else text.strip()


def _format_of(path: Path, head: bytes) -> str:
    """Name the format of a file that may be a model, in the words of ``WANTED`` where it has one."""
    suffix = path.suffix.lower()
    known = name_other_format(head[:64])
    if suffix == ".safetensors" and known is None and (len(head) < 9 or _header_bytes(head) < 1 << 48):
        return WANTED[suffix]
    if suffix in (".onnx", ".dfm") and (head.startswith(b"\x08") or _is_onnx(path)):
        return WANTED[suffix]
    if suffix in (".h5", ".hdf5") and _HDF5_MARK in head:
        return WANTED[suffix]
    if suffix == ".mat" and (head[126:128] in (b"IM", b"MI") or _HDF5_MARK in head):
        return WANTED[suffix]
    if head.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    if head.startswith(b"\x08") and _is_onnx(path):
        return "an ONNX model, which is used as it is"
    return known or _UNKNOWN


def _zip_format(path: Path) -> str:
    """Name what a zip file is, from the names in it; of one that was cut short, what its suffix says."""
    wanted = WANTED[path.suffix.lower()]
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return wanted if wanted in ("a PyTorch checkpoint", "a Keras archive") else "a part of a zip file or of a PyTorch checkpoint"
    if any(name.endswith("/data.pkl") for name in names):
        scripted = any(name.endswith("/constants.pkl") for name in names)
        return "a TorchScript program; take the weights' own file" if scripted else "a PyTorch checkpoint"
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return "a Keras archive"
    return f"a zip file that holds {', '.join(names[:3])}{' …' if len(names) > 3 else ''}; unpack it"


def _part(path: Path, suffix: str, size: int) -> str | None:
    """Say what is missing of a file that begins as it should."""
    if suffix in (".onnx", ".dfm"):
        try:
            read_onnx(path)
        except FaceLoomError as error:
            return str(error).removeprefix(f"{path.name} ").removesuffix(".")
        return None
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        if suffix == ".safetensors" or (suffix in WANTED and name_other_format(head[:64]) == "a safetensors file"):
            return _safetensors_part(stream, head, size)
    if suffix in (".h5", ".hdf5"):
        end = _hdf5_end(head)
        return f"is not a whole HDF5 file; it has {size} of {end} bytes: {_CUT}" if end and end > size else None
    if head.startswith(b"PK\x03\x04") and suffix in WANTED and not zipfile.is_zipfile(path):
        return f"is not a whole {WANTED[suffix].removeprefix('a ')}; {_CUT}"
    return None


def _header_bytes(head: bytes) -> int:
    """Return the length of a safetensors file's header, as the file states it."""
    return struct.unpack("<Q", head[:8])[0]


def _safetensors_part(stream, head: bytes, size: int) -> str | None:
    """Say what is wrong with the header of a safetensors file, or how much is missing behind it."""
    whole = "is not a whole safetensors file; "
    if size < 9:
        return f"{whole}{_CUT}"
    length = _header_bytes(head)
    if length > min(size - 8, _MOST_HEADER_BYTES):
        return f"{whole}it states a header of {length} bytes but has {size - 8}: {_CUT}"
    stream.seek(8)
    try:
        tensors = [value["data_offsets"] for name, value in read_object(stream.read(length)).items() if name != "__metadata__"]
        end = 8 + length + max((int(stop) for _, stop in tensors), default=0)
    except (TypeError, KeyError):
        return f"{whole}its header does not describe tensors; fetch it again"
    except ValueError as error:
        return f"{whole}its header is {error}; fetch it again"
    return f"{whole}it has {size} of {end} bytes: {_CUT}" if end > size else None


def _hdf5_end(head: bytes) -> int | None:
    """Return the length that an HDF5 file states in its superblock; None where there is none."""
    if len(head) < 64 or not head.startswith(_HDF5_MARK) or head[8] > 3:
        return None
    old = head[8] < 2
    width = head[13 if old else 9]
    at = (24 + 4 * head[8] + 2 * width) if old else (12 + 2 * width)
    return int.from_bytes(head[at : at + width], "little") if width in (2, 4, 8) else None


def _is_onnx(path: Path) -> bool:
    try:
        return bool(read_onnx(path).outputs)
    except FaceLoomError:
        return False
