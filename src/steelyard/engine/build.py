"""From a model's name and a few options to the parts of an engine. Every "auto" is settled here, once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, cast

import torch

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.core.garbage import paused_collection
from steelyard.core.params import SamplingParams
from steelyard.core.units import ceil_div, format_bytes
from steelyard.engine.completion import TextFactory
from steelyard.engine.config import EngineConfig
from steelyard.engine.constraints import ConstraintFollower, GrammarBackend, GrammarStore, llguidance_installed
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor
from steelyard.engine.model_runner import DecodeSteps, ModelRunner
from steelyard.engine.probe import Prober
from steelyard.engine.sampling import Sampler
from steelyard.engine.view import Observer
from steelyard.hardware.this_machine import available_memory_bytes, release_freed_memory
from steelyard.kernels.linear import prepare_linears
from steelyard.kernels.paged_attention import multiplies_bfloat16
from steelyard.kernels.triton_available import triton_serves
from steelyard.memory.kv_store import KVStore, make_kv_store, native_store_fits
from steelyard.memory.paged_kv import KVShape
from steelyard.models.catalogue import default_model
from steelyard.models.config import MoeConfig
from steelyard.models.contract import LanguageModel
from steelyard.models.decoder import Decoder
from steelyard.models.fused import FusedDecoder, why_not_fused
from steelyard.models.load import LoadedModel, load_model
from steelyard.models.quantised import WEIGHT_ONLY, Quantization, held_bytes, holds_blocks, settle_quantization
from steelyard.models.resolve import open_weights, resolve_model
from steelyard.models.text.chat import ChatTemplate
from steelyard.models.text.detokenizer import IncrementalDetokenizer
from steelyard.models.text.load import load_text
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.models.weights.source import WeightSource
from steelyard.policies.schedule import make_schedule_policy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KV_CACHE_DTYPES = {**DTYPES, "int8": torch.int8}
# Of the memory left after the weights, this share may become KV cache unless the user says otherwise.
_KV_SHARE = 0.3
MAX_SEATS = 1 << 16
_CPU_STEP_TOKENS = 512
_GPU_STEP_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMOptions:
    """What a user may say about an engine; ``None`` and ``"auto"`` are settled by :func:`build_parts`.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` (float32 on CPUs, bfloat16 on GPUs), ``float32``, ``bfloat16`` or ``float16``.
        quantization: what the weights of linear layers are held as: ``auto`` keeps a GGUF file's own blocks on a CPU
            with the native kernels, unless a dtype was asked for; ``none`` for the dtype; ``stored``, ``w8a8`` or
            ``w4a8`` on CPUs, ``int8`` or ``int4`` on CUDA (:class:`~steelyard.models.quantised.Quantization`).
        max_model_len: tokens of prompt and output together; ``None`` for the model's context, or what memory allows.
        max_num_seqs: sequences running at once.
        max_num_batched_tokens: tokens computed in one step.
        kv_cache_memory_bytes: size of the KV cache.
        kv_cache_dtype: ``auto``, ``float32``, ``float16``, ``bfloat16`` or ``int8`` (:func:`resolve_kv_cache_dtype`).
        block_size: tokens per KV block.
        enable_prefix_caching: share the KV of equal prefixes.
        schedule_policy: a name from :data:`steelyard.policies.schedule.SCHEDULE_POLICIES`.
        threads: CPU threads; ``None`` leaves PyTorch's choice.
        seed: of the generator that draws seeds for requests without one.
        max_waiting: sequences that may wait for a seat.
        decode_graphs: replay recorded steps of decodes (CUDA with Triton; not for mixtures of experts).
        overlap_steps: schedule each step while the one before runs.
        num_neighbours: engines that begin on the same device at the same time and see the same free memory.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    kv_cache_memory_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    block_size: int = 16
    enable_prefix_caching: bool = True
    schedule_policy: str = "fcfs"
    threads: int | None = None
    seed: int = 0
    max_waiting: int = 4096
    decode_graphs: bool = False
    overlap_steps: bool = False
    num_neighbours: int = 0

    @classmethod
    def from_keywords(cls, keywords: dict[str, Any]) -> LLMOptions:
        """Return the options; an unknown name raises :class:`ParamsError` and lists the known ones."""
        known = [field.name for field in fields(cls)]
        for name in keywords:
            if name not in known:
                raise ParamsError("no such option", field=name, remedy=f"Use one of {', '.join(known)}")
        return cls(**keywords)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything an engine for one model is made of, loaded and ready."""

    name: str
    model: LoadedModel
    dtype: torch.dtype
    runner: ModelRunner
    prober: Prober
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    default_params: SamplingParams
    engine_config: EngineConfig
    eos_token_ids: frozenset[int]
    schedule_policy: str
    grammars: GrammarStore | None

    @property
    def hidden_size(self) -> int:
        """Elements of a hidden state, and so of a pooled vector."""
        return self.model.config.hidden_size

    @property
    def kv_cache_bytes(self) -> int:
        """What the KV cache takes."""
        return self.runner.kv_shape.block_bytes * self.engine_config.num_kv_blocks

    @property
    def held_bytes(self) -> int:
        """What weights and KV cache take."""
        return self.model.weight_bytes + self.kv_cache_bytes

    def make_engine(self, executor: Executor, observers: tuple[Observer, ...] = ()) -> Engine:
        """Return a fresh engine of these parts around ``executor``; call it inside the event loop that will step it."""
        return Engine(
            self.engine_config,
            executor,
            make_schedule_policy(self.schedule_policy),
            vocab_size=self.model.config.vocab_size,
            eos_token_ids=self.eos_token_ids,
            text=text_factory(self.tokenizer),
            observers=observers,
            grammars=self.grammars,
        )


def text_factory(tokenizer: Tokenizer | None) -> TextFactory | None:
    """Return what makes a detokeniser per completion, or ``None`` without a tokenizer."""
    if tokenizer is None:
        return None
    return lambda params: IncrementalDetokenizer(
        tokenizer,
        skip_special_tokens=params.skip_special_tokens,
        continues_text=params.constraint is not None,  # a constraint speaks of all bytes, a leading space included
    )


@paused_collection()
def build_parts(model: str | None, options: LLMOptions) -> Parts:
    """Resolve, load and prepare a model.

    Raises:
        ModelError: if the model is unknown, unsupported or broken.
        MemoryBudgetError: if the KV cache does not fit in memory.
        ParamsError: if an option is wrong.
    """
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    set_threads(options.threads)
    policy = make_schedule_policy(options.schedule_policy)
    del policy  # made only to find a wrong name before minutes of loading
    resolved = resolve_model(model if model is not None else default_model())
    with closing(open_weights(resolved)) as source:
        quantization = choose_quantization(source, options, device)
        check_weights_fit(resolved.name, source, device, dtype, quantization)
        loaded = load_model(resolved, device=device, dtype=dtype, quantization=quantization, source=source)
        text = load_text(resolved, source)
    network, row_tile = prepare_model(loaded.module, quantization, device)
    release_freed_memory()
    shape = kv_shape(loaded, options, dtype, device)
    config = engine_config(loaded, options, shape, device)
    eos = loaded.eos_token_ids | (text.tokenizer.eos_token_ids if text.tokenizer else frozenset())
    store = make_kv_store(shape, config.num_kv_blocks, device)
    decodes = decode_steps(loaded, store, config) if options.decode_graphs else None
    grammars = grammar_store(text.tokenizer, loaded.config.vocab_size, eos)
    follower = ConstraintFollower(grammars) if grammars is not None else None
    runner = ModelRunner(network, store, Sampler(eos_token_ids=eos), row_tile, decodes, follower)
    prober = Prober(
        runner,
        shape,
        device,
        max_model_len=config.max_model_len,
        vocab_size=loaded.config.vocab_size,
        chunk_tokens=config.max_num_batched_tokens,
    )
    return Parts(
        name=loaded.name,
        model=loaded,
        dtype=dtype,
        runner=runner,
        prober=prober,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        default_params=loaded.default_params,
        engine_config=config,
        eos_token_ids=eos,
        schedule_policy=options.schedule_policy,
        grammars=grammars,
    )


def grammar_store(tokenizer: Tokenizer | None, vocab_size: int, eos_token_ids: frozenset[int]) -> GrammarStore | None:
    """Return where constraints are compiled for a model, or ``None`` without a tokenizer."""
    if tokenizer is None:
        return None
    return GrammarStore(lambda: make_grammar_backend(tokenizer, vocab_size, eos_token_ids))


def make_grammar_backend(tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> GrammarBackend:
    """Return what compiles constraints for a vocabulary; some tenths of a second.

    Raises:
        ParamsError: if the library is not installed, or the model has no end token.
    """
    if not llguidance_installed():
        problem = "the package llguidance, which constrained output needs, is not installed"
        raise ParamsError(problem, field="constraint", remedy="Install steelyard[serve], or leave it out")
    make = import_module("steelyard.engine.llguidance_backend").LlguidanceBackend
    return cast(GrammarBackend, make(tokenizer, vocab_size, eos_token_ids))


def prepare_model(decoder: Decoder, quantization: Quantization, device: torch.device) -> tuple[LanguageModel, int]:
    """Return the form of a loaded decoder that runs fastest on ``device``, and the row tile it needs.

    Linear layers are quantised here where ``quantization`` is a weight-only form: those begin from loaded weights.
    """
    if quantization in WEIGHT_ONLY:
        bits, group = WEIGHT_ONLY[quantization]
        import_module("steelyard.kernels.triton.linear").quantise_linears(decoder, bits, group)
    row_tile = prepare_linears(decoder)
    if triton_serves(device):
        import_module("steelyard.models.triton_layers").fuse_layers(decoder)
        return decoder, row_tile
    return (FusedDecoder(decoder), 1) if why_not_fused(decoder) is None else (decoder, row_tile)


def decode_steps(loaded: LoadedModel, store: KVStore, config: EngineConfig) -> DecodeSteps:
    """Return recorded steps of decodes.

    Raises:
        ParamsError: if they cannot be recorded here.
    """
    if not triton_serves(store.device):
        problem = "steps are recorded on CUDA devices where Triton is installed only"
        raise ParamsError(problem, field="decode_graphs", remedy="Leave it out, or install steelyard[cuda]")
    if any(isinstance(layer.feed_forward, MoeConfig) for layer in loaded.config.layers):
        problem = "a mixture of experts computes other kernels in each step"
        raise ParamsError(problem, field="decode_graphs", remedy="Leave it out for this model")
    make = import_module("steelyard.engine.cuda_graphs").DecodeGraphs
    sizes = {"max_batch": config.max_num_seqs, "max_model_len": config.max_model_len}
    return cast(DecodeSteps, make(loaded.module, store, **sizes))


def choose_quantization(source: WeightSource, options: LLMOptions, device: torch.device) -> Quantization:
    """Return what the weights will be held as; see :func:`steelyard.models.quantised.settle_quantization`."""
    blocks = holds_blocks(source)
    return settle_quantization(options.quantization, device=device, dtype=options.dtype, stored_blocks=blocks)


def check_weights_fit(
    name: str, source: WeightSource, device: torch.device, dtype: torch.dtype, quantization: Quantization
) -> None:
    """Raise :class:`MemoryBudgetError` if a model's weights alone are more than the memory now available."""
    needed = held_bytes(source, quantization, dtype)
    available = _available_bytes(device)
    if needed > available:
        raise MemoryBudgetError(
            f"the weights need {format_bytes(needed)} in {_held_as(quantization, dtype)}, "
            f"{format_bytes(available)} are available",
            field="model",
            remedy=f"See what would fit with `steelyard fit {name}`: a smaller dtype, or a smaller model",
        )


def _held_as(quantization: Quantization, dtype: torch.dtype) -> str:
    loaded_whole = quantization is Quantization.NONE or quantization in WEIGHT_ONLY
    return str(dtype).removeprefix("torch.") if loaded_whole else quantization.value


def resolve_device(name: str) -> torch.device:
    """Return the torch device for a user's word."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParamsError(f"{name!r} is no device", field="device", remedy="Use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ParamsError(f"{name!r} is not supported", field="device", remedy="Use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ParamsError(
            f"this machine shows {found} CUDA devices", field="device", remedy="Use cpu, or a lower index"
        )
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype for a user's word."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise ParamsError(f"{name!r} is no dtype", field="dtype", remedy=f"Use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def set_threads(threads: int | None) -> None:
    """Set PyTorch's CPU threads for the whole process, if asked to."""
    if threads is None:
        return
    if not 1 <= threads <= 1024:
        raise ParamsError(f"{threads} is not from 1 to 1024", field="threads", remedy="Give the number of CPU cores")
    torch.set_num_threads(threads)


def resolve_kv_cache_dtype(name: str, dtype: torch.dtype, *, native: bool) -> torch.dtype:
    """Return the KV cache's dtype for a user's word.

    ``auto`` is the model's dtype on the PyTorch path. In the native layout, float32 models' keys and values take half
    the bytes: as bfloat16 where the CPU multiplies pairs of them, which shortens long prefills, else as float16, which
    rounds eight times finer.

    Args:
        name: the word.
        dtype: of the model.
        native: whether the cache is in the native kernels' layout; only that knows other dtypes than the model's.
    """
    if name == "auto":
        if not native or dtype is not torch.float32:
            return dtype
        return torch.bfloat16 if multiplies_bfloat16() else torch.float16
    if name not in KV_CACHE_DTYPES:
        remedy = f"Use auto, {', '.join(KV_CACHE_DTYPES)}"
        raise ParamsError(f"{name!r} is no dtype of a KV cache", field="kv_cache_dtype", remedy=remedy)
    chosen = KV_CACHE_DTYPES[name]
    if chosen is not dtype and not native:
        problem = f"{name} needs the native kernels, on a CPU, with block_size and head_dim multiples of 16"
        raise ParamsError(problem, field="kv_cache_dtype", remedy="Use auto")
    return chosen


def kv_shape(loaded: LoadedModel, options: LLMOptions, dtype: torch.dtype, device: torch.device) -> KVShape:
    """Return the shape of the model's KV cache."""
    block_size = options.block_size
    if not 1 <= block_size <= 1024:
        raise ParamsError(f"{block_size} is not from 1 to 1024", field="block_size", remedy="Use 16")
    attention = loaded.config.layers[0].attention
    native = native_store_fits(device, attention.num_kv_heads, attention.head_dim, block_size)
    return KVShape(
        num_layers=len(loaded.config.layers),
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        block_size=block_size,
        dtype=resolve_kv_cache_dtype(options.kv_cache_dtype, dtype, native=native),
    )


def engine_config(loaded: LoadedModel, options: LLMOptions, shape: KVShape, device: torch.device) -> EngineConfig:
    """Settle the engine's sizes: the context from model and memory, the KV cache from the context and the seats."""
    check_seats(options.max_num_seqs)
    budget = _kv_budget_bytes(options, device)
    affordable = budget // shape.block_bytes
    if affordable < 1:
        raise MemoryBudgetError(
            f"{format_bytes(budget)} hold not one KV block of {format_bytes(shape.block_bytes)}",
            field="kv_cache_memory_bytes",
            remedy="Give the KV cache more memory, or use a smaller model",
        )
    context = _context(loaded.config.max_position_embeddings, options.max_model_len, affordable * shape.block_size)
    wanted = options.max_num_seqs * ceil_div(context, shape.block_size)
    blocks = affordable if options.kv_cache_memory_bytes is not None else min(wanted, affordable)
    step_tokens = _CPU_STEP_TOKENS if device.type == "cpu" else _GPU_STEP_TOKENS
    return EngineConfig(
        max_model_len=context,
        num_kv_blocks=blocks,
        block_size=shape.block_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens or step_tokens,
        max_waiting=options.max_waiting,
        enable_prefix_caching=options.enable_prefix_caching,
        overlap_steps=options.overlap_steps,
        seed=options.seed,
    )


def check_seats(max_num_seqs: int) -> None:
    """Raise unless ``max_num_seqs`` is a number of seats."""
    if not 1 <= max_num_seqs <= MAX_SEATS:
        problem = f"{max_num_seqs} is not from 1 to {MAX_SEATS}"
        raise ParamsError(problem, field="max_num_seqs", remedy="Give how many sequences may run at once")


def _kv_budget_bytes(options: LLMOptions, device: torch.device) -> int:
    available = _available_bytes(device)
    asked = options.kv_cache_memory_bytes
    if asked is None:
        return int(available * _KV_SHARE) // (1 + options.num_neighbours)
    if not 0 < asked <= available:
        raise MemoryBudgetError(
            f"{format_bytes(asked)} asked, {format_bytes(available)} available after loading the weights",
            field="kv_cache_memory_bytes",
            remedy="Ask for less, or leave it out",
        )
    return asked


def _available_bytes(device: torch.device) -> int:
    return available_memory_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def _context(model_limit: int, asked: int | None, affordable: int) -> int:
    """Return the context length, or raise if what was asked is beyond the model."""
    if asked is None:
        return min(model_limit, affordable)
    if not 1 <= asked <= model_limit:
        raise ParamsError(
            f"{asked} is not from 1 to the model's context of {model_limit}",
            field="max_model_len",
            remedy=f"Give at most {model_limit}",
        )
    return asked
