"""Log-probabilities against float64 log-softmax."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ResourceError
from steelyard.engine import logprobs
from steelyard.engine.logprobs import prompt_logprobs, token_logprobs

INF = float("inf")


def check_entry(entry, row, token, num_top):
    exact = row.double().log_softmax(0)
    assert entry.token_id == entry.logprob.token_id == token
    assert entry.logprob.logprob == pytest.approx(exact[token].item(), abs=1e-8)
    assert entry.logprob.rank == 1 + int((row > row[token]).sum())
    order = sorted(range(len(row)), key=lambda t: (-row[t].item(), t))[:num_top]
    assert [top.token_id for top in entry.top_logprobs] == order
    for top in entry.top_logprobs:
        assert top.logprob == pytest.approx(exact[top.token_id].item(), abs=1e-8)
        assert top.rank == 1 + int((row > row[top.token_id]).sum())


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), vocab=st.integers(1, 40), coarse=st.booleans())
def test_entries_equal_log_softmax_with_ranks_and_ordered_ties(seed, rows, vocab, coarse):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 6
    if coarse:
        logits = logits.round()  # many ties
    targets = torch.randint(vocab, (rows,), generator=generator).tolist()
    wanted = torch.randint(21, (rows,), generator=generator).tolist()
    for entry, row, token, num_top in zip(
        token_logprobs(logits, targets, wanted), logits, targets, wanted, strict=True
    ):
        check_entry(entry, row, token, num_top)


def test_impossible_tokens_have_minus_infinity():
    entry = token_logprobs(torch.tensor([[0.0, -INF, 0.0]]), [1], [3])[0]
    assert entry.logprob.logprob == -INF
    assert entry.logprob.rank == 3
    assert [top.token_id for top in entry.top_logprobs] == [0, 2, 1]
    assert [top.rank for top in entry.top_logprobs] == [1, 1, 3]


def test_a_row_keeps_its_bits_in_any_batch_and_chunk(monkeypatch):
    logits = torch.randn(9, 1003, generator=torch.Generator().manual_seed(3)) * 8
    targets, wanted = list(range(9)), [i % 4 for i in range(9)]
    together = token_logprobs(logits, targets, wanted)
    alone = [token_logprobs(logits[i : i + 1], [targets[i]], [wanted[i]])[0] for i in range(9)]
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 2 * 1003)
    assert together == alone == token_logprobs(logits, targets, wanted)


def test_prompt_logprobs_gives_one_entry_per_row():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(4))
    found = prompt_logprobs(logits, [3, 1, 4, 1, 5], 2)
    for entry, row, token in zip(found, logits, [3, 1, 4, 1, 5], strict=True):
        check_entry(entry, row, token, 2)
    assert prompt_logprobs(logits[:0], [], 2) == []


def test_prompt_logprobs_of_broken_logits_raises():
    with pytest.raises(ResourceError, match="NaN"):
        prompt_logprobs(torch.full((1, 4), float("nan")), [0], 0)
