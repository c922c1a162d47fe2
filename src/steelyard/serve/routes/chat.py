"""``POST /v1/chat/completions``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from steelyard.serve.exchange import Exchange
from steelyard.serve.generation import GenerationRequest
from steelyard.serve.identity import new_id, unix_seconds
from steelyard.serve.llm import ServedLLM
from steelyard.serve.prompts import chat_prompt
from steelyard.serve.protocol.chat import ChatDialect, ChatRequest
from steelyard.serve.routes.body import described, principal_of, read_body
from steelyard.serve.service import Service
from steelyard.serve.tools.formats import tool_format


def chat_router(service: Service) -> APIRouter:
    """Return the route of chats."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", openapi_extra=described(ChatRequest))
    async def chat(request: Request) -> Exchange:
        """Answer a conversation, whole or as a stream."""
        body = await read_body(request, ChatRequest)
        body.check()
        principal = principal_of(request)
        dialect = ChatDialect(request=body, id=new_id("chatcmpl"), created=unix_seconds())

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            told = service.config.tools
            style = tool_format(llm.parts.chat_template, told.tool_call_parser)
            plan = body.tool_plan(style, may_decide=told.enable_auto_tool_choice)
            messages, tools = plan.conversation(body.template_messages())
            prompt = await chat_prompt(
                llm,
                messages,
                add_generation_prompt=body.add_generation_prompt is not False,
                continue_final_message=bool(body.continue_final_message),
                arguments=body.template_arguments(),
                tools=tools,
            )
            params = plan.params(body.params(llm.default_params), llm.tokenizer)
            return body.generation(dialect.id, (prompt,), params, principal, plan)

        return Exchange(
            service,
            model=body.model,
            prepare=prepare,
            dialect=dialect,
            stream=bool(body.stream),
            timeout_s=body.timeout,
        )

    return router
