"""Finding an entry by the name that a user gave, or saying which names are near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from steelyard.core.errors import InputError, ParamsError

_T = TypeVar("_T")


def pick(table: Mapping[str, _T], name: str, *, field: str) -> _T:
    """Return the entry called ``name``, upper or lower case.

    Raises:
        InputError: if there is none; it says which names are near, or all of them.
    """
    folded = {key.casefold(): key for key in table}
    key = folded.get(name.casefold())
    if key is None:
        raise InputError(f"{name!r} is not known", field=field, remedy=_suggestion(name, table))
    return table[key]


def check_keys(given: Mapping[str, Any], known: Iterable[str], *, field: str) -> None:
    """Raise :class:`ParamsError` for the first key of ``given`` that is not known; it says which are near."""
    names = list(known)
    for key in given:
        if key not in names:
            raise ParamsError(f"{key!r} is no key", field=field, remedy=_suggestion(key, names))


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = list(known)
    folded = {one.casefold(): one for one in names}
    near = [folded[one] for one in get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    return f"Did you mean {' or '.join(near)}" if near else f"There are: {', '.join(names)}"
