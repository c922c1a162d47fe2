"""Digest chains name content exactly; the cache is a bijection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import steelyard.memory.prefix_cache as prefix_cache
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.memory.prefix_cache import DIGEST_BYTES, DigestChains, PrefixCache


def sequence(id: int, tokens: tuple[int, ...], salt: str = "") -> Sequence:
    return Sequence(
        id=id, request_id="", index=0, prompt=tokens, params=SamplingParams(), seed=0, arrival_s=0.0, cache_salt=salt
    )


def digests(tokens: tuple[int, ...], salt: str = "", block_size: int = 2) -> list[bytes]:
    count = len(tokens) // block_size
    return list(DigestChains(block_size).of(sequence(0, tokens, salt), count))[:count]


short_prompts = st.lists(st.sampled_from([0, 1, 256, (1 << 24)]), max_size=8).map(tuple)


@given(short_prompts, short_prompts, st.sampled_from(["", "a"]), st.sampled_from(["", "a"]))
def test_digests_agree_exactly_where_prefix_and_salt_agree(left, right, left_salt, right_salt):
    pairs = zip(digests(left, left_salt), digests(right, right_salt), strict=False)
    for index, (ours, theirs) in enumerate(pairs):
        end = (index + 1) * 2
        assert (ours == theirs) == (left[:end] == right[:end] and left_salt == right_salt)


def test_digests_are_the_same_in_every_process():
    assert [digest.hex() for digest in digests((1, 2, 3, 4))] == [digest.hex() for digest in digests((1, 2, 3, 4, 5))]
    assert all(len(digest) == DIGEST_BYTES for digest in digests((1, 2, 3, 4)))
    assert digests((1, 2))[0].hex() == "308f1c0f310dcb21f2bdb4bcc6699acd"


def test_each_block_is_hashed_once(monkeypatch):
    calls: list[bytes] = []
    original = prefix_cache.blake2b

    def counting(data: bytes, **options):
        calls.append(data)
        return original(data, **options)

    monkeypatch.setattr(prefix_cache, "blake2b", counting)
    chains, one = DigestChains(2), sequence(7, (1, 2, 3, 4, 5))
    first = list(chains.of(one, 2))
    num_calls = len(calls)
    one.tokens.append(6)
    assert list(chains.of(one, 2)) == first
    assert len(calls) == num_calls
    assert len(chains.of(one, 3)) == 3
    assert len(calls) == num_calls + 1
    chains.forget(7)
    chains.forget(7)
    assert len(chains) == 0


def test_blocks_of_unknown_tokens_have_no_digest():
    with pytest.raises(AssertionError, match="does not know 2 blocks"):
        DigestChains(2).of(sequence(0, (1, 2, 3)), 2)


def test_a_match_ends_at_the_first_gap_or_the_limit():
    cache = PrefixCache()
    for block, digest in enumerate([b"a", b"b", b"d"]):
        assert cache.publish(digest, block)
    assert cache.match([b"a", b"b", b"c", b"d"], 4) == [0, 1]
    assert cache.match([b"a", b"b"], 1) == [0]
    assert cache.match([b"x", b"a"], 2) == []


def test_the_first_block_keeps_the_name():
    cache = PrefixCache()
    assert cache.publish(b"a", 3)
    assert not cache.publish(b"a", 4)
    assert (3 in cache, 4 in cache, len(cache)) == (True, False, 1)
    cache.evict(3)
    assert (3 in cache, len(cache)) == (False, 0)
    assert cache.publish(b"a", 4)
    cache.check_invariants()


def test_clearing_forgets_everything():
    cache = PrefixCache()
    cache.publish(b"a", 1)
    cache.clear()
    assert (len(cache), 1 in cache, cache.match([b"a"], 1)) == (0, False, [])


def test_the_check_finds_damage():
    cache = PrefixCache()
    cache.publish(b"a", 1)
    cache._block_of[b"b"] = 1
    with pytest.raises(AssertionError, match="two digests"):
        cache.check_invariants()
    del cache._block_of[b"a"]
    with pytest.raises(AssertionError, match="disagree"):
        cache.check_invariants()
