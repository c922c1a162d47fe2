"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``: refused, before any path is looked at."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from steelyard.serve.errors import ApiError
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.routes.body import described, read_body


class LoadAdapterRequest(WireModel):
    """The body of ``POST /v1/load_lora_adapter``."""

    lora_name: str
    lora_path: str


class UnloadAdapterRequest(WireModel):
    """The body of ``POST /v1/unload_lora_adapter``."""

    lora_name: str


def adapters_router() -> APIRouter:
    """Return the routes of adapters."""
    router = APIRouter(tags=["adapters"])

    @router.post("/v1/load_lora_adapter", openapi_extra=described(LoadAdapterRequest))
    async def load(request: Request) -> JSONResponse:
        """Refuse to load an adapter."""
        await read_body(request, LoadAdapterRequest)
        return _refusal().response()

    @router.post("/v1/unload_lora_adapter", openapi_extra=described(UnloadAdapterRequest))
    async def unload(request: Request) -> JSONResponse:
        """Refuse to unload an adapter."""
        await read_body(request, UnloadAdapterRequest)
        return _refusal().response()

    return router


def _refusal() -> ApiError:
    message = "lora_name: adapters are not supported yet. Merge the adapter into the model and serve that."
    return ApiError(501, message, kind="not_implemented_error", param="lora_name", code="unsupported")
