"""A model's format is known from its chat template, or by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.core.errors import ParamsError
from steelyard.models.text.chat import ChatTemplate
from steelyard.serve.tools.formats import HERMES, LLAMA, MISTRAL, TOOL_FORMATS, ToolFormat, tool_format

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TAUGHT = {
    "{% if tools %}Write <tool_call> and JSON{% endif %}" + PLAIN: HERMES,
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}[TOOL_CALLS]" + PLAIN: MISTRAL,
    '{% if tools %}Use {"name": …, "parameters": …}{% endif %}<|python_tag|>' + PLAIN: LLAMA,
}  # fmt: skip
UNKNOWN = [
    PLAIN,
    "{% if tools %}<tool_call><function=f><parameter=x>{% endif %}" + PLAIN,
    "{% if tools %}[TOOL_CALLS]f[ARGS]{% endif %}" + PLAIN,
    "{% if tools %}call them as Python{% endif %}" + PLAIN,
    "{# a template about toolsmiths who write <tool_call> #}" + PLAIN,
]


def is_generic(style: ToolFormat) -> bool:
    return style.marker == HERMES.marker and not style.knows_tools


@pytest.mark.parametrize("source", TAUGHT)
def test_a_template_tells(source: str) -> None:
    assert tool_format(ChatTemplate(source)) == TAUGHT[source]


def test_a_template_of_its_own_for_tools_tells() -> None:
    (source, *_) = TAUGHT
    assert tool_format(ChatTemplate(PLAIN, tool_source=source)) == HERMES


@pytest.mark.parametrize("source", UNKNOWN)
def test_templates_that_teach_nothing_known_get_a_system_message(source: str) -> None:
    assert is_generic(tool_format(ChatTemplate(source)))


def test_no_template_teaches_nothing() -> None:
    assert is_generic(tool_format(None))


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_a_name_goes_before_the_template(name: str) -> None:
    for source in [*TAUGHT, PLAIN]:
        found = tool_format(ChatTemplate(source), name)
        assert found.marker == TOOL_FORMATS[name].marker
        assert found.knows_tools == (source != PLAIN)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ParamsError, match="hermes, qwen, llama3_json, mistral") as caught:
        tool_format(None, "hermes2")
    assert caught.value.field == "tool_call_parser"


TEMPLATES = Path(__file__).parents[2] / "models" / "text" / "templates"


def test_templates_as_models_come_with_them() -> None:
    taught = {
        path.stem for path in TEMPLATES.glob("*.jinja") if not is_generic(tool_format(ChatTemplate(path.read_text())))
    }
    assert taught == {"qwen_tools"}
    assert tool_format(ChatTemplate((TEMPLATES / "qwen_tools.jinja").read_text())) == HERMES
