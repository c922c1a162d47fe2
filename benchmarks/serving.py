"""Steelyard's server under load by clients that others wrote, beside other servers, its own engine and its limits.

    python benchmarks/serving.py setup [SERVER …]
    python benchmarks/serving.py load [--servers SERVER …] [--users 1 16 64] [--repeats 3] [--write]

``setup`` makes the environments of the servers and load generators where ``peers.py`` keeps its own (``--cache``).
``load`` gives each server so many users at once through vLLM's load generator: 128 tokens in, 64 out, greedy, two
requests per user, new prompts in every round. The load generator computes on the same cores as the server.
SERVER is the beginning of a name; without one all take part. ``--write`` appends the tables to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch
from peerbench.cache import Cache
from peerbench.child import PeerError
from peerbench.contenders import OURS
from peerbench.install import set_up_servers
from servebench import report
from servebench.load import OFFLINE_NAME, Contender, Load, OfflineEngine, Server, VllmClient, take_turns
from servebench.servers import SERVERS, ServerSpec, Shape, missing

from steelyard.core.clock import utc_timestamp
from steelyard.core.environment import cache_directory
from steelyard.hardware.this_machine import num_usable_cores, this_machine
from steelyard.reproduce.report import describe_machine, source_version

RESULTS = Path(__file__).parent / "RESULTS.md"
PROMPT_TOKENS, OUTPUT_TOKENS, SPARE_TOKENS = 128, 64, 64
