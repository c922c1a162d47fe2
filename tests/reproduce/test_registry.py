"""The list of systems: complete, consistent, strict about what it accepts, and the page made from it."""

import importlib.util
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from steelyard.core.errors import InputError
from steelyard.reproduce import REPRODUCTIONS
from steelyard.reproduce.registry import AREAS, SystemState, load_systems, main, parse_systems, systems_markdown

ROOT = Path(__file__).resolve().parents[2]
TEXT = resources.files("steelyard.reproduce").joinpath("systems.toml").read_text(encoding="utf-8")


def test_all_systems_are_listed_once_in_order():
    systems = load_systems()
    assert [system.id for system in systems] == [f"S{number:02}" for number in range(1, 89)]
    assert {system.area for system in systems} == set(AREAS)
    assert len({system.name for system in systems}) == len({system.mechanism for system in systems}) == 88


def test_named_modules_exist():
    for system in load_systems():
        if system.module is not None:
            assert importlib.util.find_spec(system.module), f"{system.id} names {system.module}"


def test_registered_reproductions_are_begun_systems():
    begun = {system.id for system in load_systems() if system.state is not SystemState.NOT_BEGUN}
    assert set(REPRODUCTIONS) <= begun


def test_docs_page_is_up_to_date():
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    assert page == systems_markdown(), "run: python -m steelyard.reproduce.registry docs/systems.md"


def test_page_shows_every_system_under_its_area():
    page = systems_markdown()
    for area, section in zip(AREAS, page.split("\n## ")[1:], strict=True):
        assert section.startswith(f"{area}. {AREAS[area]}\n")
        ids = re.findall(r"^\| (S\d\d) \|", section, flags=re.MULTILINE)
        assert ids == [system.id for system in load_systems() if system.area == area]
    assert all(line.count("|") == 7 for line in page.splitlines() if line.startswith("| S"))


def test_main_writes_or_prints(tmp_path, capsys):
    main([str(tmp_path / "new" / "systems.md")])
    main([])
    assert (tmp_path / "new" / "systems.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "steelyard.reproduce.registry"], capture_output=True, check=True)
    assert done.stdout.decode("utf-8") == systems_markdown()
    assert done.stderr == b""


def _entry(number):
    """Return the text of one system's table."""
    return "[[systems]]" + TEXT.split("[[systems]]")[number]


_FIRST = _entry(1)


def _with_state(state, module, measured):
    lines = [line for line in _FIRST.splitlines() if not line.startswith(("state", "module", "measured"))]
    return "\n".join([*lines, f'state = "{state}"', f'module = "{module}"', f'measured = "{measured}"', "", ""])


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (_FIRST, "", "systems"),
        (_entry(5), _entry(6), "systems"),
        ('id = "S01"', 'id = "S89"', "systems"),
        (_entry(1), _entry(1) * 2, "systems"),
        ('id = "S01"', "", "a table without id.id"),
        ('area = "A"\nname = "FastAttention"', 'area = "Z"\nname = "FastAttention"', "S01.area"),
        ('name = "FastAttention"', 'name = ""', "S01.name"),
        ('name = "FastAttention"', 'name = "a | b"', "S01.name"),
        ('name = "FastAttention"', "name = 3", "S01.name"),
        ('name = "FastAttention"', 'name = "FastAttention"\ncolour = "red"', "S01.colour"),
        (_FIRST, _with_state("started", "", ""), "S01.state"),
        (_FIRST, _with_state("partly", "", ""), "S01.module"),
        (_FIRST, _with_state("not begun", "steelyard.engine", ""), "S01.module"),
        (_FIRST, _with_state("works", "steelyard.engine", ""), "S01.measured"),
        ("[[systems]]", "[[systems", "systems.toml"),
    ],
)
def test_broken_lists_are_refused(old, new, field):
    assert old in TEXT
    with pytest.raises(InputError) as caught:
        parse_systems(TEXT.replace(old, new, 1))
    assert caught.value.field == field


def test_a_working_system_is_accepted():
    text = TEXT.replace(_FIRST, _with_state("works", "steelyard.engine", "2.0× on one core"))
    first = parse_systems(text)[0]
    assert (first.state, first.module, first.measured) == (SystemState.WORKS, "steelyard.engine", "2.0× on one core")
