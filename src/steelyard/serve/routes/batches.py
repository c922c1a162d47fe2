"""``/v1/batches``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from steelyard.serve.batch.office import Office
from steelyard.serve.protocol.batches import BatchRequest, batch_answer
from steelyard.serve.protocol.files import page
from steelyard.serve.routes.body import described, principal_of, read_body


def batches_router(office: Office) -> APIRouter:
    """Return the routes of batches."""
    router = APIRouter(tags=["batches"])

    @router.post("/v1/batches", openapi_extra=described(BatchRequest))
    async def create(request: Request) -> JSONResponse:
        """Take a batch."""
        body = await read_body(request, BatchRequest)
        body.check()
        batch = await office.add_batch(
            principal_of(request),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            window=body.completion_window,
            window_s=body.window_s,
            metadata=body.metadata,
        )
        return JSONResponse(batch_answer(batch))

    @router.get("/v1/batches")
    async def batches(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> JSONResponse:
        """List batches, newest first."""
        found = await office.batches(principal_of(request), after=after, limit=limit + 1)
        return JSONResponse(page([batch_answer(batch) for batch in found], limit))

    @router.get("/v1/batches/{batch_id}")
    async def batch(request: Request, batch_id: str) -> JSONResponse:
        """Tell of a batch."""
        return JSONResponse(batch_answer(await office.batch(principal_of(request), batch_id)))

    @router.post("/v1/batches/{batch_id}/cancel")
    async def cancel(request: Request, batch_id: str) -> JSONResponse:
        """Cancel a batch."""
        return JSONResponse(batch_answer(await office.cancel(principal_of(request), batch_id)))

    return router
