"""Options that several commands share, each written down once.

A group of options is a frozen dataclass whose fields are Typer options. A command takes whole groups as parameters and
:func:`takes_groups` shows Typer their fields.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.units import parse_bytes

DEFAULT_MAX_TOKENS = 256

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Catalogue name, .gguf file, Hugging Face directory or hub id. Default: see 'steelyard models'.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What every command takes."""

    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Which model, and how to load it."""

    model: ModelOption = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPUs, bfloat16 on GPUs), float32, bfloat16 or float16.")
    ] = "auto"
    quantization: Annotated[
        str,
        typer.Option(
            "--quantization",
            "-q",
            help="Weights of linear layers: auto (a GGUF file's own blocks, on CPUs), none, stored, w8a8 or w4a8 "
            "(CPUs), int8 or int4 (CUDA).",
        ),
    ] = "auto"
    max_model_len: Annotated[
        int | None, typer.Option(help="Context: tokens of prompt and answer together.", show_default="the model's")
    ] = None
    kv_cache_memory: Annotated[
        str | None, typer.Option(help="Size of the KV cache, such as 512MiB or 2G.", show_default="as needed")
    ] = None
    kv_cache_dtype: Annotated[
        str,
        typer.Option("--kv-cache-dtype", help="Numbers in the KV cache: auto, float32, float16, bfloat16 or int8."),
    ] = "auto"
    prefix_caching: Annotated[
        bool,
        typer.Option("--prefix-caching/--no-prefix-caching", help="Reuse the KV of equal prompt beginnings."),
    ] = True
    schedule_policy: Annotated[
        str, typer.Option(help="Who computes first: fcfs, priority, shortest_first, vtc (fair share) or static.")
    ] = "fcfs"
    threads: Annotated[int | None, typer.Option("--threads", "-t", help="CPU threads.", show_default="all cores")] = (
        None
    )

    def keywords(self) -> dict[str, Any]:
        """Return the engine's own names and values (``LLMOptions``), the model left out."""
        kv_cache = self.kv_cache_memory
        given = {
            "device": self.device,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "max_model_len": self.max_model_len,
            "kv_cache_memory_bytes": None if kv_cache is None else parse_bytes("kv_cache_memory", kv_cache),
            "kv_cache_dtype": self.kv_cache_dtype,
            "enable_prefix_caching": self.prefix_caching,
            "schedule_policy": self.schedule_policy,
            "threads": self.threads,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen."""

    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", help="Tokens to generate at most.", show_default="256")
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token.", show_default="the model's")
    ] = None
    top_p: Annotated[
        float | None, typer.Option(help="Keep the likeliest tokens up to this share.", show_default="the model's")
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(help="Keep this many of the likeliest tokens; 0 keeps all.", show_default="the model's"),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(help="Keep tokens this likely, relative to the likeliest.", show_default="the model's"),
    ] = None
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="<str>", help="End before this text; give it again for more.", show_default=False),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Return the :class:`SamplingParams` fields that the user set, checked.

        Raises:
            ParamsError: if one is out of range.
        """
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": tuple(self.stop) if self.stop else None,
        }
        known = {name: value for name, value in given.items() if value is not None}
        if self.top_k is not None:
            check_at_least("top_k", self.top_k, 0)
            known["top_k"] = self.top_k or None
        SamplingParams(**known)
        return known


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let Typer see each field of a command's dataclass parameters as an option of its own.

    The command itself is called with the dataclasses, filled.
    """
    hints: dict[str, Any] = get_type_hints(command)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        filled = {name: kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        command(**values, **filled)

    parameters = _flat_parameters(command, groups)
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del flat.__wrapped__  # or Typer would look at the command's own signature
    return flat


def _flat_parameters(command: Callable[..., None], groups: dict[str, Any]) -> list[inspect.Parameter]:
    own_hints = get_type_hints(command, include_extras=True)
    flat = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            flat.extend(_fields_as_parameters(groups[name]))
        else:
            flat.append(parameter.replace(annotation=own_hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    return flat


def _fields_as_parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(group)]


def new_app(help_text: str | None = None) -> typer.Typer:
    """Return a Typer app in the house's manner: help in plain text, nothing installed into shells."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help=help_text)


def examples(*lines: str) -> str:
    """Return the part of a help page that shows command lines as they are typed: a command's ``epilog``."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def check_at_least(field: str, number: int, low: int) -> None:
    """Raise :class:`ParamsError` if ``number`` is below ``low``."""
    if number < low:
        raise ParamsError(f"{number} is below {low}", field=field, remedy=f"Give at least {low}")
