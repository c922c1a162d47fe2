"""Whether a model fits: the arithmetic, the largest context and batch, and the remedies."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError, ParamsError
from steelyard.core.units import GIB, MIB
from steelyard.hardware.device import Device, DeviceKind, Machine, MemoryTier
from steelyard.memory import step_plan
from steelyard.plan import fit as module
from steelyard.plan.fit import FitLoad, Verdict, fit, memory_need
from steelyard.plan.footprint import ModelFootprint, StoredFormat

# About the size of a model of 135 million parameters.
MODEL = ModelFootprint(
    name="small",
    embedding_params=28_000_000,
    layer_params=106_000_000,
    head_params=28_000_000,
    tied_embeddings=True,
    hidden_size=576,
    vocab_size=49_152,
    kv_elements_per_token=11_520,
    kv_elements_per_layer=384,
    heads_per_kv_head=3,
    activation_elements_per_token=6_720,
    max_context=8192,
    stored=(StoredFormat("Q4_1", 66 * MIB), StoredFormat("F32", MIB)),
)
RUNTIME = 256 * MIB


def _machine(free, kind=DeviceKind.CPU):
    memory = MemoryTier(name="memory", capacity_bytes=1 << 50, available_bytes=free)
    device = Device(name="cpu" if kind is DeviceKind.CPU else "cuda:0", kind=kind, memory=(memory,))
    return Machine(name="m", cpu_model="c", num_logical_cores=1, num_usable_cores=1, devices=(device,))


def _fit(free, context=1024, batch=4, model=MODEL, keeps_blocks=False, **load):
    return fit(model, _machine(free), FitLoad(context=context, batch=batch, **load), keeps_blocks=keeps_blocks)


def test_limits_are_those_of_the_step_plan():
    assert module.QUERY_TILE == step_plan.QUERY_TILE
    assert module.MAX_GROUP_BLOCKS == step_plan._MAX_GROUP_BLOCKS
    assert module.MAX_MASK_ELEMENTS == step_plan._MAX_MASK_ELEMENTS


def test_weights_and_kv_cache_by_hand():
    need = memory_need(MODEL, FitLoad(context=1000, batch=4), "float32", DeviceKind.CPU)
    assert need.weights == (28_000_000 + 106_000_000 + 28_000_000) * 4  # the tied head is packed: a copy
    assert need.kv_cache == (4 * 1008 + 16) * 11_520 * 4  # whole blocks, and one for padding
    assert need.loading == 106_000_000 * 4
    assert need.runtime == RUNTIME
    assert need.peak == RUNTIME + need.weights + max(need.loading, need.kv_cache + need.workspace)


def test_a_gpu_shares_the_tied_matrix_and_loads_in_place():
    need = memory_need(MODEL, FitLoad(context=1000, batch=4), "bfloat16", DeviceKind.GPU)
    assert need.weights == (28_000_000 + 106_000_000) * 2
    assert need.loading == 0
    untied = memory_need(replace(MODEL, tied_embeddings=False), FitLoad(context=1, batch=1), "bfloat16", DeviceKind.GPU)
    assert untied.weights == (28_000_000 + 106_000_000 + 28_000_000) * 2


def test_bfloat16_takes_half():
    load = FitLoad(context=512, batch=2)
    wide, narrow = (memory_need(MODEL, load, dtype, DeviceKind.CPU) for dtype in ("float32", "bfloat16"))
    assert (wide.weights, wide.kv_cache) == (2 * narrow.weights, 2 * narrow.kv_cache)


def test_stored_weights_are_said_to_be_held_wide():
    report = _fit(8 * GIB)
    stored = report.format("as stored")
    assert stored.held_as == "float32"
    assert stored.need == report.format("float32").need
    assert "67.00 MiB on disk (Q4_1, F32)" in stored.note
    assert "not kept in a quantised form" in stored.note
    on_gpu = fit(MODEL, _machine(8 * GIB, DeviceKind.GPU), FitLoad(context=1, batch=1), device="cuda:0")
    assert on_gpu.format("as stored").held_as == "bfloat16"
    assert [one.name for one in _fit(8 * GIB, model=replace(MODEL, stored=())).formats] == ["float32", "bfloat16"]


def test_blocks_that_are_kept_take_what_the_file_takes():
    kept = _fit(8 * GIB, keeps_blocks=True).format("as stored")
    wide = _fit(8 * GIB).format("as stored")
    assert kept.held_as == "quantised"
    assert MODEL.stored_bytes <= kept.need.weights <= 1.2 * MODEL.stored_bytes
    assert kept.need.weights < wide.need.weights / 3
    assert kept.need.kv_cache * 2 == wide.need.kv_cache
    assert "kept so in memory" in kept.note
    load = FitLoad(context=1, batch=1)
    on_gpu = fit(MODEL, _machine(8 * GIB, DeviceKind.GPU), load, device="cuda:0", keeps_blocks=True)
    assert on_gpu.format("as stored").held_as == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_verdicts_at_the_edges(dtype):
    peak = memory_need(MODEL, FitLoad(context=1024, batch=4), dtype, DeviceKind.CPU).peak
    assert _fit(peak - 1).format(dtype).verdict is Verdict.DOES_NOT_FIT
    assert _fit(peak).format(dtype).verdict is Verdict.TIGHT
    roomy = _fit(int(peak / module.TIGHT_SHARE) + 1).format(dtype)
    assert roomy.verdict is Verdict.FITS
    assert roomy.remedy is None


def test_loading_alone_may_be_what_does_not_fit():
    need = memory_need(MODEL, FitLoad(context=1, batch=1), "float32", DeviceKind.CPU)
    assert need.loading > need.kv_cache + need.workspace
    assert _fit(need.peak - 1, context=1, batch=1).format("float32").verdict is Verdict.DOES_NOT_FIT


@given(st.integers(0, 12 * GIB), st.integers(1, 8192), st.integers(1, 256), st.sampled_from(["float32", "bfloat16"]))
def test_largest_context_and_batch_are_exact(free, context, batch, dtype):
    def peak(context, batch):
        return memory_need(MODEL, FitLoad(context=context, batch=batch), dtype, DeviceKind.CPU).peak

    answer = _fit(free, context, batch).format(dtype)
    if answer.max_context:
        assert peak(answer.max_context, batch) <= free
    if answer.max_context < MODEL.max_context:
        assert peak(answer.max_context + 1, batch) > free
    if answer.max_batch:
        assert peak(context, answer.max_batch) <= free
    if answer.max_batch < module.MAX_BATCH:
        assert peak(context, answer.max_batch + 1) > free
    assert (answer.verdict is Verdict.DOES_NOT_FIT) == (answer.max_context < context) == (answer.max_batch < batch)
    assert (answer.remedy is None) == (answer.verdict is Verdict.FITS)


_LOADS = st.builds(
    FitLoad,
    context=st.integers(1, 8000),
    batch=st.integers(1, 300),
    block_size=st.sampled_from([1, 16, 32]),
    step_tokens=st.one_of(st.none(), st.integers(1, 4096)),
)
_GROWING = (
    "embedding_params", "layer_params", "head_params", "vocab_size", "kv_elements_per_token", "kv_elements_per_layer",
    "heads_per_kv_head", "activation_elements_per_token", "hidden_size",
)  # fmt: skip


@given(_LOADS, st.sampled_from(_GROWING), st.integers(1, 1000), st.sampled_from(DeviceKind))
def test_more_of_anything_never_needs_less(load, field, more, kind):
    base = memory_need(MODEL, load, "float32", kind)
    larger = memory_need(replace(MODEL, **{field: getattr(MODEL, field) + more}), load, "float32", kind)
    longer = memory_need(MODEL, replace(load, context=load.context + more), "float32", kind)
    wider = memory_need(MODEL, replace(load, batch=load.batch + more), "float32", kind)
    for other in (larger, longer, wider):
        assert other.peak >= base.peak
        assert other.workspace >= base.workspace


def test_remedies_name_what_to_change():
    peak = memory_need(MODEL, FitLoad(context=1024, batch=4), "float32", DeviceKind.CPU).peak
    answer = _fit(peak + MIB, context=8192, batch=4).format("float32")
    assert 1024 <= answer.max_context < 8192
    assert answer.max_batch == 0
    assert answer.remedy == f"Take a context of at most {answer.max_context} tokens"
    answer = _fit(peak + MIB, context=1024, batch=64).format("float32")
    assert 4 <= answer.max_batch < 64
    assert answer.remedy.endswith(f"or a batch of at most {answer.max_batch}") == (answer.max_context > 0)
    assert "batch" not in _fit(peak, context=8192, batch=1).format("float32").remedy
    assert _fit(peak).format("float32").remedy.startswith("Close other programmes")


def test_remedies_when_nothing_of_it_fits():
    report = _fit(300 * MIB)
    assert (report.format("float32").max_context, report.format("float32").max_batch) == (0, 0)
    assert report.format("float32").remedy.startswith("Use bfloat16, or take a smaller model; even one token needs")
    assert report.format("bfloat16").remedy.startswith("Take a smaller model; even one token needs")


def test_remedy_when_only_both_together_would_fit():
    model = replace(MODEL, kv_elements_per_token=10_000_000, kv_elements_per_layer=1)
    free = memory_need(model, FitLoad(context=32, batch=1), "float32", DeviceKind.CPU).peak
    answer = _fit(free, context=4096, batch=64, model=model).format("float32")
    assert (answer.max_context, answer.max_batch) == (0, 0)
    assert answer.remedy.startswith("Take a smaller context together with a smaller batch")


@pytest.mark.parametrize("name", ["context", "batch", "block_size", "step_tokens"])
def test_loads_below_one_are_refused(name):
    with pytest.raises(ParamsError) as caught:
        FitLoad(**{"context": 1, "batch": 1, name: 0})
    assert caught.value.field == name


def test_what_cannot_be_asked():
    with pytest.raises(ParamsError, match="8193 is more than the model's context of 8192"):
        _fit(GIB, context=8193)
    with pytest.raises(InputError, match="no device"):
        fit(MODEL, _machine(GIB), FitLoad(context=1, batch=1), device="cuda:7")
    with pytest.raises(ParamsError, match="float32, bfloat16, as stored"):
        _fit(GIB).format("int4")
