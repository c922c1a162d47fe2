"""The registry of supported families: adding one touches its file, this dict and its tests."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.core.errors import ModelError
from steelyard.models.basics import GGUF_FILE
from steelyard.models.family import Family, GGUFForm
from steelyard.models.gemma import GEMMA2, GEMMA3
from steelyard.models.gpt2 import GPT2
from steelyard.models.gpt_neox import GPT_NEOX
from steelyard.models.keys import Keys
from steelyard.models.llama import LLAMA, MISTRAL
from steelyard.models.mixtral import MIXTRAL
from steelyard.models.olmoe import OLMOE
from steelyard.models.phi3 import PHI3
from steelyard.models.qwen import QWEN2, QWEN3
from steelyard.models.qwen_moe import QWEN2_MOE, QWEN3_MOE
from steelyard.models.smollm3 import SMOLLM3

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "smollm3": SMOLLM3,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen2_moe": QWEN2_MOE,
    "qwen3_moe": QWEN3_MOE,
    "mixtral": MIXTRAL,
    "olmoe": OLMOE,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "phi3": PHI3,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}


def family_of_config(keys: Keys) -> Family:
    """Return the family of a ``config.json``: by its first known architecture, else, if it names none, by its type.

    Raises:
        ModelError: if no family fits.
    """
    architectures = keys.texts("architectures")
    for family in FAMILIES.values():
        if any(name in family.architectures for name in architectures):
            return family
    model_type = keys.text("model_type", "")
    for family in FAMILIES.values():
        if not architectures and model_type in family.model_types:
            return family
    named = ", ".join(ascii(name)[1:-1][:60] for name in architectures[:3]) or ascii(model_type)[:60]
    known = ", ".join(name for family in FAMILIES.values() for name in family.architectures)
    raise keys.wrong("architectures", f"{named} is not supported", f"Choose a model of one of {known}")


def gguf_form(metadata: Mapping[str, object]) -> GGUFForm:
    """Return the form of a GGUF file by its ``general.architecture``.

    Raises:
        ModelError: if it is missing or not supported.
    """
    name = Keys(metadata, GGUF_FILE).text("general.architecture")
    forms = {family.gguf.architecture: family.gguf for family in FAMILIES.values() if family.gguf is not None}
    if name not in forms:
        raise ModelError(
            f"architecture {ascii(name)[:60]} is not supported",
            field=f"{GGUF_FILE}: general.architecture",
            remedy=f"Choose a file of one of {', '.join(forms)}",
        )
    return forms[name]
