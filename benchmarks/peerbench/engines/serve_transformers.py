"""Hugging Face transformers on PyTorch as a child: ``generate`` on a static batch."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import transformers
from serving import Completion, Spec, Tokens, serve


class FirstTokenClock(transformers.StoppingCriteria):
    """Stops nothing; notes when it was first asked, which is after the first token."""

    def __init__(self) -> None:
        self.start_s = time.perf_counter()
        self.ttft_s: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: object, **rest: object) -> torch.Tensor:
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self.start_s
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class Transformers:
    """The engine; prompts of one request have one length and form one static batch."""

    def load(self, spec: Spec) -> str:
        torch.set_num_threads(spec.threads)
        dtype = getattr(torch, spec.options["dtype"])
        self.model = transformers.AutoModelForCausalLM.from_pretrained(spec.model, dtype=dtype).eval()
        return f"{transformers.__version__}, torch {torch.__version__}"

    def prepare(self, seats: int, context: int) -> None:
        """Do nothing: the cache grows as needed."""

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        clock = FirstTokenClock()
        ids = torch.tensor(prompts)
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=max_tokens,
            max_new_tokens=max_tokens,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([clock]),
        )
        return [Completion(row[ids.shape[1] :].tolist(), clock.ttft_s or 0.0) for row in out]

    @torch.inference_mode()
    def score(self, window: Tokens) -> float:
        logprobs = self.model(torch.tensor([window])).logits[0, :-1].float().log_softmax(-1)
        return float(logprobs.gather(-1, torch.tensor(window[1:])[:, None]).double().sum())


if __name__ == "__main__":
    serve(Transformers())
