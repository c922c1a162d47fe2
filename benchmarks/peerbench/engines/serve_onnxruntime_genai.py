"""ONNX Runtime GenAI as a child: its generator on a static batch."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime
import onnxruntime_genai as genai
from scoring import total_logprob
from serving import Completion, Spec, Tokens, serve


class OnnxRuntime:
    """The engine; prompts of one request have one length and form one static batch."""

    def load(self, spec: Spec) -> str:
        config = genai.Config(spec.model)
        session = {"intra_op_num_threads": spec.threads, **spec.options}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self.model = genai.Model(config)
        return f"{genai.__version__}, onnxruntime {onnxruntime.__version__}"

    def prepare(self, seats: int, context: int) -> None:
        """Do nothing: every request makes a generator of its own."""

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        start_s = time.perf_counter()
        generator = self.generator(prompts, max_tokens)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        outputs = []
        for _ in range(max_tokens):
            generator.generate_next_token()
            if not outputs:
                ttft_s = time.perf_counter() - start_s
            outputs.append(generator.get_next_tokens())
        return [Completion([int(token) for token in tokens], ttft_s) for tokens in np.stack(outputs, axis=1)]

    def generator(self, prompts: Sequence[Tokens], max_tokens: int) -> genai.Generator:
        """Return a greedy generator that does not end before its length."""
        length = len(prompts[0]) + max_tokens
        params = genai.GeneratorParams(self.model)
        params.set_search_options(batch_size=len(prompts), min_length=length, max_length=length, do_sample=False)
        return genai.Generator(self.model, params)

    def score(self, window: Tokens) -> float:
        generator = self.generator([window], max_tokens=1)
        generator.append_tokens(np.array([window], dtype=np.int32))
        return total_logprob(generator.get_output("logits")[0, :-1], window[1:])


if __name__ == "__main__":
    serve(OnnxRuntime())
