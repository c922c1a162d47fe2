"""A chat template compiled for one model's control tokens: :class:`ChatProgram`, from source to rendered parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import CodeType

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError

from steelyard.core.errors import ModelError, PromptError
from steelyard.models.text.chat_messages import JsonValue
from steelyard.models.text.template_marks import Marks, mark_template, private_characters
from steelyard.models.text.template_meter import ChatLimits, TemplateLimitError
from steelyard.models.text.template_sandbox import RaisedByTemplateError, TemplateEnvironment, compile_tree, render

FIELD = "chat_template"
COMPLETION_MODE = "Use completion mode: send the whole prompt as one text instead of messages"


@dataclass(frozen=True, slots=True)
class ChatPart:
    """A stretch of a rendered chat: one control token that the template wrote, or text, which is never empty."""

    text: str
    is_control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatProgram:
    """A compiled template; stateless, so that threads may share it.

    Attributes:
        control_texts: the control tokens that are told from text.
        reads_parts: it loops over a message's content, and so knows lists of parts.
    """

    source: str
    control_texts: frozenset[str]
    reads_parts: bool
    code: CodeType
    marks: Marks
    role_marks: Mapping[str, str]
    special_tokens: Mapping[str, str]
    limits: ChatLimits

    def run(self, variables: Mapping[str, JsonValue], now: datetime | None) -> tuple[ChatPart, ...]:
        """Return what the template writes with these variables.

        Raises:
            PromptError: if the template refuses or cannot handle them.
            ModelError: if it does what no template needs to do, or costs more than the limits.
        """
        clean, back = _without_marks(variables, self.marks, self.source)
        environment = TemplateEnvironment(self.limits, now=now, role_marks=self.role_marks)
        try:
            text = render(self.code, environment, {**self.special_tokens, **clean})
        except Exception as error:  # a template can fail in any way that Python can
            raise _rendering_error(error, lambda message: self.marks.restore(message).translate(back)) from error
        return _parts(text, self.marks, back)


def compile_program(
    source: str, *, control_texts: frozenset[str], special_tokens: Mapping[str, str], limits: ChatLimits
) -> ChatProgram:
    """Return a template compiled.

    Args:
        source: in Jinja.
        control_texts: the model's control tokens.
        special_tokens: the names under which the template sees some of them → their texts.
        limits: what compiling and rendering may cost.

    Raises:
        ModelError: if it is too long or not valid.
    """
    if len(source) > limits.max_template_chars:
        problem = f"its {len(source)} characters are over the limit of {limits.max_template_chars}"
        raise ModelError(problem, field=FIELD, remedy=COMPLETION_MODE)
    environment = TemplateEnvironment(limits)
    marks = Marks(control_texts, avoid=source + "".join(special_tokens.values()))
    try:
        tree = environment.parse(source)
        reads_parts = _reads_parts(tree)
        role_marks = mark_template(tree, marks)
        code = compile_tree(tree, environment)
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise ModelError(f"it is not valid: {_told(error)}", field=FIELD, remedy=COMPLETION_MODE) from error
    return ChatProgram(
        source=source,
        control_texts=control_texts,
        reads_parts=reads_parts,
        code=code,
        marks=marks,
        role_marks=role_marks,
        special_tokens={name: marks.replace(text) for name, text in special_tokens.items()},
        limits=limits,
    )


def _reads_parts(tree: nodes.Template) -> bool:
    """Whether the template loops over something called content."""
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node) -> bool:
    match node:
        case (
            nodes.Getattr(attr="content") | nodes.Getitem(arg=nodes.Const(value="content")) | nodes.Name(name="content")
        ):
            return True
        case _:
            return False


def _without_marks(
    variables: Mapping[str, JsonValue], marks: Marks, source: str
) -> tuple[Mapping[str, JsonValue], dict[int, str]]:
    """Return the variables without the marks' characters, and how to turn their substitutes back.

    Hardly any text holds such characters; then nothing is copied.
    """
    used = _used_characters(variables, marks.pattern) if marks.pattern else frozenset()
    if not used:
        return variables, {}
    everything = _used_characters(variables, re.compile(r"[\ue000-\uf8ff\U000f0000-\U0010ffff]"))
    free = private_characters(everything | frozenset(source) | frozenset(marks.texts))
    try:
        substitutes = {char: next(free) for char in sorted(used)}
    except StopIteration:
        remedy = "Remove characters from Unicode's private use areas"
        raise PromptError("it uses every private character of Unicode", field="messages", remedy=remedy) from None
    there = str.maketrans(substitutes)
    clean = {name: _translated(value, there) for name, value in variables.items()}
    return clean, str.maketrans({substitute: char for char, substitute in substitutes.items()})


def _used_characters(value: JsonValue | Mapping[str, JsonValue], pattern: re.Pattern[str]) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset(pattern.findall(value))
    if isinstance(value, Mapping):
        return frozenset().union(*(_used_characters(part, pattern) for pair in value.items() for part in pair))
    if isinstance(value, list):
        return frozenset().union(*(_used_characters(item, pattern) for item in value))
    return frozenset()


def _translated(value: JsonValue, table: Mapping[int, str]) -> JsonValue:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict):
        return {key.translate(table): _translated(item, table) for key, item in value.items()}
    if isinstance(value, list):
        return [_translated(item, table) for item in value]
    return value


def _parts(text: str, marks: Marks, back: Mapping[int, str]) -> tuple[ChatPart, ...]:
    pieces = marks.pattern.split(text) if marks.pattern else [text]
    controls = marks.pattern.findall(text) if marks.pattern else []
    parts: list[ChatPart] = []
    for i, piece in enumerate(pieces):
        if piece:
            parts.append(ChatPart(piece.translate(back) if back else piece, False))
        if i < len(controls):
            parts.append(ChatPart(marks.texts[controls[i]], True))
    return tuple(parts)


def _rendering_error(error: Exception, readable: Callable[[str], str]) -> ModelError | PromptError:
    """Return the error for a failed rendering: the model's fault, or the messages'."""
    told = readable(_told(error))
    if isinstance(error, RaisedByTemplateError):
        return PromptError(f"the chat template refuses it: {told}", field="messages", remedy="Change the messages")
    if isinstance(error, (TemplateLimitError, RecursionError, MemoryError)):
        return ModelError(f"it costs too much: {told}", field=FIELD, remedy=COMPLETION_MODE)
    if isinstance(error, SecurityError):
        return ModelError(f"it does what no chat template may do: {told}", field=FIELD, remedy=COMPLETION_MODE)
    problem = f"the chat template cannot render it: {told}"
    return PromptError(problem, field="messages", remedy=f"Change the messages. {COMPLETION_MODE}")


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{text or type(error).__name__:.300}".removesuffix(".")
