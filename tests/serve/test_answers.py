"""The place that keeps answers."""

from __future__ import annotations

import pytest

from steelyard.serve.answers import AnswerStore, StoredAnswer
from steelyard.serve.errors import ApiError


def answer(text: str) -> StoredAnswer:
    return StoredAnswer(body={}, turns=({"role": "user", "content": text},))


def test_the_oldest_give_way():
    store = AnswerStore(max_chars=25)
    for name in ("a", "b", "c"):
        store.put("ann", name, answer("x" * 8))  # and two for its body
    assert store.get("ann", "c") == store.get("ann", "b")
    with pytest.raises(ApiError) as gone:
        store.get("ann", "a", "previous_response_id")
    assert gone.value.status == 404
    assert gone.value.param == "previous_response_id"


def test_one_that_is_too_large_is_not_kept():
    store = AnswerStore(max_chars=25)
    store.put("ann", "a", answer("x" * 100))
    with pytest.raises(ApiError):
        store.get("ann", "a")


def test_what_is_removed_makes_room():
    store = AnswerStore(max_chars=25)
    store.put("ann", "a", answer("x" * 20))
    with pytest.raises(ApiError):
        store.remove("bob", "a")
    store.remove("ann", "a")
    store.put("ann", "b", answer("x" * 10))
    store.put("ann", "c", answer("x" * 10))
    assert store.get("ann", "b") == store.get("ann", "c")
