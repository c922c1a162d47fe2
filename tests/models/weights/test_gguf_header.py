"""The header parser: what it reads, and that nothing hostile gets past it or costs much memory."""

import struct
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steelyard.core.errors import WeightsError
from steelyard.models.weights import gguf_header
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.gguf_header import MAX_ARRAY_DEPTH, MAX_KEYS, MAX_TENSORS, parse_header, printable

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
HUGE = (1 << 64) - 1
PEAK_BYTES = 1 << 20  # what parsing a small file may take at most
FILE = "model.gguf"


def text(content):
    data = content if isinstance(content, bytes) else content.encode()
    return struct.pack("<Q", len(data)) + data


def u32(number):
    return struct.pack("<I", number)


def u64(number):
    return struct.pack("<Q", number)


def key(name, kind, value):
    return text(name) + u32(kind) + value


def array(kind, count, items=b""):
    return u32(kind) + u64(count) + items


def entry(name="t", shape=(32,), type_id=0, offset=0):
    """One directory entry; ``shape`` in the file's order."""
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(type_id) + u64(offset)


def build(keys=(), entries=(), data=b"", *, version=3, num_keys=None, num_tensors=None, magic=b"GGUF", alignment=32):
    """A file from raw parts; the counts may lie."""
    counts = u64(len(entries) if num_tensors is None else num_tensors) + u64(
        len(keys) if num_keys is None else num_keys
    )
    header = magic + u32(version) + counts + b"".join(keys) + b"".join(entries)
    return header + bytes(-len(header) % alignment) + data


