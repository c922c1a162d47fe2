"""Reading a request: its body, its caller, and what OpenAPI says of the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request

from steelyard.serve.errors import ApiError
from steelyard.serve.keys import Principal, principal_in
from steelyard.serve.protocol.wire import WireModel

T = TypeVar("T", bound=WireModel)


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the body, checked.

    FastAPI's own way would let lone surrogates and NaN through, which no tokenizer can take.

    Raises:
        ApiError: 415 if it does not say that it is JSON; without this, any web page could send it from a browser.
        ValidationError: if it is no JSON in UTF-8, or not of this kind.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "the body must be JSON. Send Content-Type: application/json", code="unsupported_media_type")
    return kind.model_validate_json(await request.body())


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
