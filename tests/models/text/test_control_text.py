import re

from hypothesis import given
from hypothesis import strategies as st

from steelyard.models.text.control_text import ControlScanner


def test_longest_of_those_that_start_together_wins():
    scanner = ControlScanner({"<a": 1, "<a>": 2, "b": 3})
    assert scanner.split("x<a>b<a") == ["x", 2, 3, 1]


def test_leftmost_wins_over_a_longer_later_one():
    assert ControlScanner({"ab": 1, "bcd": 2}).split("abcd") == [1, "cd"]


def test_nothing_to_find():
    assert ControlScanner({}).split("a<b>") == ["a<b>"]
    assert ControlScanner({"": 7}).split("ab") == ["ab"]
    assert ControlScanner({"x": 7}).split("") == []


def test_characters_with_a_meaning_in_patterns():
    assert ControlScanner({"]x": 1, "^": 2, "\\": 3, "-": 4}).split("a]x^\\-") == ["a", 1, 2, 3, 4]


@given(
    st.lists(st.text("<|ab>", min_size=1, max_size=4), min_size=1, max_size=6, unique=True),
    st.text("<|ab> ", max_size=30),
)
def test_equals_an_alternation_of_all_texts(texts, text):
    ids = {control: i for i, control in enumerate(texts)}
    alternation = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))
    parts = ControlScanner(ids).split(text)
    assert [texts[part] for part in parts if isinstance(part, int)] == alternation.findall(text)
    assert "".join(part if isinstance(part, str) else texts[part] for part in parts) == text
    assert "" not in parts
