"""``/v1/responses``: ask, ask again for an answer, and forget it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from steelyard.serve.answers import AnswerStore, StoredAnswer
from steelyard.serve.background import BackgroundDesk, Replay
from steelyard.serve.errors import invalid
from steelyard.serve.exchange import Asking, Exchange
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
    router, store, desk = APIRouter(tags=["responses"]), AnswerStore(_MAX_STORED_CHARS), BackgroundDesk()

    @router.post("/v1/responses", openapi_extra=described(ResponsesRequest))
    async def create(request: Request) -> Response:
        """Answer, whole or as a stream; or begin to, and say how to ask for the rest."""
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

        if body.background:
            asking = Asking(service=service, model=body.model, prepare=prepare, timeout_s=body.timeout)
            answer = await desk.begin(principal.name, dialect.id, asking, dialect, request.headers)
            return Replay(answer, -1, ping_interval_s()) if body.stream else JSONResponse(answer.latest)
        return Exchange(
            service,
            model=body.model,
            prepare=prepare,
            dialect=dialect,
            stream=bool(body.stream),
            timeout_s=body.timeout,
        )

    def ping_interval_s() -> float:
        return service.config.observe.ping_interval_s

    @router.get("/v1/responses/{response_id}")
    async def retrieve(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int | None, Query(ge=0, le=1 << 31)] = None,
    ) -> Response:
        """Return an answer again, as far as it has come; or, of one in the background, its events."""
        caller = principal_of(request).name
        answer = desk.get(caller, response_id)
        if not stream:
            if starting_after is not None:
                raise invalid("starting_after: it goes with stream=true. Give both or neither.", param="starting_after")
            return JSONResponse(dict(store.get(caller, response_id).body if answer is None else answer.latest))
        if answer is None:
            store.get(caller, response_id)
            message = "stream: the events of this answer are not kept. Ask for it whole, or with background next time."
            raise invalid(message, param="stream")
        return Replay(answer, -1 if starting_after is None else starting_after, ping_interval_s())

    @router.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> dict[str, Any]:
        """Forget an answer; one in the background ends."""
        caller = principal_of(request).name
        if not await desk.remove(caller, response_id) or store.has(caller, response_id):
            store.remove(caller, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(request: Request, response_id: str) -> dict[str, Any]:
        """End an answer in the background; one that has ended is returned as it is."""
        caller = principal_of(request).name
        answer = desk.get(caller, response_id)
        if answer is None:
            store.get(caller, response_id)
            message = "response_id: this answer is not in the background. Close its stream to end it."
            raise invalid(message, param="response_id")
        await answer.cancel()
        return dict(answer.latest)

    return router
