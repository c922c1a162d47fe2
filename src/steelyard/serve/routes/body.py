"""Reading a request: its body, its caller, and what OpenAPI says of the body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request

from steelyard.serve.errors import ApiError, invalid
from steelyard.serve.keys import Principal, principal_in
from steelyard.serve.protocol.wire import WireModel

T = TypeVar("T", bound=WireModel)
# So many take 0.1 to 0.2 s to read; 256 prompts of 8,192 tokens are two million values.
_MAX_CONTAINERS = 100_000
_MAX_COMMAS = 2_500_000
_MOST_PARTS = (((b"[", b"{"), _MAX_CONTAINERS), ((b",",), _MAX_COMMAS))
_PARTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the body, checked.

    FastAPI's own way would let lone surrogates and NaN through, which no tokenizer can take.

    Raises:
        ApiError: 415 if it does not say that it is JSON (without this, any web page could send it from a browser), 400
            if it has more than 100,000 lists and objects or 2.5 million values.
        ValidationError: if it is no JSON in UTF-8, or not of this kind.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "the body must be JSON. Send Content-Type: application/json", code="unsupported_media_type")
    body = await request.body()
    await _check_parts(body)
    return kind.model_validate_json(body)


async def _check_parts(body: bytes) -> None:
    """Raise :class:`ApiError` for a body of so many parts that to read it would keep all other requests waiting.

    Nothing else runs while a body is read, in whatever thread: eight megabytes of empty lists would take seconds.
    """
    if all(sum(map(body.count, marks)) <= limit for marks, limit in _MOST_PARTS):
        return  # even if none of these stands in a text
    if await asyncio.to_thread(_has_too_many_parts, body):
        limits = f"{_MAX_CONTAINERS} lists and objects, or {_MAX_COMMAS} values"
        raise invalid(f"the body has more than {limits}. Send it in pieces.", param=None, code="body_too_complex")


def _has_too_many_parts(body: bytes) -> bool:
    """Return whether there are too many parts, marks in texts not counted; other threads go on meanwhile."""
    num_containers = num_commas = 0
    for found in _PARTS.finditer(body):
        mark = found[0]
        num_containers += mark in (b"[", b"{")
        num_commas += mark == b","
        if num_containers > _MAX_CONTAINERS or num_commas > _MAX_COMMAS:
            return True
    return False


def principal_of(request: Request) -> Principal:
    """Return who calls; anonymous where no gate stands before the app."""
    return principal_in(request.scope)


def described(kind: type[WireModel]) -> dict[str, Any]:
    """Return what OpenAPI says of an operation whose body is read by :func:`read_body`."""
    schema = kind.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return ``schema`` with its definitions in the places that refer to them: OpenAPI keeps its own elsewhere."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}
