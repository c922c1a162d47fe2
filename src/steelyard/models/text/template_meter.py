"""What a chat template may use up: steps, time and the size of its values, counted by a :class:`Meter`.

Every loop iteration, call and filter is a step, and so is every 256 characters made. A step is where the time is looked
at too; between two steps the work is bounded by the template's length and the size of values.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2.exceptions import TemplateRuntimeError

from steelyard.core.clock import wall_s
from steelyard.core.units import KIB, MIB

CHARS_PER_STEP = 256
CHARS_PER_NODE = 16
MAX_INTEGER_BITS = 4096
STEPS_PER_LOOK = 64


class TemplateLimitError(TemplateRuntimeError):
    """A template used up what it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLimits:
    """What one rendering of a chat may cost.

    Attributes:
        max_template_chars: length of a template's source.
        max_messages: messages of a chat.
        max_message_chars: characters in all messages, tools and other values together; each value counts 16 more.
        max_output_chars: length of the rendered text.
        max_value_chars: size of any value that a template makes; each element of a list counts 16 more.
        max_steps: loop iterations, calls and filters, and 256 characters made count as one.
        max_render_s: seconds of real time.
    """

    max_template_chars: int = 256 * KIB
    max_messages: int = 8 * KIB
    max_message_chars: int = 4 * MIB
    max_output_chars: int = 8 * MIB
    max_value_chars: int = 16 * MIB
    max_steps: int = 2_000_000
    max_render_s: float = 5.0


class Meter:
    """Counts one rendering; every method raises :class:`TemplateLimitError` once a limit is passed."""

    __slots__ = ("_deadline_s", "_limits", "_next_look", "_steps")

    def __init__(self, limits: ChatLimits) -> None:
        self._limits = limits
        self._steps = 0
        self._next_look = STEPS_PER_LOOK
        self._deadline_s = wall_s() + limits.max_render_s

    def step(self, count: int = 1) -> None:
        """Count ``count`` steps."""
        self._steps += count
        if self._steps < self._next_look:
            return
        self._next_look = self._steps + STEPS_PER_LOOK
        if self._steps > self._limits.max_steps:
            raise TemplateLimitError(f"it takes more than {self._limits.max_steps} steps")
        if wall_s() > self._deadline_s:
            raise TemplateLimitError(f"it takes longer than {self._limits.max_render_s:g} s")

    def allow_chars(self, num_chars: int) -> None:
        """Refuse a value that is about to be made with ``num_chars`` characters, if that is too large."""
        if num_chars > self._limits.max_value_chars:
            raise TemplateLimitError(f"it makes a value of over {self._limits.max_value_chars} characters")

    def allow_bits(self, num_bits: int) -> None:
        """Refuse a whole number that is about to be made with ``num_bits`` bits, if that is too large."""
        if num_bits > MAX_INTEGER_BITS:
            raise TemplateLimitError(f"it makes a number of over {MAX_INTEGER_BITS} bits")

    def allow_output(self, num_chars: int) -> None:
        """Refuse an output of ``num_chars`` characters, if that is too long."""
        if num_chars > self._limits.max_output_chars:
            raise TemplateLimitError(f"it writes more than {self._limits.max_output_chars} characters")

    def weigh(self, value: object) -> int:
        """Return the size of a value with all that it holds, shared parts counted as often as they appear.

        The size bounds what printing or comparing the value costs.
        """
        weight, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            weight += len(item) if isinstance(item, str) else CHARS_PER_NODE
            self.allow_chars(weight)
            if isinstance(item, dict):
                waiting.extend(item.keys())
                waiting.extend(item.values())
            elif isinstance(item, (list, tuple, set, frozenset)):
                waiting.extend(item)
        return weight

    def charge(self, value: object) -> None:
        """Count a value that was just made."""
        if isinstance(value, int):
            self.allow_bits(value.bit_length())
        else:
            self.step(self.weigh(value) // CHARS_PER_STEP)
