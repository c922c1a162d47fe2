"""``POST /v1/embeddings``, ``/v1/score`` and ``/v1/rerank``, the latter two under several names."""

from __future__ import annotations

from fastapi import APIRouter, Request

from steelyard.serve.exchange import Exchange, Preparation, Teller
from steelyard.serve.generation import GenerationRequest
from steelyard.serve.identity import new_id, unix_seconds
from steelyard.serve.llm import ServedLLM
from steelyard.serve.protocol.embeddings import EmbeddingRequest, EmbeddingTeller
from steelyard.serve.protocol.pooling import PoolingFields
from steelyard.serve.protocol.scores import RerankRequest, RerankTeller, ScoreRequest, ScoreTeller
from steelyard.serve.routes.body import described, principal_of, read_body
from steelyard.serve.service import Service


def embeddings_router(service: Service) -> APIRouter:
    """Return the routes that make vectors of texts and compare them."""
    router = APIRouter(tags=["embeddings"])

    @router.post("/v1/embeddings", openapi_extra=described(EmbeddingRequest))
    async def embed(request: Request) -> Exchange:
        """Return a vector for each text."""
        body = await read_body(request, EmbeddingRequest)
        service.check_num_prompts(len(body.texts), "input")
        principal = principal_of(request)
        teller = EmbeddingTeller(request=body, id=new_id("embd"), created=unix_seconds())

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            body.check_dimensions(llm.parts.hidden_size)
            prompts = await body.encoded(llm, body.texts, "input")
            return body.pooled(teller.id, prompts, principal, normalize=body.normalize is not False)

        return _exchange(service, body, prepare, teller)

    @router.post("/score", openapi_extra=described(ScoreRequest))
    @router.post("/v1/score", openapi_extra=described(ScoreRequest))
    async def score(request: Request) -> Exchange:
        """Return how like each other pairs of texts are."""
        body = await read_body(request, ScoreRequest)
        body.check()
        first, second = body.sides
        service.check_num_prompts(len(first) + len(second), "text_2")
        principal = principal_of(request)
        teller = ScoreTeller(request=body, id=new_id("score"), created=unix_seconds())

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            prompts = await body.encoded(llm, first, "text_1") + await body.encoded(llm, second, "text_2")
            return body.pooled(teller.id, prompts, principal)

        return _exchange(service, body, prepare, teller)

    async def rerank(request: Request) -> Exchange:
        """Return the documents that are most like a query, best first."""
        body = await read_body(request, RerankRequest)
        service.check_num_prompts(1 + len(body.documents), "documents")
        principal = principal_of(request)
        is_coheres = request.url.path == "/v2/rerank"
        teller = RerankTeller(request=body, id=new_id("rerank"), returns_documents=not is_coheres)

        async def prepare(llm: ServedLLM) -> GenerationRequest:
            query = await body.encoded(llm, [body.query], "query")
            documents = await body.encoded(llm, body.texts, "documents", body.max_tokens_per_doc)
            return body.pooled(teller.id, query + documents, principal)

        return _exchange(service, body, prepare, teller)

    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        router.add_api_route(path, rerank, methods=["POST"], openapi_extra=described(RerankRequest))
    return router


def _exchange(service: Service, body: PoolingFields, prepare: Preparation, teller: Teller) -> Exchange:
    return Exchange(service, model=body.model, prepare=prepare, dialect=teller, stream=False, timeout_s=body.timeout)
