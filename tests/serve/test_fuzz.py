"""Requests made up from our own OpenAPI document: none is ever answered with a 500, and all answers are as told."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from live_server import KEYS, LiveServer

AUTHORISED = {"X-API-Key": KEYS["ann"]}
# Cheap enough to be sent by the hundred: what else they say is made up.
SMALL = {"max_tokens": 1, "max_completion_tokens": 1, "max_output_tokens": 1, "n": 1, "best_of": 1}


def document(live: LiveServer) -> dict[str, Any]:
    """Return the server's description of itself."""
    told: dict[str, Any] = live.on_loop(live.server.config.app.openapi)  # type: ignore[union-attr]
    return told


def made_small(body: Any) -> Any:
    """Return a made-up body with counts that cost little, where it has any of the right type."""
    if not isinstance(body, dict):
        return body
    if body.get("background") is True:  # nobody goes away from it
        body = {"max_output_tokens": 2, **body}
    return {
        name: SMALL[name] if name in SMALL and isinstance(value, int) and value > 1 else value
        for name, value in body.items()
    }


def test_no_answer_to_a_made_up_request_is_a_bug(live):
    schema = schemathesis.openapi.from_dict(document(live))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 10
    strategies = st.one_of([operation.as_strategy() for operation in operations])
    statuses = set()

    @settings(
        max_examples=150, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategies)
    def send(case: Any) -> None:
        case.body = made_small(case.body)
        answer = case.call(base_url=live.url, headers=AUTHORISED, timeout=60)
        statuses.add(answer.status_code)
        assert answer.status_code < 500 or answer.status_code == 501, answer.text
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["message"]

    send()
    assert 200 in statuses
    assert statuses & {400, 404}
    live.eventually(lambda: live.engine.num_running + live.engine.num_waiting == 0)
    live.on_loop(lambda: live.engine.check_invariants())
