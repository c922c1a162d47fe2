"""The engine on the default model: its greedy answers are those of Hugging Face transformers on the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from steelyard.core.params import SamplingParams
from steelyard.core.pooling import PoolingKind, PoolingParams
from steelyard.engine.llm import LLM
from steelyard.models.catalogue import default_model
from steelyard.models.resolve import resolve_model

NUM_TOKENS = 64
# Where the two best logits are this close, two right ways of summing may order them differently.
TIE = 1e-4

TOPICS = [
    "the capital of France", "photosynthesis", "how a bicycle stays upright", "the French Revolution", "black holes",
    "recursion", "the taste of lemons", "why the sky is blue", "a haiku about rain", "prime numbers",
    "how to boil an egg", "Newton's laws",
]  # fmt: skip
PROMPTS = (
    [f"Tell me about {topic}." for topic in TOPICS]
    + [f"Write a short poem on {topic}" for topic in TOPICS[:8]]
    + [f"Q: What is {n} + {n * 7}?\nA:" for n in range(1, 7)]
    + [
        "def fibonacci(n):\n    ", "for (int i = 0; i < n; i++) {", "SELECT name FROM users WHERE", "<html>\n<body>\n",
        '{"name": "Ada", "born":', "import numpy as np\n\n", "Once upon a time", "The", "1, 1, 2, 3, 5, 8,",
        "To be, or not to be,", "Der schnelle braune Fuchs", "El perro de mi vecino", "Il était une fois",
        "Привет, как дела?", "こんにちは、", "今天天气", "🙂🙃🙂", "   leading spaces", "MIXED case TeXt", "a" * 40,
        "I think that the most important thing in life is", "Dear Sir or Madam,", "Once more,\n\n\n", "2 * 3 =",
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    # As the peer computes: rounded activations or keys may turn a near tie.
    with LLM(max_model_len=512, quantization="none", kv_cache_dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="module")
def peer() -> PreTrainedModel:
    path = resolve_model(default_model()).path
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


@torch.inference_mode()
def test_fifty_prompts_give_the_same_tokens(llm: LLM, peer: PreTrainedModel) -> None:
    """One forward pass of the peer over prompt and answer says what it would have chosen at every step."""
    assert len(PROMPTS) == 50
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    outputs = llm.generate(PROMPTS, params)
    for output in outputs:
        answer = output.outputs[0].token_ids
        assert len(answer) == NUM_TOKENS
        ids = torch.tensor([output.prompt_token_ids + answer])
        logits = peer(ids).logits[0, len(output.prompt_token_ids) - 1 : -1]
        best = logits.max(dim=-1).values
        chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        behind = (best - chosen).max().item()
        assert behind == 0.0 or behind < TIE, f"{output.prompt!r}: {behind} behind the peer's choice"


@torch.inference_mode()
def test_vectors_are_made_of_the_same_hidden_states(llm: LLM, peer: PreTrainedModel) -> None:
    prompts = PROMPTS[::6]
    means = llm.embed(prompts)
    lasts = llm.embed(prompts, PoolingParams(kind=PoolingKind.LAST, normalize=False))
    for prompt, mean, last in zip(prompts, means, lasts, strict=True):
        ids = torch.tensor([llm.tokenizer.encode(prompt)])
        hidden = peer(ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(last, hidden[-1], rtol=1e-4, atol=2e-3)
        torch.testing.assert_close(mean, torch.nn.functional.normalize(hidden.mean(dim=0), dim=0), rtol=0, atol=2e-5)


@pytest.mark.peer
@torch.inference_mode()
def test_fifty_prompts_against_generate(llm: LLM, peer: PreTrainedModel) -> None:
    """The peer's own generate, step by step with its own cache; slow."""
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    for output in llm.generate(PROMPTS, params):
        ids = torch.tensor([output.prompt_token_ids])
        generated = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=NUM_TOKENS,
            max_new_tokens=NUM_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tuple(generated[0, ids.shape[1] :].tolist()) == output.outputs[0].token_ids, output.prompt