def refused(content):
    """Parse, expect a WeightsError within the memory bound, and return it."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            parse_header(content, FILE)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert caught.value.field.startswith(FILE)
    assert caught.value.remedy
    return caught.value


# --- what is read ----------------------------------------------------------------------------------------------------


def test_scalars_keep_their_types():
    keys = [
        key("u8", U8, b"\xff"), key("i8", I8, b"\xff"), key("u16", U16, b"\xff\xff"), key("i16", I16, b"\xff\xff"),
        key("u32", U32, u32(2**32 - 1)), key("i32", I32, u32(2**32 - 1)), key("u64", U64, u64(HUGE)),
        key("i64", I64, u64(HUGE)), key("f32", F32, struct.pack("<f", 0.5)), key("f64", F64, struct.pack("<d", 0.1)),
        key("yes", BOOL, b"\1"), key("no", BOOL, b"\0"), key("text", STRING, text("naïve ⚖")),
    ]  # fmt: skip
    metadata = parse_header(build(keys), FILE).metadata
    assert metadata == {
        "u8": 255, "i8": -1, "u16": 65535, "i16": -1, "u32": 2**32 - 1, "i32": -1, "u64": HUGE, "i64": -1,
        "f32": 0.5, "f64": 0.1, "yes": True, "no": False, "text": "naïve ⚖",
    }  # fmt: skip
    assert metadata["yes"] is True
    assert isinstance(metadata["f32"], float)


def test_arrays_are_tuples_and_nest():
    keys = [
        key("strings", ARRAY, array(STRING, 3, text("a") + text("") + text("ü"))),
        key("ints", ARRAY, array(I32, 2, u32(1) + u32(2**32 - 2))),
        key("bools", ARRAY, array(BOOL, 2, b"\1\0")),
        key("empty", ARRAY, array(U8, 0)),
        key("nested", ARRAY, array(ARRAY, 2, array(U8, 2, b"\1\2") + array(STRING, 1, text("x")))),
    ]
    assert parse_header(build(keys), FILE).metadata == {
        "strings": ("a", "", "ü"),
        "ints": (1, -2),
        "bools": (True, False),
        "empty": (),
        "nested": ((1, 2), ("x",)),
    }


@pytest.mark.parametrize("version", [2, 3])
def test_directory(version):
    entries = [entry("a", (4, 2), 0, 0), entry("b", (32, 1, 3), 3, 32)]
    header = parse_header(build(entries=entries, data=bytes(32 + 60), version=version), FILE)
    a, b = header.tensors["a"], header.tensors["b"]
    assert (header.version, header.alignment) == (version, 32)
    assert (a.shape, a.num_bytes, a.block.name) == ((2, 4), 32, "F32")
    assert (b.shape, b.num_bytes, b.block.name) == ((3, 1, 32), 60, "Q4_1")
    assert a.offset % 32 == 0
    assert b.offset == a.offset + 32


def test_own_alignment_moves_the_data():
    keys = [key("general.alignment", U32, u32(256))]
    content = build(keys, [entry(shape=(4,))], bytes(16), alignment=256)
    header = parse_header(content, FILE)
    assert header.alignment == 256
    assert header.tensors["t"].offset % 256 == 0


def test_unknown_format_takes_the_bytes_up_to_the_next():
    entries = [entry("odd", (7,), 99, 0), entry("next", (8,), 0, 64), entry("last", (3,), 98, 96)]
    tensors = parse_header(build(entries=entries, data=bytes(64 + 32 + 5)), FILE).tensors
    assert tensors["odd"].block is None
    assert [tensors[name].num_bytes for name in ("odd", "next", "last")] == [64, 32, 5]


# --- what is refused -------------------------------------------------------------------------------------------------

HOSTILE = {
    "magic": (build(magic=b"GGML"), "no GGUF file"),
    "empty": (b"", "ends inside its header"),
    "version 1": (build(version=1), "version 1"),
    "version 4": (build(version=4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "keys over the limit": (build(num_keys=HUGE), "over the limit"),
    "keys past the end": (build(num_keys=MAX_KEYS), "ends inside its header"),
    "tensors over the limit": (build(num_tensors=HUGE), "over the limit"),
    "tensors past the end": (build(num_tensors=MAX_TENSORS), "ends inside its header"),
    "key length": (build([u64(HUGE)], num_keys=1, data=bytes(64)), "over the limit"),
    "key length past the end": (build([u64(60000)], num_keys=1, data=bytes(64)), "ends inside its header"),
    "key not UTF-8": (build([key(b"\xff\xfe", U8, b"\0")]), "not UTF-8"),
    "key twice": (build([key("k", U8, b"\0")] * 2), "the key occurs twice"),
    "value type": (build([key("k", 13, b"\0" * 8)]), "value type 13"),
    "huge value type": (build([key("k", 2**32 - 1, b"\0" * 8)]), "does not exist"),
    "truth value": (build([key("k", BOOL, b"\2")]), "neither 0 nor 1"),
    "truth values": (build([key("k", ARRAY, array(BOOL, 2, b"\1\2"))]), "neither 0 nor 1"),
    "string length": (build([key("k", STRING, u64(HUGE))]), "over the limit"),
    "string length past the end": (build([key("k", STRING, u64(1 << 23))]), "ends inside its header"),
    "string not UTF-8": (build([key("k", STRING, text(b"\xc3\x28"))]), "not UTF-8"),
    "array length": (build([key("k", ARRAY, array(U8, HUGE))]), "over the limit"),
    "array length past the end": (build([key("k", ARRAY, array(F64, 1 << 22))]), "ends inside its header"),
    "array length that wraps": (build([key("k", ARRAY, array(F64, 1 << 61))]), "over the limit"),
    "strings past the end": (build([key("k", ARRAY, array(STRING, 1 << 22))]), "ends inside its header"),
    "strings' length": (build([key("k", ARRAY, array(STRING, 1, u64(HUGE)))]), "ends inside its header"),
    "strings' lengths": (build([key("k", ARRAY, array(STRING, 2, text("x" * 9) + u64(99)))]), "ends inside its header"),
    "strings not UTF-8": (build([key("k", ARRAY, array(STRING, 1, text(b"\xff")))]), "not UTF-8"),
    "array type": (build([key("k", ARRAY, array(77, 1))]), "value type 77"),
    "arrays of arrays": (build([key("k", ARRAY, array(ARRAY, 1) * 9 + bytes(99))]), "nested more than"),
    "alignment zero": (build([key("general.alignment", U32, u32(0))]), "power of two"),
    "alignment odd": (build([key("general.alignment", U32, u32(24))]), "power of two"),
    "alignment huge": (build([key("general.alignment", U64, u64(1 << 63))]), "power of two"),
    "alignment text": (build([key("general.alignment", STRING, text("32"))]), "power of two"),
    "alignment negative": (build([key("general.alignment", I32, u32(2**32 - 32))]), "power of two"),
    "tensor twice": (build(entries=[entry()] * 2, data=bytes(256)), "the tensor occurs twice"),
    "name not UTF-8": (build(entries=[entry(b"\xff")], data=bytes(256)), "not UTF-8"),
    "no dimensions": (build(entries=[entry(shape=())], data=bytes(256)), "dimensions, not 0"),
    "many dimensions": (build(entries=[entry(shape=(1,) * 5)], data=bytes(256)), "dimensions, not 5"),
    "dimensions uncounted": (build(entries=[text("t") + u32(2**32 - 1)], data=bytes(256)), "not 4294967295"),
    "zero dimension": (build(entries=[entry(shape=(32, 0))], data=bytes(256)), "is empty or over"),
    "product wraps": (build(entries=[entry(shape=(1 << 32, 1 << 32))], data=bytes(256)), "is empty or over"),
    "unknown product": (build(entries=[entry(shape=(HUGE,), type_id=99)], data=bytes(256)), "is empty or over"),
    "tensor too long": (build(entries=[entry(shape=(65,))], data=bytes(256)), "end of the file"),
    "offset past the end": (build(entries=[entry(offset=1 << 40)], data=bytes(256)), "end of the file"),
    "offset wraps": (build(entries=[entry(offset=HUGE - 31)], data=bytes(256)), "end of the file"),
    "unknown past the end": (build(entries=[entry(type_id=99, offset=256)], data=bytes(256)), "end of the file"),
    "unaligned": (build(entries=[entry(offset=4)], data=bytes(256)), "multiple of the alignment"),
    "part of a block": (build(entries=[entry(shape=(48,), type_id=2)], data=bytes(256)), "Q4_0 blocks of 32"),
    "overlap": (build(entries=[entry("a", (9,)), entry("b", (8,), offset=32)], data=bytes(64)), "the next tensor"),
    "same place": (build(entries=[entry("a", (8,)), entry("b", (8,))], data=bytes(64)), "the next tensor"),
    "unknown, same place": (build(entries=[entry("a", type_id=99), entry("b", (8,))], data=bytes(64)), "next tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header_is_refused(name):
    content, problem = HOSTILE[name]
    assert problem in refused(content).problem


def test_errors_name_the_key_or_tensor():
    assert refused(HOSTILE["string not UTF-8"][0]).field == "model.gguf[k]"
    assert refused(HOSTILE["overlap"][0]).field == "model.gguf[a]"
    assert refused(HOSTILE["alignment odd"][0]).field == "model.gguf[general.alignment]"
    assert refused(HOSTILE["magic"][0]).field == "model.gguf"


def test_names_in_errors_are_fit_for_a_terminal():
    error = refused(build([key("\x1b[31m\nboo" + "x" * 500, 99, b"\0")]))
    assert error.field.isprintable()
    assert len(error.field) < 120
    assert printable("blk.0.attn_q.weight") == "blk.0.attn_q.weight"


def test_arrays_may_be_nested_up_to_the_limit():
    def nested(depth):
        return build([key("k", ARRAY, array(ARRAY, 1) * (depth - 1) + array(U8, 1, b"\5"))])

    assert parse_header(nested(MAX_ARRAY_DEPTH), FILE).metadata == {"k": ((((5,),),),)}
    assert "nested" in refused(nested(MAX_ARRAY_DEPTH + 1)).problem


def test_header_has_a_limit_of_its_own(monkeypatch):
    content = build([key("k", ARRAY, array(U8, 4000, bytes(4000)))])
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 1000)
    assert "past the limit" in refused(content).problem


# --- fuzzing ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small file with a bit of everything, written by the reference writer."""
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "béta", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    writer.add_array("tokenizer.ggml.token_type", [1, 2, 3])
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    numbers = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("plain", numbers)
    writer.add_tensor("half", numbers.astype(np.float16))
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blocks", gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def outcome(call, *args):
    """Return what a call returns, or the WeightsError that it raises; anything else is a failure."""
    try:
        return call(*args)
    except WeightsError as error:
        return error


