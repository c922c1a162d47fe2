"""Fields that are understood, but that nothing here can carry out yet: refused by name."""

from __future__ import annotations

from steelyard.serve.errors import invalid
from steelyard.serve.protocol.chat import ChatRequest
from steelyard.serve.protocol.wire import GenerationFields

_CONSTRAINTS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


def refuse_unsupported(request: GenerationFields) -> None:
    """Raise :class:`ApiError` if the request asks for constrained output or tools."""
    for name in _CONSTRAINTS:
        _refuse(name, getattr(request, name))
    if request.response_format is not None and request.response_format.get("type") != "text":
        _refuse("response_format", request.response_format)
    if isinstance(request, ChatRequest):
        _refuse("tools", request.tools)
        if request.tool_choice not in (None, "none"):
            _refuse("tool_choice", request.tool_choice)


def _refuse(name: str, value: object) -> None:
    if value:
        raise invalid(f"{name}: it is not supported. Leave it out.", param=name, code="unsupported_parameter")
