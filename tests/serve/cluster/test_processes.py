"""How cores and memory are shared out."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from steelyard.engine.build import LLMOptions
from steelyard.serve.cluster.processes import ProcessLauncher, share_cores, usable_cores


@given(st.integers(1, 200), st.integers(1, 50))
def test_cores_are_shared_out_evenly_and_all_of_them(num_cores: int, num_replicas: int):
    cores = tuple(range(3, 3 + num_cores))
    shares = share_cores(cores, num_replicas)
    assert len(shares) == num_replicas
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    if num_replicas <= num_cores:
        assert tuple(core for share in shares for core in share) == cores
    else:
        assert {core for share in shares for core in share} == set(cores)


def test_each_replica_has_threads_for_its_cores_and_its_part_of_the_memory():
    launcher = ProcessLauncher(LLMOptions(device="cpu"), 3)
    for place, cores in enumerate(share_cores(usable_cores(), 3)):
        options = asyncio.run(launcher.options(place))
        assert (options.threads, options.num_neighbours) == (len(cores), 2)
    assert asyncio.run(ProcessLauncher(LLMOptions(device="cpu", threads=5), 2).options(1)).threads == 5
    assert launcher.host is None
