"""``steelyard perplexity``: how well a model predicts a text, over sliding windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.inputs import file_text
from steelyard.cli.loading import Loaded, loaded_model
from steelyard.cli.options import EngineOptions, OutputOptions, check_at_least, examples, new_app, takes_groups
from steelyard.cli.output import error_console, print_json, write_line
from steelyard.core.clock import Stopwatch
from steelyard.core.errors import ParamsError, PromptError
from steelyard.hardware.this_machine import peak_rss_bytes

app = new_app()

_DEFAULT_CONTEXT = 512

File = Annotated[Path, typer.Option("--file", "-f", help="Text to predict, UTF-8.", show_default=False)]
Context = Annotated[
    int | None, typer.Option(help="Tokens per window.", show_default="512, or the model's context if shorter")
]
Stride = Annotated[
    int | None, typer.Option(help="Tokens between the starts of windows.", show_default="half of the context")
]


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``start … end − 1`` of a text, of which those from ``first`` on count."""

    start: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The sum of log-probabilities (natural log) over a number of predicted tokens."""

    total_logprob: float
    num_tokens: int

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood per token, nats."""
        return -self.total_logprob / self.num_tokens

    @property
    def perplexity(self) -> float:
        """``exp(nll)``; infinite where that is beyond floating point."""
        return math.exp(self.nll) if self.nll < math.log(1e308) else math.inf


@app.command(
    epilog=examples(
        "steelyard perplexity --file wiki.test.raw",
        "steelyard perplexity --file book.txt --context 1024 --stride 512 --json | jq .perplexity",
    )
)
@takes_groups
def perplexity(
    *, file: File, context: Context = None, stride: Stride = None, engine: EngineOptions, output: OutputOptions
) -> None:
    """Measure how well a model predicts a text.

    A window slides over the text; in each, only tokens that no earlier window predicted count, so every token but the
    first is predicted exactly once, and all but those of the first window with at least context − stride tokens before
    it. The result is the mean over tokens, not over windows.
    """
    text = file_text(file, field="--file")
    _check_sizes(context, stride)
    with loaded_model(engine, max_num_seqs=1) as loaded:
        length = context if context is not None else min(_DEFAULT_CONTEXT, loaded.max_model_len)
        step = stride if stride is not None else max(1, length // 2)
        _check_fit(loaded, length, step)
        token_ids = loaded.llm.engine.encode(text)
        with Stopwatch() as watch:
            found = score(loaded, token_ids, length, step)
        if output.json:
            numbers = {"perplexity": found.perplexity, "nll": found.nll, "tokens": found.num_tokens}
            bits = -found.total_logprob / math.log(2) / len(text.encode())
            setup = {"model": loaded.name, "file": str(file), "context": length, "stride": step}
            cost = {"elapsed_s": watch.elapsed_s, "peak_rss_bytes": peak_rss_bytes()}
            print_json({**numbers, "bits_per_byte": bits, **setup, **cost})
        else:
            write_line(f"perplexity {found.perplexity:.4f} (nll {found.nll:.5f} over {found.num_tokens} tokens)")


def score(loaded: Loaded, token_ids: tuple[int, ...], context: int, stride: int) -> Likelihood:
    """Return the likelihood of a text under sliding windows; progress goes to standard error.

    A beginning-of-sequence token that the tokenizer put first stands at the start of every window: models that know
    it predict badly without it.

    Raises:
        PromptError: if there is no token to predict.
    """
    has_bos = token_ids[0] == loaded.llm.tokenizer.bos_token_id
    head, body = (token_ids[:1], token_ids[1:]) if has_bos else ((), token_ids)
    if len(token_ids) < 2:
        raise PromptError("one token leaves nothing to predict", field="--file", remedy="Give a longer text")
    total, count = 0.0, 0
    slices = list(windows(len(body), context - len(head), stride, first=1 - len(head)))
    with error_console().status("Scoring") as status:
        for index, window in enumerate(slices, 1):
            logprobs = loaded.llm.score(head + body[window.start : window.end])[0].logprobs
            counted = logprobs[len(head) + window.first - window.start :]
            total += math.fsum(value for value in counted if value is not None)
            count += len(counted)
            status.update(f"Window {index} of {len(slices)}, nll {-total / count:.4f} so far")
    return Likelihood(total, count)


def windows(num_tokens: int, context: int, stride: int, *, first: int) -> Iterator[Window]:
    """Yield windows of up to ``context`` tokens in which each token from ``first`` on counts exactly once."""
    for start in range(0, num_tokens, stride):
        end = min(start + context, num_tokens)
        yield Window(start, first, end)
        first = end
        if end == num_tokens:
            return


def _check_sizes(context: int | None, stride: int | None) -> None:
    if context is not None:
        check_at_least("--context", context, 2)
    if stride is not None:
        check_at_least("--stride", stride, 1)


def _check_fit(loaded: Loaded, context: int, stride: int) -> None:
    if context > loaded.max_model_len:
        problem = f"{context} is more than the model's {loaded.max_model_len}"
        raise ParamsError(problem, field="--context", remedy=f"Give at most {loaded.max_model_len}")
    if stride >= context:
        problem = f"{stride} would leave tokens without a prediction in windows of {context}"
        raise ParamsError(problem, field="--stride", remedy=f"Give at most {context - 1}")
