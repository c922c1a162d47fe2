"""``/v1/files``: inputs and outputs of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import UploadFile

from steelyard.serve.batch.office import BATCH, Office
from steelyard.serve.errors import ApiError, invalid
from steelyard.serve.limits import FILES_PATH
from steelyard.serve.protocol.files import file_answer, page
from steelyard.serve.routes.body import principal_of

_PIECE_BYTES = 1 << 20
_MAX_NAME_CHARS = 200
_MAX_FIELDS = 4
_FORM = {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": [BATCH]}}
_SCHEMA = {"type": "object", "properties": _FORM, "required": list(_FORM)}
_DESCRIBED = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _SCHEMA}}}}


def files_router(office: Office) -> APIRouter:
    """Return the routes of files."""
    router = APIRouter(tags=["files"])

    @router.post(FILES_PATH, openapi_extra=_DESCRIBED)
    async def upload(request: Request) -> JSONResponse:
        """Keep an input file."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            message = "the body must be a form. Send Content-Type: multipart/form-data"
            raise ApiError(415, message, code="unsupported_media_type")
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            given = dict(form)
            file = _checked(given)
            kept = await office.add_file(principal_of(request), _label(file.filename or ""), _pieces(file.file))
        return JSONResponse(file_answer(kept))

    @router.get(FILES_PATH)
    async def files(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSONResponse:
        """List files."""
        found = await office.files(
            principal_of(request), purpose=purpose, after=after, limit=limit + 1, newest_first=order == "desc"
        )
        return JSONResponse(page([file_answer(file) for file in found], limit))

    @router.get(FILES_PATH + "/{file_id}")
    async def file(request: Request, file_id: str) -> JSONResponse:
        """Tell of a file."""
        return JSONResponse(file_answer(await office.file(principal_of(request), file_id)))

    @router.get(FILES_PATH + "/{file_id}/content")
    async def content(request: Request, file_id: str) -> FileResponse:
        """Give a file back."""
        _, path = await office.content(principal_of(request), file_id)
        return FileResponse(path, media_type="application/octet-stream")

    @router.delete(FILES_PATH + "/{file_id}")
    async def delete(request: Request, file_id: str) -> JSONResponse:
        """Delete a file."""
        await office.delete_file(principal_of(request), file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    return router


def _checked(form: dict[str, UploadFile | str]) -> UploadFile:
    """Return the form's file.

    Raises:
        ApiError: 400 if there is none, or another field is unknown or wrong.
    """
    for name in form:
        if name not in _FORM:
            raise invalid(f"{name:.80}: this field is not known here. Leave it out.", param=name[:80])
    if form.get("purpose") != BATCH:
        raise invalid(f"purpose: only files of the purpose {BATCH} are kept here.", param="purpose")
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise invalid("file: it is missing. Give it.", param="file", code="missing_required_parameter")
    return file


def _label(name: str) -> str:
    """Return a file's name for people to read: its last part, without what no database keeps."""
    last = name.replace("\\", "/").rpartition("/")[2]
    readable = "".join(sign for sign in last if sign.isprintable())
    return readable[:_MAX_NAME_CHARS] or "unnamed"


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
