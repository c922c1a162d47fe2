"""CTranslate2 as a child: ``generate_batch`` on a static batch. It takes tokens by name, so ids are named first."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import ctranslate2
from serving import Completion, Spec, Tokens, serve


class CTranslate2:
    """The engine; prompts of one request have one length and form one static batch."""

    def load(self, spec: Spec) -> str:
        self.names = json.loads((Path(spec.model) / "vocabulary.json").read_text())
        self.generator = ctranslate2.Generator(
            spec.model, device="cpu", compute_type=spec.options["compute_type"], intra_threads=spec.threads
        )
        return ctranslate2.__version__

    def prepare(self, seats: int, context: int) -> None:
        """Do nothing: the cache grows as needed."""

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        start_s = time.perf_counter()
        first_s: list[float] = []

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            if not first_s:
                first_s.append(time.perf_counter() - start_s)
            return False

        results = self.generator.generate_batch(
            [[self.names[token] for token in prompt] for prompt in prompts],
            max_length=max_tokens,
            min_length=max_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=note,
        )
        return [Completion(result.sequences_ids[0], first_s[0]) for result in results]

    def score(self, window: Tokens) -> float:
        return sum(self.generator.score_batch([[self.names[token] for token in window]])[0].log_probs)


if __name__ == "__main__":
    serve(CTranslate2())
