"""What the server writes down: one line per request, as text or JSON, without prompts, answers or keys."""

from __future__ import annotations

import json
import logging
import sys

from steelyard.serve.config import ObserveConfig

FIELDS = "fields"  # where a log record holds what JSON lines show by name
_LOGGERS = ("steelyard", "uvicorn")


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, message, then ``name=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line."""
        named = "".join(f" {name}={value}" for name, value in getattr(record, FIELDS, {}).items())
        return super().formatMessage(record) + named


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logs(config: ObserveConfig) -> None:
    """Send our own and uvicorn's messages to standard error, as ``config`` says; older handlers go."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(config.log_level.upper())
