"""``/v1/files``: what clients are told of files."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from steelyard.serve.batch.types import StoredFile


class FileAnswer(TypedDict):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class Page(TypedDict):
    """Some of a list."""

    object: Literal["list"]
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def file_answer(file: StoredFile) -> FileAnswer:
    """Return what a client is told of a file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def page(found: list[Any], limit: int) -> Page:
    """Return the first ``limit`` of what was found, which is one more where there are more."""
    told = found[:limit]
    return {
        "object": "list",
        "data": told,
        "first_id": told[0]["id"] if told else None,
        "last_id": told[-1]["id"] if told else None,
        "has_more": len(found) > limit,
    }
