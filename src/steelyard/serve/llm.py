"""What the server needs of a model: :class:`ServedLLM`, whether its engine is here or a fleet of processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.cost.profile import Profile
from steelyard.engine.config import EngineConfig
from steelyard.engine.pricing import Pricing
from steelyard.engine.response import Completion, Response
from steelyard.engine.view import LiveSequence, Observer
from steelyard.memory.kv_manager import KVUsage
from steelyard.models.text.chat import ChatTemplate
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.policies.admit.types import EngineLoad


class ServedParts(Protocol):
    """What is known of a model that is ready."""

    @property
    def engine_config(self) -> EngineConfig:
        """Of its engine, or of each of them."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Between text and tokens; ``None`` if the model came without."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """Between conversations and text; ``None`` if the model came without."""

    @property
    def hidden_size(self) -> int:
        """Elements of a pooled vector."""

    @property
    def held_bytes(self) -> int:
        """What weights and KV caches take."""


class ServedEngine(Protocol):
    """What works on requests: :class:`~steelyard.engine.engine.Engine`, :class:`~steelyard.fleet.engine.FleetEngine`.

    Both say more of each of these than is said here.
    """

    @property
    def config(self) -> EngineConfig:
        """Limits and sizes, of all replicas together."""

    @property
    def num_running(self) -> int:
        """Sequences that hold a seat."""

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one."""

    @property
    def kv_usage(self) -> KVUsage:
        """How the KV cache is used."""

    @property
    def kv_block_states(self) -> bytes:
        """What each KV block is used for."""

    def submit(self, request: Request) -> Response[Completion]:
        """Take a request."""

    def cancel(self, request_id: str) -> None:
        """End a request soon."""

    def load(self) -> EngineLoad:
        """Return how busy it is."""

    def waiting_tenants(self) -> Counter[str]:
        """Return how many sequences of each tenant wait."""

    def live_sequences(self) -> tuple[LiveSequence, ...]:
        """Return the sequences that run and wait."""

    def add_observer(self, observer: Observer) -> None:
        """Call ``observer`` after each step from now on."""

    def remove_observer(self, observer: Observer) -> None:
        """Call it no more."""


class ServedLLM(Protocol):
    """A model: :class:`~steelyard.engine.async_llm.AsyncLLM` or :class:`~steelyard.serve.cluster.llm.FleetLLM`."""

    @property
    def parts(self) -> ServedParts:
        """What is known of it."""

    @property
    def default_params(self) -> SamplingParams:
        """Sampling parameters that the model's own generation defaults suggest."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; without one, :class:`~steelyard.core.errors.ModelError` is raised."""

    @property
    def is_up(self) -> bool:
        """Whether requests would be worked on now."""

    def start(self) -> ServedEngine:
        """Return what works on its requests."""

    def encode(self, prompt: str | Sequence[int], *, parse_special: bool = False) -> tuple[int, ...]:
        """Return a text's token ids."""

    def encode_chat(self, messages: Sequence[dict[str, Any]], **template_arguments: Any) -> tuple[int, ...]:
        """Return a conversation's token ids."""

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Say what each tenant is due."""

    def pricing(self, profile: Profile) -> Pricing:
        """Return what steps are priced by; :class:`~steelyard.core.errors.InputError` is raised if nothing is known."""

    async def prepare(self, params: SamplingParams) -> None:
        """Compile the constraint of ``params``, if there is one."""

    async def stopped(self) -> BaseException | None:
        """Wait until it works no more; return what it died of, or ``None`` if it was closed in order."""

    async def close(self) -> None:
        """End every request, with an error."""
