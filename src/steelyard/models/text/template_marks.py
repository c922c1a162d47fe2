"""Telling a template's own control tokens from text that only looks like them.

Before a template is compiled, the control tokens that *it* writes are replaced in its syntax tree by private
characters, one each. Messages pass through untouched, so whatever a message says, and whatever the template does with
it – trimming, splitting, gluing pieces together – no private character comes of it. After rendering, private characters
are the control tokens and everything else is ordinary text.

Replaced is what the template prints: its plain text, and strings in expressions unless they are compared with, or
searched in, something. A template may also write a control token around a role (``'<|' + message.role + '|>'``): that
is followed for the roles of :data:`~.chat_messages.ROLES`. Control tokens that a template makes up in other ways come
out as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from jinja2 import nodes

from steelyard.models.text.chat_messages import ROLES
from steelyard.models.text.control_text import ControlScanner

# Unicode gives these characters to private agreements; ours ends before a rendered text is handed out.
_PRIVATE_RANGES = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))

# Arguments that a filter or method writes into its result, by position; others are only looked for.
_WRITTEN_ARGUMENTS: Mapping[str, frozenset[int]] = {
    "join": frozenset({0}),
    "default": frozenset({0}),
    "d": frozenset({0}),
    "replace": frozenset({1}),
    "get": frozenset({1}),
    "format": frozenset(range(16)),
}


@dataclass(slots=True)
class _Slot:
    """One of several things printed one after another, and how to put another in its place."""

    node: nodes.Node
    put: Callable[[nodes.Expr], None]


class Marks:
    """The private characters that stand for control tokens in one template.

    Args:
        control_texts: the model's control tokens.
        avoid: characters that the template uses itself.

    Attributes:
        texts: private character → control token's text, for those that were needed.
    """

    def __init__(self, control_texts: Iterable[str], avoid: str) -> None:
        self._control = sorted(set(control_texts) - {""})
        self._scanner = ControlScanner({text: i for i, text in enumerate(self._control)})
        self._free = private_characters(frozenset(avoid))
        self._marks: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """What finds a private character; ``None`` if there are none."""
        return re.compile(f"[{''.join(self.texts)}]") if self.texts else None

    def replace(self, text: str) -> str:
        """Return ``text`` with every control token replaced by its private character."""
        parts = self._scanner.split(text)
        return "".join(part if isinstance(part, str) else self._mark(self._control[part]) for part in parts)

    def restore(self, text: str) -> str:
        """Return ``text`` with private characters replaced by what they stand for."""
        return text.translate({ord(mark): meant for mark, meant in self.texts.items()})

    def around_roles(self) -> frozenset[tuple[str, str]]:
        """Return what stands before and after a role's name in control tokens that have one inside."""
        pairs = {text.partition(role)[::2] for text in self._control for role in ROLES if role in text}
        return frozenset((before, after) for before, after in pairs if before and after)

    def role_marks(self, before: str, after: str) -> dict[str, str]:
        """Return private characters by text, for the control tokens made of a role between ``before`` and ``after``."""
        texts = (f"{before}{role}{after}" for role in ROLES)
        return {text: self._mark(text) for text in texts if text in self._control}

    def _mark(self, text: str) -> str:
        if text not in self._marks:
            mark = next(self._free)
            self._marks[text] = mark
            self.texts[mark] = text
        return self._marks[text]


def private_characters(avoid: frozenset[str]) -> Iterator[str]:
    """Yield private-use characters that are not in ``avoid``."""
    return (chr(code) for codes in _PRIVATE_RANGES for code in codes if chr(code) not in avoid)


def mark_template(tree: nodes.Template, marks: Marks) -> dict[str, str]:
    """Replace the control tokens that a template writes, in place.

    Returns:
        The text of control tokens that are made around a role → private character, for the filter ``_role_token``.
    """
    role_marks = _mark_roles(tree, marks)
    _mark(tree, marks)
    return role_marks


def _mark(node: nodes.Node, marks: Marks) -> None:
    """Replace control tokens in everything below ``node`` that is written."""
    if isinstance(node, nodes.TemplateData):
        node.data = marks.replace(node.data)
    elif isinstance(node, nodes.Const) and isinstance(node.value, str):
        node.value = marks.replace(node.value)
    for child in _written(node):
        _mark(child, marks)


