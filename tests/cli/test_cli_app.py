"""Dispatch, help, errors and exit codes: everything that needs no model."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from steelyard.cli import app, errors, interrupts
from steelyard.cli.output import format_table, print_json
from steelyard.core.errors import MemoryBudgetError, ParamsError

DOCS = Path(__file__).parents[2] / "docs" / "commands"
LIGHT = ["--help", "--version", "version", "models"]


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_help_mentions_every_option_and_shows_examples(cli, name):
    result = cli(name, "--help")
    assert result.code == 0
    assert result.err == ""
    command = typer.main.get_command(importlib.import_module(app.COMMANDS[name].module).app)
    subcommands = getattr(command, "commands", {name: command})
    for subname, subcommand in subcommands.items():
        text = result.out if subname == name else cli(name, subname, "--help").out
        assert "Examples:\n  " in text
        for parameter in subcommand.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert option in text or not option.startswith("-")
        assert {"--json", "--debug"} <= {option for parameter in subcommand.params for option in parameter.opts}


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_pages_describe_every_option(name):
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# steelyard {name}\n")
    command = typer.main.get_command(importlib.import_module(app.COMMANDS[name].module).app)
    for subname, subcommand in getattr(command, "commands", {name: command}).items():
        own = DOCS / f"{name}-{subname}.md"
        text = own.read_text(encoding="utf-8") if own.exists() else page
        for parameter in subcommand.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f"`{option}`" in text or not option.startswith("--"), option


def test_overview_lists_every_command(cli):
    result = cli("--help")
    assert result.code == 0
    for name, entry in app.COMMANDS.items():
        assert name in result.out
        assert entry.summary in result.out
    assert cli().out == result.out


@pytest.mark.parametrize("argument", LIGHT)
def test_light_commands_leave_torch_alone(argument):
    code = (
        "import sys; from steelyard.cli.app import run; code = run([sys.argv[1]]);"
        "assert 'torch' not in sys.modules; assert code == 0"
    )
    subprocess.run([sys.executable, "-c", code, argument], check=True, capture_output=True)


def test_version_is_json_or_lines(cli):
    fields = cli("version", "--json").json
    assert fields["steelyard"] == app.__version__
    assert f"steelyard {app.__version__}\n" in cli("version").out
    assert cli("--version").out == f"steelyard {app.__version__}\n"


def test_models_names_the_default_and_how_to_install(cli):
    fields = cli("models", "--json").json
    names = [model["name"] for model in fields["models"]]
    assert fields["default"] in names
    assert [model["name"] for model in fields["models"] if model["default"]] == [fields["default"]]
    assert all(model["install_command"].startswith("pip install") for model in fields["models"])
    assert all(model["format"].startswith("GGUF Q4") for model in fields["models"])
    text = cli("models").out
    assert all(name in text for name in names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "hi", "--no-such"], "--no-such"),
        (["run", "hi", "--max-tokens", "many"], "--max-tokens"),
        (["run", "hi", "--max-tokens"], "--max-tokens"),
        (["perplexity"], "--file"),
        (["bench", "nothing"], "nothing"),
    ],
)
def test_wrong_usage_is_one_line_and_two(cli, arguments, words):
    result = cli(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert words in result.err
    assert "--help" in result.err


def _raise(error: BaseException):
    def work() -> None:
        raise error

    return work


def test_errors_become_a_line_an_object_and_an_exit_code(capsys):
    wrong = ParamsError("it is odd", field="dtype", remedy="Make it even")
    assert errors.guarded(_raise(wrong), as_json=True, debug=False) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: dtype: it is odd. Make it even.\n"
    assert json.loads(captured.out)["error"] == {
        "type": "ParamsError",
        "field": "dtype",
        "problem": "it is odd",
        "remedy": "Make it even",
        "exit_code": 2,
    }
    full = MemoryBudgetError("too\nlarge", field="model", remedy="Shrink it")
    assert errors.guarded(_raise(full), as_json=False, debug=False) == 1
    assert capsys.readouterr() == ("", "error: model: too large. Shrink it.\n")


def test_bugs_are_told_without_traceback_unless_asked(capsys):
    assert errors.guarded(_raise(KeyError("x")), as_json=False, debug=False) == 70
    err = capsys.readouterr().err
    assert err == "internal error: KeyError: 'x'; run again with --debug\n"
    assert errors.guarded(_raise(KeyError("x")), as_json=False, debug=True) == 70
    assert "Traceback" in capsys.readouterr().err


def _fail_while_interrupted() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("the clean-up was cut short")


def test_interrupts_and_closed_pipes_are_silent(capsys, monkeypatch):
    assert errors.guarded(_raise(KeyboardInterrupt()), as_json=True, debug=False) == 130
    assert errors.guarded(_fail_while_interrupted, as_json=True, debug=False) == 130
    monkeypatch.setattr(errors, "_discard_stdout", lambda: None)
    assert errors.guarded(_raise(BrokenPipeError()), as_json=True, debug=False) == 141
    assert capsys.readouterr() == ("", "")


def test_a_shell_that_ignores_interrupts_is_obeyed():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.leave_on_interrupt()
        interrupts.raise_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_json_has_no_infinities_and_tables_no_trailing_spaces(capsys):
    print_json({"a": float("inf"), "b": [1.5, {"c": float("nan")}], "d": "é"})
    assert capsys.readouterr().out == '{"a": null, "b": [1.5, {"c": null}], "d": "é"}\n'
    assert format_table(("A", "B"), [("xyz", "1"), ("", "22")]) == "A    B\nxyz  1\n     22"


def test_reproduce_lists_without_running(cli, tmp_path):
    fields = cli("reproduce", "--list", "--json").json
    assert len(fields["systems"]) == 88
    assert cli("reproduce", "--list", "s74").out.splitlines()[1].startswith("S74")
    assert cli("reproduce", "--list", "S99").code == 2
    assert cli("reproduce").code == 2
    assert cli("reproduce", "S00", "--out", str(tmp_path)).code == 2


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--dtype", "float8"], "dtype"),
        (["--device", "toaster"], "device"),
        (["--threads", "0"], "threads"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_wrong_engine_options(cli, arguments, field):
    result = cli("run", "hi", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: " + field + ": ")
    assert result.err.count("\n") == 1
