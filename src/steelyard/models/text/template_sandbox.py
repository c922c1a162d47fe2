"""The environment that chat templates run in: Jinja's immutable sandbox, with a meter on everything that can grow.

Templates come with models from strangers, and what they print comes from strangers too. Jinja's sandbox keeps them away
from Python; it does not keep them from running for ever or filling the memory. Here the syntax tree is rewritten before
it is compiled so that every loop, concatenation, list and slice passes the :class:`~.template_meter.Meter`; calls,
operators, filters and output pass it through the sandbox's own hooks. That needs no thread, process or signal, works in
any thread, and costs microseconds. What cannot be bounded, and no chat template needs, is absent: ``str.format``,
``str.translate``, random filters, ``lipsum``, including other templates.

A compiled template is run in a new environment every time, so nothing that it stores outlives a rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import CodeType
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from steelyard.models.text.template_filters import METERED_FILTERS, charge_output, metered
from steelyard.models.text.template_growth import CHECK_OPERATOR, WIDE_FORMAT, check_join, check_replace, check_sizes
from steelyard.models.text.template_meter import CHARS_PER_STEP, ChatLimits, Meter, TemplateLimitError

MAX_DATE_FORMAT = 256

_SIZED_METHODS = frozenset({"center", "ljust", "rjust", "zfill"})
_STR_METHODS = _SIZED_METHODS | {
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit",
    "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
}  # fmt: skip


class RaisedByTemplateError(TemplateError):
    """A template called ``raise_exception``."""


class GenerationTag(Extension):
    """``{% generation %}…{% endgeneration %}``, which marks what the model wrote, for training; here it just prints."""

    tags = {"generation"}  # noqa: RUF012 – the base class declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the block's own contents."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class TemplateNamespace(Namespace):
    """Jinja's namespace without underscored names, and with a name of its own instead of its contents when printed."""

    def __init__(self, **values: object) -> None:
        super().__init__(values)
        for name in values:
            _check_public(name)

    def __setitem__(self, name: str, value: object) -> None:
        _check_public(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One rendering's environment.

    Args:
        limits: what the rendering may cost.
        now: what ``strftime_now`` tells; without one there is no such function.
        role_marks: what ``_role_token`` writes, by the text that it stands for.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(
        self,
        limits: ChatLimits,
        *,
        now: datetime | None = None,
        role_marks: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            finalize=charge_output,
            optimized=False,
            cache_size=0,
        )
        self.meter = Meter(limits)
        self.role_marks = role_marks or {}
        self.filters = dict(METERED_FILTERS)
        self.globals = {
            "range": safe_range,
            "dict": _new_dict,
            "namespace": TemplateNamespace,
            "raise_exception": _raise_exception,
        }
        if now is not None:
            self.globals["strftime_now"] = lambda date_format: _strftime(now, date_format)
        self.concat = self._concat  # type: ignore[method-assign]  # what macros and blocks join with

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow, besides Jinja's own rules, only harmless methods of strings and none of numbers."""
        if isinstance(obj, str) and attr not in _STR_METHODS:
            return False
        if isinstance(obj, (int, float, bytes, complex)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Leave ``str.format`` unwrapped, so that it is refused like any other unsafe attribute."""
        return None

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Count a call, refuse one that would make something huge, and count what it made."""
        self.meter.step()
        if isinstance(function, LoopContext):
            args = (metered(self.meter, args[0]), *args[1:]) if args else args
        elif not isinstance(function, Macro):
            self._check_method(function, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        self.meter.charge(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Count an operator, refuse one that would make something huge, and count what it made."""
        self.meter.step()
        CHECK_OPERATOR[operator](self.meter, left, right)
        result = super().call_binop(context, operator, left, right)
        self.meter.charge(result)
        return result

    def _check_method(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if not isinstance(owner, str):
            return
        if name in _SIZED_METHODS:
            check_sizes((*args, *kwargs.values()))
        elif name == "replace":
            check_replace(self.meter, owner, args)
        elif name == "join":
            check_join(self.meter, owner, args)

    def _concat(self, parts: Iterable[str]) -> str:
        found = list(parts)
        num_chars = sum(map(len, found))
        self.meter.allow_chars(num_chars)
        self.meter.step(1 + num_chars // CHARS_PER_STEP)
        return "".join(found)


def compile_tree(tree: nodes.Template, environment: TemplateEnvironment) -> CodeType:
    """Return the code of a parsed template, for :func:`render`; the tree is changed.

    Raises:
        TemplateError, SyntaxError, RecursionError: if it cannot be compiled.
    """
    metered = _MeterEverything(environment).visit(tree)
    assert isinstance(metered, nodes.Template)
    return environment.compile(metered)


def render(code: CodeType, environment: TemplateEnvironment, variables: Mapping[str, object]) -> str:
    """Return what a compiled template writes, run in an environment that nobody used before.

    Raises:
        TemplateLimitError: if it goes past the environment's limits.
        Exception: whatever else goes wrong in a template.
    """
    template = Template.from_code(environment, code, environment.globals)
    chunks: list[str] = []
    num_chars = 0
    for chunk in template.generate(**variables):
        num_chars += len(chunk)
        environment.meter.allow_output(num_chars)
        chunks.append(chunk)
    return "".join(chunks)


class _MeterEverything(NodeTransformer):
    """Puts a filter of ours around everything that loops or grows without passing one of the sandbox's hooks."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "_metered")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, "_charged")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, "_charged") if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, "_charged")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, "_sliced") if isinstance(node.arg, nodes.Slice) else node

    def _filtered(self, node: nodes.Node, name: str) -> nodes.Filter:
        assert isinstance(node, nodes.Expr)
        made = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
        made.set_environment(self._environment)
        return made


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, such as {name:.40}")


def _new_dict(**values: object) -> dict[str, object]:
    return values


def _strftime(now: datetime, date_format: object) -> str:
    if not isinstance(date_format, str) or len(date_format) > MAX_DATE_FORMAT or WIDE_FORMAT.search(date_format):
        raise TemplateLimitError("it writes the date in no usual form")
    return now.strftime(date_format)


def _raise_exception(message: object) -> None:
    raise RaisedByTemplateError(f"{message!s:.500}")
