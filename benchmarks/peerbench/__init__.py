"""Steelyard beside other engines: what ``benchmarks/peers.py`` is made of."""
