"""Steelyard as a child: its front door with default options, but for the number of threads."""

from __future__ import annotations

from collections.abc import Sequence

from serving import Completion, Spec, Tokens, serve

from steelyard import LLM, SamplingParams, __version__


class Steelyard:
    """The engine; requests are batched continuously."""

    def load(self, spec: Spec) -> str:
        self.llm = LLM(spec.model or None, threads=spec.threads, **spec.options)
        return __version__

    def prepare(self, seats: int, context: int) -> None:
        """Do nothing: the defaults serve every workload."""

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        outputs = self.llm.generate(prompts, params)
        return [Completion(list(output.outputs[0].token_ids), output.times.ttft_s or 0.0) for output in outputs]

    def score(self, window: Tokens) -> float:
        return sum(value for value in self.llm.score([window])[0].logprobs if value is not None)


if __name__ == "__main__":
    serve(Steelyard())
