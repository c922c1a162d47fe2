"""The server's configuration, fully resolved; :mod:`.settings` makes it from flags, environment and file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steelyard.engine.build import LLMOptions
from steelyard.serve.tools.formats import AUTO_FORMAT

MAX_ENGINE_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model to serve.

    Attributes:
        source: catalogue name, ``.gguf`` file, Hugging Face directory or hub id; ``None`` for the default model.
        names: what clients call it; the first is the one that answers carry.
    """

    source: str | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """Where the server listens, and to whom.

    Attributes:
        host: address.
        port: TCP port; 0 takes a free one.
        uds: path of a Unix socket, in place of host and port.
        allowed_origins: browser origins that may call (CORS); none by default.
        timeout_keep_alive_s: an idle connection is closed after this long.
        drain_timeout_s: on SIGTERM running requests may go on for this long.
        docs: serve ``/docs`` and ``/openapi.json``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    allowed_origins: tuple[str, ...] = ()
    timeout_keep_alive_s: float = 5.0
    drain_timeout_s: float = 30.0
    docs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Who may call.

    Attributes:
        api_keys: secrets, each as ``SECRET`` or ``NAME:SECRET``; without any, everybody may.
        api_key_file: a file with one such key a line; ``#`` begins a comment.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one client may cost.

    Attributes:
        max_body_bytes: size of a request's body.
        max_header_bytes: size of a request's line and headers.
        max_prompts: prompts in one completion request.
        max_completions: prompts times ``n`` of one request.
        max_connections: open connections; more are turned away.
        stall_timeout_s: a client that reads nothing of its answer for this long is cut off.
        header_timeout_s: a request's headers must be there this long after its first byte, or the connection's start.
        body_timeout_s: and its body this long after the headers.
        request_timeout_s: a request ends after this long, whatever it asks for; ``None`` for no such limit.
        retry_after_s: what a client is told to wait when the queue is full.
    """

    max_body_bytes: int = 8 << 20
    max_header_bytes: int = 32 << 10
    max_prompts: int = 256
    max_completions: int = 512
    max_connections: int = 4096
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    stall_timeout_s: float = 60.0
    request_timeout_s: float | None = None
    retry_after_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What one key may do, and how it stands against others.

    Attributes:
        requests_per_min: mean rate, a minute's worth of which may come at once; ``None`` for no limit.
        tokens_per_min: likewise, of prompts and answers together.
        max_concurrent: requests being worked on or waiting; ``None`` for no limit.
        weight: its share of a busy engine relative to the others', with the schedule policy ``vtc``.
        priority: of its requests, which may ask to come later than this but not sooner; ``None`` lets them choose.
    """

    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    max_concurrent: int | None = None
    weight: float = 1.0
    priority: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingConfig:
    """How callers share the server. All of it can change while the server runs.

    Attributes:
        default: limits of keys that have none of their own, and of everybody where there are no keys.
        keys: name → that key's limits.
        kv_overcommit: KV blocks that may be promised to an engine's requests, relative to those free; ``None`` for no
            limit.
    """

    default: KeyLimits = field(default_factory=KeyLimits)
    keys: Mapping[str, KeyLimits] = field(default_factory=dict)
    kv_overcommit: float | None = None

    def limits_of(self, key: str) -> KeyLimits:
        """Return the limits of the key with this name."""
        return self.keys.get(key, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveConfig:
    """What the server tells of itself.

    Attributes:
        log_level: debug, info, warning or error.
        log_format: text or json.
        metrics_prefix: what metric names begin with.
        otlp_endpoint: where OpenTelemetry traces go; ``None`` for nowhere.
        ping_interval_s: a stream that is silent for this long gets a comment, so that proxies keep it.
    """

    log_level: str = "info"
    log_format: str = "text"
    metrics_prefix: str = "vllm:"
    otlp_endpoint: str | None = None
    ping_interval_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsConfig:
    """How models call tools.

    Attributes:
        tool_call_parser: name of the format in which they do; ``auto`` asks each model's chat template.
        enable_auto_tool_choice: the model may decide itself whether it calls any.
    """

    tool_call_parser: str = AUTO_FORMAT
    enable_auto_tool_choice: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Where batch jobs are kept, and how much of the machine they get.

    Attributes:
        store: path of a SQLite file, or URL of a database; ``None`` for no batch jobs.
        files: directory of their files; ``None`` for one beside the SQLite file.
        max_file_bytes: size of an input file.
        max_stored_bytes: of all files of a key that are kept at once.
        max_open: batches of a key that have not ended.
        concurrency: lines that are answered at once; ``None`` for half as many as there are seats.
        order: a key of ``LINE_ORDERS``.
    """

    store: str | None = None
    files: str | None = None
    max_file_bytes: int = 200 << 20
    max_stored_bytes: int = 2 << 30
    max_open: int = 50
    concurrency: int | None = None
    order: str = "as_given"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """How many engines each model has, and who gets which request.

    Attributes:
        replicas: engines of a model, each in a process of its own; ``None`` for one in the server's own process.
        router: a name from :data:`steelyard.policies.route.ROUTE_POLICIES`.
        cluster: ``ray://HOST:PORT`` or ``ray`` for replicas that Ray places; ``None`` for processes of this machine.
    """

    replicas: int | None = None
    router: str = "prefix_affinity"
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything that the server is told.

    Attributes:
        models: at least one; the first is loaded at the start, the others when they are asked for.
        model_memory_bytes: what weights and KV caches of all loaded models may take; ``None`` for no limit.
        max_engine_restarts: times within ten minutes that a model whose engine has died is loaded again.
        engine: how each model is loaded.
    """

    models: tuple[ModelSpec, ...]
    model_memory_bytes: int | None = None
    max_engine_restarts: int = MAX_ENGINE_RESTARTS
    listen: ListenConfig = field(default_factory=ListenConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    sharing: SharingConfig = field(default_factory=SharingConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    engine: LLMOptions = field(default_factory=LLMOptions)
