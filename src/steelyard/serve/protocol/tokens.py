"""``/tokenize`` and ``/detokenize``, as vLLM has them."""

from __future__ import annotations

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from steelyard.serve.errors import invalid
from steelyard.serve.protocol.tools import ToolField
from steelyard.serve.protocol.wire import WireModel


class TokenizeRequest(WireModel):
    """The body of ``POST /tokenize``: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, JsonValue]] | None = Field(default=None, min_length=1)
    tools: list[ToolField] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, JsonValue] | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Raise :class:`ApiError` unless there is either a prompt or messages."""
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt: give either prompt or messages.", param="prompt")
        if self.tools and self.messages is None:
            raise invalid("tools: only a chat has them. Give messages.", param="tools")


class TokenizeAnswer(TypedDict):
    """Token ids, how many, and how many the model can take."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None


class DetokenizeRequest(WireModel):
    """The body of ``POST /detokenize``."""

    model: str | None = None
    tokens: list[int] = Field(max_length=1 << 20)


class DetokenizeAnswer(TypedDict):
    """The text."""

    prompt: str
