"""``peers.py quality``: how well engines predict the same tokens: the price of a format or a kernel, in perplexity."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from peerbench.child import PeerError
from peerbench.contenders import CONTENDERS, OURS, Contender
from peerbench.corpus import Windows
from peerbench.measure import Arena, note
from peerbench.report import row

REFERENCE = "steelyard, float32 weights"
SCORERS: dict[str, Contender] = {
    REFERENCE: Contender(script="serve_steelyard.py", environment=None, model="hf-f32", options={"dtype": "float32"}),
    OURS: CONTENDERS[OURS],
    **{
        name: CONTENDERS[name]
        for name in CONTENDERS
        if name.startswith(("llama.cpp", "onnx", "ctranslate2", "transformers"))
    },
}


@dataclass(frozen=True, slots=True)
class Score:
    """Mean negative log-likelihood per token of each window, nats."""

    nll: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all windows; they have equal lengths."""
        return statistics.fmean(self.nll)

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean."""
        return math.exp(self.mean)


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference of two scores of the same windows and its standard error, nats per token."""

    mean: float
    error: float


def difference(score: Score, reference: Score) -> Difference:
    """Compare window by window: what all windows share drops out of the error."""
    deltas = [ours - theirs for ours, theirs in zip(score.nll, reference.nll, strict=True)]
    error = statistics.stdev(deltas) / math.sqrt(len(deltas)) if len(deltas) > 1 else math.nan
    return Difference(statistics.fmean(deltas), error)


def score_all(arena: Arena, windows: Windows) -> tuple[dict[str, Score], dict[str, str]]:
    """Return the scores by contender, and why others have none."""
    scores, failures = {}, {}
    for name in arena.names:
        try:
            scores[name] = score_one(arena, name, windows)
        except PeerError as error:
            failures[name] = str(error)
    return scores, failures


def score_one(arena: Arena, name: str, windows: Windows) -> Score:
    """Load one contender and score all windows, telling how far it has come."""
    length = len(windows.token_ids[0])
    child = arena.start(name)
    try:
        child.ask("load", **arena.load_request(name, seats=1, context=length))
        nll: list[float] = []
        for window in windows.token_ids:
            nll.append(-child.ask("score", window=window)["logprob"] / (length - 1))
            if len(nll) % 10 == 0 or len(nll) == len(windows.token_ids):
                note(f"{name}: window {len(nll)} of {len(windows.token_ids)}, nll {statistics.fmean(nll):.4f} so far")
    finally:
        child.kill()
    return Score(tuple(nll))


def table(scores: Mapping[str, Score]) -> list[str]:
    """Return a Markdown table; differences are to the reference if it was scored."""
    lines = [row(["contender", "perplexity", "nll, nats/token", "nll above float32"]), row(["---"] * 4)]
    reference = scores.get(REFERENCE)
    for name, score in scores.items():
        cells = [name, f"{score.perplexity:.4f}", f"{score.mean:.5f}", _above(score, reference)]
        lines.append(row(cells))
    return lines


def origin(windows: Windows) -> list[str]:
    """Return what text was scored."""
    length = len(windows.token_ids[0])
    return [
        f"- {len(windows.token_ids)} windows of {length} tokens, {len(windows.token_ids) * (length - 1)} predicted, "
        f"sha256 of the ids {windows.sha256[:16]}…, spread evenly over: {', '.join(windows.sources)}"
    ]


def _above(score: Score, reference: Score | None) -> str:
    if reference is None or score is reference:
        return "–"
    found = difference(score, reference)
    return f"{found.mean:+.5f} ± {found.error:.5f}"
