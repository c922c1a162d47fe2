"""``/v1/responses``: ask, ask again for an answer, and forget it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from steelyard.serve.answers import AnswerStore, StoredAnswer
from steelyard.serve.errors import invalid
from steelyard.serve.exchange import Exchange
from steelyard.serve.generation import GenerationRequest
from steelyard.serve.identity import new_id, unix_seconds
from steelyard.serve.llm import ServedLLM
from steelyard.serve.prompts import chat_prompt
from steelyard.serve.protocol.response_items import Turn
from steelyard.serve.protocol.responses import ResponseAnswer, ResponsesDialect, ResponsesRequest
from steelyard.serve.routes.body import described, principal_of, read_body
from steelyard.serve.service import Service
from steelyard.serve.tools.formats import tool_format

_MAX_STORED_CHARS = 1 << 25


def responses_router(service: Service) -> APIRouter:
    """Return the routes of responses, and the place that keeps them."""
    router, store = APIRouter(tags=["responses"]), AnswerStore(_MAX_STORED_CHARS)

    @router.post("/v1/responses", openapi_extra=described(ResponsesRequest))
    async def create(request: Request) -> Exchange:
        """Answer, whole or as a stream."""
        body = await read_body(request, ResponsesRequest)
        body.check()
        principal, before = principal_of(request), body.previous_response_id
        past = () if before is None else store.get(principal.name, before, "previous_response_id").turns
        turns = past + body.turns()

        def keep(answer: ResponseAnswer, turn: Turn) -> None:
            if body.store is not False:
                store.put(principal.name, answer["id"], StoredAnswer(body=answer, turns=(*turns, turn)))

        dialect = ResponsesDialect(request=body, id=new_id("resp"), created=unix_seconds(), keep=keep)

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            told = () if body.instructions is None else ({"role": "system", "content": body.instructions},)
            config = service.config.tools
            style = tool_format(llm.parts.chat_template, config.tool_call_parser)
            plan = body.tool_plan(style, may_decide=config.enable_auto_tool_choice)
            messages, tools = plan.conversation(told + turns)
            prompt = await chat_prompt(llm, messages, tools=tools)
            params = plan.params(body.params(llm.default_params), llm.tokenizer)
            return GenerationRequest(id=dialect.id, prompts=(prompt,), params=params, principal=principal, tools=plan)

        return Exchange(
            service,
            model=body.model,
            prepare=prepare,
            dialect=dialect,
            stream=bool(body.stream),
            timeout_s=body.timeout,
        )

    @router.get("/v1/responses/{response_id}")
    async def retrieve(request: Request, response_id: str) -> dict[str, Any]:
        """Return an answer again."""
        return dict(store.get(principal_of(request).name, response_id).body)

    @router.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> dict[str, Any]:
        """Forget an answer."""
        store.remove(principal_of(request).name, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(request: Request, response_id: str) -> None:
        """Say that there is nothing to cancel: an answer that grows ends when its client goes away."""
        store.get(principal_of(request).name, response_id)
        raise invalid("response_id: this answer has ended. Close a stream to end it.", param="response_id")

    return router
