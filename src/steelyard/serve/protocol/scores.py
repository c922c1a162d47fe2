"""``/v1/score`` and ``/v1/rerank``: how like texts are, as the cosine of the angle between their vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from steelyard.serve.errors import invalid
from steelyard.serve.generation import Generation
from steelyard.serve.protocol.pooling import PoolingFields, PoolingUsage, pooling_usage, vector_of
from steelyard.serve.protocol.wire import WireModel


class ScoreRequest(PoolingFields):
    """The body of ``POST /v1/score``: one text against one or many, or as many against as many, pair by pair."""

    text_1: str | list[str]
    text_2: str | list[str]

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The texts of both sides."""
        first = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        second = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        return first, second

    def check(self) -> None:
        """Raise :class:`ApiError` unless the sides can be paired."""
        first, second = self.sides
        if not first or not second:
            name = "text_1" if not first else "text_2"
            raise invalid(f"{name}: there is no text. Give one.", param=name)
        if len(first) not in (1, len(second)):
            message = f"text_1: {len(first)} texts cannot be paired with {len(second)}. Give one, or as many."
            raise invalid(message, param="text_1")


class Score(TypedDict):
    """How like one pair is, −1 to 1."""

    object: Literal["score"]
    index: int
    score: float


class ScoreAnswer(TypedDict):
    """All pairs, in order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: PoolingUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTeller:
    """Writes scores as vLLM does; the generation's prompts are the first side's, then the second's.

    Attributes:
        request: what was asked.
        id: the answer's.
        created: seconds since 1970.
    """

    request: ScoreRequest
    id: str
    created: int

    def answer(self, generation: Generation) -> ScoreAnswer:
        """Return the whole answer."""
        first, second = self.request.sides
        vectors = [vector_of(output) for output in generation.outputs]
        left, right = vectors[: len(first)], vectors[len(first) :]
        pairs = zip(left * len(second) if len(left) == 1 else left, right, strict=True)
        return {
            "id": self.id,
            "object": "list",
            "created": self.created,
            "model": generation.model,
            "data": [{"object": "score", "index": i, "score": cosine(*pair)} for i, pair in enumerate(pairs)],
            "usage": pooling_usage(generation.usage),
        }


class RerankDocument(WireModel):
    """A document that is an object."""

    text: str


class RerankRequest(PoolingFields):
    """The body of ``POST /v1/rerank``."""

    query: str
    documents: list[str | RerankDocument] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = Field(default=None, description="By default yes, and no for /v2/rerank.")
    max_tokens_per_doc: int | None = Field(default=None, ge=1, description="What is longer is cut off.")

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [one if isinstance(one, str) else one.text for one in self.documents]


class DocumentAnswer(TypedDict):
    """A document as it was given."""

    text: str


class RerankResult(TypedDict):
    """One document."""

    index: int
    relevance_score: float
    document: NotRequired[DocumentAnswer]


class RerankAnswer(TypedDict):
    """The documents that are most like the query, best first; equally good ones in their own order."""

    id: str
    model: str
    usage: PoolingUsage
    results: list[RerankResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankTeller:
    """Writes an order of documents; the generation's prompts are the query, then the documents.

    Attributes:
        request: what was asked.
        id: the answer's.
        returns_documents: with their texts, unless the request says otherwise.
    """

    request: RerankRequest
    id: str
    returns_documents: bool

    def answer(self, generation: Generation) -> RerankAnswer:
        """Return the whole answer."""
        query, *documents = (vector_of(output) for output in generation.outputs)
        scores = [cosine(query, document) for document in documents]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.request.top_n]
        return {
            "id": self.id,
            "model": generation.model,
            "usage": pooling_usage(generation.usage),
            "results": [self._result(index, scores[index]) for index in best],
        }

    def _result(self, index: int, score: float) -> RerankResult:
        result: RerankResult = {"index": index, "relevance_score": score}
        asked = self.request.return_documents
        if self.returns_documents if asked is None else asked:
            result["document"] = {"text": self.request.texts[index]}
        return result


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors of length one."""
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(first, second, strict=True))))
