"""Reading a GGUF header: metadata and the directory of tensors, from bytes that nobody vouches for.

Little-endian GGUF versions 2 and 3. Every count, length, offset and type number is compared with the bytes that are
really there before anything of its size is made. As Python objects a header takes up to ten times its length in the
file, and that length has a limit. Left out: the tensors' contents, and what the metadata mean.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import TypeAlias

from steelyard.core.errors import WeightsError
from steelyard.core.units import KIB, MIB, format_bytes, round_up
from steelyard.models.weights.gguf_blocks import BLOCK_FORMATS, BlockFormat

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

MAX_HEADER_BYTES = 64 * MIB  # the largest vocabularies need some 20 MiB
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 48
MAX_ARRAY_DEPTH = 4
MAX_ARRAY_ELEMENTS = 1 << 22
MAX_NAME_BYTES = 64 * KIB - 1
MAX_STRING_BYTES = 16 * MIB
MAX_ALIGNMENT = 64 * KIB
NAME_CHARS_SHOWN = 80

MIN_KEY_BYTES = 8 + 4 + 1  # length of the key, type, value
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # length of the name, number of dimensions, one dimension, type, offset

GGUFValue: TypeAlias = "str | int | float | bool | tuple[GGUFValue, ...]"

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip
_MIN_ITEM_BYTES: Mapping[int, int] = {
    **{kind: struct.calcsize("<" + code) for kind, code in _NUMBERS.items()},
    _STRING: 8,
    _ARRAY: 4 + 8,
}

DOWNLOAD_AGAIN = "Download or convert the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTensor:
    """One entry of the directory.

    Attributes:
        name: unique within the file.
        shape: slowest dimension first, the reverse of the file's order.
        type_id: the file's number for the format.
        block: the format; ``None`` if the number is not known.
        offset: of the first byte, from the start of the file.
        num_bytes: of the data; for an unknown format, up to the next tensor or the end of the file.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    block: BlockFormat | None
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFHeader:
    """All that a GGUF file says before its data."""

    version: int
    alignment: int
    metadata: Mapping[str, GGUFValue]
    tensors: Mapping[str, GGUFTensor]


def parse_header(buffer: bytes | mmap, file: str) -> GGUFHeader:
    """Read the header of a whole GGUF file.

    Args:
        buffer: the whole file; only its header is touched.
        file: what to call the file in errors.

    Raises:
        WeightsError: if anything in it is wrong; ``field`` names the file and the key or tensor.
    """
    cursor = _Cursor(buffer, file)
    version = _version(cursor)
    num_tensors = cursor.count("the number of tensors", MAX_TENSORS, MIN_TENSOR_BYTES)
    num_keys = cursor.count("the number of keys", MAX_KEYS, MIN_KEY_BYTES)
    metadata = _metadata(cursor, num_keys)
    alignment = _alignment(metadata, file)
    entries = list(_entries(cursor, num_tensors))
    data_start = round_up(cursor.position, alignment)
    tensors = {tensor.name: tensor for tensor in _placed(entries, data_start, alignment, len(buffer), file)}
    return GGUFHeader(version=version, alignment=alignment, metadata=metadata, tensors=tensors)


