"""llama.cpp as a child, through its C interface: the Python wrapper's own loop would cost it speed.

All sequences of a request run in one batch; each has its own part of the context, as in llama.cpp's own batched
benchmark. What is not set here is the library's default.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import llama_cpp as lib
import numpy as np
from scoring import total_logprob
from serving import Completion, Spec, Tokens, serve

Entry = tuple[int, int, int, bool]  # token, position, sequence, whether logits are wanted


class LlamaCpp:
    """The engine; a context per shape of workload, a batch of all sequences per step."""

    def load(self, spec: Spec) -> str:
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(spec.model.encode(), params)
        if not self.model:
            raise RuntimeError("the model cannot be loaded")
        self.num_logits = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.spec = spec
        self.context = None
        return lib.__version__

    def prepare(self, seats: int, context: int) -> None:
        if self.context:
            lib.llama_batch_free(self.batch)
            lib.llama_free(self.context)
        params = lib.llama_context_default_params()
        params.n_ctx = seats * context
        params.n_seq_max = seats
        params.n_threads = params.n_threads_batch = self.spec.threads
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"no context of {seats} × {context} tokens")
        self.capacity = lib.llama_n_batch(self.context)
        self.batch = lib.llama_batch_init(self.capacity, 0, 1)

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        start_s = time.perf_counter()
        self.clear()
        outputs: list[list[int]] = [[] for _ in prompts]
        ttft_s = [0.0] * len(prompts)
        for sequence, token in self.prefill(prompts):
            outputs[sequence].append(token)
            ttft_s[sequence] = time.perf_counter() - start_s
        for _ in range(max_tokens - 1):
            self.decode(prompts, outputs)
        return [Completion(tokens, first_s) for tokens, first_s in zip(outputs, ttft_s, strict=True)]

    def clear(self) -> None:
        """Forget all sequences; without a context make one of the size that was asked for at first."""
        if not self.context:
            self.prepare(self.spec.seats, self.spec.context)
        lib.llama_memory_clear(lib.llama_get_memory(self.context), False)

    def prefill(self, prompts: Sequence[Tokens]) -> Iterator[tuple[int, int]]:
        """Yield each sequence and its first token."""
        entries = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for start in range(0, len(entries), self.capacity):
            yield from self.run(entries[start : start + self.capacity])

    def decode(self, prompts: Sequence[Tokens], outputs: list[list[int]]) -> None:
        """Append one token to every output."""
        entries = [
            (output[-1], len(prompt) + len(output) - 1, sequence, True)
            for sequence, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
        ]
        for sequence, token in self.run(entries):
            outputs[sequence].append(token)

    def run(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Compute one batch; return sequence and likeliest token of each entry that wants logits."""
        self.compute(entries)
        wanted = [(index, entry[2]) for index, entry in enumerate(entries) if entry[3]]
        return [(sequence, int(self.logits(index).argmax())) for index, sequence in wanted]

    def compute(self, entries: Sequence[Entry]) -> None:
        batch = self.batch
        batch.n_tokens = len(entries)
        for index, (token, position, sequence, wants_logits) in enumerate(entries):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = wants_logits
        if code := lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def logits(self, index: int) -> np.ndarray:
        """Return ``[vocabulary]`` float32, valid until the next batch."""
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self.context, index), (self.num_logits,))

    def score(self, window: Tokens) -> float:
        self.clear()
        self.compute([(token, position, 0, True) for position, token in enumerate(window)])
        return total_logprob((self.logits(index) for index in range(len(window) - 1)), window[1:])


if __name__ == "__main__":
    serve(LlamaCpp())
