"""What is measured: the workloads, their prompts and the figure that comes of an answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peerbench.child import PeerError

FIRST_WORD = 100  # below are control tokens
VOCABULARY = 49_000

Answer = dict[str, Any]
Prompts = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests of one shape, all at once.

    Attributes:
        title: for people.
        unit: of the figure.
        figure: makes it from the workload and an answer.
        more_is_better: whether a larger figure is the better one.
        fresh_process: whether each measurement starts the engine anew.
    """

    title: str
    num_prompts: int = 1
    prompt_tokens: int
    output_tokens: int
    unit: str = "tok/s"
    figure: Callable[[Workload, Answer], float]
    more_is_better: bool = True
    fresh_process: bool = False

    @property
    def context(self) -> int:
        """Tokens of a request's prompt and output."""
        return self.prompt_tokens + self.output_tokens


def decode_rate(workload: Workload, answer: Answer) -> float:
    """Return output tokens per second after the first token of a single request."""
    return (workload.output_tokens - 1) / (answer["total_s"] - answer["completions"][0]["ttft_s"])


def prefill_rate(workload: Workload, answer: Answer) -> float:
    """Return prompt tokens per second of time to first token of a single request."""
    return workload.prompt_tokens / answer["completions"][0]["ttft_s"]


def batch_rate(workload: Workload, answer: Answer) -> float:
    """Return output tokens of all requests per second of the whole."""
    return workload.num_prompts * workload.output_tokens / answer["total_s"]


def start_time(workload: Workload, answer: Answer) -> float:
    """Return seconds from the start of the process to the first token, as the driver's clock saw it."""
    return answer["start_s"]


WORKLOADS = {
    "decode": Workload(title="decode, 1 stream", prompt_tokens=16, output_tokens=128, figure=decode_rate),
    "prefill-512": Workload(title="prefill 512", prompt_tokens=512, output_tokens=1, figure=prefill_rate),
    "prefill-2048": Workload(title="prefill 2048", prompt_tokens=2048, output_tokens=1, figure=prefill_rate),
    "batch-16": Workload(
        title="16 at once, 128 in / 64 out", num_prompts=16, prompt_tokens=128, output_tokens=64, figure=batch_rate
    ),
    "batch-64": Workload(
        title="64 at once, 128 in / 64 out", num_prompts=64, prompt_tokens=128, output_tokens=64, figure=batch_rate
    ),
    "decode-8k": Workload(title="decode at 7,900", prompt_tokens=7900, output_tokens=64, figure=decode_rate),
    "start": Workload(
        title="process start → first token",
        prompt_tokens=16,
        output_tokens=1,
        unit="s",
        figure=start_time,
        more_is_better=False,
        fresh_process=True,
    ),
}


def random_prompts(workload: Workload, round_: int) -> Prompts:
    """Return a round's prompts: equal for all engines, without common prefixes, new in every round."""
    rng = random.Random(f"{workload.num_prompts} {workload.prompt_tokens} {round_}")
    length = workload.prompt_tokens
    return [[rng.randrange(FIRST_WORD, VOCABULARY) for _ in range(length)] for _ in range(workload.num_prompts)]


def check_answer(answer: Answer, num_prompts: int, output_tokens: int) -> None:
    """Raise :class:`PeerError` unless every request has its tokens: an engine that stops early must not win by it."""
    lengths = [len(completion["token_ids"]) for completion in answer["completions"]]
    if lengths != [output_tokens] * num_prompts:
        raise PeerError(f"it gave {sum(lengths)} tokens where {num_prompts} × {output_tokens} were asked for")
