"""What a finished request was, in numbers: for the summary line and for ``--json``."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from steelyard.cli.loading import Loaded
from steelyard.cli.output import write_text
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason, RequestOutput
from steelyard.core.units import format_seconds
from steelyard.hardware.this_machine import peak_rss_bytes


def stream_answer(
    loaded: Loaded, prompt_token_ids: tuple[int, ...], params: SamplingParams, *, quiet: bool
) -> RequestOutput:
    """Generate, writing text to standard output as it becomes definite (unless ``quiet``), and return the whole."""
    with closing(StreamedAnswer(quiet=quiet)) as answer:
        return answer.follow(loaded.stream(prompt_token_ids, params))


class StreamedAnswer:
    """An answer on its way to standard output.

    Attributes:
        last: the newest output; what there is when the user interrupts.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.last: RequestOutput | None = None
        self._quiet = quiet

    def follow(self, outputs: Generator[RequestOutput]) -> RequestOutput:
        """Write outputs as they grow and return the finished one; leaving early cancels the request."""
        with closing(outputs):
            for output in outputs:
                if not self._quiet:
                    write_text(output.text[len(self.text) :])
                self.last = output
        assert self.last is not None, "a request ended without an output"
        return self.last

    @property
    def text(self) -> str:
        """What has been written."""
        return self.last.text if self.last is not None else ""

    def close(self) -> None:
        """End the last line, if it has begun."""
        if not self._quiet and self.text and not self.text.endswith("\n"):
            write_text("\n")


def finish_reason(output: RequestOutput) -> str:
    """Return why the first completion ended, in the field's words."""
    return (output.outputs[0].finish_reason or FinishReason.CANCELLED).value


def decode_tokens_per_s(output: RequestOutput) -> float | None:
    """Return the rate of the tokens after the first, per second; ``None`` with fewer than two tokens."""
    times, num_tokens = output.times, len(output.outputs[0].token_ids)
    if times.first_token_s is None or times.last_token_s is None or num_tokens < 2:
        return None
    elapsed_s = times.last_token_s - times.first_token_s
    return (num_tokens - 1) / elapsed_s if elapsed_s > 0 else None


def summary(output: RequestOutput) -> str:
    """Return one line: tokens, time to first token, decode rate, and why it ended."""
    rate, ttft_s = decode_tokens_per_s(output), output.times.ttft_s
    parts = [
        f"{len(output.prompt_token_ids)} prompt tokens ({output.num_cached_tokens} cached)",
        f"{len(output.outputs[0].token_ids)} completion tokens",
        f"TTFT {format_seconds(ttft_s)}" if ttft_s is not None else "",
        f"{rate:.1f} tokens/s" if rate is not None else "",
        f"finish: {finish_reason(output)}",
    ]
    return "[" + " | ".join(part for part in parts if part) + "]"


def answer_fields(loaded: Loaded, output: RequestOutput, params: SamplingParams) -> dict[str, Any]:
    """Return the flat JSON object of one answer."""
    completion = output.outputs[0]
    return {
        "model": loaded.name,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "prompt_tokens": len(output.prompt_token_ids),
        "cached_tokens": output.num_cached_tokens,
        "completion_tokens": len(completion.token_ids),
        "finish_reason": finish_reason(output),
        "stop_reason": completion.stop_reason,
        "load_s": loaded.load_s,
        "ttft_s": output.times.ttft_s,
        "decode_tokens_per_s": decode_tokens_per_s(output),
        "peak_rss_bytes": peak_rss_bytes(),
        "seed": params.seed,
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "stop": list(params.stop),
    }
