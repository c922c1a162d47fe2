"""Conversations to text and tokens: :class:`ChatTemplate`, and :func:`encode_chat`.

A model comes with a Jinja template that writes a conversation the way the model was trained to read it. Two dangers
come with it. The template is a stranger's program: it runs in :mod:`.template_sandbox`. And messages are strangers'
text: a message that spells ``<|im_end|>`` must stay text. :mod:`.template_marks` tells the template's own control
tokens from a message's words, so :func:`encode_chat` gives exactly the ids that Hugging Face gives for messages without
such words, and no control token but the template's for messages with them.

Left out: images and other media, and continuing an unfinished message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from steelyard.core.errors import ModelError, PromptError
from steelyard.models.text.chat_messages import JsonValue, Message, plain_messages, plain_value
from steelyard.models.text.chat_program import COMPLETION_MODE, FIELD, ChatPart, ChatProgram, compile_program
from steelyard.models.text.hf_files import read_chat_files, read_special_texts
from steelyard.models.text.template_meter import ChatLimits
from steelyard.models.text.tokenizer import Tokenizer

# Names that a template gets from us; a caller's own arguments cannot take them.
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})
_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

_GGUF_KEY = "tokenizer.chat_template"
_GGUF_TOKENS = "tokenizer.ggml.tokens"
_GGUF_NAMES: Mapping[str, str] = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the model reads it.

    Attributes:
        parts: control tokens and the text between them, in order.
    """

    parts: tuple[ChatPart, ...]

    @property
    def text(self) -> str:
        """All of it as one text; messages' words look like control tokens here if they were written so."""
        return "".join(part.text for part in self.parts)


