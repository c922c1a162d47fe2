"""vLLM's load generator, ``vllm bench serve``, as a child that is loaded once and sends load when it is asked to."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

from serving import answer_requests

os.environ.update(VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")

TIMES = ("median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p99_itl_ms")
TOLD = ("failed", "duration", "total_input_tokens", "total_output_tokens", *TIMES, "cpu_s")


def main() -> None:
    from vllm.benchmarks import serve  # noqa: PLC0415  it reads the environment when it is imported

    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    send = serve.benchmark

    async def measured(**arguments: Any) -> dict[str, Any]:
        """Send the load, with the CPU seconds that it took: not those of preparing it."""
        start_s = time.process_time()
        return {**await send(**arguments), "cpu_s": time.process_time() - start_s}

    serve.benchmark = measured

    def load(arguments: Sequence[str]) -> dict[str, Any]:
        result = asyncio.run(serve.main_async(parser.parse_args(arguments)))
        return {name: result[name] for name in TOLD}

    answer_requests({"load": load, "prepare": lambda: {}})


if __name__ == "__main__":
    main()
