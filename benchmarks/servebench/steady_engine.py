"""The engine without a server, kept busy: users in its own process who ask again as soon as they are answered.

    python benchmarks/servebench/steady_engine.py THREADS USERS PROMPT_TOKENS OUTPUT_TOKENS

Runs until its end and answers, in lines of JSON, how many output tokens came within some seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from steelyard.core.clock import sleep_s, wall_s
from steelyard.core.params import SamplingParams
from steelyard.engine.async_llm import AsyncLLM

WORDS = range(1_000, 40_000)  # tokens of the default model that are no control tokens


def least(output_tokens: int) -> int:
    """Return the shortest answer's length where this is the mean."""
    return max(1, output_tokens // 2)


def most(output_tokens: int) -> int:
    """Return the longest answer's length where this is the mean."""
    return output_tokens + output_tokens // 2


class Users:
    """So many users of one engine; to be made within its event loop.

    Args:
        llm: the engine.
        num_users: requests at once.
        prompt_tokens: of each request.
        output_tokens: the mean over requests.
    """

    def __init__(self, llm: AsyncLLM, num_users: int, prompt_tokens: int, output_tokens: int) -> None:
        self._llm, self._rng = llm, random.Random(0)
        self._prompt_tokens = prompt_tokens
        self._lengths = range(least(output_tokens), most(output_tokens) + 1)
        self._num_ended = 0
        self._under_way: dict[int, Any] = {}
        self.tasks = [asyncio.create_task(self._ask(number)) for number in range(num_users)]

    async def rate(self, seconds: float) -> float:
        """Return output tokens per second over the next so many seconds."""
        before, start_s = self._num_tokens(), wall_s()
        await sleep_s(seconds)
        return (self._num_tokens() - before) / (wall_s() - start_s)

    async def _ask(self, number: int) -> None:
        while True:
            prompt = self._rng.choices(WORDS, k=self._prompt_tokens)
            params = SamplingParams(max_tokens=self._rng.choice(self._lengths), ignore_eos=True, temperature=0.0)
            response = self._under_way[number] = await self._llm.submit(prompt, params)
            await response.result()
            self._num_ended += response.completions[0].num_tokens
            del self._under_way[number]

    def _num_tokens(self) -> int:
        return self._num_ended + sum(response.completions[0].num_tokens for response in self._under_way.values())


async def main() -> None:
    threads, num_users, prompt_tokens, output_tokens = map(int, sys.argv[1:])
    llm = AsyncLLM(threads=threads, max_num_seqs=num_users)
    users = Users(llm, num_users, prompt_tokens, output_tokens)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"tokens_per_s": await users.rate(json.loads(line)["seconds"])}), flush=True)
    for task in users.tasks:
        task.cancel()
    await llm.close()


if __name__ == "__main__":
    asyncio.run(main())
