"""Native paged attention: against float64 over shapes, types and instruction sets, and the promises about bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.native import native_available, native_kernels
from steelyard.kernels.paged_attention import (
    KV_TYPES,
    AttentionPlan,
    PagedLayout,
    Rotary,
    StepSequences,
    native_layout_exists,
    paged_attention,
    paged_attention_reference,
    rope_write_kv,
)
from steelyard.kernels.rms_norm import rms_norm_torch
from steelyard.kernels.threads import thread_pool
from steelyard.models.rope import rotate

pytestmark = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]

ISAS = native_kernels().isas() if native_available() else []
DTYPES = list(KV_TYPES)
# A sequence: queries of this step, keys in the cache after it.
Lengths = list[tuple[int, int]]


def tolerance(dtype: torch.dtype, isa: str) -> float:
    """The reference reads what the cache holds; bfloat16 products round queries and weights too, int8 ones less.

    Values reach 5 here, of which queries and weights of 16 bits may miss 6e-5.
    """
    if dtype is torch.int8 and isa in ("avx512_vnni", "avx512_bf16"):
        return 3e-4
    return 1.5e-2 if dtype is torch.bfloat16 and isa == "avx512_bf16" else 5e-6


class Case:
    """A cache in one layer with random keys and values, and the step that attends to it."""

    def __init__(self, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, block: int, lengths: Lengths) -> None:
        self.lengths = lengths
        self.layout = PagedLayout(dtype, kv_heads, dim, block)
        self.tables = self._tables(block)
        self.num_blocks = 2 + sum(map(len, self.tables))
        self.plan = AttentionPlan(self.layout, self.num_blocks)
        self.cache = torch.zeros(self.num_blocks, self.layout.block_bytes, dtype=torch.uint8)
        self.spec = AttentionSpec(layer=0, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, scale=dim**-0.5)
        contexts = [context for _, context in lengths]
        k, v = torch.randn(2, sum(contexts), kv_heads, dim)
        self.build(StepSequences.of(contexts, contexts, self.tables))
        rope_write_kv(self.plan, self.cache, torch.empty(len(k), heads, dim), k, v, Rotary())
        self.sequences = StepSequences.of([queries for queries, _ in lengths], contexts, self.tables)
        self.q = torch.randn(sum(queries for queries, _ in lengths), heads, dim)

    def _tables(self, block: int) -> list[list[int]]:
        counts = [-(-context // block) for _, context in self.lengths]
        numbers = torch.randperm(sum(counts)).tolist()
        return [[1 + numbers.pop() for _ in range(count)] for count in counts]

    def build(self, sequences: StepSequences, threads: int = 1) -> None:
        self.plan.build(sequences, self.spec.num_heads, thread_pool(threads))

    def attend(self, isa: str | None = None, threads: int = 1) -> torch.Tensor:
        self.build(self.sequences, threads)
        return paged_attention(self.plan, self.spec, self.cache, self.q, isa=isa, pool=thread_pool(threads))

    def expected(self) -> torch.Tensor:
        return paged_attention_reference(self.spec, self.layout, self.cache, self.q.double(), self.sequences)


def limited(case: Case, window: int | None, softcap: float | None) -> Case:
    fields = {name: getattr(case.spec, name) for name in ("layer", "num_heads", "num_kv_heads", "head_dim", "scale")}
    case.spec = AttentionSpec(**fields, window=window, softcap=softcap)
    return case


sequences = st.tuples(st.integers(1, 40), st.one_of(st.just(0), st.integers(0, 90), st.integers(400, 1100))).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)


@settings(max_examples=120)
@given(
    lengths=st.lists(sequences, min_size=0, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 4), (3, 1), (9, 3), (8, 1), (14, 2)]),
    dim=st.sampled_from([16, 32, 48, 64, 80, 128, 256]),
    block=st.sampled_from([16, 32, 48]),
    dtype=st.sampled_from(DTYPES),
    window=st.sampled_from([None, None, 1, 17, 64, 600]),
    softcap=st.sampled_from([None, None, 20.0]),
    threads=st.sampled_from([1, 2, 3]),
    isa=st.sampled_from(ISAS),
    seed=st.integers(0, 2**31),
)
def test_equals_the_float64_reference(
    lengths: Lengths,
    heads: tuple[int, int],
    dim: int,
    block: int,
    dtype: torch.dtype,
    window: int | None,
    softcap: float | None,
    threads: int,
    isa: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    case = limited(Case(dtype, *heads, dim, block, lengths), window, softcap)
    got = case.attend(isa, threads)
    torch.testing.assert_close(got.double(), case.expected(), rtol=0, atol=tolerance(dtype, isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_prompt_and_long_decodes(dtype: torch.dtype, isa: str) -> None:
    case = Case(dtype, 9, 3, 64, 16, [(700, 700), (1, 3000), (5, 2049), (1, 512), (1, 513), (200, 1300)])
    torch.testing.assert_close(case.attend(isa).double(), case.expected(), rtol=0, atol=tolerance(dtype, isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_do_not_depend_on_company_tiles_or_threads(dtype: torch.dtype, isa: str) -> None:
    case = limited(Case(dtype, 6, 2, 48, 16, [(300, 900), (1, 1600), (40, 40), (7, 1030)]), 1000, None)
    together = case.attend(isa)
    for threads in (2, 5):
        assert torch.equal(case.attend(isa, threads), together)
    row = 0
    for (queries, context), table in zip(case.lengths, case.tables, strict=True):
        q, rows = case.q[row : row + queries], together[row : row + queries]
        for first, count in [(0, 1), (queries - 1, 1), (queries // 2, 2), (queries // 3, queries // 2), (0, queries)]:
            count = max(1, min(count, queries - first))
            end = context - queries + first + count
            case.build(StepSequences.of([count], [end], [table]))
            alone = paged_attention(
                case.plan, case.spec, case.cache, q[first : first + count], isa=isa, pool=thread_pool(1)
            )
            assert torch.equal(alone, rows[first : first + count])
        row += queries


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("context", [5, 16, 67, 130])
def test_masked_keys_contribute_nothing(dtype: torch.dtype, isa: str, context: int) -> None:
    """Slots past the context and blocks before the window hold NaN."""
    case = limited(Case(dtype, 3, 1, 32, 16, [(1, context)]), 20, None)
    expected = case.attend(isa)
    nan = torch.full((16, 1, 32), float("nan"))
    for index, number in enumerate(case.tables[0]):
        last = min(16 * index + 16, context)
        if last <= context - 20:
            fill(case, number, 0, nan)
        fill(case, number, last - 16 * index, nan[last - 16 * index :])
    assert torch.isfinite(expected).all()
    case.build(case.sequences)
    assert torch.equal(case.attend(isa), expected)


def fill(case: Case, block: int, offset: int, values: torch.Tensor) -> None:
    """Write ``values`` as keys and values from ``offset`` of ``block`` to its end."""
    if len(values):
        case.build(StepSequences.of([len(values)], [offset + len(values)], [[block]]))
        rope_write_kv(case.plan, case.cache, torch.empty(len(values), 3, 32), values, values, Rotary())


@pytest.mark.parametrize("isa", ISAS)
def test_big_scores_stay_finite(isa: str) -> None:
    case = Case(torch.float32, 2, 2, 64, 16, [(20, 600)])
    case.q *= 300
    torch.testing.assert_close(case.attend(isa).double(), case.expected(), rtol=0, atol=2e-3)


def test_strided_queries_are_read_in_place() -> None:
    case = Case(torch.float16, 9, 3, 64, 16, [(3, 40)])
    packed = torch.randn(3, 15, 64)
    case.q = packed[:, :9]
    strided = case.attend()
    case.q = packed[:, :9].contiguous()
    assert torch.equal(case.attend(), strided)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [16, 48])
def test_what_is_written_is_read_back(dtype: torch.dtype, isa: str, block: int) -> None:
    layout = PagedLayout(dtype, 3, 80, block)
    plan = AttentionPlan(layout, 4)
    cache = torch.zeros(4, layout.block_bytes, dtype=torch.uint8)
    k, v = torch.randn(2, block + 5, 3, 80) * torch.tensor([1e-6, 1.0, 1e5])[:, None]
    plan.build(StepSequences.of([block + 5], [block + 5], [[2, 0]]), 3, thread_pool(2))
    rope_write_kv(plan, cache, torch.empty(block + 5, 3, 80), k, v, Rotary(), isa)
    for plain, stored in zip((k, v), layout.decode(cache), strict=True):
        got = torch.cat((stored[2], stored[0, :5]))
        assert torch.equal(got, rounded(plain, dtype))
        assert not stored[[1, 3]].any()
        assert not stored[0, 5:].any()


def rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a cache of ``dtype`` holds of ``x`` ``[..., head_dim]``."""
    if dtype is torch.int8:
        most = x.abs().amax(-1, keepdim=True)
        return (x * (127 / most)).round() * (most / 127)
    return x.clamp(-65504, 65504).half().float() if dtype is torch.float16 else x.to(dtype).float()


