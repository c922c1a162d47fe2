"""From what clients send to token ids, without keeping the event loop from its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from steelyard.core.errors import PromptError
from steelyard.serve.llm import ServedLLM

T = TypeVar("T")
# Below so many characters or tokens, the work takes less time than to ask a thread for it.
_SHORT = 2048
# What the functions between here and the template call their own parameters.
_OWN_ARGUMENTS = frozenset(
    {"self", "messages", "tools", "add_generation_prompt", "now", "control_texts", "tokenizer", "template"}
)


async def text_prompt(llm: ServedLLM, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
    """Return the ids of a text.

    Raises:
        PromptError: if it is empty or too long.
        ModelError: if the model has no tokenizer.
    """
    if add_special_tokens:
        return await _off_loop(partial(llm.encode, text), len(text))
    plain = partial(llm.tokenizer.encode, text, add_special_tokens=False)
    return tuple(await _off_loop(plain, len(text)))


async def chat_prompt(
    llm: ServedLLM,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    arguments: Mapping[str, Any] | None = None,
    tools: Sequence[object] | None = None,
) -> tuple[int, ...]:
    """Return the ids of a conversation.

    Args:
        llm: the model.
        messages: roles and contents.
        add_generation_prompt: end where the assistant's answer begins.
        continue_final_message: the last message is the beginning of that answer.
        arguments: further names that the model's chat template knows.
        tools: functions that the model may call.

    Raises:
        PromptError: if a message or argument is malformed, or the model has no chat template.
        ModelError: if the template does what none needs to do.
    """
    _check_arguments(arguments or {})
    begun = messages[-1]["content"] if continue_final_message else ""
    turns = [dict(message) for message in (messages[:-1] if continue_final_message else messages)]
    given = {**(arguments or {}), "tools": tools, "add_generation_prompt": add_generation_prompt}
    encode = partial(llm.encode_chat, turns, **given)
    size = sum(len(str(message.get("content"))) for message in turns)
    ids = await _off_loop(encode, size if not tools else _SHORT)
    return ids + (await text_prompt(llm, begun, add_special_tokens=False) if begun else ())


async def text_of(llm: ServedLLM, token_ids: Sequence[int]) -> str:
    """Return the text of tokens, control tokens written out.

    Raises:
        PromptError: if an id does not exist.
        ModelError: if the model has no tokenizer.
    """
    return await _off_loop(partial(llm.tokenizer.decode, token_ids, skip_special_tokens=False), len(token_ids))


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise :class:`PromptError` unless all are switches and words, under names that mean nothing to us."""
    for name, value in arguments.items():
        if name in _OWN_ARGUMENTS:
            raise PromptError("this name is not a client's to give", field=f"{name:.64}", remedy="Leave it out")
        if not isinstance(value, (bool, str, int)):
            raise PromptError(
                "it is neither true, false, a text nor a number", field=f"{name:.64}", remedy="Leave it out"
            )


async def _off_loop(function: Callable[[], T], size: int) -> T:
    return function() if size < _SHORT else await asyncio.to_thread(function)
