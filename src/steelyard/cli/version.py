"""``steelyard version``: what to quote in a report of a fault."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from steelyard import __version__
from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import print_json, write_line

app = new_app()

_FOUNDATIONS = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "typer")


@app.command(epilog=examples("steelyard version", "steelyard version --json"))
@takes_groups
def version(*, output: OutputOptions) -> None:
    """Show the versions of Steelyard, Python and the packages it stands on."""
    found = {"steelyard": __version__, "python": platform.python_version(), "platform": platform.platform()}
    found |= {name: _version(name) for name in _FOUNDATIONS}
    if output.json:
        print_json(found)
        return
    for name, value in found.items():
        write_line(f"{name} {value}")


def _version(package: str) -> str:
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed"
