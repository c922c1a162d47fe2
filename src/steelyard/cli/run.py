"""``steelyard run``: one prompt, one answer."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from steelyard.cli.answers import answer_fields, decode_tokens_per_s, stream_answer, summary
from steelyard.cli.bench_measure import Workload
from steelyard.cli.expectation import (
    Compared,
    Expectation,
    OperatorTable,
    comparison_fields,
    comparison_table,
    expectation,
    operator_tables,
    operator_text,
)
from steelyard.cli.inputs import given_text
from steelyard.cli.loading import Loaded, loaded_model, sampling_params
from steelyard.cli.options import EngineOptions, OutputOptions, SamplingOptions, examples, new_app, takes_groups
from steelyard.cli.output import print_json, write_error_line
from steelyard.core.errors import ParamsError
from steelyard.core.request import RequestOutput
from steelyard.engine.step_profile import StepProfiler

app = new_app()

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT|-", help="The prompt; - or nothing reads standard input.", show_default=False),
]
System = Annotated[str | None, typer.Option("--system", help="System message of the chat template.")]
Raw = Annotated[bool, typer.Option("--raw", help="Complete the prompt as it is, without the chat template.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say how fast it should have been, operator by operator.")]


@app.command(
    epilog=examples(
        'steelyard run "The three laws of robotics are" --max-tokens 100',
        "cat report.txt | steelyard run - --system 'Summarise in three sentences.'",
        "steelyard run 'def fib(n):' --raw --temperature 0 --stop $'\\n\\n'",
        'steelyard run "Hello" --json | jq .decode_tokens_per_s',
    )
)
@takes_groups
def run(
    *,
    prompt: Prompt = None,
    system: System = None,
    raw: Raw = False,
    explain: Explain = False,
    sampling: SamplingOptions,
    engine: EngineOptions,
    output: OutputOptions,
) -> None:
    """Answer one prompt.

    A model with a chat template answers the prompt as a user's message; one without completes it. The text streams to
    standard output, a line with its numbers follows on standard error.
    """
    if raw and system is not None:
        raise ParamsError(
            "--raw leaves no place for it", field="--system", remedy="Put it into the prompt, or drop --raw"
        )
    text = given_text(prompt, field="prompt")
    sampling.keywords()  # wrong values are told before the model is loaded
    with loaded_model(engine, max_num_seqs=1) as loaded:
        token_ids = _prompt_token_ids(loaded, text, system, raw)
        params = sampling_params(loaded, sampling, len(token_ids))
        profiler = StepProfiler(loaded.llm.engine.parts.runner)
        with loaded.llm.observed(profiler) if explain else nullcontext():
            answer = stream_answer(loaded, token_ids, params, quiet=output.json)
        told = _explained(loaded, answer, profiler) if explain else None
        if output.json:
            print_json({**answer_fields(loaded, answer, params), **({} if told is None else {"explain": told.fields})})
        else:
            write_error_line(summary(answer))
            if told is not None:
                write_error_line(told.text)


@dataclass(frozen=True, slots=True)
class _Explained:
    """How fast an answer should have been, and was."""

    expected: Expectation
    rates: dict[str, Compared]
    tables: tuple[OperatorTable, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return comparison_fields(self.expected, self.rates, self.tables)

    @property
    def text(self) -> str:
        """For people."""
        origin = f"Predicted from the {self.expected.origin}; the limit is the roofline's."
        return "\n\n".join(["", comparison_table(self.rates), origin, *map(operator_text, self.tables)])


def _explained(loaded: Loaded, answer: RequestOutput, profiler: StepProfiler) -> _Explained:
    start_s, first_s = answer.times.first_scheduled_s, answer.times.first_token_s
    computed = max(1, len(answer.prompt_token_ids) - answer.num_cached_tokens)
    took_s = first_s - start_s if start_s is not None and first_s is not None else 0.0
    workload = Workload(
        prompt_tokens=computed, output_tokens=max(1, len(answer.outputs[0].token_ids)), requests=1, concurrency=1,
        seed=0, warmup=0, repeat=1,
    )  # fmt: skip
    expected = expectation(loaded, workload)
    rates = expected.beside(computed / took_s if took_s > 0 else None, decode_tokens_per_s(answer))
    return _Explained(expected, rates, operator_tables(expected, profiler.steps))


def _prompt_token_ids(loaded: Loaded, text: str, system: str | None, raw: bool) -> tuple[int, ...]:
    if raw or not loaded.has_chat_template:
        if system is not None:
            problem = f"{loaded.name} has no chat template"
            raise ParamsError(problem, field="--system", remedy="Put it into the prompt")
        return loaded.llm.engine.encode(text)
    return loaded.llm.engine.encode_chat(messages(text, system))


def messages(text: str, system: str | None) -> list[dict[str, Any]]:
    """Return a conversation of one turn."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]