def printable(name: str) -> str:
    """Return ``name`` fit for a terminal: one line, no control characters, not too long."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name[:NAME_CHARS_SHOWN])
    return shown + "…" if len(name) > NAME_CHARS_SHOWN else shown


class _Cursor:
    """A position in the header that never leaves the file.

    Attributes:
        position: of the next byte to read.
        item: the key or tensor being read, for errors; ``None`` outside of any.
    """

    __slots__ = ("_buffer", "_file", "_limit", "item", "position")

    def __init__(self, buffer: bytes | mmap, file: str) -> None:
        self._buffer = buffer
        self._file = file
        self._limit = min(len(buffer), MAX_HEADER_BYTES)
        self.position = 0
        self.item: str | None = None

    def error(self, problem: str, remedy: str = DOWNLOAD_AGAIN) -> WeightsError:
        """Return the error for ``problem`` at the present item."""
        field = self._file if self.item is None else f"{self._file}[{printable(self.item)}]"
        return WeightsError(problem, field=field, remedy=remedy)

    def need(self, num_bytes: int) -> None:
        """Raise unless ``num_bytes`` more bytes are there."""
        if num_bytes > self._limit - self.position:
            raise self.overrun()

    def overrun(self) -> WeightsError:
        """Return the error for a header that goes on where no more of it may be read."""
        if self._limit < len(self._buffer):
            limit = format_bytes(MAX_HEADER_BYTES)
            return self.error(f"the header goes past the limit of {limit}", "Use a file with a smaller header")
        return self.error(f"the file ends inside its header, at byte {len(self._buffer)}")

    def take(self, num_bytes: int) -> bytes:
        """Read bytes."""
        self.need(num_bytes)
        start, self.position = self.position, self.position + num_bytes
        return self._buffer[start : self.position]

    def u32(self) -> int:
        """Read an unsigned 32-bit number."""
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        """Read an unsigned 64-bit number."""
        return int(_U64.unpack(self.take(8))[0])

    def count(self, what: str, limit: int, min_item_bytes: int) -> int:
        """Read how many items follow, and make sure that so many could."""
        count = self.u64()
        if count > limit:
            raise self.error(f"{what} is {count}, over the limit of {limit}")
        self.need(count * min_item_bytes)
        return count

    def string(self, limit: int = MAX_STRING_BYTES) -> str:
        """Read a string of at most ``limit`` bytes."""
        length = self.u64()
        if length > limit:
            raise self.error(f"a string of {length} bytes is over the limit of {limit}")
        return self.text(self.take(length))

    def text(self, data: bytes) -> str:
        """Decode UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error("a string is not UTF-8") from error

    def strings(self, count: int) -> tuple[str, ...]:
        """Read ``count`` strings. The one hot loop of the header: a vocabulary has hundreds of thousands."""
        buffer, limit, position, length_at = self._buffer, self._limit, self.position, _U64.unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                start = position + 8
                if start > limit:
                    raise self.overrun()
                position = start + length_at(buffer, position)[0]
                if position > limit:
                    raise self.overrun()
                found.append(buffer[start:position].decode())
        except UnicodeDecodeError as error:
            raise self.error("a string is not UTF-8") from error
        self.position = position
        return tuple(found)

    def numbers(self, kind: int, count: int) -> tuple[int | float | bool, ...]:
        """Read ``count`` numbers or truth values of type ``kind``."""
        values = struct.unpack(f"<{count}{_NUMBERS[kind]}", self.take(count * _MIN_ITEM_BYTES[kind]))
        if kind != _BOOL:
            return values
        if any(value > 1 for value in values):
            raise self.error("a truth value is neither 0 nor 1")
        return tuple(map(bool, values))


def _version(cursor: _Cursor) -> int:
    """Check magic and version; return the version."""
    if cursor.take(len(MAGIC)) != MAGIC:
        raise cursor.error("this is no GGUF file: it does not begin with GGUF", "Give a .gguf file")
    version = cursor.u32()
    if version in SUPPORTED_VERSIONS:
        return version
    if int.from_bytes(version.to_bytes(4, "little"), "big") in SUPPORTED_VERSIONS:
        raise cursor.error("the file is big-endian", "Convert the model to a little-endian file")
    raise cursor.error(f"GGUF version {version} is not supported", "Convert the model again, to GGUF version 3")


def _metadata(cursor: _Cursor, num_keys: int) -> dict[str, GGUFValue]:
    """Read all keys and values."""
    metadata: dict[str, GGUFValue] = {}
    for _ in range(num_keys):
        key = cursor.string(MAX_NAME_BYTES)
        cursor.item = key
        if key in metadata:
            raise cursor.error("the key occurs twice")
        metadata[key] = _value(cursor, cursor.u32(), depth=0)
        cursor.item = None
    return metadata


def _value(cursor: _Cursor, kind: int, depth: int) -> GGUFValue:
    """Read one value; arrays become tuples."""
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        return _array(cursor, depth + 1)
    if kind not in _NUMBERS:
        raise cursor.error(f"value type {kind} does not exist")
    return cursor.numbers(kind, 1)[0]


