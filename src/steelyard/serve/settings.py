"""The server's settings: each one's name, meaning and reader, and where its value comes from.

A setting has one flat name. The flag ``--max-body-bytes 1000``, the environment's ``STEELYARD_MAX_BODY_BYTES=1000`` and
a file's line ``max_body_bytes: 1000`` mean the same, and go before one another in this order.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath
from typing import Any

from steelyard.core.errors import ParamsError
from steelyard.core.units import parse_bytes
from steelyard.engine.build import LLMOptions
from steelyard.models.catalogue import default_model
from steelyard.policies.route import ROUTE_POLICIES
from steelyard.serve.config import (
    MAX_ENGINE_RESTARTS,
    AccessConfig,
    BatchConfig,
    FleetConfig,
    KeyLimits,
    LimitsConfig,
    ListenConfig,
    ModelSpec,
    ObserveConfig,
    ServeConfig,
    SharingConfig,
    ToolsConfig,
)
from steelyard.serve.tools.formats import AUTO_FORMAT, TOOL_FORMATS

logger = logging.getLogger("steelyard.serve")

Reader = Callable[[str, Any], Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def read_text(name: str, value: Any) -> str:
    """Return a text as it is."""
    return str(value)


def read_texts(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts; one text is split at its commas."""
    if isinstance(value, (list, tuple)):
        return tuple(str(one) for one in value)
    return tuple(part.strip() for part in str(value).split(",") if part.strip())


def read_switch(name: str, value: Any) -> bool:
    """Return whether it is on."""
    known = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
    if known is None:
        raise ParamsError(f"{value!r} is neither true nor false", field=name, remedy="Give true or false")
    return known


def read_count(name: str, value: Any) -> int:
    """Return a whole number, 0 or more."""
    text = "" if isinstance(value, bool) else str(value).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ParamsError(f"{value!r} is no whole number", field=name, remedy="Give 0, 1, 2, …")
    return int(text)


def read_size(name: str, value: Any) -> int:
    """Return bytes."""
    return parse_bytes(name, str(value))


def read_seconds(name: str, value: Any) -> float:
    """Return seconds above 0."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds <= 1e9:
        raise ParamsError(f"{value!r} is no number of seconds above 0", field=name, remedy="Give seconds, such as 2.5")
    return seconds


def read_number(name: str, value: Any) -> float:
    """Return a number above 0."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 1e15:
        raise ParamsError(f"{value!r} is no number above 0", field=name, remedy="Give a number, such as 60")
    return number


def read_positive(name: str, value: Any) -> int:
    """Return a whole number, 1 or more."""
    number = read_count(name, value)
    if number == 0:
        raise ParamsError("0 leaves nothing", field=name, remedy="Give 1, 2, …")
    return number


def read_priority(name: str, value: Any) -> int:
    """Return a priority; lower is sooner."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 31:
        raise ParamsError(f"{value!r} is no priority", field=name, remedy="Give a whole number; lower is sooner")
    return value


def read_key_limits(name: str, value: Any) -> dict[str, dict[str, Any]]:
    """Return each key's own limits, as far as they are given."""
    if not isinstance(value, Mapping):
        raise ParamsError("it is no mapping", field=name, remedy="Write each key's name and, below it, its limits")
    return {str(key): _own_limits(f"{name}.{key}", own) for key, own in value.items()}


def _own_limits(name: str, value: Any) -> dict[str, Any]:
    known: Mapping[str, Reader] = {
        "requests_per_min": read_number,
        "tokens_per_min": read_number,
        "max_concurrent": read_positive,
        "weight": read_number,
        "priority": read_priority,
    }
    given = value if isinstance(value, Mapping) else {}
    wrong = [str(one) for one in given if str(one).replace("-", "_") not in known]
    if wrong or not given:
        problem = f"there is no such limit: {', '.join(wrong)}" if wrong else "it has no limits"
        raise ParamsError(problem, field=name, remedy=f"Give some of {', '.join(known)}")
    named = {str(one).replace("-", "_"): limit for one, limit in given.items()}
    return {one: known[one](f"{name}.{one}", limit) for one, limit in named.items() if limit is not None}


