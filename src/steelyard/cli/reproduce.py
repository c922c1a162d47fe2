"""``steelyard reproduce``: the papers' experiments, redone; and what exists of all systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.options import ModelOption, OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, format_table, print_json, working, write_error_line, write_line
from steelyard.core.errors import InputError, StorageError
from steelyard.models.catalogue import default_model
from steelyard.reproduce import REPRODUCTIONS, find_reproduction
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.registry import System, SystemState, load_systems
from steelyard.reproduce.report import print_reproduction, write_reproduction

app = new_app()

Systems = Annotated[
    list[str] | None, typer.Argument(metavar="S…", help="Systems to run, such as S74.", show_default=False)
]
List = Annotated[bool, typer.Option("--list", help="List the state of all systems, or of those given; run nothing.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smaller run that shows the mechanism, no number to quote.")]
Out = Annotated[Path, typer.Option("--out", "--out-dir", help="Directory for the results; made if it is missing.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Directory of measurements and traces that are not shipped.", exists=True, file_okay=False
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random in the run.")]


@app.command(
    epilog=examples("steelyard reproduce --list", "steelyard reproduce S74 --quick", "steelyard reproduce S74 --json")
)
@takes_groups
def reproduce(
    *,
    systems: Systems = None,
    list_only: List = False,
    quick: Quick = False,
    out: Out = Path("results"),
    seed: Seed = 0,
    data: Data = None,
    model: ModelOption = None,
    output: OutputOptions,
) -> None:
    """Redo the experiments of the systems built in.

    Each run prints the paper's claim, our setup and our numbers side by side, and keeps them as a JSON file in --out.
    A ratio that falls short of the claim is reported as it is.
    """
    names = [name.upper() for name in systems or ()]
    if list_only:
        _list(names, as_json=output.json)
    else:
        name = model or default_model()
        options = ReproduceOptions(model=name, out_dir=out, seed=seed, quick=quick, data_dir=data)
        _run(names, options, output)


def _run(names: Sequence[str], options: ReproduceOptions, output: OutputOptions) -> None:
    if not names:
        remedy = "See what there is with --list, then give a number such as S74"
        raise InputError("none was given", field="system", remedy=remedy)
    functions = [find_reproduction(name) for name in names]  # a wrong name is told before anything runs
    configure_logging()
    _prepare(options.out_dir)
    for name, function in zip(names, functions, strict=True):
        with working(f"Running {name}"):
            done = function(options)
        path = write_reproduction(done, options.out_dir)
        if output.json:
            print_json({**asdict(done), "ratios": list(done.ratios), "file": str(path)})
        else:
            print_reproduction(done)
        write_error_line(f"written to {path}")


def _prepare(out: Path) -> None:
    """Make the results' directory now, not after minutes of running."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".steelyard-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = f"{out} cannot be written: {error.strerror or error}"
        raise StorageError(problem, field="--out", remedy="Give a directory that you may write to") from error


def _list(names: Sequence[str], *, as_json: bool) -> None:
    known = load_systems()
    wrong = set(names) - {system.id for system in known}
    if wrong:
        raise InputError(f"there is no {min(wrong)}", field="system", remedy=f"Give {known[0].id} … {known[-1].id}")
    chosen = [system for system in known if not names or system.id in names]
    if as_json:
        print_json({"systems": [_fields(system) for system in chosen]})
        return
    rows = [(s.id, s.state.value, "yes" if s.id in REPRODUCTIONS else "", s.name, s.measured or "") for s in chosen]
    write_line(format_table(("#", "STATE", "RUNS", "SYSTEM", "MEASURED"), rows))
    counts = Counter(system.state for system in chosen)
    write_line("\n" + ", ".join(f"{state.value}: {counts[state]}" for state in SystemState))


def _fields(system: System) -> dict[str, Any]:
    return {**asdict(system), "state": system.state.value, "runs": system.id in REPRODUCTIONS}
