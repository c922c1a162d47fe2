"""From a resolved model to a decoder in memory: :func:`load_model`.

The decoder is built on the meta device, every tensor's presence and shape is checked against its description, and only
then are tensors read, one parameter at a time; weights that stay quantised are repacked from the file's blocks
(:mod:`steelyard.models.quantised`). Not here: several devices.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from steelyard.core.errors import ModelError
from steelyard.core.params import SamplingParams
from steelyard.core.units import MIB
from steelyard.kernels.packed_matrix import HugePageArena
from steelyard.models.config import ModelConfig
from steelyard.models.decoder import Decoder
from steelyard.models.families import family_of_config, gguf_form
from steelyard.models.family import WeightMap
from steelyard.models.generation import GenerationDefaults, generation_defaults
from steelyard.models.keys import Keys
from steelyard.models.parameters import ParameterSource, find_extras, plan_parameters
from steelyard.models.quantised import QuantisedEmbedding, QuantisedLinear, Quantization, quantise_parameter
from steelyard.models.resolve import CONFIG_FILE, ModelKind, ResolvedModel, open_weights
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.source import WeightSource

GENERATION_FILE = "generation_config.json"
MAX_JSON_BYTES = 16 * MIB
GGUF_IGNORED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", ".attn_rot_embd.weight")

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called after each parameter with how many are loaded and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        module: on the device asked for, evaluation mode, no gradients.
        generation: what the model's files recommend for sampling.
        weight_bytes: memory that the weights take as loaded.
    """

    name: str
    kind: ModelKind
    config: ModelConfig
    module: Decoder
    generation: GenerationDefaults
    weight_bytes: int

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text, as the model's files say."""
        return frozenset(self.generation.eos_token_ids)

    @property
    def default_params(self) -> SamplingParams:
        """What the model's files recommend, and our defaults for the rest."""
        return self.generation.sampling_params()


def describe_model(resolved: ResolvedModel, source: WeightSource) -> ModelConfig:
    """Return what a model's files say it is, without reading a tensor; ``source`` is its open weights.

    Raises:
        ModelError: if the description is unsound or not supported.
    """
    return _describe(resolved, source).config


@dataclass(frozen=True, slots=True)
class _Description:
    """What the files say before any tensor is read."""

    config: ModelConfig
    generation: GenerationDefaults
    weights: WeightMap
    base: str
    ignored: tuple[str, ...]


def load_model(
    resolved: ResolvedModel,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = Quantization.NONE,
    source: WeightSource | None = None,
    on_progress: Progress | None = None,
) -> LoadedModel:
    """Load a model's weights.

    Args:
        resolved: where it is.
        device: where the parameters go.
        dtype: of all parameters that are not quantised: float32, bfloat16 or float16.
        quantization: what the weights of linear layers and embeddings are held as.
        source: its open weights; without, they are opened here, and closed.
        on_progress: see :data:`Progress`.

    Raises:
        ModelError: if the description is unsound or not supported, or contradicts a tensor's shape.
        WeightsError: if a tensor is missing or cannot be read.
    """
    with nullcontext(source) if source is not None else closing(open_weights(resolved)) as weights:
        described = _describe(resolved, weights)
        module = _build_decoder(
            described, weights, device=device, dtype=dtype, quantization=quantization, on_progress=on_progress
        )
    return LoadedModel(
        name=resolved.name,
        kind=resolved.kind,
        config=described.config,
        module=module,
        generation=described.generation,
        weight_bytes=weight_bytes(module),
    )


def _build_decoder(
    described: _Description,
    source: WeightSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization,
    on_progress: Progress | None,
) -> Decoder:
    """Check everything, then read everything."""
    config = described.config
    parameter_source = ParameterSource(config, described.weights, described.base, source)
    parameter_source.check_extent()
    with torch.device("meta"):
        module = Decoder(config)
    plan = plan_parameters(module, parameter_source)
    extras = find_extras(plan, source, config, described.ignored)
    if extras:
        logger.warning("%d tensors of the file are not used, such as %s", len(extras), ", ".join(extras[:3]))
    allocate = HugePageArena()
    for num_done, parameter in enumerate(plan, start=1):
        if not quantise_parameter(module, parameter, parameter_source, quantization, allocate):
            value = parameter_source.read(parameter, dtype).to(device)
            # One small parameter left in the file's map would keep all of it, with every page that was packed.
            set_parameter(module, parameter.name, value if quantization is Quantization.NONE else value.clone())
        if on_progress is not None:
            on_progress(num_done, len(plan))
    if config.tied_embeddings:
        tie_embeddings(module)
    return module.eval()


def tie_embeddings(module: Decoder) -> None:
    """Let the output projection use the embedding matrix."""
    if isinstance(module.embed, QuantisedEmbedding):
        module.lm_head = QuantisedLinear(module.embed.packed, fine=True)
    else:
        module.lm_head.weight = module.embed.weight


def weight_bytes(module: nn.Module) -> int:
    """Return the memory that parameters and packed weights take, what is shared counted once."""
    packed = {id(m.packed): m.packed for m in module.modules() if isinstance(m, QuantisedLinear | QuantisedEmbedding)}
    return sum(p.nbytes for p in module.parameters()) + sum(matrix.num_bytes for matrix in packed.values())


def set_parameter(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put ``value`` in the place of the parameter called ``name``, without gradients."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def _describe(resolved: ResolvedModel, source: WeightSource) -> _Description:
    if isinstance(source, GGUFFile):
        return _describe_gguf(source.metadata, source, resolved.recommended)
    return _describe_directory(resolved.path, source)


def _describe_gguf(
    metadata: Mapping[str, object], source: WeightSource, recommended: GenerationDefaults | None
) -> _Description:
    form = gguf_form(metadata)
    config = form.config(metadata, source)
    generation = replace(recommended or GenerationDefaults(), eos_token_ids=config.eos_token_ids)
    return _Description(config, generation, form.weights, "", GGUF_IGNORED)


def _describe_directory(path: Path, source: WeightSource) -> _Description:
    values = read_json(path / CONFIG_FILE)
    family = family_of_config(Keys(values, CONFIG_FILE))
    config = family.config_from_hf(Keys(values, CONFIG_FILE))
    generation_file = path / GENERATION_FILE
    recommended = read_json(generation_file) if generation_file.is_file() else {}
    generation = generation_defaults(Keys(recommended, GENERATION_FILE), config)
    base = _base(family.bases, family.hf_weights, source)
    return _Description(config, generation, family.hf_weights, base, family.hf_ignored)


def _base(bases: tuple[str, ...], weights: WeightMap, source: WeightSource) -> str:
    """Return the first base under which the file has the embedding matrix, or simply the first."""
    template, names = weights["embed"].sources[0] + ".weight", source.names()
    return next((base for base in bases if template.format(base=base) in names), bases[0])


def read_json(path: Path) -> Mapping[str, object]:
    """Return the object in a JSON file.

    Raises:
        ModelError: if it is missing, unreadable, larger than any such file is, or not an object.
    """
    remedy = "Download the model again"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError("the file is larger than any configuration", field=path.name, remedy=remedy)
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"the file cannot be read: {error.strerror}", field=path.name, remedy=remedy) from error
    except (ValueError, RecursionError) as error:
        raise ModelError("the file is not valid JSON", field=path.name, remedy=remedy) from error
    if not isinstance(values, dict):
        raise ModelError("the file does not hold a JSON object", field=path.name, remedy=remedy)
    return values
