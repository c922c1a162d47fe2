"""``steelyard batch``: a file of requests in, a file of answers out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steelyard.cli.options import EngineOptions, OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, error_console, print_json, write_error_line
from steelyard.cli.serve import check_installed
from steelyard.core.clock import Stopwatch, wall_s
from steelyard.core.errors import InputError
from steelyard.core.units import format_seconds
from steelyard.serve.config import ServeConfig
from steelyard.serve.settings import load_config

if TYPE_CHECKING:
    from steelyard.serve.batch.types import Answer, Batch

app = new_app()

_TELL_EVERY_S = 30.0  # where there is no terminal for a bar

Input = Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one a line, as OpenAI's batches have them.")]
Output = Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Answers, in the order of the requests.")]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="Lines answered at once.", show_default="twice --max-num-seqs")
]
Order = Annotated[str, typer.Option(help="In which order lines are computed: as_given or by_prefix.")]
MaxNumSeqs = Annotated[int | None, typer.Option(min=1, help="Sequences that run at once.", show_default="64")]


@app.command(
    epilog=examples(
        "steelyard batch requests.jsonl answers.jsonl",
        "steelyard batch requests.jsonl answers.jsonl --model gpt-4o-mini=./model.gguf --order by_prefix",
    )
)
@takes_groups
def batch(
    *,
    requests: Input,
    answers: Output,
    concurrency: Concurrency = None,
    order: Order = "as_given",
    max_num_seqs: MaxNumSeqs = None,
    engine: EngineOptions,
    output: OutputOptions,
) -> None:
    """Answer a file of requests.

    Interrupt or kill it as you like, and run the same command again: it goes on where it was. What is done so far lies
    in OUT.jsonl.state; OUT.jsonl appears when all is done, with one line for each line of the input. --model
    NAME=SOURCE serves a model under the name that the lines use.
    """
    check_installed()
    config = _config(engine, concurrency, order, max_num_seqs)
    offline = import_module("steelyard.serve.batch.offline")
    job = offline.FileJob(input=requests, output=answers)
    configure_logging(logging.WARNING)  # the server's notices would tell of every line
    model = engine.model or config.models[0].names[0]
    with Stopwatch() as watch, closing(offline.open_job(job, model)) as store, _bar(model) as bar:
        told = offline.Progress(begin=bar.begin, answers=bar.count)
        ended: Batch = asyncio.run(offline.answer_file(job, store, config, _models(config), told))
    offline.forget(job)
    _tell(ended, bar, watch.elapsed_s, answers, as_json=output.json)


def _config(engine: EngineOptions, concurrency: int | None, order: str, max_num_seqs: int | None) -> ServeConfig:
    given: dict[str, Any] = {
        "models": None if engine.model is None else [engine.model],
        "device": engine.device,
        "dtype": engine.dtype,
        "quantization": engine.quantization,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": max_num_seqs,
        "kv_cache_memory": engine.kv_cache_memory,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "enable_prefix_caching": engine.prefix_caching,
        "schedule_policy": engine.schedule_policy,
        "threads": engine.threads,
        "batch_concurrency": concurrency,
        "batch_order": order,
    }
    return load_config(given)


def _models(config: ServeConfig) -> Any:
    return import_module("steelyard.serve.sources").DiskModels(config.engine)


class _Bar:
    """Lines done and tokens per second, on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, rate="")
        self._began_s = self._told_s = self._last_s = wall_s()
        self.num_tokens = 0

    def begin(self, num_lines: int, num_done: int) -> None:
        """Know how much there is to do; the time counts from now."""
        self._began_s = self._told_s = self._last_s = wall_s()
        self._progress.reset(self._task, total=num_lines, completed=num_done)

    def count(self, answers: Sequence[Answer]) -> None:
        """Count what is done."""
        self._last_s = wall_s()
        self.num_tokens += sum(_num_output_tokens(answer.body) for answer in answers)
        self._progress.update(self._task, advance=len(answers), rate=f"{self.tokens_per_s:.0f} tokens/s")
        if not self._progress.console.is_terminal and wall_s() - self._told_s > _TELL_EVERY_S:
            self._told_s = wall_s()
            task = self._progress.tasks[self._task]
            write_error_line(f"{task.completed:.0f} of {task.total:.0f} lines, {self.tokens_per_s:.0f} tokens/s")

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of this run, from when the model was loaded to the last answer."""
        return self.num_tokens / max(1e-9, self._last_s - self._began_s)


@contextmanager
def _bar(model: str) -> Iterator[_Bar]:
    console = error_console()
    columns = (TextColumn(model), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        yield _Bar(progress)


def _num_output_tokens(body: str) -> int:
    usage = json.loads(body).get("usage") or {}
    return int(usage.get("completion_tokens", 0))


def _tell(ended: Batch, bar: _Bar, elapsed_s: float, path: Path, *, as_json: bool) -> None:
    """Tell what was done.

    Raises:
        InputError: if lines came to an error.
    """
    if as_json:
        counts = {"lines": ended.num_lines, "completed": ended.num_completed, "failed": ended.num_failed}
        rates = {"output_tokens": bar.num_tokens, "output_tokens_per_s": bar.tokens_per_s, "elapsed_s": elapsed_s}
        print_json({**counts, **rates, "out": str(path)})
    else:
        done = f"{ended.num_completed} of {ended.num_lines} lines answered"
        rate = f"{bar.num_tokens} tokens, {bar.tokens_per_s:.0f} per second"
        write_error_line(f"[{done} | {rate} | {format_seconds(elapsed_s)} | {path}]")
    if ended.num_failed:
        problem = f"{ended.num_failed} of {ended.num_lines} lines came to an error"
        raise InputError(problem, field=str(path), remedy="Look there for a status_code other than 200")
