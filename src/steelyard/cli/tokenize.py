"""``steelyard tokenize``: text to token ids and back, without loading any weights."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from steelyard.cli.inputs import given_text
from steelyard.cli.options import ModelOption, OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, format_table, print_json, write_line
from steelyard.core.errors import ModelError, ParamsError, PromptError
from steelyard.models.catalogue import default_model
from steelyard.models.resolve import resolve_model
from steelyard.models.text.load import load_text
from steelyard.models.text.tokenizer import Tokenizer

app = new_app()

_ID_SEPARATORS = re.compile(r"[\s,\[\]]+")
_ID = re.compile(r"\d{1,9}", re.ASCII)

Text = Annotated[
    str | None,
    typer.Argument(metavar="TEXT|-", help="The text; - or nothing reads standard input.", show_default=False),
]
NoSpecial = Annotated[
    bool, typer.Option("--no-special", help="Add no begin or end token; when decoding, leave special tokens out.")
]
ParseSpecial = Annotated[bool, typer.Option("--parse-special", help="Read texts of control tokens as those tokens.")]
Decode = Annotated[bool, typer.Option("--decode", help="Turn token ids, separated by spaces or commas, into text.")]


@app.command(
    epilog=examples(
        'steelyard tokenize "Hello, world"',
        'steelyard tokenize --parse-special "<|im_start|>user"',
        'steelyard tokenize --decode "19556, 28, 905"',
        "steelyard tokenize --json - < README.md | jq .num_tokens",
    )
)
@takes_groups
def tokenize(
    *,
    text: Text = None,
    decode: Decode = False,
    no_special: NoSpecial = False,
    parse_special: ParseSpecial = False,
    model: ModelOption = None,
    output: OutputOptions,
) -> None:
    """Show the tokens of a text: each one's id and what it stands for; with --decode, the text of token ids."""
    if decode and parse_special:
        raise ParamsError("it has no meaning with --decode", field="--parse-special", remedy="Drop one of the two")
    given = given_text(text, field="text")
    configure_logging()
    tokenizer = _tokenizer(model)
    ids = parse_ids(given) if decode else _encode(tokenizer, given, no_special, parse_special)
    decoded = tokenizer.decode(ids, skip_special_tokens=no_special)
    if output.json:
        texts = [tokenizer.token_text(token_id) for token_id in ids]
        print_json({"num_tokens": len(ids), "token_ids": ids, "token_texts": texts, "text": decoded})
    elif decode:
        write_line(decoded)
    else:
        rows = [(str(token_id), repr(tokenizer.token_text(token_id))) for token_id in ids]
        write_line(format_table(("ID", "TEXT"), rows))


def parse_ids(text: str) -> list[int]:
    """Return the token ids in a text such as ``1 2 3``, ``1,2,3`` or ``[1, 2, 3]``.

    Raises:
        PromptError: if something else is in it, or nothing.
    """
    words = [word for word in _ID_SEPARATORS.split(text) if word]
    wrong = next((word for word in words if not _ID.fullmatch(word)), None)
    if wrong is not None or not words:
        problem = f"{wrong!r} is no token id" if wrong is not None else "it has no token ids"
        raise PromptError(problem, field="text", remedy="Give ids separated by spaces or commas, such as 19556 28 905")
    return [int(word) for word in words]


def _encode(tokenizer: Tokenizer, text: str, no_special: bool, parse_special: bool) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=not no_special, parse_special=parse_special)


def _tokenizer(model: str | None) -> Tokenizer:
    resolved = resolve_model(model if model is not None else default_model())
    tokenizer = load_text(resolved).tokenizer
    if tokenizer is None:
        raise ModelError(f"{resolved.name} has no tokenizer", field="model", remedy="Choose one that has")
    return tokenizer
