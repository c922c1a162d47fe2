"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from steelyard.serve.exchange import Exchange
from steelyard.serve.generation import GenerationRequest
from steelyard.serve.identity import new_id
from steelyard.serve.llm import ServedLLM
from steelyard.serve.prompts import chat_prompt
from steelyard.serve.protocol.messages import CountAnswer, CountRequest, MessagesDialect, MessagesRequest
from steelyard.serve.routes.body import described, principal_of, read_body
from steelyard.serve.service import Service


def messages_router(service: Service) -> APIRouter:
    """Return the routes that Anthropic's clients know."""
    router = APIRouter(tags=["messages"])

    @router.post("/v1/messages", openapi_extra=described(MessagesRequest))
    async def message(request: Request) -> Exchange:
        """Answer a conversation, whole or as a stream."""
        body = await read_body(request, MessagesRequest)
        body.check()
        principal = principal_of(request)
        dialect = MessagesDialect(id=new_id("msg"))

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            prompt = await _prompt(llm, body)
            params = body.params(llm.default_params)
            return GenerationRequest(id=dialect.id, prompts=(prompt,), params=params, principal=principal)

        return Exchange(service, model=body.model, prepare=prepare, dialect=dialect, stream=bool(body.stream))

    @router.post("/v1/messages/count_tokens", openapi_extra=described(CountRequest))
    async def count(request: Request) -> CountAnswer:
        """Return how many tokens a conversation has as a prompt."""
        body = await read_body(request, CountRequest)
        body.check()
        with service.admission.received(principal_of(request).name):
            async with service.model(body.model) as llm:
                return {"input_tokens": len(await _prompt(llm, body))}

    return router


async def _prompt(llm: ServedLLM, body: CountRequest) -> tuple[int, ...]:
    return await chat_prompt(llm, body.turns(), continue_final_message=body.continues)
