"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from fastapi import APIRouter

from steelyard.serve.identity import unix_seconds
from steelyard.serve.pool import ServedModel
from steelyard.serve.protocol.models import ModelCard, ModelList
from steelyard.serve.service import Service


def models_router(service: Service) -> APIRouter:
    """Return the routes that tell which models there are."""
    router, created = APIRouter(tags=["models"]), unix_seconds()

    @router.get("/v1/models")
    async def models() -> ModelList:
        """List the models by all of their names."""
        cards = [_card(model, name, created) for model in service.pool.models for name in model.spec.names]
        return {"object": "list", "data": cards}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> ModelCard:
        """Describe one model."""
        return _card(service.pool.find(name), name, created)

    return router


def _card(model: ServedModel, name: str, created: int) -> ModelCard:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "steelyard",
        "root": model.name,
        "parent": None,
        "max_model_len": None if model.llm is None else model.llm.parts.engine_config.max_model_len,
        "state": model.state.value,
    }
