"""The GPU's measuring loops, in Triton's interpreter where Triton is installed."""

import os
import subprocess
import sys

import pytest

from steelyard.kernels.triton_probe import triton_installed

CHASE = """
import torch
from steelyard.kernels.probe import random_cycle
from steelyard.kernels.triton_probe import chase_gpu
walk = chase_gpu(2048, 5, torch.device("cpu"))
chain = torch.zeros(256, dtype=torch.int64)
random_cycle(chain, 16, 1)
here = 0
for _ in range(3):
    for _ in range(5):
        here = int(chain[here])
    assert int(walk()) == here
"""
MAX_ADD = """
import torch
from steelyard.kernels.triton_probe import max_add_gpu
def expected(lane):
    a, b = lane, lane + 1
    for step in range(7):
        a = max(a + step, b)
        b = max(b - step, a)
    return a + b
out = max_add_gpu(torch.device("cpu"), programs=2, lanes=8, rounds=7)()
assert out.tolist() == [expected(lane) for lane in range(16)]
"""


@pytest.mark.skipif(not triton_installed(), reason="Triton is not installed")
@pytest.mark.parametrize("code", [CHASE, MAX_ADD], ids=["chase", "max_add"])
def test_in_the_interpreter(code):
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
