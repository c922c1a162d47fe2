"""Finding an entry by the name that a user gave, or saying which names are near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from steelyard.core.errors import InputError

_T = TypeVar("_T")


def pick(table: Mapping[str, _T], name: str, *, field: str) -> _T:
    """Return the entry called ``name``, upper or lower case.

    Raises:
        InputError: if there is none; it says which names are near, or all of them.
    """
    folded = {key.casefold(): key for key in table}
    key = folded.get(name.casefold())
    if key is None:
        raise InputError(f"{name!r} is not known", field=field, remedy=suggestion(name, table))
    return table[key]


def check_keys(given: Mapping[str, Any], known: Iterable[str], *, field: str) -> None:
    """Raise :class:`InputError` for the first key of ``given`` that is not known; it says which are near."""
    names = list(known)
    for key in given:
        if key not in names:
            raise InputError(f"{key!r} is no key", field=field, remedy=suggestion(key, names))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what to advise someone who gave ``name``: those it begins, those nearest to it, or all of ``known``."""
    names = list(known)
    folded = {one.casefold(): one for one in names}
    begun = [one for one in folded if name and one.startswith(name.casefold())]
    near = [folded[one] for one in begun or get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    return f"Did you mean {' or '.join(near)}" if near else f"There are: {', '.join(names)}"
