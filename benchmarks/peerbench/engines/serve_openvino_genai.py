"""OpenVINO GenAI as a child: its pipeline with the continuous-batching scheduler, default precisions.

A single request goes through ``LLMPipeline``, whose metrics tell the time to first token; the pipeline takes several
only as one padded batch, which it schedules like separate requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino
import openvino_genai as genai
from serving import Completion, Spec, Tokens, serve

MAX_BATCHED_TOKENS = 2048


class OpenVino:
    """The engine; requests are batched continuously."""

    def load(self, spec: Spec) -> str:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_seqs = spec.seats
        scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
        scheduler.enable_prefix_caching = False
        settings = {"INFERENCE_NUM_THREADS": spec.threads, **spec.options}
        self.pipeline = genai.LLMPipeline(spec.model, "CPU", scheduler_config=scheduler, **settings)
        return genai.__version__

    def prepare(self, seats: int, context: int) -> None:
        """Do nothing: the cache grows as needed."""

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        ids = np.array(prompts, dtype=np.int64)
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        result = self.pipeline.generate(inputs, greedy(max_tokens))
        ttft_s = result.perf_metrics.get_ttft().mean / 1e3
        return [Completion(list(tokens), ttft_s) for tokens in result.tokens]

    def score(self, window: Tokens) -> float:
        raise NotImplementedError("this engine's pipeline gives no log-probabilities of a prompt")


def greedy(max_tokens: int) -> genai.GenerationConfig:
    """Return the configuration for exactly ``max_tokens`` likeliest tokens."""
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = max_tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


if __name__ == "__main__":
    serve(OpenVino())
