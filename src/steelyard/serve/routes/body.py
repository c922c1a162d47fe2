"""Reading a request: its body, its caller, and what OpenAPI says of the body."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request

from steelyard.serve.keys import ANONYMOUS, PRINCIPAL, Principal
from steelyard.serve.protocol.wire import WireModel

T = TypeVar("T", bound=WireModel)


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the body, checked.

    FastAPI's own way would let lone surrogates and NaN through, which no tokenizer can take.

    Raises:
        ValidationError: if it is no JSON in UTF-8, or not of this kind.
    """
    return kind.model_validate_json(await request.body())


def principal_of(request: Request) -> Principal:
    """Return who calls; anonymous where no gate stands before the app."""
    principal = getattr(request.state, PRINCIPAL, ANONYMOUS)
    assert isinstance(principal, Principal)
    return principal


def described(kind: type[WireModel]) -> dict[str, Any]:
    """Return what OpenAPI says of an operation whose body is read by :func:`read_body`."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
