import threading

import pytest

from steelyard.core.errors import ModelError, PromptError
from steelyard.models.text.chat import ChatTemplate
from steelyard.models.text.template_meter import ChatLimits, Meter, TemplateLimitError

MESSAGES = [{"role": "user", "content": "hello"}]
LIMITS = ChatLimits(max_steps=20_000, max_output_chars=100_000, max_value_chars=1_000_000, max_render_s=60.0)


def render(source, limits=LIMITS, messages=MESSAGES, **arguments):
    return ChatTemplate(source, limits=limits).render(messages, **arguments).text


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ ['__class__'] | map('attr', '__class__') | list }}",
    "{{ [messages] | map(attribute='__class__') | list | string }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ namespace.__init__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ namespace().__class__.__init__.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ (1).__class__ }}",
    "{{ (1).to_bytes(9) }}",
    "{{ cycler.__init__ }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop._iterator.gi_frame }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__call__ }}{{ m._func }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('%s' | attr('format'))(1) }}",
    "{{ ''.encode('idna') }}",
    "{{ 'a'.translate({97: 'b'}) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages.clear() }}",
    "{{ dict.mro() }}",
    "{{ range.__doc__ }}",
    "{{ lipsum() }}",
    "{{ [1, 2] | random }}",
    "{{ environment }}{{ context.environment }}",
    "{{ get_flashed_messages() }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{{ messages | _role_token('a') }}",
    "{{ x | nothing }}",
    "{{ x is nothing }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_of_python_can_be_reached(source):
    try:
        text = render(source)
    except (ModelError, PromptError) as error:
        text = str(error)
    for leak in ("<class", "<function", "<slot", "<module", "builtin", "<frame", "object at 0x", "b'"):
        assert leak not in text
    assert MESSAGES == [{"role": "user", "content": "hello"}]


BOMBS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ range(10**9) | list }}",
    "{% for a in 'x' * 999999 %}{% endfor %}",
    "{% for a in [1] recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% for i in range(99999) %}{% call m() %}x{% endcall %}{% endfor %}",
    "{% block b %}{{ self.b() }}{% endblock %}",
    "{{ 'a' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ (1, 2) * 10**9 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set ns = namespace(x=7) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = '%s%s' | format(ns.x, ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "{% set ns = namespace(x='<') %}{% for i in range(99) %}{% set ns.x = ns.x | urlencode %}{% endfor %}"
    "{% for i in range(99999) %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x={}) %}{% for i in range(99) %}{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}"
    "{{ ns.x | tojson }}",
    "{% set ns = namespace(x=()) %}{% for i in range(99) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ ns.x == 1 }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "{% macro d(t) %}{{ t }}{{ t }}{% endmacro %}{% set ns = namespace(x='a') %}"
    "{% for i in range(99) %}{% set ns.x = d(ns.x) %}{% endfor %}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}{{ 'x'.zfill(10**9) }}",
    "{{ 'x\n' * 9999 | indent(10**6) }}",
    "{{ ('x\n' * 99999) | indent(1000) }}",
    "{{ [1] | batch(10**9, 0) | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ [[1]] | tojson(indent=10**9) }}",
    "{{ [[]] | sum(start=[]) }}",
    "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "{% set s = 'a' * 90000 %}{% for i in range(9999) %}{% set x = s[1:] %}{% endfor %}",
    "{% set s = 'a' * 90000 %}{% for i in range(9999) %}{% set x = s | upper %}{% endfor %}",
    "{% macro m() %}{% for i in range(9999) %}{{ 'b' * 90000 }}{% endfor %}{% endmacro %}{% set x = m() %}",
    "{{ range(99999) | map('string') | map('upper') | list | length }}{% for i in range(99999) %}{% endfor %}",
    "{{ 'a' * 99999 | join('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb') }}",
    "{{ ('a' * 99999) | list | join('b' * 999) }}",
    "{{ ('a' * 99999).join('b' * 999) }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_bombs_are_stopped(source):
    with pytest.raises((ModelError, PromptError)) as caught:
        render(source)
    assert len(str(caught.value)) < 1000


def test_bombs_are_stopped_in_any_thread():
    caught = []

    def attack():
        try:
            render(BOMBS[0])
        except ModelError as error:
            caught.append(error)

    thread = threading.Thread(target=attack)
    thread.start()
    thread.join()
    assert [error.field for error in caught] == ["chat_template"]


def test_time_is_a_limit_of_its_own():
    with pytest.raises(ModelError, match="longer than"):
        render(BOMBS[0], ChatLimits(max_steps=1 << 60, max_render_s=0.01))
    meter = Meter(ChatLimits(max_render_s=-1.0))
    with pytest.raises(TemplateLimitError):
        meter.step(1000)


