"""The synchronous front door: :class:`LLM` runs an :class:`AsyncLLM` on an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor

from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.pooling import PoolingParams
from steelyard.core.request import RequestOutput
from steelyard.engine.async_llm import AsyncLLM
from steelyard.engine.engine import Engine, EngineResponse
from steelyard.engine.probe import TextScore
from steelyard.engine.prompter import Message, Prompt
from steelyard.engine.torch_executor import InlineExecutor, TorchExecutor
from steelyard.engine.view import Observer
from steelyard.models.text.tokenizer import Tokenizer

T = TypeVar("T")


class LLM:
    """A model that answers: ``LLM().generate("Hello")``.

    Args:
        model: catalogue name, ``.gguf`` file, Hugging Face directory or hub id; ``None`` for the default model.
        observers: called after each engine step, on the engine's thread.
        **options: fields of :class:`~steelyard.engine.build.LLMOptions`, such as ``device``, ``dtype``,
            ``max_model_len``, ``max_num_seqs``, ``threads``.

    Raises:
        ModelError, MemoryBudgetError, ParamsError: see :class:`~steelyard.engine.async_llm.AsyncLLM`.
    """

    def __init__(self, model: str | None = None, *, observers: tuple[Observer, ...] = (), **options: Any) -> None:
        # Overlapped steps are scheduled while another thread computes; a loop that computes itself overlaps nothing.
        executor = TorchExecutor if options.get("overlap_steps") else InlineExecutor
        self._llm = AsyncLLM(model, observers=observers, executor=executor, **options)
        self._stream_ids = count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="steelyard-engine", daemon=True)
        self._thread.start()
        # Also runs when the object is forgotten and when the interpreter ends, so that no thread is cut off mid-step.
        self._shut_down = weakref.finalize(self, _shut_down, self._llm, self._loop, self._thread)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: Sequence[int] | None = None,
        timeout_s: float | None = None,
    ) -> list[RequestOutput]:
        """Complete each prompt and return the outputs in the order of the prompts.

        Args:
            prompts: one text or token-id list, or several.
            params: one for all, or one per prompt; ``None`` for :attr:`default_params`.
            priority: one per prompt; lower is sooner.
            timeout_s: seconds after which a request is given up (finish reason ``deadline``).

        Raises:
            InputError: if any prompt or parameter cannot be served; the others are cancelled then.
        """
        many = _as_prompts(prompts)
        each = _spread("params", params if params is not None else self.default_params, SamplingParams, len(many))
        ranks = _spread("priority", priority if priority is not None else 0, int, len(many))
        encoded = [self._llm.encode(prompt) for prompt in many]
        outputs = self._wait(self._generate(encoded, each, ranks, timeout_s))
        texts = [prompt if isinstance(prompt, str) else None for prompt in many]
        return [replace(output, prompt=text) for output, text in zip(outputs, texts, strict=True)]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **template_arguments: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several; messages are ``{"role": …, "content": …}``.

        Raises:
            PromptError: if a message is malformed, or the model has no chat template.
            ModelError: if the model has no tokenizer.
        """
        single = bool(messages) and isinstance(messages[0], dict)
        conversations: Any = [messages] if single or not messages else messages
        return self.generate([self._llm.encode_chat(c, **template_arguments) for c in conversations], params)

    def stream(
        self, prompt: Prompt | Sequence[Message], params: SamplingParams | None = None, **template_arguments: Any
    ) -> Iterator[str]:
        """Yield the answer's text piece by piece as it becomes definite; messages are answered through the template.

        Leaving the loop early cancels the request.
        """
        sent = 0
        for output in self.stream_outputs(prompt, params, **template_arguments):
            if len(output.text) > sent:
                yield output.text[sent:]
                sent = len(output.text)

    def stream_outputs(
        self, prompt: Prompt | Sequence[Message], params: SamplingParams | None = None, **template_arguments: Any
    ) -> Iterator[RequestOutput]:
        """Yield the request's cumulative output whenever it grows, the finished one last."""
        is_chat = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], dict)
        ids: Prompt = self._llm.encode_chat(prompt, **template_arguments) if is_chat else prompt  # type: ignore[arg-type, assignment]
        request_id = f"stream-{next(self._stream_ids)}"
        finished = False
        try:
            response = self._wait(self._llm.submit(ids, params, request_id=request_id))
            while not finished:
                output = self._wait(response.next_output())
                finished = output.finished
                yield output
        finally:
            if not finished and self._shut_down.alive:
                self._wait(self._llm.cancel(request_id))

    def score(self, texts: Prompt | Sequence[Prompt]) -> list[TextScore]:
        """Return each text's token log-probabilities (natural log)."""
        return self._wait(self._llm.score(_as_prompts(texts)))

    def embed(self, texts: Prompt | Sequence[Prompt], pooling: PoolingParams | None = None) -> Tensor:
        """Return ``[texts, hidden_size]`` float32, one vector per text; see :meth:`.AsyncLLM.embed`."""
        return self._wait(self._llm.embed(_as_prompts(texts), pooling))

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return ``[tokens, vocab_size]`` float32 logits: row i predicts token i + 1."""
        return self._wait(self._llm.logits(token_ids))

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Call ``observer`` after each step meanwhile, on the engine's thread."""

        async def begin() -> Engine:
            engine = self._llm.start()
            engine.add_observer(observer)
            return engine

        async def end() -> None:
            engine.remove_observer(observer)

        engine = self._wait(begin())
        try:
            yield
        finally:
            self._wait(end())

    @property
    def default_params(self) -> SamplingParams:
        """Sampling parameters that the model's own generation defaults suggest."""
        return self._llm.default_params

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; raises ``ModelError`` if it came without one."""
        return self._llm.tokenizer

    @property
    def engine(self) -> AsyncLLM:
        """The asynchronous front door underneath, for its parts and configuration."""
        return self._llm

    def close(self) -> None:
        """Stop the engine and its threads. Idempotent."""
        self._shut_down()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _generate(
        self, prompts: list[tuple[int, ...]], params: list[SamplingParams], ranks: list[int], timeout_s: float | None
    ) -> list[RequestOutput]:
        """Feed the engine as it has room; on any error or interrupt cancel what was fed."""
        responses: list[EngineResponse] = []
        try:
            for prompt, each, rank in zip(prompts, params, ranks, strict=True):
                responses.append(await self._llm.submit(prompt, each, priority=rank, timeout_s=timeout_s))
            return [await response.result() for response in responses]
        finally:
            for response in responses:
                if not response.finished:
                    await self._llm.cancel(response.request.id)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the engine's loop; an interrupt of this thread cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _shut_down(llm: AsyncLLM, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    asyncio.run_coroutine_threadsafe(llm.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _as_prompts(prompts: Any) -> list[Prompt]:
    """Return a list of prompts from one prompt or several."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
        return [prompts]
    return list(prompts)


def _spread(name: str, given: Any, kind: type, length: int) -> list[Any]:
    """Return one value per prompt."""
    if isinstance(given, kind):
        return [given] * length
    if len(given) != length:
        raise ParamsError(f"{len(given)} given for {length} prompts", field=name, remedy="Give one, or one per prompt")
    return list(given)
