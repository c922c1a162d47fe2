"""What server and replicas say to each other: typed messages in MessagePack, nothing else.

The types are the field's own dataclasses, so a message that is decoded has been checked as one that is made here is:
an unknown kind, a missing field, a value of another type or out of range is a :class:`WireError`. There is no pickle,
and no message can name a type, a module or a file to open, but for the model in :class:`Load`, which servers alone
send.

:data:`PROTOCOL` counts up with every change here. Both ends must be of the same version; there is no reading of older
messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec

from steelyard import __version__
from steelyard.core import errors
from steelyard.core.errors import ResourceError, SteelyardError
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.engine.build import LLMOptions
from steelyard.engine.config import EngineConfig
from steelyard.engine.view import LiveSequence, StepRecord
from steelyard.fleet.engine import ReplicaStatus
from steelyard.fleet.replica import Increment

PROTOCOL = f"steelyard {__version__}, 1"
MAX_HELLO_BYTES = 4096
# The largest there are: the log-probabilities of a long prompt.
MAX_MESSAGE_BYTES = 1 << 28

_KINDS = ("ParamsError", "PromptError", "ModelError", "WeightsError", "InputError", "MemoryBudgetError",
          "StorageError", "EngineBusyError", "EngineStoppedError", "ReplicaLostError", "ResourceError")  # fmt: skip


class WireError(Exception):
    """The other end sent what is no message."""


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages."""


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a server must know of a model that replicas have loaded.

    Attributes:
        name: of the model.
        engine_config: of the replica's engine.
        vocab_size: for checking token ids.
        hidden_size: elements of a pooled vector.
        held_bytes: weights and KV cache.
        kv_cache_bytes: the KV cache alone.
        default_params: what the model's files recommend.
        eos_token_ids: for compiling constraints.
    """

    name: str
    engine_config: EngineConfig
    vocab_size: int
    hidden_size: int
    held_bytes: int
    kv_cache_bytes: int
    default_params: SamplingParams
    eos_token_ids: frozenset[int] = frozenset()


class ErrorText(msgspec.Struct, frozen=True):
    """A :class:`SteelyardError` on its way: its kind by name, and its parts."""

    kind: str
    problem: str
    field: str
    remedy: str


# -- from a replica -------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The first message: who is there. ``secret`` is what its server gave it."""

    protocol: str
    replica: str
    secret: str


class Ready(Message, frozen=True):
    """The model is loaded."""

    profile: ModelProfile


class Failed(Message, frozen=True):
    """The model cannot be loaded."""

    error: ErrorText


class Grown(Message, frozen=True):
    """An answer has grown."""

    number: int
    increment: Increment


class Ended(Message, frozen=True):
    """An answer has ended with an error."""

    number: int
    error: ErrorText


class Stepped(Message, frozen=True):
    """The engine has made a step; the record's grants are left out, and its times are the replica's."""

    record: StepRecord
    status: ReplicaStatus


class Pong(Message, frozen=True):
    """The answer to :class:`Ping`; no status while the model is being loaded.

    ``stalled_s`` tells how long the engine has had work and not ended a step.
    """

    status: ReplicaStatus | None
    stalled_s: float


class Picture(Message, frozen=True):
    """The answer to :class:`Look`; ``now_s`` is the time by the clock of the sequences' own."""

    sequences: tuple[LiveSequence, ...]
    kv_block_states: bytes
    now_s: float


FromReplica = Hello | Ready | Failed | Grown | Ended | Stepped | Pong | Picture

# -- from the server ------------------------------------------------------------------------------------------------


class Load(Message, frozen=True):
    """Load a model."""

    model: str | None
    options: LLMOptions

    def settled(self, profile: ModelProfile) -> Load:
        """Return the load with the sizes that another replica has found, not those of the memory left now."""
        sizes = replace(
            self.options,
            max_model_len=profile.engine_config.max_model_len,
            kv_cache_memory_bytes=profile.kv_cache_bytes,
        )
        return Load(self.model, sizes)


class Submit(Message, frozen=True):
    """Work on a request, known by ``number`` from now on. ``time_left_s`` stands for its deadline."""

    number: int
    request: Request
    time_left_s: float | None


class Cancel(Message, frozen=True):
    """Drop a request."""

    number: int


class Shares(Message, frozen=True):
    """What each tenant is due."""

    shares: Mapping[str, float]


class Ping(Message, frozen=True):
    """Say that you are there."""


class Look(Message, frozen=True):
    """Say what you are doing."""


class Close(Message, frozen=True):
    """End, with all requests."""


FromServer = Load | Submit | Cancel | Shares | Ping | Look | Close

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Return a message's bytes."""
    return _encoder.encode(message)


class Reader:
    """Decodes what one end sends.

    Args:
        kind: the union of its messages.
    """

    def __init__(self, kind: object) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)

    def decode(self, data: bytes | bytearray | memoryview) -> object:
        """Return the message.

        Raises:
            WireError: if ``data`` is none.
        """
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"it is no message: {error}") from None


def written(error: Exception) -> ErrorText:
    """Return an error as it is sent; of bugs no more than their type."""
    if not isinstance(error, SteelyardError):
        problem = f"a bug: {type(error).__name__}"
        return ErrorText("EngineStoppedError", problem, "replica", "See its log")
    kind = type(error).__name__
    return ErrorText(kind if kind in _KINDS else "ResourceError", error.problem, error.field, error.remedy)


def raised(text: ErrorText) -> SteelyardError:
    """Return the error that was sent; of a kind that is not known here, a :class:`ResourceError`."""
    kind = getattr(errors, text.kind) if text.kind in _KINDS else ResourceError
    error: SteelyardError = kind(text.problem, field=text.field, remedy=text.remedy)
    return error
