from enum import StrEnum

import pytest

from steelyard.core.errors import PromptError
from steelyard.models.text.chat_messages import plain_messages, plain_value
from steelyard.models.text.template_meter import ChatLimits

LIMITS = ChatLimits(max_messages=3, max_message_chars=2000)


def plain(messages, keep_parts=False):
    return plain_messages(messages, LIMITS, keep_parts=keep_parts)


def test_messages_are_copied():
    inner = {"name": "f", "arguments": {"x": [1, 2.5, None, True]}}
    messages = ({"role": "assistant", "content": None, "tool_calls": (inner,)},)
    copied = plain(messages)
    assert copied == [{"role": "assistant", "content": None, "tool_calls": [inner]}]
    assert copied[0]["tool_calls"][0] is not inner


def test_subclasses_lose_what_they_bring():
    class Loud(str):
        __slots__ = ()

        def shout(self):
            return self.upper()

    class Kind(StrEnum):
        USER = "user"

    copied = plain([{"role": Kind.USER, "content": Loud("x")}])
    assert [type(value) for value in copied[0].values()] == [str, str]
    assert copied == [{"role": "user", "content": "x"}]


def test_text_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = [{"role": "user", "content": parts}]
    assert plain(message)[0]["content"] == "a\nb"
    assert plain(message, keep_parts=True)[0]["content"] == parts


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ("hello", "messages"),
        ({"role": "user", "content": "x"}, "messages"),
        (None, "messages"),
        ([], "messages"),
        ([{"role": "user", "content": "x"}] * 4, "messages"),
        (["x"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": 3, "content": "x"}], "messages[0].role"),
        ([{"role": "", "content": "x"}], "messages[0].role"),
        ([{"role": "user\nx", "content": "x"}], "messages[0].role"),
        ([{"role": "<|im_start|>", "content": "x"}], "messages[0].role"),
        ([{"role": "x" * 33, "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": "x"}, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "x" * 3000}], "messages[0].content"),
        ([{"role": "user", "content": "x", "extra": object()}], "messages[0].extra"),
        ([{"role": "user", "content": "x", "extra": b"x"}], "messages[0].extra"),
        ([{"role": "user", "content": "x", 3: "x"}], "messages[0]"),
        ([{"role": "user", "content": "x", "extra": 10**30}], "messages[0].extra"),
        ([{"role": "user", "content": "x", "extra": [None] * 200}], None),
    ],
)
def test_malformed_messages_name_the_field(messages, field):
    with pytest.raises(PromptError) as caught:
        plain(messages)
    assert field is None or caught.value.field == field


def test_depth_has_a_limit():
    value = []
    for _ in range(40):
        value = [value]
    with pytest.raises(PromptError, match="nested"):
        plain_value(value, "tools", ChatLimits())
    loop = []
    loop.append(loop)
    with pytest.raises(PromptError, match="nested"):
        plain_value(loop, "tools", ChatLimits())


def test_values_that_fan_out_are_refused_early():
    value = "x"
    for _ in range(30):
        value = [value, value, value, value]
    with pytest.raises(PromptError, match="more than"):
        plain_value(value, "tools", LIMITS)
