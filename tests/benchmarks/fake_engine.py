"""A peer that computes nothing: continues with the next numbers, and can refuse, be rude, die or sleep if asked to."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peerbench" / "engines"))

from serving import Completion, serve


class FakeEngine:
    """The engine; ``options["fault"]`` says how it misbehaves."""

    def load(self, spec):
        self.fault = spec.options.get("fault")
        if self.fault == "refuse":
            raise RuntimeError("no such\nmodel")
        print("a library's chatter")
        os.write(1, b"chatter past Python\n")
        return f"fake {spec.model} {spec.threads}"

    def prepare(self, seats, context):
        self.shape = (seats, context)

    def generate(self, prompts, max_tokens):
        if self.fault == "die":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if self.fault == "sleep":
            time.sleep(60)
        count = max_tokens - 1 if self.fault == "short" else max_tokens
        return [Completion([prompt[-1] + 1 + i for i in range(count)], 0.0) for prompt in prompts]

    def score(self, window):
        return -2.0 * (len(window) - 1)


if __name__ == "__main__":
    serve(FakeEngine())
