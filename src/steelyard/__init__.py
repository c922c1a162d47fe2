"""Steelyard runs, serves, trains and plans large models on the hardware people really have."""

from __future__ import annotations

__version__ = "0.1.0"
