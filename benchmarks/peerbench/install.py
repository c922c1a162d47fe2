"""``peers.py setup``: make environments and models. What fails is reported in a line, and the rest goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from peerbench.cache import SCRIPTS, Cache, source_model
from peerbench.child import PeerError, last_line
from peerbench.contenders import (
    ENVIRONMENTS,
    MODELS,
    Contender,
    Environment,
    Recipe,
    needed_environments,
    needed_models,
)

NICE = ("nice", "-n", "10")


def set_up(cache: Cache, contenders: Mapping[str, Contender]) -> list[str]:
    """Make what these contenders need and is not there; return a line for each thing that could not be made."""
    return set_up_parts(cache, needed_environments(contenders), needed_models(contenders))


def set_up_parts(cache: Cache, environments: Sequence[str], models: Sequence[str]) -> list[str]:
    """Make these environments and then these models; return a line for each that could not be made."""
    failures = []
    for name in environments:
        failures += _attempt(f"environment {name}", lambda name=name: install(cache, name, ENVIRONMENTS[name]))
    for name in models:
        failures += _attempt(f"model {name}", lambda name=name: convert(cache, name, MODELS[name]))
    return failures


def install(cache: Cache, name: str, environment: Environment) -> None:
    """Make an environment unless it has been made of the same packages.

    Raises:
        PeerError: if that fails; the log tells more.
    """
    stamp, content = cache.installed(name), "\n".join(environment.requirements) + "\n"
    if stamp.is_file() and stamp.read_text() == content:
        return
    stamp.unlink(missing_ok=True)
    log, programs = cache.log(f"setup-{name}"), cache.bin(name)
    if not (programs / "python").exists():
        run([sys.executable, "-m", "venv", str(programs.parent)], log)
    pip = [*NICE, str(programs / "python"), "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", *environment.pip_options, *environment.requirements], log, environment.variables)
    if environment.unwanted:
        run([*pip, "uninstall", "--yes", *environment.unwanted], log)
    stamp.write_text(content)


def convert(cache: Cache, name: str, recipe: Recipe) -> None:
    """Make a model unless it is there; it gets its name only when it is whole.

    Raises:
        PeerError: if that fails; the log tells more.
    """
    target = cache.model(name)
    if target.exists():
        return
    source = source_model() if recipe.source is None else cache.model(recipe.source)
    partial = target.with_name(f"partial-{name}")
    _remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    places = {"scripts": SCRIPTS, "source": source, "target": partial}
    program, *arguments = (word.format(**places) for word in recipe.command)
    run([*NICE, str(cache.bin(recipe.environment) / program), *arguments], cache.log(f"setup-{name}"))
    partial.rename(target)


def run(command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> None:
    """Run a command to its end, its output going to ``log``.

    Raises:
        PeerError: if it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as output:
            subprocess.run(command, stdout=output, stderr=output, check=True, env={**os.environ, **(variables or {})})
    except (OSError, subprocess.CalledProcessError) as error:
        code = f"code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise PeerError(f"{code}: {last_line(log)} (see {log})") from error


def _attempt(what: str, make: Callable[[], None]) -> list[str]:
    print(f"{what} …", file=sys.stderr, flush=True)
    try:
        make()
    except PeerError as error:
        return [f"{what} failed: {error}"]
    return []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
