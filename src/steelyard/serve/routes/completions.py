"""``POST /v1/completions``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from steelyard.serve.exchange import Exchange
from steelyard.serve.generation import GenerationRequest
from steelyard.serve.identity import new_id, unix_seconds
from steelyard.serve.llm import ServedLLM
from steelyard.serve.prompts import text_prompt
from steelyard.serve.protocol.completions import CompletionDialect, CompletionRequest
from steelyard.serve.routes.body import described, principal_of, read_body
from steelyard.serve.service import Service


def completions_router(service: Service) -> APIRouter:
    """Return the route of completions."""
    router = APIRouter(tags=["completions"])

    @router.post("/v1/completions", openapi_extra=described(CompletionRequest))
    async def complete(request: Request) -> Exchange:
        """Complete one prompt or several, whole or as a stream."""
        body = await read_body(request, CompletionRequest)
        body.check()
        service.check_num_prompts(len(body.prompts))
        principal = principal_of(request)
        dialect = CompletionDialect(request=body, id=new_id("cmpl"), created=unix_seconds())

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            special = body.add_special_tokens is not False
            prompts = [
                await text_prompt(llm, one, add_special_tokens=special) if isinstance(one, str) else tuple(one)
                for one in body.prompts
            ]
            return body.generation(dialect.id, tuple(prompts), body.params(llm.default_params), principal)

        return Exchange(
            service,
            model=body.model,
            prepare=prepare,
            dialect=dialect,
            stream=bool(body.stream),
            timeout_s=body.timeout,
        )

    return router
