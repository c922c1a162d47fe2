"""API keys and what they stand for."""

from __future__ import annotations

import hmac

import pytest
from starlette.datastructures import Headers

from steelyard.core.errors import ParamsError
from steelyard.serve import keys
from steelyard.serve.keys import KeyRing, given_secret

RING = KeyRing(["ann:secret-of-ann", "secret-nobody-named"])


def test_keys_name_their_principals():
    assert RING.find("secret-of-ann").name == "ann"
    assert RING.find("secret-nobody-named").name == "key-2"
    assert not RING.is_open
    assert KeyRing([]).is_open


@pytest.mark.parametrize("wrong", ["", "secret", "secret-of-ann ", "ann:secret-of-ann", "\udcff", "x" * 10_000])
def test_others_find_nobody(wrong):
    assert RING.find(wrong) is None
    assert KeyRing([]).find(wrong) is None


def test_salts_differ():
    assert RING.find("secret-of-ann").cache_salt != RING.find("secret-nobody-named").cache_salt


def test_every_key_is_compared_whatever_comes(monkeypatch):
    seen, compare_digest = [], hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    for secret in ("secret-of-ann", "secret-nobody-named", "wrong"):
        seen.clear()
        RING.find(secret)
        assert len(seen) == 2
        assert {len(one) for pair in seen for one in pair} == {32}


@pytest.mark.parametrize("given", [["tiny"], ["ann:long-enough", "ann:other-long"], ["same-secret", "x:same-secret"]])
def test_keys_that_are_no_good(given):
    with pytest.raises(ParamsError) as caught:
        KeyRing(given)
    assert caught.value.field == "api_key"
    assert not any(key.rpartition(":")[2] in str(caught.value) for key in given)


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-api-key": "abc"}, "abc"),
        ({"authorization": "Basic abc"}, ""),
        ({"authorization": "Basic abc", "x-api-key": "def"}, "def"),
        ({}, ""),
    ],
)
def test_where_the_secret_is(headers, secret):
    assert given_secret(Headers(headers)) == secret