def is_refusal(result):
    """Whether the result is an error; then all its parts are there."""
    if isinstance(result, WeightsError):
        assert result.field
        assert result.problem
        assert result.remedy
        return True
    return False


def read_all(content, path):
    """Open and read everything; return whether the file opens."""
    path.write_bytes(content)
    file = outcome(GGUFFile, path)
    if is_refusal(file):
        return False
    for name in file.names():
        found = outcome(file.tensor, name, torch.float32)
        assert is_refusal(found) or found.shape == file.shape(name)
    file.close()
    return True


def test_sound_file_is_read(sound, tmp_path):
    assert read_all(sound, tmp_path / "f.gguf")


def ends(header):
    """Where each tensor of a header ends."""
    return [tensor.offset + tensor.num_bytes for tensor in header.tensors.values()]


def test_truncation_anywhere_is_refused(sound):
    needed = max(ends(parse_header(sound, FILE)))  # the padding after the last tensor may be missing
    for length in range(len(sound)):
        assert is_refusal(outcome(parse_header, sound[:length], FILE)) == (length < needed)


def test_every_bit_of_the_header_flipped(sound):
    data_start = min(tensor.offset for tensor in parse_header(sound, FILE).tensors.values())
    refusals = 0
    for bit in range(8 * data_start):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        result = outcome(parse_header, bytes(content), FILE)
        refusals += is_refusal(result)
        assert is_refusal(result) or max(ends(result)) <= len(sound)
    assert refusals > data_start


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_read_or_refused(sound, tmp_path, data):
    content = bytearray(sound)
    words = st.sampled_from([0, 1, 7, 255, 2**31, 2**32 - 1, 2**63 - 1, 2**63, HUGE])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 8))
        if data.draw(st.booleans()):
            content[position : position + 8] = u64(data.draw(words))
        else:
            content[position] = data.draw(st.integers(0, 255))
    tracemalloc.start()
    try:
        read_all(bytes(content), tmp_path / "f.gguf")
        assert tracemalloc.get_traced_memory()[1] < 4 * PEAK_BYTES
    finally:
        tracemalloc.stop()


@settings(max_examples=400, deadline=None)
@given(tail=st.binary(max_size=400), num_tensors=st.integers(0, 3), num_keys=st.integers(0, 3))
@example(tail=b"", num_tensors=0, num_keys=0)
def test_random_bytes_after_the_counts(tail, num_tensors, num_keys):
    result = outcome(parse_header, b"GGUF" + u32(3) + u64(num_tensors) + u64(num_keys) + tail, FILE)
    assert is_refusal(result) or len(result.metadata) == num_keys
