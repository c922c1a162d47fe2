"""``steelyard batch``: a file of requests in, a file of answers out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steelyard.cli.options import EngineOptions, OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, error_console, print_json, working, write_error_line
from steelyard.cli.serve import check_installed
from steelyard.core.clock import Stopwatch, wall_s
from steelyard.core.errors import InputError
from steelyard.core.units import format_seconds
from steelyard.serve.settings import load_config

if TYPE_CHECKING:
    from steelyard.serve.batch.types import Answer
