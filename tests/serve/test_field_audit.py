"""Every field that the official clients know works, is documented to have no effect, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.batch_create_params import BatchCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from steelyard.serve.protocol.batches import BatchRequest
from steelyard.serve.protocol.chat import ChatRequest
from steelyard.serve.protocol.completions import CompletionRequest
from steelyard.serve.protocol.embeddings import EmbeddingRequest
from steelyard.serve.protocol.messages import CountRequest, MessagesRequest
from steelyard.serve.protocol.responses import ResponsesRequest

TURNS = [{"role": "user", "content": "x"}]
BASE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURNS, "max_tokens": 1},
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/responses": {"input": "x", "max_output_tokens": 1},
    "/v1/messages": {"model": "smol", "messages": TURNS, "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": "smol", "messages": TURNS},
    "/v1/embeddings": {"input": "x"},
}
KNOWN: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (ChatParams, ChatRequest),
    "/v1/completions": (CompletionCreateParamsNonStreaming, CompletionRequest),
    "/v1/responses": (ResponseCreateParamsNonStreaming, ResponsesRequest),
    "/v1/messages": (MessageCreateParamsNonStreaming, MessagesRequest),
    "/v1/messages/count_tokens": (MessageCountTokensParams, CountRequest),
    "/v1/embeddings": (EmbeddingCreateParams, EmbeddingRequest),
    "/v1/batches": (BatchCreateParams, BatchRequest),
}
NO_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "audio": {"format": "wav", "voice": "x"}, "function_call": "auto", "functions": [{"name": "f"}],
        "moderation": {"model": "x"}, "prediction": {"type": "content", "content": "x"},
        "prompt_cache_options": {"mode": "implicit"}, "verbosity": "low", "web_search_options": {},
        "modalities": ["text", "audio"],
    },
    "/v1/completions": {"suffix": "x", "best_of": 3},
    "/v1/responses": {
        "context_management": [{"type": "compaction"}], "conversation": "x",
        "include": ["message.output_text.logprobs"], "max_tool_calls": 1, "moderation": {"model": "x"},
        "prompt": {"id": "x"}, "prompt_cache_options": {"mode": "implicit"},
        "reasoning": {"effort": "low"}, "stream_options": {"include_obfuscation": False}, "top_logprobs": 2,
        "truncation": "auto",
    },
    "/v1/messages": {
        "cache_control": {"type": "ephemeral"}, "container": "x", "diagnostics": {}, "inference_geo": "us",
        "output_config": {"effort": "low"}, "speed": "fast", "thinking": {"type": "enabled", "budget_tokens": 1024},
        "user_profile_id": "x", "workspace_id": "x",
    },
    "/v1/messages/count_tokens": {
        "cache_control": {"type": "ephemeral"}, "output_config": {"effort": "low"}, "speed": "fast",
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "user_profile_id": "x", "workspace_id": "x",
    },
}  # fmt: skip
WORKS: dict[str, set[str]] = {
    "/v1/chat/completions": {
        "messages", "model", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "n",
        "parallel_tool_calls", "presence_penalty", "reasoning_effort", "response_format", "seed", "stop", "stream",
        "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p",
    },
    "/v1/completions": {
        "model", "prompt", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n",
        "presence_penalty", "seed", "stop", "stream", "stream_options", "temperature", "top_p",
    },
    "/v1/responses": {
        "background", "input", "instructions", "max_output_tokens", "metadata", "model", "parallel_tool_calls",
        "previous_response_id", "store", "stream", "temperature", "text", "tool_choice", "tools", "top_p",
    },
    "/v1/messages": {
        "max_tokens", "messages", "model", "stop_sequences", "stream", "system", "tool_choice", "tools",
    },
    "/v1/messages/count_tokens": {"messages", "model", "system", "tool_choice", "tools"},
    "/v1/embeddings": {"input", "model", "dimensions", "encoding_format"},
    "/v1/batches": {"completion_window", "endpoint", "input_file_id", "metadata"},
}  # fmt: skip
NOT_HERE = {
    "/v1/batches": {"output_expires_after"}
}  # unknown to the request's model, which refuses what it does not know


def names(params: Any) -> set[str]:
    return set(params.__required_keys__ | params.__optional_keys__)


@pytest.mark.parametrize("path", KNOWN)
def test_every_field_of_the_clients_is_in_the_table(path: str) -> None:
    params, ours = KNOWN[path]
    refused = set(REFUSED.get(path, ())) | NOT_HERE.get(path, set())
    assert names(params) - {"stream"} <= WORKS[path] | NO_EFFECT | refused
    assert WORKS[path] <= set(ours.model_fields)
    assert not WORKS[path] & refused
    assert ours.model_config["extra"] == "forbid"
    assert not NOT_HERE.get(path, set()) & set(ours.model_fields)


@pytest.mark.parametrize(("path", "field"), [(path, field) for path in REFUSED for field in REFUSED[path]])
def test_what_is_refused_is_named(http: httpx.Client, path: str, field: str) -> None:
    assert http.post(path, json=BASE[path]).status_code == 200
    answer = http.post(path, json=BASE[path] | {field: REFUSED[path][field]})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith(field)


def test_what_has_no_effect_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands" / "serve.md").read_text()
    told = text.split("which have no effect here:")[1].split(". `null`")[0]
    assert all(f"`{name}`" in told for name in NO_EFFECT)
