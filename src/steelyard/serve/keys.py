"""Who calls: API keys, checked in constant time, and the :class:`Principal` that each of them stands for."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.core.errors import ParamsError
from steelyard.serve.errors import ApiError

OPEN_PATHS = frozenset({"/health", "/ping"})
PRINCIPAL = "principal"  # where a request's scope holds its caller
MIN_SECRET_CHARS = 8
BATCH_TENANT = "batch:"
"""Before a key's name: the tenant of the lines of its batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller.

    Attributes:
        name: for logs, metrics and limits; never the secret.
        cache_salt: prefixes are shared only between requests of one salt, so that no caller can tell from the time an
            answer takes what another has asked.
        lateness: added to the priority of all its requests.
    """

    name: str
    cache_salt: str
    lateness: int = 0


ANONYMOUS = Principal(name="anonymous", cache_salt="")


class KeyRing:
    """The keys that are good.

    Args:
        keys: each ``SECRET`` or ``NAME:SECRET``; names default to ``key-1``, ``key-2``, …

    Raises:
        ParamsError: if a secret is too short, or a name or secret comes twice; it never shows the secret.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = _digests(keys)

    def replace(self, keys: Sequence[str]) -> None:
        """Let ``keys`` be the good ones from now on; raises as the constructor does, and changes nothing then."""
        self._digests = _digests(keys)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all callers there can be."""
        return tuple(principal.name for _, principal in self._digests) or (ANONYMOUS.name,)

    @property
    def is_open(self) -> bool:
        """Whether everybody may call."""
        return not self._digests

    def find(self, secret: str) -> Principal | None:
        """Return the caller with this secret; the time taken depends on the number of keys alone."""
        given, found = _digest(secret), None
        for digest, principal in self._digests:
            if hmac.compare_digest(digest, given):
                found = principal
        return found


def _digests(keys: Sequence[str]) -> list[tuple[bytes, Principal]]:
    """Return each key's digest and whom it stands for."""
    found: list[tuple[bytes, Principal]] = []
    for number, key in enumerate(keys, 1):
        given, _, secret = key.rpartition(":")
        name, digest = given or f"key-{number}", _digest(secret)
        if len(secret) < MIN_SECRET_CHARS:
            remedy = f"Give at least {MIN_SECRET_CHARS} characters, or NAME:SECRET"
            raise ParamsError(f"the key {name!r} is too short", field="api_key", remedy=remedy)
        if any(known.name == name or digest == other for other, known in found):
            raise ParamsError(f"the key {name!r} is there twice", field="api_key", remedy="Remove one of them")
        found.append((digest, Principal(name=name, cache_salt=f"key:{name}")))
    return found


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", errors="surrogateescape")).digest()


class KeyGate:
    """Lets nobody without a key past, whatever the path, known or not.

    Requests that the server makes itself have a principal already, which none that comes from outside can have.

    Args:
        app: what lies behind.
        keys: the good ones.
        open_paths: need no key.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str] = OPEN_PATHS) -> None:
        self._app, self._keys, self._open_paths = app, keys, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its principal, or refuse it with 401."""
        is_own = PRINCIPAL in scope.get("state", {})
        if is_own or scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._open_paths):
            await self._app(scope, receive, send)
            return
        principal = ANONYMOUS if self._keys.is_open else self._keys.find(given_secret(Headers(scope=scope)))
        if principal is None:
            await _unauthorised().response()(scope, receive, send)
            return
        scope.setdefault("state", {})[PRINCIPAL] = principal
        await self._app(scope, receive, send)


def principal_in(scope: Scope) -> Principal:
    """Return who calls; anonymous where no gate stands before the app."""
    principal = scope.get("state", {}).get(PRINCIPAL, ANONYMOUS)
    assert isinstance(principal, Principal)
    return principal


def given_secret(headers: Headers) -> str:
    """Return the secret in ``Authorization: Bearer`` or ``X-API-Key``, or an empty string."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def _unauthorised() -> ApiError:
    return ApiError(
        401,
        "no valid API key was given. Send it as: Authorization: Bearer KEY",
        kind="authentication_error",  # LiteLLM takes whatever has OpenAI's own word here for a bad request
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