def test_output_has_a_limit():
    with pytest.raises(ModelError, match="writes more than 100000"):
        render("{% for i in range(5000) %}{{ 'a' * 50 }}{% endfor %}")
    assert len(render("{% for i in range(1000) %}{{ 'a' * 50 }}{% endfor %}")) == 50_000


@pytest.mark.parametrize(
    "source",
    [
        "{{",
        "{% for %}",
        "{% if x %}",
        "{% nothing %}",
        "{{ x | nothing }}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{{ " + "1 + " * 20_000 + "1 }}",
        "{{ " + "not " * 5000 + "1 }}",
        "{{ x" + ".a" * 20_000 + " }}",
    ],
)
def test_invalid_templates(source):
    with pytest.raises(ModelError) as caught:
        ChatTemplate(source)
    assert caught.value.field == "chat_template"
    assert "completion mode" in caught.value.remedy


def test_deeply_nested_loops_fail_cleanly_or_work():
    source = "{% for i in [1] %}" * 40 + "x" + "{% endfor %}" * 40
    try:
        text = render(source)
    except ModelError:
        text = "x"
    assert text == "x"


def test_long_templates_are_refused():
    with pytest.raises(ModelError, match="over the limit of 10"):
        ChatTemplate("x" * 11, limits=ChatLimits(max_template_chars=10))


def test_nothing_outlives_a_rendering():
    template = ChatTemplate(
        "{% if dict.seen is defined %}again{% endif %}{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    )
    assert [template.render(MESSAGES).text for _ in range(3)] == ["1", "1", "1"]


def test_what_templates_do_use():
    assert render("{{ messages[0].content | upper }} {{ 'a,b'.split(',') | last }}") == "HELLO b"
    assert render("{% for k, v in {'a': 1} | items %}{{ k }}{{ v }}{% endfor %}") == "a1"
    assert render("{% for k, v in {'a': 1}.items() %}{{ loop.last }}{{ loop.length }}{% endfor %}") == "True1"
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}") == "13"
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}") == "1"
    assert render("{% for x in [] %}{% else %}none{% endfor %}") == "none"
    assert render("{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}") == "123"
    assert render("{% set a, b = 1, 2 %}{{ a ~ b ~ 'c' }}") == "12c"
    assert render("{% set x %}block{% endset %}{{ x }}") == "block"
    assert render("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b='x') }}") == "121x"
    assert render("{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in{% endcall %}") == "<in>"
    assert render("{% filter upper %}x{% endfilter %}") == "X"
    assert (
        render("{{ '%s-%03d' % ('a', 7) }}{{ '%d' | format(3) }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 3 * 4 }}") == "a-00733102412"
    )
    assert render("{{ [1, 2] + [3] }}{{ 'ab' * 2 }}{{ [0] * 2 }}") == "[1, 2, 3]abab[0, 0]"
    assert render("{{ messages | map(attribute='role') | join(', ') }}{{ messages | length }}") == "user1"
    assert render("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}") == "1"
    assert render("{{ messages | join('', attribute='content') }}") == "hello"
    assert render("{{ [3, 1] | sort | first }}{{ [1, 2] | sum }}{{ [1, 2] | reverse | list }}") == "13[2, 1]"
    assert render("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent('>', true) }}") == "a\n  b>a\n>b"
    assert render("{{ {'b': 'é<', 'a': [1]} | tojson }}") == '{"b": "é<", "a": [1]}'
    assert render("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}") == '{"a": 1, "b": "\\u00e9"}'
    assert render("{{ {'a': 1} | tojson(indent=2, separators=(',', ':')) }}") == '{\n  "a":1\n}'
    assert render("{{ undefined_name }}{{ messages[0].nothing }}{{ none or 'x' }}") == "x"
    assert render("{{ dict(a=1).a }}{{ namespace(a=2).a }}{{ range(3) | list }}") == "12[0, 1, 2]"
    assert render("a\n    {% if true %}\nb\n    {% endif %}\nc") == "a\nb\nc"
    assert render("{% generation %}{{ 'x' }}{% endgeneration %}") == "x"
    assert render("{{ messages[0].content[1:3] }}{{ [1, 2, 3][::-1] }}") == "el[3, 2, 1]"
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"


def test_errors_in_a_template_blame_the_messages():
    for source in ("{{ messages[0].content + 1 }}", "{{ nothing.at.all }}", "{{ nothing() }}", "{{ 1 / 0 }}"):
        with pytest.raises(PromptError, match="cannot render") as caught:
            render(source)
        assert caught.value.field == "messages"


def test_long_conversations_stay_within_the_limits():
    messages = [{"role": "user", "content": "word " * 500}] * 1000
    source = "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '\n' }}{% endfor %}"
    assert len(render(source, ChatLimits(), messages)) == 1000 * (len("<user>\n") + 2499)
