"""The filters of chat templates: Jinja's own with the meter around them, and those that rewritten syntax calls.

Absent are those that draw random numbers, those that write HTML, and those whose work cannot be bounded beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import pass_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context

from steelyard.models.text.template_growth import check_filter
from steelyard.models.text.template_meter import CHARS_PER_STEP, Meter, TemplateLimitError

MAX_JSON_INDENT = 16

_ABSENT_FILTERS = frozenset(
    {"random", "pprint", "urlize", "xmlattr", "wordwrap", "striptags", "filesizeformat", "forceescape"}
)


def metered(meter: Meter, items: Any) -> Iterator[Any]:
    """Yield the items, each a step."""
    for item in items:
        meter.step()
        yield item


@pass_context
def charge_output(context: Context, value: object) -> object:
    """Count a value that is about to be printed, and return it."""
    _meter_of(context).charge(value)
    return value


def _meter_of(context: Context) -> Meter:
    meter = getattr(context.environment, "meter", None)
    assert isinstance(meter, Meter)
    return meter


@pass_context
def _filter_metered(context: Context, items: Any) -> Iterator[Any]:
    return metered(_meter_of(context), items)


@pass_context
def _filter_charged(context: Context, value: Any) -> Any:
    _meter_of(context).charge(value)
    return value


@pass_context
def _filter_sliced(context: Context, value: Any) -> Any:
    """Count a slice by its own length: what it holds was counted before."""
    _meter_of(context).step(1 + (len(value) if isinstance(value, (str, list, tuple)) else 0) // CHARS_PER_STEP)
    return value


@pass_context
def _filter_concat(context: Context, values: list[Any]) -> str:
    """Join as ``~`` does."""
    meter = _meter_of(context)
    meter.allow_chars(meter.weigh(values))
    text = "".join(map(str, values))
    meter.charge(text)
    return text


@pass_context
def _filter_role_token(context: Context, role: Any, before: str, after: str) -> str:
    """Return the control token that a role's name makes with what stands around it, or just that text."""
    marks: Mapping[str, str] = context.environment.role_marks  # type: ignore[attr-defined]
    text = f"{before}{role}{after}"
    return marks.get(text, text)


@pass_context
def _filter_tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as Hugging Face's templates expect it: no HTML escapes, characters as they are."""
    if indent is not None and (not isinstance(indent, int) or indent > MAX_JSON_INDENT):
        raise TemplateLimitError(f"it indents JSON by more than {MAX_JSON_INDENT}")
    meter = _meter_of(context)
    meter.weigh(value)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    chunks: list[str] = []
    num_chars = 0
    for chunk in encoder.iterencode(value):
        num_chars += len(chunk)
        meter.allow_chars(num_chars)
        chunks.append(chunk)
    return "".join(chunks)


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return one of Jinja's filters with the meter around it."""
    takes = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = _meter_of(context)
        meter.step()
        check_filter(name, meter, value, args, kwargs)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        given = () if takes is None else (first[takes],)
        result = function(*given, value, *args, **kwargs)
        meter.charge(result)
        return result

    return run


@pass_context
def _filter_join(context: Context, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    """Join as Jinja does, never past the limits."""
    items = list(value)
    if attribute is not None:
        items = list(map(make_attrgetter(context.environment, attribute), items))
    meter = _meter_of(context)
    meter.allow_chars(meter.weigh(items) + len(str(d)) * len(items))
    return str(d).join(map(str, items))


METERED_FILTERS: Mapping[str, Callable[..., Any]] = {
    **{name: _metered_filter(name, function) for name, function in FILTERS.items() if name not in _ABSENT_FILTERS},
    "tojson": _metered_filter("tojson", _filter_tojson),
    "join": _metered_filter("join", _filter_join),
    "_metered": _filter_metered,
    "_charged": _filter_charged,
    "_sliced": _filter_sliced,
    "_concat": _filter_concat,
    "_role_token": _filter_role_token,
}
