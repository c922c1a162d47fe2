"""Lines of the log."""

from __future__ import annotations

import json
import logging

import pytest

from steelyard.serve.config import ObserveConfig
from steelyard.serve.logs import FIELDS, configure_logs

NAMES = ("steelyard", "uvicorn")


@pytest.fixture(autouse=True)
def loggers_as_before():
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def written(capsys, **config: str) -> str:
    configure_logs(ObserveConfig(**config))
    logger = logging.getLogger("steelyard.serve.test")
    logger.debug("quiet")
    logger.info("hello %s", "world", extra={FIELDS: {"id": "r-1", "status": 200}})
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("it failed")
    return capsys.readouterr().err


def test_text(capsys):
    lines = written(capsys).splitlines()
    assert lines[0].endswith(" INFO hello world id=r-1 status=200")
    assert lines[-1] == "ValueError: wrong"


def test_json(capsys):
    first, second = [json.loads(line) for line in written(capsys, log_format="json").splitlines()]
    assert first.items() >= {"level": "info", "message": "hello world", "id": "r-1", "status": 200}.items()
    assert second["message"] == "it failed"
    assert "ValueError: wrong" in second["traceback"]


def test_levels(capsys):
    assert "quiet" in written(capsys, log_level="debug")
    assert "hello" not in written(capsys, log_level="error")


def test_configuring_twice_writes_once(capsys):
    configure_logs(ObserveConfig())
    assert written(capsys).count("hello") == 1
