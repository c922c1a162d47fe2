"""``POST /tokenize`` and ``POST /detokenize``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from steelyard.serve.llm import ServedLLM
from steelyard.serve.prompts import chat_prompt, text_of, text_prompt
from steelyard.serve.protocol.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from steelyard.serve.protocol.tools import read_tools
from steelyard.serve.routes.body import described, principal_of, read_body
from steelyard.serve.service import Service
from steelyard.serve.tools.formats import tool_format
from steelyard.serve.tools.prompt import tool_conversation


def tokens_router(service: Service) -> APIRouter:
    """Return the routes between text and token ids."""
    router = APIRouter(tags=["tokens"])

    @router.post("/tokenize", openapi_extra=described(TokenizeRequest))
    async def tokenize(request: Request) -> TokenizeAnswer:
        """Return the token ids of a prompt or a chat."""
        body = await read_body(request, TokenizeRequest)
        body.check()
        with service.admission.received(principal_of(request).name):
            async with service.model(body.model) as llm:
                ids = await _token_ids(llm, body, service.config.tools.tool_call_parser)
                return {
                    "tokens": list(ids),
                    "count": len(ids),
                    "max_model_len": llm.parts.engine_config.max_model_len,
                    "token_strs": [llm.tokenizer.token_text(one) for one in ids] if body.return_token_strs else None,
                }

    @router.post("/detokenize", openapi_extra=described(DetokenizeRequest))
    async def detokenize(request: Request) -> DetokenizeAnswer:
        """Return the text of token ids."""
        body = await read_body(request, DetokenizeRequest)
        with service.admission.received(principal_of(request).name):
            async with service.model(body.model) as llm:
                return {"prompt": await text_of(llm, body.tokens)}

    return router


async def _token_ids(llm: ServedLLM, body: TokenizeRequest, tool_call_parser: str) -> tuple[int, ...]:
    if body.messages is None:
        return await text_prompt(llm, body.prompt or "", add_special_tokens=body.add_special_tokens)
    style = tool_format(llm.parts.chat_template, tool_call_parser)
    messages, tools = tool_conversation(body.messages, read_tools(body.tools), style)
    arguments, generate = body.chat_template_kwargs, body.add_generation_prompt
    return await chat_prompt(llm, messages, add_generation_prompt=generate, arguments=arguments, tools=tools)