@pytest.mark.parametrize("isa", ISAS)
def test_half_precision_rounds_every_number_as_pytorch_does(isa: str) -> None:
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    x = halves[halves.isfinite()].float()
    x = torch.cat((x, x * (1 + 2**-11), x * (1 + 2**-11 + 2**-20), x * 2**-13))
    x = torch.cat((x, torch.zeros(-len(x) % 256))).view(-1, 1, 256)
    layout = PagedLayout(torch.float16, 1, 256, 16)
    num_blocks = -(-len(x) // 16)
    plan = AttentionPlan(layout, num_blocks)
    cache = torch.zeros(num_blocks, layout.block_bytes, dtype=torch.uint8)
    plan.build(StepSequences.of([len(x)], [len(x)], [range(num_blocks)]), 1, thread_pool(1))
    rope_write_kv(plan, cache, torch.empty_like(x), x, x, Rotary(), isa)
    for stored in layout.decode(cache):
        assert torch.equal(stored.flatten(0, 1)[: len(x)], rounded(x, torch.float16))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("dim", "rotary_dim"), [(64, 64), (64, 16), (80, 32), (48, None)])
def test_norm_and_rotation_are_the_models(dim: int, rotary_dim: int | None, normed: bool, isa: str) -> None:
    packed = torch.randn(7, 4 + 2 * 2, dim)
    q, k, v = packed.split((4, 2, 2), dim=1)
    cos, sin = torch.randn(2, 7, rotary_dim or 0)
    weights = torch.randn(2, dim)
    expected = [q, k]
    if normed:
        expected = [rms_norm_torch(x, w, 1e-5) for x, w in zip(expected, weights, strict=True)]
    if rotary_dim is not None:
        expected = [rotate(x, (cos[:, None], sin[:, None])) for x in expected]
    layout = PagedLayout(torch.float32, 2, dim, 16)
    plan, cache = AttentionPlan(layout, 1), torch.zeros(1, layout.block_bytes, dtype=torch.uint8)
    plan.build(StepSequences.of([7], [7], [[0]]), 4, thread_pool(2))
    rotary = Rotary(
        cos=None if rotary_dim is None else cos,
        sin=None if rotary_dim is None else sin,
        q_norm=weights[0] if normed else None,
        k_norm=weights[1] if normed else None,
        eps=1e-5,
    )
    before = packed.clone()
    rope_write_kv(plan, cache, q, k, v, rotary, isa)
    keys, values = layout.decode(cache)
    close = {"rtol": 2e-6, "atol": 1e-6}
    torch.testing.assert_close(packed[:, :4], expected[0], **close)
    torch.testing.assert_close(keys[0, :7], expected[1], **close)
    assert torch.equal(values[0, :7], before[:, 6:])
    assert torch.equal(packed[:, 4:], before[:, 4:])


