"""Written TOML reads back as it was."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.toml_text import toml_text

_KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_PLAIN = st.one_of(_TEXT, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans())
_TABLES = st.recursive(
    st.dictionaries(_KEYS, st.one_of(_PLAIN, st.lists(_PLAIN, max_size=3)), max_size=4),
    lambda inner: st.dictionaries(_KEYS, st.one_of(_PLAIN, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4),
    max_leaves=8,
)


@given(_TABLES)
def test_reads_back_as_it_was(table):
    assert tomllib.loads(toml_text(table)) == table


def test_plain_values_come_before_tables():
    text = toml_text({"a": {"b": 1}, "c": [{"d": 2.5}, {"d": 3}], "e": "x", "f": [], "g": [1, 2]})
    assert text == 'e = "x"\nf = []\ng = [1, 2]\n\n[a]\nb = 1\n\n[[c]]\nd = 2.5\n\n[[c]]\nd = 3\n'
