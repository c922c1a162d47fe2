"""Several admission policies as one: a request enters if all of them let it."""

from __future__ import annotations

from typing import final

from steelyard.policies.admit.types import AdmitPolicy, Ask, EngineLoad, Refusal


@final
class Gate:
    """Refuse for the limit that takes longest; book with all or with none.

    Args:
        policies: all are asked, in any order.
    """

    def __init__(self, policies: tuple[AdmitPolicy, ...]) -> None:
        self._policies = policies

    def check(self, ask: Ask, load: EngineLoad, now_s: float) -> Refusal | None:
        """See :class:`~steelyard.policies.admit.types.AdmitPolicy`."""
        answers = (policy.check(ask, load, now_s) for policy in self._policies)
        return max((answer for answer in answers if answer is not None), key=lambda one: one.wait_s, default=None)

    def book(self, ask: Ask, now_s: float) -> None:
        """See the protocol."""
        for policy in self._policies:
            policy.book(ask, now_s)

    def end(self, ask: Ask, num_output_tokens: int, now_s: float) -> None:
        """See the protocol."""
        for policy in self._policies:
            policy.end(ask, num_output_tokens, now_s)
