"""The page's files: what lies in ``page/``, and under which addresses and headers it goes out.

Everything but the page itself has the digest of all files in its address, so that browsers may keep it for ever and
still have the new one after an update. The policy in the headers lets the page load and call nothing but this server.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "page"
_INDEX = "index.html"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DIGEST_CHARS = 16
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it goes out."""

    body: bytes
    headers: dict[str, str]


class Page:
    """All files of the page.

    Attributes:
        assets: by path; the page itself is at ``/``.
    """

    def __init__(self) -> None:
        files = {path.name: path.read_bytes() for path in sorted(_DIRECTORY.iterdir()) if path.suffix in _KINDS}
        digest = sha256(b"".join(name.encode() + b"\0" + body for name, body in files.items())).hexdigest()
        self._digest = digest[:_DIGEST_CHARS]
        index = files.pop(_INDEX).replace(b"{{assets}}", f"dashboard/{self._digest}".encode())
        self.assets = {f"/dashboard/{self._digest}/{name}": self._asset(name, body) for name, body in files.items()}
        self.assets["/"] = self._asset(_INDEX, index)

    @property
    def paths(self) -> frozenset[str]:
        """Addresses that need no key: there is no data in them."""
        return frozenset(self.assets)

    def _asset(self, name: str, body: bytes) -> Asset:
        is_index = name == _INDEX
        headers = {
            **_HEADERS,
            "content-type": _KINDS[Path(name).suffix],
            "cache-control": "no-cache" if is_index else _FOR_EVER,
            "etag": f'"{self._digest}"',
        }
        return Asset(body, headers)
