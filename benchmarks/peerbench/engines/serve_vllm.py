"""vLLM's CPU build as a child, its engine core in this process so that it can be stopped and measured as one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from serving import Completion, Spec, Tokens, serve

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",  # GiB
    VLLM_NO_USAGE_STATS="1",
    HF_HUB_OFFLINE="1",
)


class Vllm:
    """The engine; requests are batched continuously."""

    def load(self, spec: Spec) -> str:
        cores = sorted(os.sched_getaffinity(0))[: spec.threads]
        os.environ["OMP_NUM_THREADS"] = str(spec.threads)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))  # else it may keep a core for itself
        import vllm  # noqa: PLC0415  it reads the environment when it is imported

        self.vllm = vllm
        self.llm = vllm.LLM(
            model=spec.model,
            dtype=spec.options["dtype"],
            max_model_len=spec.context,
            max_num_seqs=spec.seats,
            enable_prefix_caching=False,
            disable_log_stats=False,
            skip_tokenizer_init=True,
        )
        return vllm.__version__

    def prepare(self, seats: int, context: int) -> None:
        """Do nothing: the engine was loaded for the largest workload."""

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        params = self.vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        outputs = self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return [Completion(list(output.outputs[0].token_ids), output.metrics.first_token_latency) for output in outputs]

    def score(self, window: Tokens) -> float:
        raise NotImplementedError("not written: its float32 is that of transformers")


if __name__ == "__main__":
    serve(Vllm())
