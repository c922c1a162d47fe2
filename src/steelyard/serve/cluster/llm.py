"""A model whose replicas live in processes of their own: :class:`FleetLLM`, and :class:`FleetModels`, which makes it.

The server's process holds the text side alone: tokenizer, chat template, grammars. Weights and KV caches are the
replicas'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast, final

from msgspec import structs

from steelyard.core.errors import ParamsError, ResourceError
from steelyard.core.params import SamplingParams
from steelyard.cost.profile import Profile
from steelyard.engine.build import grammar_store
from steelyard.engine.config import EngineConfig
from steelyard.engine.constraints import GrammarStore
from steelyard.engine.pricing import Pricing
from steelyard.engine.prompter import Message, Prompt, Prompter
from steelyard.fleet.dispatcher import DispatchConfig, Dispatcher
from steelyard.fleet.engine import FleetEngine
from steelyard.models.catalogue import default_model
from steelyard.models.resolve import open_weights, resolve_model
from steelyard.models.text.chat import ChatTemplate
from steelyard.models.text.load import TextParts, load_text
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.policies.route import make_route_policy
from steelyard.serve.cluster import wire
from steelyard.serve.cluster.crew import Crew
from steelyard.serve.cluster.dock import Dock
from steelyard.serve.cluster.processes import Launcher, ProcessLauncher
from steelyard.serve.cluster.remote import Health
from steelyard.serve.config import ModelSpec, ServeConfig
from steelyard.serve.llm import ServedLLM
from steelyard.serve.sources import need_bytes

# All replicas may die at once, and a request meet each of them before that is known: so many attempts more than these.
_SPARE_ATTEMPTS = 2
# The fleet bounds the queue. A replica takes what it is sent: what others have left behind was let in long ago.
_ALL_WAITING = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetParts:
    """See :class:`~steelyard.serve.llm.ServedParts`."""

    engine_config: EngineConfig
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    hidden_size: int
    held_bytes: int


@final
class FleetLLM:
    """See :class:`~steelyard.serve.llm.ServedLLM`. To be made and used within one event loop.

    Args:
        profile: what the replicas say of their model; ``max_waiting`` is of all together.
        text: its text side.
        crew: the replicas, started.
        dispatcher: sends them requests.
    """

    def __init__(self, profile: wire.ModelProfile, text: TextParts, crew: Crew, dispatcher: Dispatcher) -> None:
        self.parts = FleetParts(
            engine_config=profile.engine_config,
            tokenizer=text.tokenizer,
            chat_template=text.chat_template,
            hidden_size=profile.hidden_size,
            held_bytes=profile.held_bytes * len(crew.members),
        )
        self.default_params = profile.default_params
        self.crew = crew
        self._prompter = Prompter(profile.name, text.tokenizer, text.chat_template)
        self._grammars: GrammarStore | None = grammar_store(text.tokenizer, profile.vocab_size, profile.eos_token_ids)
        self._engine = FleetEngine(
            profile.engine_config,
            dispatcher,
            vocab_size=profile.vocab_size,
            has_text=text.tokenizer is not None,
            grammars=self._grammars,
        )
        crew.keep(self._engine)

    @property
    def tokenizer(self) -> Tokenizer:
        """See the protocol."""
        return self._prompter.tokenizer

    @property
    def is_up(self) -> bool:
        """Whether any replica is."""
        return any(view.healthy for view in self._engine.dispatcher.views())

    def start(self) -> FleetEngine:
        """Return the engine, which has been started."""
        return self._engine

    def encode(self, prompt: Prompt, *, parse_special: bool = False) -> tuple[int, ...]:
        """See the protocol."""
        return self._prompter.encode(prompt, parse_special=parse_special)

    def encode_chat(self, messages: Sequence[Message], **template_arguments: Any) -> tuple[int, ...]:
        """See the protocol."""
        return self._prompter.encode_chat(messages, **template_arguments)

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """See the protocol."""
        self._engine.set_shares(shares)

    def pricing(self, profile: Profile) -> Pricing:
        """Raise: the weights are elsewhere, and with them what decides a step's cost."""
        raise ParamsError("replicas are not priced", field="replicas", remedy="Serve the model without replicas")

    async def prepare(self, params: SamplingParams) -> None:
        """Compile a constraint here, so that a wrong one is refused before anything is sent."""
        if self._grammars is not None:
            await self._grammars.prepare(params)

    async def stopped(self) -> BaseException | None:
        """See the protocol."""
        return await self.crew.stopped()

    async def close(self) -> None:
        """End every request and every replica."""
        await self._engine.close()
        await self.crew.close()


@final
class FleetModels:
    """A source of models with replicas (:class:`~steelyard.serve.pool.ModelSource`).

    Args:
        config: of the server.
        launcher: starts workers; ``None`` for what ``config`` says.
        load_text: loads a model's text side by its source.
        health: when replicas count as dead.

    Raises:
        ParamsError: if ``config`` names no cluster.
        ResourceError: if it wants Ray, which is not installed.
    """

    def __init__(
        self,
        config: ServeConfig,
        launcher: Launcher | None = None,
        *,
        load_text: Callable[[str | None], TextParts] | None = None,
        health: Health | None = None,
    ) -> None:
        self._config, self._num_replicas = config, config.fleet.replicas or 1
        self._launcher = launcher or _launcher(config)
        self._load_text, self._health = load_text or text_of, health or Health()

    async def need_bytes(self, spec: ModelSpec) -> int:
        """Return what all replicas together take at least."""
        return self._num_replicas * await asyncio.to_thread(need_bytes, spec, self._config.engine)

    async def load(self, spec: ModelSpec) -> FleetLLM:
        """Start the replicas."""
        config, launcher = self._config, self._launcher
        options = [await launcher.options(place) for place in range(self._num_replicas)]
        crew = Crew(
            [wire.Load(spec.source, replace(one, max_waiting=_ALL_WAITING)) for one in options],
            launcher,
            await Dock.open(launcher.host),
            health=self._health,
            max_restarts=config.max_engine_restarts,
            observe=config.observe,
        )
        text, profile = await asyncio.gather(asyncio.to_thread(self._load_text, spec.source), crew.start())
        engine_config = replace(profile.engine_config, max_waiting=config.engine.max_waiting)
        attempts = self._num_replicas + _SPARE_ATTEMPTS
        dispatch = DispatchConfig(max_attempts=attempts, block_size=engine_config.block_size)
        dispatcher = Dispatcher(make_route_policy(config.fleet.router), dispatch)
        return FleetLLM(structs.replace(profile, engine_config=engine_config), text, crew, dispatcher)

    async def put_away(self, llm: ServedLLM) -> None:
        """End the replicas."""
        await llm.close()


def _launcher(config: ServeConfig) -> Launcher:
    fleet, num_replicas = config.fleet, config.fleet.replicas or 1
    if fleet.cluster is None:
        return ProcessLauncher(config.engine, num_replicas)
    if find_spec("ray") is None:
        problem = "Ray is not installed"
        raise ResourceError(problem, field="cluster", remedy="Run: pip install 'steelyard[ray]'")
    make = import_module("steelyard.serve.cluster.ray_hosts").RayLauncher
    return cast(Launcher, make(config.engine, num_replicas, fleet.cluster))


def text_of(source: str | None) -> TextParts:
    """Load a model's text side alone.

    Raises:
        ModelError: if the model is unknown or broken.
    """
    resolved = resolve_model(source if source is not None else default_model())
    with closing(open_weights(resolved)) as weights:
        return load_text(resolved, weights)
