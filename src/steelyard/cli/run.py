"""``steelyard run``: one prompt, one answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from steelyard.cli.answers import answer_fields, stream_answer, summary
from steelyard.cli.inputs import given_text
from steelyard.cli.loading import Loaded, loaded_model, sampling_params
from steelyard.cli.options import EngineOptions, OutputOptions, SamplingOptions, examples, new_app, takes_groups
from steelyard.cli.output import print_json, write_error_line
from steelyard.core.errors import ParamsError

app = new_app()

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT|-", help="The prompt; - or nothing reads standard input.", show_default=False),
]
System = Annotated[str | None, typer.Option("--system", help="System message of the chat template.")]
Raw = Annotated[bool, typer.Option("--raw", help="Complete the prompt as it is, without the chat template.")]


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
        answer = stream_answer(loaded, token_ids, params, quiet=output.json)
        if output.json:
            print_json(answer_fields(loaded, answer, params))
        else:
            write_error_line(summary(answer))


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