def _written(node: nodes.Node) -> Iterable[nodes.Node]:
    """Return the children whose value ends up in the node's own, or in the output."""
    match node:
        case nodes.Compare() | nodes.Test() | nodes.Not():
            return ()
        case nodes.CondExpr() | nodes.If() | nodes.For():
            return (child for child in node.iter_child_nodes() if child is not node.test)
        case nodes.Getitem() | nodes.Getattr():
            return (node.node,)
        case nodes.Pair():
            return (node.value,)
        case nodes.Filter():
            return [*([node.node] if node.node else []), *_written_arguments(node, node.name)]
        case nodes.Call(node=nodes.Getattr() as method):
            return [method.node, *_written_arguments(node, method.attr)]
        case _:
            return node.iter_child_nodes()


def _written_arguments(node: nodes.Filter | nodes.Call, name: str) -> list[nodes.Node]:
    written = _WRITTEN_ARGUMENTS.get(name, frozenset())
    return [argument for i, argument in enumerate(node.args) if i in written]


def _mark_roles(tree: nodes.Template, marks: Marks) -> dict[str, str]:
    """Rewrite ``'<|' + role + '|>'`` and its like to the filter ``_role_token``."""
    around = sorted(marks.around_roles(), key=lambda pair: (-len(pair[0]), -len(pair[1])))
    found: dict[str, str] = {}
    if around:
        for row in list(_printed_in_a_row(tree)):
            for left, role, right in zip(row, row[1:], row[2:], strict=False):
                if _is_role(role.node):
                    found.update(_join_role(left.node, role, right.node, around, marks))
    return found


def _join_role(
    left: nodes.Node, role: _Slot, right: nodes.Node, around: list[tuple[str, str]], marks: Marks
) -> dict[str, str]:
    """Move the text around a role into the filter, if it makes control tokens."""
    before_text, after_text = _literal(left), _literal(right)
    for before, after in around:
        if before_text.endswith(before) and after_text.startswith(after):
            _set_literal(left, before_text.removesuffix(before))
            _set_literal(right, after_text.removeprefix(after))
            arguments: list[nodes.Expr] = [nodes.Const(before), nodes.Const(after)]
            assert isinstance(role.node, nodes.Expr)
            role.put(nodes.Filter(role.node, "_role_token", arguments, [], None, None, lineno=role.node.lineno))
            return marks.role_marks(before, after)
    return {}


def _printed_in_a_row(tree: nodes.Template) -> Iterator[list[_Slot]]:
    """Yield what is printed or added one after another, each row once."""
    inner: set[int] = set()
    for node in tree.find_all((nodes.Output, nodes.Add, nodes.Concat)):
        if id(node) not in inner:
            slots = _slots(node, inner)
            if len(slots) >= 3:
                yield slots


def _slots(node: nodes.Node, inner: set[int]) -> list[_Slot]:
    """Return a row's members, additions opened; ``inner`` learns which nodes were opened."""
    inner.add(id(node))
    if isinstance(node, nodes.Add):
        members = [_Slot(node.left, _setter(node, "left")), _Slot(node.right, _setter(node, "right"))]
    elif isinstance(node, (nodes.Output, nodes.Concat)):
        members = [_Slot(member, _list_setter(node.nodes, i)) for i, member in enumerate(node.nodes)]
    else:
        return []
    opened = (nodes.Add, nodes.Concat)
    rows = (_slots(member.node, inner) if isinstance(member.node, opened) else [member] for member in members)
    return [slot for row in rows for slot in row]


def _setter(node: nodes.Node, name: str) -> Callable[[nodes.Expr], None]:
    return lambda value: setattr(node, name, value)


def _list_setter(items: list[nodes.Expr], index: int) -> Callable[[nodes.Expr], None]:
    return lambda value: items.__setitem__(index, value)


def _is_role(node: nodes.Node | None) -> bool:
    match node:
        case nodes.Getattr(attr="role") | nodes.Getitem(arg=nodes.Const(value="role")) | nodes.Name(name="role"):
            return True
        case nodes.Filter(name="trim" | "lower"):
            return _is_role(node.node)
        case _:
            return False


def _literal(node: nodes.Node) -> str:
    if isinstance(node, nodes.TemplateData):
        return node.data
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else ""


def _set_literal(node: nodes.Node, text: str) -> None:
    if isinstance(node, nodes.TemplateData):
        node.data = text
    elif isinstance(node, nodes.Const):
        node.value = text
