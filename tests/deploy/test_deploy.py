"""What deploy/ tells systemd and Docker is what this version of the server understands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from steelyard.cli.serve import app
from steelyard.core.errors import ParamsError
from steelyard.serve.config import ServeConfig
from steelyard.serve.files import read_config_file
from steelyard.serve.settings import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "steelyard.service"
IMAGE = (DEPLOY / "Dockerfile").read_text()


def config_of(words: list[str]) -> ServeConfig:
    """Read a command line ``steelyard serve …`` as the server does; its configuration file is the one in deploy/."""
    program, command, *flags = words
    assert (Path(program).name, command) == ("steelyard", "serve")
    context = get_command(app).make_context("serve", flags)
    given = {name: value for name, value in context.params.items() if value not in (None, [], False)}
    file = read_config_file(str(DEPLOY / Path(given.pop("config")).name)) if "config" in given else {}
    return load_config(given, {}, file)


def unit() -> RawConfigParser:
    """Return the unit; of a key that stands there again, the last line counts."""
    parser = RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def instruction(name: str) -> list[str]:
    """Return the words of the last such instruction of the Dockerfile, which is in JSON."""
    words: list[str] = json.loads(re.findall(rf"^\s*{name} (\[.*\])$", IMAGE, re.MULTILINE)[-1])
    return words


def test_the_service_starts_with_flags_and_a_file_that_the_server_knows() -> None:
    command = unit()["Service"]["ExecStart"].replace("%d", "/run/keys").replace("%S", "/var/lib")
    config = config_of(shlex.split(command))
    assert config.listen.host == "127.0.0.1"
    assert config.batch.store == "/var/lib/steelyard/batches.sqlite"
    assert config.access.api_key_file == "/run/keys/api-keys"


def test_a_flag_that_is_gone_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--no-such-flag"):
        config_of(["steelyard", "serve", "--no-such-flag", "1"])
    with pytest.raises(ParamsError, match="no such setting"):
        load_config({}, {}, {"no_such_setting": 1})


def test_the_service_is_stopped_only_after_it_has_drained() -> None:
    drain_s = load_config({}, {}, read_config_file(str(DEPLOY / "serve.yaml"))).listen.drain_timeout_s
    assert int(unit()["Service"]["TimeoutStopSec"]) > drain_s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/steelyard/bin/steelyard", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_the_image_starts_with_flags_that_the_server_knows() -> None:
    config = config_of(instruction("ENTRYPOINT") + instruction("CMD"))
    assert config.listen.host == "0.0.0.0"
    assert f"EXPOSE {config.listen.port}\n" in IMAGE
    assert f"http://127.0.0.1:{config.listen.port}/health" in IMAGE


def test_what_the_image_is_built_from_is_there_and_reaches_docker() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", IMAGE, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name in let_through


def test_prometheus_is_told_an_address_that_serves_metrics() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    listen = load_config({}, {}, read_config_file(str(DEPLOY / "serve.yaml"))).listen
    assert job["static_configs"] == [{"targets": [f"{listen.host}:{listen.port}"]}]
    assert job.get("metrics_path", "/metrics") == "/metrics"
