"""Steps of decodes over static buffers: padded, of any size, they give what the plain path gives."""

import random

import pytest
import torch
from tiny_engine import TINY, VOCABULARY, random_decoder

from steelyard.core.batch import Batch, SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.sampling import Sampler
from steelyard.memory.paged_kv import PagedKVStore

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.engine.cuda_graphs import DecodeGraphs, Step, sizes_up_to
from steelyard.memory.triton_kv import TritonKVStore

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_BLOCKS = 400


def make_sequence(number: int, length: int) -> Sequence:
    rng = random.Random(number)
    return Sequence(
        id=number,
        request_id=str(number),
        index=0,
        prompt=tuple(rng.randrange(VOCABULARY) for _ in range(length)),
        params=SamplingParams(temperature=0.0, logprobs=0),
        seed=0,
        arrival_s=0.0,
    )


class Recorded:
    """A recorder that counts how often its steps are made and run."""

    def __init__(self) -> None:
        self.num_made, self.num_run = 0, 0

    def __call__(self, step: Step) -> Step:
        self.num_made += 1

        def run() -> torch.Tensor:
            self.num_run += 1
            return step()

        return run


def make_runners(recorder: Recorded | None) -> tuple[ModelRunner, ModelRunner, DecodeGraphs]:
    """Return a plain runner, one with decode graphs over a store of its own, and these graphs."""
    decoder = random_decoder().to(DEVICE)
    store = TritonKVStore(TINY, NUM_BLOCKS, DEVICE)
    graphs = DecodeGraphs(decoder, store, max_batch=6, max_model_len=600, recorder=recorder)
    sampler = Sampler(eos_token_ids=frozenset())
    return (
        ModelRunner(decoder, PagedKVStore(TINY, NUM_BLOCKS, DEVICE), sampler),
        ModelRunner(decoder, store, sampler, 1, graphs),
        graphs,
    )


@pytest.mark.parametrize("recorder", [Recorded(), None], ids=["counted", "as the device has it"])
def test_decodes_over_static_buffers_equal_the_plain_path(recorder: Recorded | None) -> None:
    plain, graphed, graphs = make_runners(recorder)
    lengths = (5, 300, 17, 64, 33)
    sequences = [make_sequence(number, length) for number, length in enumerate(lengths)]
    tables = {number: tuple(range(number * 80, number * 80 + 80)) for number in range(len(lengths))}
    prefill = Batch(0, tuple(SequenceWork(s, 0, s.num_tokens, tables[s.id]) for s in sequences))
    for step, members in enumerate([(0, 1, 2, 3, 4), (1,), (4, 0, 1), (2, 3), (0, 1, 2, 3, 4)]):
        batch = prefill
        if step:
            works = tuple(
                SequenceWork(s, s.num_tokens - 1, 1, tables[s.id]) for s in (sequences[member] for member in members)
            )
            batch = Batch(step, works)
        expected, got = plain.run(batch).sampled, graphed.run(batch).sampled
        for sequence_id, (token,) in expected.items():
            assert got[sequence_id][0].token_id == token.token_id
            assert got[sequence_id][0].logprob.logprob == pytest.approx(token.logprob.logprob, abs=1e-4)
            sequences[sequence_id].tokens.append(token.token_id)
    assert graphs.num_recorded == 4, "batches of 1, 4, 2 and 6"
    if recorder is not None:
        assert (recorder.num_made, recorder.num_run) == (4, 4)


def test_prefills_large_batches_and_other_stores_are_not_taken() -> None:
    _, graphed, graphs = make_runners(Recorded())
    table = tuple(range(3))
    decode = SequenceWork(make_sequence(0, 9), 8, 1, table)
    assert graphs.takes([decode] * 6)
    assert not graphs.takes([decode] * 7)
    assert not graphs.takes([])
    assert not graphs.takes([decode, SequenceWork(make_sequence(1, 9), 7, 2, table)])
    graphed.hidden([decode], TritonKVStore(TINY, 3, DEVICE))
    assert graphs.num_recorded == 0


def test_warming_up_records_every_size_and_writes_no_kv() -> None:
    store = TritonKVStore(TINY, 8, DEVICE)
    graphs = DecodeGraphs(random_decoder().to(DEVICE), store, max_batch=3, max_model_len=2 * 256)
    graphs.warm_up()
    assert graphs.num_recorded == 3 * 2
    assert not any(part.any() for layer in range(TINY.num_layers) for part in store.layer(layer))


def test_sizes_grow_to_the_largest() -> None:
    assert sizes_up_to(1, 2) == (1,)
    assert sizes_up_to(8, 2) == (1, 2, 4, 8)
    assert sizes_up_to(100, 4) == (1, 4, 16, 64, 100)
