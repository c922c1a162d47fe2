"""Fixtures of the engine's tests; what they are made of is in ``tiny_engine.py``."""

from tiny_engine import make_engine as make_engine