@pytest.mark.parametrize(
    ("queries", "contexts", "tables"),
    [([2], [1], [[0]]), ([1], [17], [[0]]), ([1], [5], [[4]]), ([1], [5], [[-1]]), ([-1], [5], [[0]])],
    ids=["more queries than keys", "more keys than room", "no such block", "negative block", "negative queries"],
)
def test_steps_that_contradict_themselves_are_refused(
    queries: list[int], contexts: list[int], tables: list[list[int]]
) -> None:
    plan = AttentionPlan(PagedLayout(torch.float32, 1, 16, 16), 4)
    with pytest.raises(ValueError, match=r"sequence|block"):
        plan.build(StepSequences.of(queries, contexts, tables), 1, thread_pool(1))


def test_a_plan_for_fewer_workers_is_refused() -> None:
    case = Case(torch.float32, 1, 1, 16, 16, [(1, 1)])
    case.build(case.sequences, 1)
    with pytest.raises(ValueError, match="fewer workers"):
        paged_attention(case.plan, case.spec, case.cache, case.q, pool=thread_pool(2))


@pytest.mark.parametrize(
    ("sizes", "exists"), [((1, 16, 16), True), ((3, 256, 32), True), ((3, 272, 16), False), ((3, 40, 16), False),
                          ((3, 64, 8), False), ((3, 64, 0), False), ((0, 64, 16), False)],
)  # fmt: skip
def test_says_which_caches_it_knows(sizes: tuple[int, int, int], exists: bool) -> None:
    assert native_layout_exists(*sizes) is exists