def read_word(*words: str) -> Reader:
    """Return a reader that takes one of ``words``."""

    def read(name: str, value: Any) -> str:
        if value not in words:
            raise ParamsError(f"{value!r} is not known", field=name, remedy=f"Give {', '.join(words)}")
        return str(value)

    return read


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        group: the part of the configuration it belongs to, a dataclass.
        field: its name there.
        read: turns what was given into its value, or raises :class:`ParamsError`.
        meaning: for people.
        default: for people, where the configuration's own default says little.
        in_file_only: it has too many parts for a flag or a variable.
    """

    group: Any
    field: str
    read: Reader
    meaning: str
    default: str | None = None
    in_file_only: bool = False

    @property
    def default_text(self) -> str:
        """What people are told of the default."""
        if self.default is not None:
            return self.default
        value = next(one.default for one in fields(self.group) if one.name == self.field)
        if isinstance(value, bool):
            return "on" if value else "off"
        return "" if value in (None, ()) else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Models:
    """Settings from which the list of models is made."""

    models: tuple[str, ...] = ()
    served_model_name: tuple[str, ...] = ()
    model_memory_bytes: int | None = None
    max_engine_restarts: int = MAX_ENGINE_RESTARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sharing:
    """Settings from which the limits of all keys are made."""

    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    max_concurrent: int | None = None
    kv_overcommit: float | None = None
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SETTINGS: Mapping[str, Setting] = {
    "models": Setting(_Models, "models", read_texts, "Models to serve: SOURCE or NAME=SOURCE.", "the default model"),
    "served_model_name": Setting(
        _Models, "served_model_name", read_texts, "What clients call the model; again for more names.", "its own name"
    ),
    "model_memory": Setting(
        _Models, "model_memory_bytes", read_size, "Memory that all loaded models may take, such as 8G.", "no limit"
    ),
    "max_engine_restarts": Setting(
        _Models,
        "max_engine_restarts",
        read_count,
        "Times in ten minutes that a model whose engine has died is loaded again.",
    ),
    "host": Setting(ListenConfig, "host", read_text, "Address to listen on; 0.0.0.0 for everybody's."),
    "port": Setting(ListenConfig, "port", read_count, "TCP port; 0 takes a free one."),
    "uds": Setting(ListenConfig, "uds", read_text, "Path of a Unix socket, in place of host and port."),
    "allowed_origins": Setting(ListenConfig, "allowed_origins", read_texts, "Web pages that may call (CORS).", "none"),
    "timeout_keep_alive": Setting(
        ListenConfig, "timeout_keep_alive_s", read_seconds, "Seconds after which an idle connection is closed."
    ),
    "drain_timeout": Setting(
        ListenConfig, "drain_timeout_s", read_seconds, "Seconds that running requests get when the server is stopped."
    ),
    "enable_docs": Setting(ListenConfig, "docs", read_switch, "Serve /docs and /openapi.json."),
    "api_key": Setting(
        AccessConfig,
        "api_keys",
        read_texts,
        "A secret that callers must send, as SECRET or NAME:SECRET; again for more.",
        "none: everybody may call",
    ),
    "api_key_file": Setting(AccessConfig, "api_key_file", read_text, "File with one such key a line."),
    "max_body_bytes": Setting(LimitsConfig, "max_body_bytes", read_size, "Size of a request's body.", "8MiB"),
    "max_header_bytes": Setting(LimitsConfig, "max_header_bytes", read_size, "Size of a request's headers.", "32KiB"),
    "max_prompts": Setting(LimitsConfig, "max_prompts", read_count, "Prompts in one request."),
    "max_completions": Setting(LimitsConfig, "max_completions", read_count, "Prompts times n of one request."),
    "max_connections": Setting(LimitsConfig, "max_connections", read_count, "Open connections."),
    "header_timeout": Setting(LimitsConfig, "header_timeout_s", read_seconds, "Seconds for a request's headers."),
    "body_timeout": Setting(LimitsConfig, "body_timeout_s", read_seconds, "Seconds for a request's body."),
    "stall_timeout": Setting(
        LimitsConfig, "stall_timeout_s", read_seconds, "Seconds for a client to take what was sent to it."
    ),
    "request_timeout": Setting(
        LimitsConfig, "request_timeout_s", read_seconds, "Seconds after which an answer ends as it is.", "no limit"
    ),
    "retry_after": Setting(
        LimitsConfig, "retry_after_s", read_seconds, "Seconds that clients are told to wait when the queue is full."
    ),
    "requests_per_min": Setting(
        _Sharing, "requests_per_min", read_number, "Requests a minute that each key may send.", "no limit"
    ),
    "tokens_per_min": Setting(
        _Sharing, "tokens_per_min", read_number, "Tokens a minute, asked and answered, for each key.", "no limit"
    ),
    "max_concurrent": Setting(
        _Sharing, "max_concurrent", read_positive, "Requests of each key at once, waiting ones included.", "no limit"
    ),
    "kv_overcommit": Setting(
        _Sharing,
        "kv_overcommit",
        read_number,
        "KV memory promised to requests at their longest, relative to what is free.",
        "no limit",
    ),
    "keys": Setting(
        _Sharing, "keys", read_key_limits, "Limits, weight and priority of each key by its name.", "", in_file_only=True
    ),
    "log_level": Setting(
        ObserveConfig, "log_level", read_word("debug", "info", "warning", "error"), "debug, info, warning or error."
    ),
    "log_format": Setting(ObserveConfig, "log_format", read_word("text", "json"), "text or json."),
    "metrics_prefix": Setting(ObserveConfig, "metrics_prefix", read_text, "What names of metrics begin with."),
    "otlp_endpoint": Setting(ObserveConfig, "otlp_endpoint", read_text, "URL that OpenTelemetry traces are sent to."),
    "ping_interval": Setting(
        ObserveConfig, "ping_interval_s", read_seconds, "Seconds of silence after which a stream gets a comment."
    ),
    "tool_call_parser": Setting(
        ToolsConfig,
        "tool_call_parser",
        read_word(AUTO_FORMAT, *TOOL_FORMATS),
        f"How models write calls of tools: {', '.join(TOOL_FORMATS)}, or as the chat template teaches (auto).",
    ),
    "enable_auto_tool_choice": Setting(
        ToolsConfig, "enable_auto_tool_choice", read_switch, "Let the model decide whether it calls tools."
    ),
    "batch_store": Setting(
        BatchConfig, "store", read_text, "SQLite file or database URL that keeps batch jobs.", "none: no batch jobs"
    ),
    "batch_files": Setting(
        BatchConfig, "files", read_text, "Directory of their files.", "beside the SQLite file"
    ),
    "batch_max_file_bytes": Setting(BatchConfig, "max_file_bytes", read_size, "Size of an input file.", "200MiB"),
    "batch_max_stored_bytes": Setting(
        BatchConfig, "max_stored_bytes", read_size, "Of all files of a key, inputs and outputs.", "2GiB"
    ),
    "batch_max_open": Setting(BatchConfig, "max_open", read_positive, "Batches of a key that have not ended.", "50"),
    "batch_concurrency": Setting(
        BatchConfig, "concurrency", read_positive, "Lines answered at once.", "half of max-num-seqs"
    ),
    "batch_order": Setting(
        BatchConfig, "order", read_word("as_given", "by_prefix"), "In which order: as_given or by_prefix."
    ),
    "replicas": Setting(
        FleetConfig, "replicas", read_positive, "Engines per model, each in a process of its own.", "one, in the server"
    ),
    "router": Setting(
        FleetConfig, "router", read_word(*ROUTE_POLICIES), f"Which replica gets a request: {', '.join(ROUTE_POLICIES)}."
    ),
    "cluster": Setting(
        FleetConfig, "cluster", read_text, "ray or ray://HOST:PORT: let Ray place the replicas.", "this machine"
    ),
    "device": Setting(LLMOptions, "device", read_text, "auto, cpu, cuda or cuda:N."),
    "dtype": Setting(LLMOptions, "dtype", read_text, "auto, float32, bfloat16 or float16."),
    "quantization": Setting(
        LLMOptions, "quantization", read_text, "auto, none, stored, w8a8 or w4a8 (CPUs), int8 or int4 (CUDA)."
    ),
    "max_model_len": Setting(
        LLMOptions, "max_model_len", read_count, "Context: tokens of prompt and answer together.", "the model's"
    ),
    "max_num_seqs": Setting(LLMOptions, "max_num_seqs", read_count, "Sequences that run at once."),
    "max_num_batched_tokens": Setting(
        LLMOptions, "max_num_batched_tokens", read_count, "Tokens computed in one step.", "512, on GPUs 2048"
    ),
    "max_waiting": Setting(LLMOptions, "max_waiting", read_count, "Sequences that may wait; further ones get a 429."),
    "kv_cache_memory": Setting(
        LLMOptions, "kv_cache_memory_bytes", read_size, "Size of each model's KV cache, such as 2G.", "as needed"
    ),
    "kv_cache_dtype": Setting(LLMOptions, "kv_cache_dtype", read_text, "auto, float32, float16, bfloat16 or int8."),
    "block_size": Setting(LLMOptions, "block_size", read_count, "Tokens per KV block."),
    "enable_prefix_caching": Setting(
        LLMOptions, "enable_prefix_caching", read_switch, "Reuse the KV of equal prompt beginnings."
    ),
    "schedule_policy": Setting(
        LLMOptions, "schedule_policy", read_text, "Whose turn it is: fcfs, priority, vtc (fair share) or others."
    ),
    "threads": Setting(LLMOptions, "threads", read_count, "CPU threads.", "all cores"),
    "seed": Setting(LLMOptions, "seed", read_count, "Of the generator that draws seeds for requests without one."),
    "overlap_steps": Setting(LLMOptions, "overlap_steps", read_switch, "Schedule a step while the one before runs."),
    "decode_graphs": Setting(LLMOptions, "decode_graphs", read_switch, "Replay recorded steps (CUDA)."),
}  # fmt: skip


def load_config(
    flags: Mapping[str, Any], environment: Mapping[str, Any] | None = None, file: Mapping[str, Any] | None = None
) -> ServeConfig:
    """Return the configuration from settings by name: flags go before the environment, and that before the file.

    A name that is unknown is an error in flags and files; variables may be somebody else's, and get a warning.

    Raises:
        ParamsError: if a name is unknown, listing the known ones, or a value is wrong.
    """
    given: dict[str, Any] = {}
    for source in (file or {}, _known(environment or {}), flags):
        for name in source:
            if name not in SETTINGS:
                remedy = f"Use one of {', '.join(sorted(SETTINGS))}"
                raise ParamsError("there is no such setting", field=f"{name!s:.100}", remedy=remedy)
        given.update({name: value for name, value in source.items() if value is not None})
    return _config(given)


def _config(given: Mapping[str, Any]) -> ServeConfig:
    values = {name: SETTINGS[name].read(name, value) for name, value in given.items()}

    def group(kind: type) -> dict[str, Any]:
        return {SETTINGS[name].field: value for name, value in values.items() if SETTINGS[name].group is kind}

    models, engine = _Models(**group(_Models)), LLMOptions(**group(LLMOptions))
    return ServeConfig(
        models=_model_specs(models),
        model_memory_bytes=models.model_memory_bytes,
        max_engine_restarts=models.max_engine_restarts,
        listen=ListenConfig(**group(ListenConfig)),
        access=AccessConfig(**group(AccessConfig)),
        limits=LimitsConfig(**group(LimitsConfig)),
        sharing=_sharing(_Sharing(**group(_Sharing)), engine),
        observe=ObserveConfig(**group(ObserveConfig)),
        tools=ToolsConfig(**group(ToolsConfig)),
        batch=BatchConfig(**group(BatchConfig)),
        fleet=FleetConfig(**group(FleetConfig)),
        engine=engine,
    )


def _sharing(settings: _Sharing, engine: LLMOptions) -> SharingConfig:
    """Return the limits of all keys: what a key does not say of itself is as for everybody."""
    if engine.schedule_policy != "vtc" and any("weight" in own for own in settings.keys.values()):
        problem = f"weights mean nothing to the schedule policy {engine.schedule_policy}"
        raise ParamsError(problem, field="keys", remedy="Set schedule_policy to vtc, or leave the weights out")
    default = KeyLimits(
        requests_per_min=settings.requests_per_min,
        tokens_per_min=settings.tokens_per_min,
        max_concurrent=settings.max_concurrent,
    )
    keys = {name: replace(default, **own) for name, own in settings.keys.items()}
    return SharingConfig(default=default, keys=keys, kv_overcommit=settings.kv_overcommit)


def _known(environment: Mapping[str, Any]) -> dict[str, Any]:
    known = {name for name, setting in SETTINGS.items() if not setting.in_file_only}
    unknown = [name for name in environment if name not in known]
    if unknown:
        logger.warning("the environment has names that are no settings: %s", ", ".join(sorted(unknown)))
    return {name: value for name, value in environment.items() if name in known}


def _model_specs(models: _Models) -> tuple[ModelSpec, ...]:
    specs = tuple(_model_spec(text) for text in models.models) or (ModelSpec(source=None, names=(default_model(),)),)
    if models.served_model_name:
        if len(specs) > 1:
            problem = f"there are {len(specs)} models"
            raise ParamsError(problem, field="served_model_name", remedy="Give each model as NAME=SOURCE instead")
        specs = (ModelSpec(source=specs[0].source, names=models.served_model_name),)
    names = [name for spec in specs for name in spec.names]
    for name in names:
        if names.count(name) > 1:
            problem = f"two models are called {name!r}"
            raise ParamsError(problem, field="models", remedy="Give each another name, as NAME=SOURCE")
    return specs


def _model_spec(text: str) -> ModelSpec:
    name, equals, source = text.partition("=")
    if equals and _NAME.fullmatch(name) and source:
        return ModelSpec(source=source, names=(name,))
    path = PurePath(text)
    is_file = path.suffix == ".gguf" or path.is_absolute() or text.startswith(".")
    return ModelSpec(source=text, names=(path.stem if path.suffix == ".gguf" else path.name if is_file else text,))
