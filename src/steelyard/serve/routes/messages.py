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
from steelyard.serve.tools.formats import tool_format
from steelyard.serve.tools.plan import ToolPlan


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
            told = service.config.tools
            style = tool_format(llm.parts.chat_template, told.tool_call_parser)
            plan = body.tool_plan(style, may_decide=told.enable_auto_tool_choice)
            prompt = await _prompt(llm, body, plan)
            params = plan.params(body.params(llm.default_params), llm.tokenizer)
            return GenerationRequest(id=dialect.id, prompts=(prompt,), params=params, principal=principal, tools=plan)

        return Exchange(service, model=body.model, prepare=prepare, dialect=dialect, stream=bool(body.stream))

    @router.post("/v1/messages/count_tokens", openapi_extra=described(CountRequest))
    async def count(request: Request) -> CountAnswer:
        """Return how many tokens a conversation has as a prompt."""
        body = await read_body(request, CountRequest)
        body.check()
        with service.admission.received(principal_of(request).name):
            async with service.model(body.model) as llm:
                style = tool_format(llm.parts.chat_template, service.config.tools.tool_call_parser)
                plan = body.tool_plan(style, may_decide=True)
                return {"input_tokens": len(await _prompt(llm, body, plan))}

    return router


async def _prompt(llm: ServedLLM, body: CountRequest, plan: ToolPlan) -> tuple[int, ...]:
    messages, tools = plan.conversation(body.turns())
    return await chat_prompt(llm, messages, continue_final_message=body.continues, tools=tools)
