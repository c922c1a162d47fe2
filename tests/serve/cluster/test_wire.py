"""Messages: what is said arrives as it was, and what is no message is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import steelyard.serve.cluster as package
from steelyard.core import errors
from steelyard.core.constraint import Constraint
from steelyard.core.errors import EngineStoppedError, ParamsError, ResourceError, SteelyardError
from steelyard.core.params import SamplingParams
from steelyard.core.pooling import NO_SAMPLING, PoolingKind, PoolingParams
from steelyard.core.request import FinishReason, Request, SampledToken, TokenLogprob
from steelyard.engine.build import LLMOptions
from steelyard.engine.config import EngineConfig
from steelyard.engine.view import LiveSequence, StepRecord
from steelyard.fleet.engine import ReplicaStatus
from steelyard.fleet.replica import Increment
from steelyard.memory.kv_manager import KVUsage
from steelyard.policies.schedule.types import Schedule
from steelyard.serve.cluster import wire

PARAMS = SamplingParams(
    max_tokens=None,
    min_tokens=2,
    temperature=0.1,
    top_k=5,
    logit_bias={3: -1.5, 70000: 100.0},
    seed=(1 << 64) - 1,
    stop=("ü", "\n\n"),
    stop_token_ids=(7,),
    logprobs=20,
    prompt_logprobs=0,
    constraint=Constraint.json_schema({"type": "object"}, asked_by="response_format"),
)
TOKEN = SampledToken(5, TokenLogprob(5, -0.1234567890123456, 1), (TokenLogprob(6, -2.0, 2),), completes=True)
REQUEST = Request(
    id="r/0",
    prompt_token_ids=(1, 2, 3),
    params=PARAMS,
    priority=-4,
    cache_salt="3:annx",
    tenant="ann",
    output=(TOKEN, SampledToken(9)),
)
KV = KVUsage(
    num_blocks=9, num_referenced_blocks=2, num_idle_blocks=3, num_empty_blocks=4, num_hit_tokens=5, num_miss_tokens=6
)
STATUS = ReplicaStatus(num_running=1, waiting={"ann": 2}, kv=KV)
RECORD = StepRecord(3, 1.0, 1.5, Schedule(preempt=(4,)), ((1, 0, 16),), (1,), 1, 2, 5)
LIVE = LiveSequence(
    id=1,
    running=True,
    arrival_s=2.0,
    num_prompt_tokens=3,
    num_tokens=4,
    num_computed_tokens=3,
    num_blocks=1,
    num_preemptions=0,
)
PROFILE = wire.ModelProfile(
    name="m",
    engine_config=EngineConfig(max_model_len=64, num_kv_blocks=8),
    vocab_size=9,
    hidden_size=2,
    held_bytes=10**12,
    kv_cache_bytes=10**9,
    default_params=SamplingParams(temperature=0.2),
    eos_token_ids=frozenset({2}),
)
FROM_SERVER = [
    wire.Load("model.gguf", LLMOptions(threads=2, kv_cache_memory_bytes=1 << 33)),
    wire.Submit(7, REQUEST, 12.5),
    wire.Submit(8, Request(id="p", prompt_token_ids=(1,), params=NO_SAMPLING, pooling=PoolingParams()), None),
    wire.Cancel(7),
    wire.Shares({"ann": 2.0}),
    wire.Ping(),
    wire.Look(),
    wire.Close(),
]
FROM_REPLICA = [
    wire.Hello(wire.PROTOCOL, "replica-0.0", "x"),
    wire.Ready(PROFILE),
    wire.Failed(wire.ErrorText("ModelError", "a", "b", "c")),
    wire.Grown(7, Increment(tokens=(TOKEN,), text="é", stop_reason=7, prompt_logprobs=(None, TOKEN))),
    wire.Grown(8, Increment(finish_reason=FinishReason.STOP, stop_reason="\n", pooled=(0.1, -1e-300))),
    wire.Ended(7, wire.ErrorText("ParamsError", "a", "b", "c")),
    wire.Stepped(RECORD, STATUS),
    wire.Pong(None, 0.0),
    wire.Picture((LIVE,), b"\x00\x03", 5.5),
]


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda m: type(m).__name__)
def test_what_servers_say_arrives_as_it_was(message: wire.Message):
    assert wire.Reader(wire.FromServer).decode(wire.encode(message)) == message


@pytest.mark.parametrize("message", FROM_REPLICA, ids=lambda m: type(m).__name__)
def test_what_replicas_say_arrives_as_it_was(message: wire.Message):
    assert wire.Reader(wire.FromReplica).decode(wire.encode(message)) == message


def test_a_constraint_keeps_the_field_that_asked_for_it():
    read = wire.Reader(wire.FromServer).decode(wire.encode(wire.Submit(1, REQUEST, None)))
    assert isinstance(read, wire.Submit)
    assert read.request.params.constraint is not None
    assert read.request.params.constraint.asked_by == "response_format"
    assert PoolingParams().kind is PoolingKind.MEAN


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(data: bytes):
    for kind in (wire.FromServer, wire.FromReplica):
        try:
            message = wire.Reader(kind).decode(data)
        except wire.WireError:
            continue
        assert isinstance(message, wire.Message)


@given(st.data())
def test_a_message_with_a_byte_changed_is_refused_or_a_message(data: st.DataObject):
    """What was changed may still be a message, but nothing else is ever raised or returned."""
    written = bytearray(wire.encode(data.draw(st.sampled_from(FROM_SERVER))))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] = data.draw(st.integers(0, 255))
    try:
        message = wire.Reader(wire.FromServer).decode(bytes(written))
    except wire.WireError:
        return
    assert isinstance(message, wire.Message)


def altered(path: tuple[int | str, ...], value: object) -> bytes:
    """Return a written request in which one part is another."""
    parts = msgspec.msgpack.decode(wire.encode(wire.Submit(7, REQUEST, None)), strict=False)
    inner = parts
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = msgspec.Raw(value) if isinstance(value, bytes) else value
    return msgspec.msgpack.encode(parts)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((0,), "Pickle"),
        ((1,), "seven"),
        ((2, "prompt_token_ids"), ["a"]),
        ((2, "params", "temperature"), -1.0),
        ((2, "params", "n"), 10**6),
        ((2, "params", "constraint", "kind"), "python"),
        ((2, "params", "constraint", "texts"), ["x" * (1 << 17)]),
        ((2, "pooling"), {"kind": "median", "normalize": True}),
        ((2, "unknown"), b"\x91" * 100_000),
        ((3,), "soon"),
    ],
)
def test_values_out_of_range_are_refused(path: tuple[int | str, ...], value: object):
    with pytest.raises(wire.WireError):
        wire.Reader(wire.FromServer).decode(altered(path, value))


def test_a_replica_cannot_say_what_servers_say():
    for message in FROM_SERVER:
        with pytest.raises(wire.WireError):
            wire.Reader(wire.FromReplica).decode(wire.encode(message))


def test_errors_arrive_as_their_kind():
    for name in wire._KINDS:
        error = getattr(errors, name)("a problem", field="a field", remedy="A remedy")
        arrived = wire.raised(wire.written(error))
        assert (type(arrived), str(arrived)) == (type(error), str(error))


def test_of_bugs_no_more_than_the_type_is_told():
    arrived = wire.raised(wire.written(KeyError("a secret")))
    assert isinstance(arrived, EngineStoppedError)
    assert "secret" not in str(arrived)
    unknown = wire.raised(wire.ErrorText("OSError", "a", "b", "c"))
    assert type(unknown) is ResourceError

    class OursError(ParamsError):
        """A kind that the wire does not know."""

    assert type(wire.raised(wire.written(OursError("a", field="b", remedy="c")))) is ResourceError
    assert issubclass(ResourceError, SteelyardError)


def test_nothing_here_pickles():
    for path in Path(package.__path__[0]).rglob("*.py"):
        code = path.read_text()
        for word in ("import pickle", "multiprocessing", "marshal", "shelve", "eval(", "exec("):
            assert word not in code, f"{path.name} has {word}"
