"""What every reproduction is told: :class:`ReproduceOptions`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions:
    """How to run a reproduction.

    Attributes:
        model: name or path of the model to run, as the user gave it.
        out_dir: directory for results; made if it is missing.
        seed: of everything random in the run.
        quick: a smaller run that shows the mechanism, not a number to quote.
        data_dir: of measurements and traces that cannot be shipped; ``None`` for those that are.
    """

    model: str
    out_dir: Path = Path("results")
    seed: int = 0
    quick: bool = False
    data_dir: Path | None = None


def command_line(system: str, options: ReproduceOptions) -> str:
    """Return the command that runs a reproduction with these options, for pasting into a shell."""
    words = ["steelyard", "reproduce", system, "--model", options.model, "--seed", str(options.seed)]
    words += ["--out-dir", str(options.out_dir), *(["--quick"] if options.quick else [])]
    words += [] if options.data_dir is None else ["--data", str(options.data_dir)]
    return shlex.join(words)
