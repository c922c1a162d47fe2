"""``steelyard serve``: an OpenAI-compatible server."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, examples, new_app
from steelyard.core.environment import server_variables
from steelyard.core.errors import ResourceError
from steelyard.serve.config import ServeConfig
from steelyard.serve.settings import SETTINGS, Setting, load_config, read_switch, read_texts

app = new_app()

_NEEDED = (
    "fastapi",
    "uvicorn",
    "httptools",
    "pydantic",
    "prometheus_client",
    "yaml",
    "sqlalchemy",
    "httpx",
    "msgspec",
    "python_multipart",
)
_POSITIONAL = "models"


def run(config: str | None, given: dict[str, Any]) -> None:
    """Serve models over HTTP.

    Clients of OpenAI's API, and of vLLM's and llama.cpp's servers, find the same addresses: /v1/chat/completions,
    /v1/completions, /v1/models, /tokenize, /detokenize, /health, /metrics. A setting is a flag here, a variable such as
    STEELYARD_PORT, or a line in the --config file, in this order. SIGTERM lets running requests end; a second one does
    not. SIGHUP, or a change of the --config file, sets keys and limits anew.
    """
    check_installed()

    def load() -> ServeConfig:
        file = {} if config is None else import_module("steelyard.serve.files").read_config_file(config)
        return load_config(given, server_variables(), file)

    import_module("steelyard.serve.server").run_server(load, config)


def check_installed() -> None:
    """Raise :class:`ResourceError` unless the libraries of the extra ``serve`` are there."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        problem = f"{', '.join(missing)} is not installed"
        raise ResourceError(problem, field="serve", remedy="Run: pip install 'steelyard[serve]'")


def _command() -> Callable[..., None]:
    """Return :func:`run` with an option for every setting: Typer reads them from the signature."""

    def serve(**values: Any) -> None:
        for field in fields(OutputOptions):
            values.pop(field.name)
        run(values.pop("config"), {name: value for name, value in values.items() if value not in (None, [])})

    config = Annotated[str | None, typer.Option("--config", help="File with settings, in YAML.", show_default=False)]
    kinds: dict[str, Any] = {
        name: _option(name, setting) for name, setting in SETTINGS.items() if not setting.in_file_only
    }
    kinds |= {"config": config}
    parameters = [_parameter(name, kind, None) for name, kind in kinds.items()]
    hints = inspect.get_annotations(OutputOptions, eval_str=True)
    parameters += [_parameter(name, kind, False) for name, kind in hints.items()]
    serve.__doc__ = run.__doc__
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return serve


def _parameter(name: str, kind: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _option(name: str, setting: Setting) -> Any:
    """Return the type of a setting's parameter; its value is read later, as one from a file is."""
    flag = "--" + name.replace("_", "-")
    shown: Any = {"help": setting.meaning, "show_default": setting.default_text or False}
    if name == _POSITIONAL:
        return Annotated[list[str] | None, typer.Argument(metavar="MODEL…", **shown)]
    if setting.read is read_switch:
        positive, negative = flag, "--no-" + flag[2:]
        return Annotated[bool | None, typer.Option(f"{positive}/{negative}", **shown)]
    if setting.read is read_texts:
        return Annotated[list[str] | None, typer.Option(flag, **shown)]
    short = ("-q",) if name == "quantization" else ()
    return Annotated[str | None, typer.Option(flag, *short, **shown)]


app.command(
    name="serve",
    epilog=examples(
        "steelyard serve",
        "steelyard serve model.gguf --served-model-name helper --port 8080 --api-key $SECRET",
        "steelyard serve small=smollm2-135m-instruct big=./big.gguf --model-memory 8G",
        "STEELYARD_PORT=8080 steelyard serve --config server.yaml",
    ),
)(_command())