class ChatTemplate:
    """A model's chat template, compiled; may be shared between threads.

    Args:
        source: in Jinja, as Hugging Face's libraries use it.
        bos_token: text of the token that begins a text; the template sees it under this name.
        eos_token: likewise for the end.
        other_tokens: further special tokens by name, such as ``pad_token``.
        tool_source: another template, used when there are tools.
        limits: what one rendering may cost.

    Attributes:
        source: as above.
        tool_source: the template used when there are tools, ``source`` if it is the same.

    Raises:
        ModelError: if a template is too long or not valid.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        other_tokens: Mapping[str, str] | None = None,
        tool_source: str | None = None,
        limits: ChatLimits | None = None,
    ) -> None:
        named = {**(other_tokens or {}), "bos_token": bos_token, "eos_token": eos_token}
        self.source = source
        self._limits = limits or ChatLimits()
        self._special_tokens = {name: text for name, text in named.items() if text is not None}
        sources = {source} if tool_source is None else {source, tool_source}
        self.tool_source = tool_source or source
        # A model has one set of control tokens, so the latest program is the one that is needed again.
        self._programs = {text: self._compile(text, frozenset()) for text in sources}

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[object] | None = None,
        now: datetime | None = None,
        control_texts: frozenset[str] = frozenset(),
        **arguments: object,
    ) -> RenderedChat:
        """Return the conversation as the model reads it.

        Args:
            messages: see :func:`~.chat_messages.plain_messages`.
            add_generation_prompt: end where the assistant's answer begins.
            tools: JSON descriptions of functions that the model may call.
            now: what the template takes for the present; without one it cannot write the date.
            control_texts: the model's control tokens, to be told from text in the result.
            arguments: JSON values that the template knows by these names, such as ``enable_thinking``.

        Raises:
            PromptError: if the messages or arguments are malformed, or the template refuses them.
            ModelError: if the template does what none needs to do, or costs more than the limits.
        """
        program = self._program(self.tool_source if tools else self.source, control_texts)
        variables: dict[str, JsonValue] = {
            "documents": None,
            **_plain_arguments(arguments, self._limits),
            "messages": [*plain_messages(messages, self._limits, keep_parts=program.reads_parts)],
            "tools": None if tools is None else plain_value(list(tools), "tools", self._limits),
            "add_generation_prompt": bool(add_generation_prompt),
        }
        return RenderedChat(program.run(variables, now))

    def _program(self, source: str, control_texts: frozenset[str]) -> ChatProgram:
        program = self._programs[source]
        if program.control_texts is not control_texts and program.control_texts != control_texts:
            program = self._programs[source] = self._compile(source, control_texts)
        return program

    def _compile(self, source: str, control_texts: frozenset[str]) -> ChatProgram:
        return compile_program(
            source, control_texts=control_texts, special_tokens=self._special_tokens, limits=self._limits
        )


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[object] | None = None,
    now: datetime | None = None,
    **arguments: object,
) -> list[int]:
    """Return the token ids of a conversation; arguments as for :meth:`ChatTemplate.render`.

    Control tokens among them come from the template alone, never from a message.

    Raises:
        PromptError: if there is no template, the messages are malformed or too long, or the template refuses them.
        ModelError: if the template does what none needs to do, or costs more than its limits.
    """
    if template is None:
        raise PromptError("the model has no chat template", field=FIELD, remedy=COMPLETION_MODE)
    chat = template.render(
        messages,
        add_generation_prompt=add_generation_prompt,
        tools=tools,
        now=now,
        control_texts=tokenizer.control_texts,
        **arguments,
    )
    return tokenizer.encode_parts(
        [tokenizer.control_id(part.text) if part.is_control else part.text for part in chat.parts]
    )


def chat_template_from_gguf(metadata: Mapping[str, object], *, limits: ChatLimits | None = None) -> ChatTemplate | None:
    """Return the chat template in GGUF metadata, if there is one.

    Raises:
        ModelError: if it is not valid.
    """
    source = _gguf_text(metadata, _GGUF_KEY)
    tool_source = _gguf_text(metadata, f"{_GGUF_KEY}.tool_use")
    if source is None:
        return None
    tokens = {name: _gguf_token(metadata, key) for name, key in _GGUF_NAMES.items()}
    return _template(source, tool_source, {name: text for name, text in tokens.items() if text}, limits)


def chat_template_from_hf(directory: str | Path, *, limits: ChatLimits | None = None) -> ChatTemplate | None:
    """Return the chat template of a model in Hugging Face's layout, if there is one.

    A file ``chat_template.jinja`` goes before the one in ``tokenizer_config.json``; of several named ones ``default``
    is taken, and ``tool_use`` when there are tools.

    Raises:
        ModelError: if a file is corrupt or the template not valid.
    """
    found = read_chat_files(Path(directory))
    source = found.get("default")
    if source is None:
        return None
    return _template(source, found.get("tool_use"), read_special_texts(Path(directory)), limits)


def _template(
    source: str, tool_source: str | None, tokens: Mapping[str, str], limits: ChatLimits | None
) -> ChatTemplate:
    others = {name: text for name, text in tokens.items() if name not in ("bos_token", "eos_token")}
    return ChatTemplate(
        source,
        bos_token=tokens.get("bos_token"),
        eos_token=tokens.get("eos_token"),
        other_tokens=others,
        tool_source=tool_source,
        limits=limits,
    )


def _gguf_text(metadata: Mapping[str, object], key: str) -> str | None:
    found = metadata.get(key)
    if found is not None and not isinstance(found, str):
        raise ModelError(f"it is {type(found).__name__}, not a string", field=key, remedy=COMPLETION_MODE)
    return found or None


def _gguf_token(metadata: Mapping[str, object], name: str) -> str | None:
    """Return the text of a token that the metadata name; the tokenizer complains if they name it wrongly."""
    token_id, tokens = metadata.get(f"tokenizer.ggml.{name}_token_id"), metadata.get(_GGUF_TOKENS)
    known = isinstance(token_id, int) and isinstance(tokens, (list, tuple)) and 0 <= token_id < len(tokens)
    return str(tokens[token_id]) if known else None  # type: ignore[index]


def _plain_arguments(arguments: Mapping[str, object], limits: ChatLimits) -> dict[str, JsonValue]:
    for name in arguments:
        if name in _RESERVED or not _ARGUMENT.fullmatch(name):
            raise PromptError("a template takes no argument of this name", field=f"{name:.64}", remedy="Leave it out")
    return {name: plain_value(value, name, limits) for name, value in arguments.items()}
