"""The measuring loops: right results, every element visited, every operation counted."""

import pytest
import torch

from steelyard.kernels import probe
from steelyard.kernels.native import native_available
from steelyard.kernels.threads import thread_pool

native = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]


def isas():
    return probe.isas() if native_available() else ["baseline"]


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_random_cycle_visits_every_stride_once_and_comes_back(count, stride):
    chain = torch.full((count * stride,), -1)
    probe.random_cycle(chain, stride, seed=3)
    seen, here = [], 0
    for _ in range(count):
        seen.append(here)
        here = int(chain[here])
    assert here == 0
    assert sorted(seen) == list(range(0, count * stride, stride))
    assert seen != sorted(seen) or count < 3
    assert int((chain == -1).sum()) == count * (stride - 1)


def test_equal_seeds_give_equal_cycles():
    one, other, third = (torch.zeros(512, dtype=torch.int64) for _ in range(3))
    for chain, seed in ((one, 1), (other, 1), (third, 2)):
        probe.random_cycle(chain, 8, seed)
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


class TestNative:
    pytestmark = native

    def test_chasing_follows_each_link(self):
        chain = torch.zeros(64 * 8, dtype=torch.int64)
        probe.random_cycle(chain, 8, seed=0)
        here = 0
        for steps in range(65):
            assert probe.chase(chain, 0, steps) == here
            here = int(chain[here])
        assert probe.chase(chain, 0, 64 * 1000) == 0

    @pytest.mark.parametrize("isa", isas())
    @pytest.mark.parametrize("num_threads", [1, 3])
    @pytest.mark.parametrize("size", [1, 15, 16, 127, 129, 1000])
    def test_streams_do_what_they_are_called(self, isa, num_threads, size):
        pool = thread_pool(num_threads)
        a, b, c = torch.zeros(size), torch.arange(size, dtype=torch.float32), torch.full((size,), 2.0)
        assert probe.stream("read", a, b, c, pool, 2, isa) == 2 * sum(range(size))
        assert not a.any()
        assert probe.stream("copy", a, b, c, pool, 1, isa) == 0
        assert torch.equal(a, b)
        probe.stream("triad", a, b, c, pool, 1, isa)
        assert torch.equal(a, b + 6)

    def test_streams_stay_within_their_array(self):
        whole = torch.zeros(96)
        a, b, c = whole[32:64], torch.ones(32), torch.ones(32)
        probe.stream("triad", a, b, c, thread_pool(3), 1, probe.isas()[-1])
        assert whole[:32].sum() == whole[64:].sum() == 0
        assert (a == 4).all()

    @pytest.mark.parametrize("isa", isas())
    def test_operations_are_counted_per_round_and_worker(self, isa):
        for arithmetic in ("float32", "bfloat16", "int8"):
            one = probe.peak(arithmetic, thread_pool(1), 10, isa)
            assert probe.peak(arithmetic, thread_pool(1), 20, isa) == 2 * one
            assert probe.peak(arithmetic, thread_pool(3), 10, isa) == 3 * one
        assert probe.peak("float32", thread_pool(1), 1, isa) > 0

    def test_wider_instructions_count_more(self):
        def flop(arithmetic, isa):
            return probe.peak(arithmetic, thread_pool(1), 1, isa)

        assert flop("bfloat16", "baseline") == flop("int8", "baseline") == 0
        if "avx2" in probe.isas():
            assert flop("float32", "avx2") == 2 * 8 * 12
        if "avx512_bf16" in probe.isas():
            assert flop("float32", "avx512_bf16") == 2 * 16 * 12
            assert flop("bfloat16", "avx512_bf16") == 2 * 32 * 12
            assert flop("int8", "avx512_bf16") == 2 * 64 * 12

    def test_what_there_is_not_is_refused(self):
        x = torch.zeros(16)
        with pytest.raises(ValueError, match="no stream"):
            probe.stream("scale", x, x, x, thread_pool(1), 1, "baseline")
        with pytest.raises(ValueError, match="no arithmetic"):
            probe.peak("int4", thread_pool(1), 1, "baseline")
        with pytest.raises(ValueError, match="sse9"):
            probe.peak("float32", thread_pool(1), 1, "sse9")

    @pytest.mark.parametrize("num_threads", [1, 2, 5])
    def test_jobs_and_barriers_end(self, num_threads):
        probe.empty_jobs(thread_pool(num_threads), 20)
        probe.barriers(thread_pool(num_threads), 20)
