"""Where environments, models and logs lie, and how a contender is started from there."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from peerbench.child import Child
from peerbench.contenders import OURS, Contender
from steelyard.models.catalogue import default_model
from steelyard.models.resolve import resolve_model

SCRIPTS = Path(__file__).parent / "engines"
# Nothing may be fetched while the benchmark runs.
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Cache:
    """The directory that ``setup`` fills and ``run`` reads."""

    root: Path

    def bin(self, environment: str) -> Path:
        """Return the environment's folder of programs."""
        return self.root / "venvs" / environment / "bin"

    def installed(self, environment: str) -> Path:
        """Return the file that says what was installed in full."""
        return self.root / "venvs" / environment / "installed.txt"

    def model(self, name: str) -> Path:
        """Return a converted model's file or directory; it is there only if it is whole."""
        return self.root / "models" / name

    def log(self, name: str) -> Path:
        """Return the log of an installation, a conversion or an engine."""
        return self.root / "logs" / (re.sub(r"[^\w.-]+", "-", name) + ".log")

    def missing(self, contender: Contender) -> str | None:
        """Return what this contender lacks, in a few words, or ``None``."""
        if contender.environment is not None and not self.installed(contender.environment).is_file():
            return f"environment {contender.environment} is not set up"
        if contender.model is not None and not self.model(contender.model).exists():
            return f"model {contender.model} is not set up"
        return None

    def start(self, name: str, contender: Contender) -> Child:
        """Start a contender's process; it has loaded nothing yet."""
        python = self.bin(contender.environment) / "python" if contender.environment else Path(sys.executable)
        command = [str(python), str(SCRIPTS / contender.script)]
        return Child(command, self.log(name), {**os.environ, **OFFLINE})

    def model_argument(self, name: str, contender: Contender) -> str:
        """Return what to tell a contender to load: ours finds the default model itself."""
        if contender.model is not None:
            return str(self.model(contender.model))
        return "" if name == OURS else str(source_model())


def source_model() -> Path:
    """Return the default model's GGUF file."""
    return resolve_model(default_model()).path
