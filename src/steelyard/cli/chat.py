"""``steelyard chat``: a conversation, turn by turn, on a terminal or through pipes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.answers import StreamedAnswer, answer_fields, summary
from steelyard.cli.errors import report
from steelyard.cli.inputs import decode_utf8
from steelyard.cli.loading import Loaded, loaded_model, sampling_params
from steelyard.cli.options import EngineOptions, OutputOptions, SamplingOptions, examples, new_app, takes_groups
from steelyard.cli.output import print_json, write_error_line, write_file
from steelyard.core.errors import InputError, ModelError, SteelyardError

app = new_app()

HELP = """\
/help          this list
/reset         forget the conversation; the system message stays
/system TEXT   set the system message and forget the conversation; without TEXT, drop it
/save FILE     write the conversation to FILE as JSON
/exit          leave (Ctrl-D, too)
Ctrl-C stops an answer; at the prompt it leaves. A message that begins with a slash is sent by a second one: //etc"""

_PROMPT = "> "

System = Annotated[str | None, typer.Option("--system", help="System message.")]


class Conversation:
    """What was said so far.

    Attributes:
        system: the system message, if there is one.
        turns: messages of user and assistant in turn.
    """

    def __init__(self, system: str | None) -> None:
        self.system = system
        self.turns: list[dict[str, Any]] = []

    def messages(self, next_text: str | None = None) -> list[dict[str, Any]]:
        """Return all messages, with ``next_text`` as the user's newest."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        new = [] if next_text is None else [{"role": "user", "content": next_text}]
        return [*first, *self.turns, *new]

    def add(self, question: str, answer: str) -> None:
        """Remember one turn."""
        self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def restart(self, system: str | None) -> None:
        """Forget the turns and set the system message."""
        self.system, self.turns = system, []


class Repl:
    """Reads turns, answers them, and obeys the commands among them.

    Args:
        loaded: a model with a chat template.
        sampling: how to answer.
        conversation: grows.
        as_json: print one JSON object per turn instead of text.
        interactive: whether a person types: errors then do not end the conversation.
    """

    def __init__(
        self, loaded: Loaded, sampling: SamplingOptions, conversation: Conversation, *, as_json: bool, interactive: bool
    ) -> None:
        self._loaded, self._sampling, self._conversation = loaded, sampling, conversation
        self._as_json, self._interactive = as_json, interactive

    def run(self, lines: Iterator[str]) -> None:
        """Take turns until the lines end or one of them is ``/exit``."""
        for line in lines:
            if line.strip() in ("/exit", "/quit"):
                return
            try:
                self.take(line)
            except SteelyardError as error:
                if not self._interactive:
                    raise
                report(error)

    def take(self, line: str) -> None:
        """Obey or answer one line; an empty one is nothing.

        Raises:
            SteelyardError: if the command is unknown or the turn cannot be answered; the conversation is as before.
        """
        if line.startswith("/") and not line.startswith("//"):
            self._obey(line)
        elif line.strip():
            self._answer(line.removeprefix("/") if line.startswith("//") else line)

    def _obey(self, line: str) -> None:
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name == "/help":
            write_error_line(HELP)
        elif name == "/reset":
            self._conversation.restart(self._conversation.system)
        elif name == "/system":
            self._conversation.restart(rest or None)
        elif name == "/save":
            self._save(rest)
        else:
            raise InputError("there is no such command", field=name, remedy="Type /help")

    def _save(self, name: str) -> None:
        if not name:
            raise InputError("it needs the name of a file", field="/save", remedy="Type /save FILE")
        content = {"model": self._loaded.name, "messages": self._conversation.messages()}
        path = Path(name).expanduser()
        write_file(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_error_line(f"saved to {path}")

    def _answer(self, text: str) -> None:
        token_ids = self._loaded.llm.engine.encode_chat(self._conversation.messages(text))
        params = sampling_params(self._loaded, self._sampling, len(token_ids))
        with closing(StreamedAnswer(quiet=self._as_json)) as answer:
            try:
                answer.follow(self._loaded.stream(token_ids, params))
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
        if answer.last is None:
            return
        self._conversation.add(text, answer.last.text)
        if self._as_json:
            print_json(answer_fields(self._loaded, answer.last, params))
        elif self._interactive:
            write_error_line(summary(answer.last))


@app.command(
    epilog=examples(
        "steelyard chat",
        "steelyard chat --system 'You are a terse assistant.' --temperature 0",
        "printf 'My name is Ada.\\nWhat is my name?\\n' | steelyard chat --json",
    )
)
@takes_groups
def chat(*, system: System = None, sampling: SamplingOptions, engine: EngineOptions, output: OutputOptions) -> None:
    """Talk with a model, turn by turn.

    What was said before stays in the KV cache, so each turn computes only what is new. On a terminal, /help lists the
    commands; with standard input from a pipe every line is one turn. With --json, each turn is one JSON object on a
    line of its own.
    """
    sampling.keywords()  # wrong values are told before the model is loaded
    interactive = sys.stdin.isatty()
    with loaded_model(engine, max_num_seqs=1) as loaded:
        if not loaded.has_chat_template:
            problem = f"{loaded.name} has no chat template"
            raise ModelError(problem, field="model", remedy="Complete texts with: steelyard run --raw")
        repl = Repl(loaded, sampling, Conversation(system), as_json=output.json, interactive=interactive)
        if interactive:
            write_error_line(f"{loaded.name}, context {loaded.max_model_len} tokens. /help lists the commands.")
        repl.run(typed_lines() if interactive else piped_lines())


def typed_lines() -> Iterator[str]:
    """Yield what a person types, with line editing and history where Python has them, until Ctrl-D."""
    if importlib.util.find_spec("readline") is not None:
        importlib.import_module("readline")  # input() uses it from then on
    while True:
        try:
            yield _ask()
        except EOFError:
            write_error_line("")
            return


def _ask() -> str:
    if sys.stdout.isatty():
        return input(_PROMPT)
    sys.stderr.write(_PROMPT)  # standard output is for answers
    sys.stderr.flush()
    return input()


def piped_lines() -> Iterator[str]:
    """Yield the lines of standard input without their ends; they must be UTF-8."""
    for data in sys.stdin.buffer:
        yield decode_utf8(data, field="standard input").rstrip("\r\n")
