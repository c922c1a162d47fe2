"""``/v1/embeddings``: the request, and how its answer is written."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from steelyard.engine.pooling import unit_vector
from steelyard.serve.errors import invalid
from steelyard.serve.generation import Generation
from steelyard.serve.protocol.pooling import PoolingFields, PoolingUsage, PromptInput, pooling_usage, vector_of


class EmbeddingRequest(PoolingFields):
    """The body of ``POST /v1/embeddings``."""

    input: str | list[int] | list[str] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, description="Keeps the first so many numbers, scaled anew.")
    normalize: bool | None = Field(default=None, description="Scale vectors to length one, as by default.")

    @property
    def texts(self) -> list[PromptInput]:
        """All texts, each as text or token ids."""
        given: Any = self.input
        is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
        return [given] if is_one else given

    def check_dimensions(self, hidden_size: int) -> None:
        """Raise :class:`ApiError` if vectors are to be longer than the model's."""
        if self.dimensions is not None and self.dimensions > hidden_size:
            message = f"dimensions: {self.dimensions} is more than the model's {hidden_size}. Lower it or leave it out."
            raise invalid(message, param="dimensions")


class Embedding(TypedDict):
    """One text's vector: numbers, or the bytes of little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(TypedDict):
    """All vectors, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Embedding]
    usage: PoolingUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTeller:
    """Writes vectors as OpenAI does.

    Attributes:
        request: what was asked.
        id: the answer's.
        created: seconds since 1970.
    """

    request: EmbeddingRequest
    id: str
    created: int

    def answer(self, generation: Generation) -> EmbeddingAnswer:
        """Return the whole answer."""
        data: list[Embedding] = [
            {"object": "embedding", "index": index, "embedding": self._written(vector_of(output))}
            for index, output in enumerate(generation.outputs)
        ]
        return {
            "id": self.id,
            "object": "list",
            "created": self.created,
            "model": generation.model,
            "data": data,
            "usage": pooling_usage(generation.usage),
        }

    def _written(self, vector: Sequence[float]) -> list[float] | str:
        if self.request.dimensions is not None:
            vector = vector[: self.request.dimensions]
            vector = vector if self.request.normalize is False else unit_vector(vector)
        return list(vector) if self.request.encoding_format != "base64" else in_base64(vector)


def in_base64(vector: Sequence[float]) -> str:
    """Return the numbers as little-endian float32, in base64."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