def _array(cursor: _Cursor, depth: int) -> tuple[GGUFValue, ...]:
    """Read an array, ``depth`` arrays deep (the outermost is 1)."""
    if depth > MAX_ARRAY_DEPTH:
        raise cursor.error(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep")
    kind = cursor.u32()
    if kind not in _MIN_ITEM_BYTES:
        raise cursor.error(f"value type {kind} does not exist")
    count = cursor.count("the length of an array", MAX_ARRAY_ELEMENTS, _MIN_ITEM_BYTES[kind])
    if kind == _STRING:
        return cursor.strings(count)
    if kind == _ARRAY:
        return tuple([_array(cursor, depth + 1) for _ in range(count)])
    return cursor.numbers(kind, count)


def _alignment(metadata: Mapping[str, GGUFValue], file: str) -> int:
    """Return what tensors' offsets are multiples of."""
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if isinstance(alignment, int) and 0 < alignment <= MAX_ALIGNMENT and alignment.bit_count() == 1:
        return int(alignment)
    problem = f"an alignment must be a power of two up to {MAX_ALIGNMENT}"
    raise WeightsError(problem, field=f"{file}[{ALIGNMENT_KEY}]", remedy=DOWNLOAD_AGAIN)


# --- the directory of tensors ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A directory entry as it stands in the file: ``offset`` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


def _entries(cursor: _Cursor, num_tensors: int) -> Iterator[_Entry]:
    """Read the directory's entries; names are unique."""
    seen: set[str] = set()
    for _ in range(num_tensors):
        name = cursor.string(MAX_NAME_BYTES)
        cursor.item = name
        if name in seen:
            raise cursor.error("the tensor occurs twice")
        seen.add(name)
        shape = _shape(cursor)
        yield _Entry(name, shape, cursor.u32(), cursor.u64())
        cursor.item = None


def _shape(cursor: _Cursor) -> tuple[int, ...]:
    """Read a shape, and turn it to PyTorch's order."""
    num_dimensions = cursor.u32()
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"a tensor has 1 to {MAX_DIMENSIONS} dimensions, not {num_dimensions}")
    shape = tuple(cursor.u64() for _ in range(num_dimensions))[::-1]
    if not 0 < math.prod(shape) <= MAX_ELEMENTS:
        raise cursor.error(f"the shape {shape} is empty or over the limit of {MAX_ELEMENTS} elements")
    return shape


def _placed(entries: list[_Entry], data_start: int, alignment: int, file_bytes: int, file: str) -> Iterator[GGUFTensor]:
    """Check where each tensor lies, going from the last in the file to the first.

    Raises:
        WeightsError: if one leaves the file, is not aligned, or reaches into the next.
    """
    end = file_bytes
    for entry in sorted(entries, key=lambda entry: entry.offset, reverse=True):
        field = f"{file}[{printable(entry.name)}]"
        start = data_start + entry.offset
        if entry.offset % alignment:
            problem = f"the offset {entry.offset} is no multiple of the alignment, {alignment}"
            raise WeightsError(problem, field=field, remedy=DOWNLOAD_AGAIN)
        block = BLOCK_FORMATS.get(entry.type_id)
        num_bytes = _stored_bytes(entry, block, field) if block else end - start
        if num_bytes <= 0 or start + num_bytes > end:
            what = "the end of the file" if end == file_bytes else "the next tensor"
            problem = f"its bytes {start} to {start + max(num_bytes, 1)} reach past {what}, at byte {end}"
            raise WeightsError(problem, field=field, remedy=DOWNLOAD_AGAIN)
        yield GGUFTensor(
            name=entry.name,
            shape=entry.shape,
            type_id=entry.type_id,
            block=block,
            offset=start,
            num_bytes=num_bytes,
        )
        end = start


def _stored_bytes(entry: _Entry, block: BlockFormat, field: str) -> int:
    """Return the bytes of a tensor; its rows are whole blocks."""
    if entry.shape[-1] % block.num_elements:
        problem = f"rows of {entry.shape[-1]} cannot be cut into {block.name} blocks of {block.num_elements}"
        raise WeightsError(problem, field=field, remedy=DOWNLOAD_AGAIN)
    return math.prod(entry.shape) // block.num_elements * block.num_bytes
