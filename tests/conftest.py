"""What all tests share: equal seeds, one thread, the rule for tests of the compiled extension, and Triton's mode.

Triton kernels are tested compiled where there is a GPU, and in Triton's interpreter, on CPU tensors, where not. The
interpreter must be asked for before the first of them is imported.
"""

import os
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import settings

from steelyard.kernels.native import native_available

REQUIRE_NATIVE = "STEELYARD_REQUIRE_NATIVE"
REQUIRE_BROWSER = "STEELYARD_REQUIRE_BROWSER"

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("steelyard", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("steelyard")


def pytest_configure(config):
    # Workers stand side by side; more threads than cores would only slow them down.
    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if item.get_closest_marker("native") and not native_available():
        miss("the compiled extension is not installed, or STEELYARD_NATIVE=0", REQUIRE_NATIVE)
    if item.get_closest_marker("browser") and shutil.which("chromium") is None:
        miss("chromium is not installed", REQUIRE_BROWSER)


def miss(reason, required):
    """Skip the test, unless an environment variable asks for it."""
    if os.environ.get(required) == "1":
        pytest.fail(f"{reason}, and {required}=1 asks for it", pytrace=False)
    pytest.skip(reason)
