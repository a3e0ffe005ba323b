"""Reads and writes protobuf's wire format: a message is a run of records, each a field number, a wire type and a value.

Only what ONNX files use (https://protobuf.dev/programming-guides/encoding/). A damaged message raises IndexError or ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

# The value of a record: a number for wire type 0, else bytes.
Value = memoryview | int
# (field number, wire type, value, the bytes of the whole record).
Record = tuple[int, int, Value, memoryview]


def read_records(message: Value) -> Iterator[Record]:
    """Yield the records of a message one by one; no value is copied."""
    data, at = as_bytes(message), 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
        elif wire in (1, 2, 5):
            length, at = _read_varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError("unknown wire type")
        if at > len(data) or number == 0:
            raise ValueError("record ends outside the file")
        yield number, wire, value, data[start:at]


def read_varints(packed: Value) -> Iterator[int]:
    """Yield the unsigned numbers of a packed list."""
    data, at = as_bytes(packed), 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


def as_bytes(value: Value) -> memoryview:
    """Return the value of a record that must be bytes; ValueError where a damaged message has a number."""
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def as_number(value: Value) -> int:
    """Return the value of a record that must be a number; ValueError where a damaged message has bytes."""
    if not isinstance(value, int):
        raise ValueError("bytes where a number belongs")
    return value


def as_text(value: Value) -> str:
    """Decode the value of a record that holds text."""
    return bytes(as_bytes(value)).decode("utf-8")


def as_signed(value: int) -> int:
    """Return the int64 that an unsigned number of the wire format stands for."""
    return value - (1 << 64) if value >> 63 else value


def encode_varint(value: int) -> bytes:
    """Encode a number of 0 or more, seven bits a byte."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def encode_record(number: int, payload: bytes) -> bytes:
    """Encode a record of bytes for the field ``number``."""
    return encode_record_head(number, len(payload)) + payload


def encode_record_head(number: int, length: int) -> bytes:
    """Encode what stands before the ``length`` bytes of a record for the field ``number``."""
    return encode_varint(number << 3 | 2) + encode_varint(length)


def rewrite_records(message: Value, changes: Mapping[int, Callable[[memoryview], bytes]]) -> bytes:
    """Copy a message; the bytes of fields in ``changes`` become what the function of that field number makes of them."""
    return b"".join(
        encode_record(number, changes[number](as_bytes(value))) if wire == 2 and number in changes else bytes(whole)
        for number, wire, value, whole in read_records(message)
    )


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read the number that begins at byte ``at``: the number and where the next byte lies."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")
