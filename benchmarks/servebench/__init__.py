"""The server under load: what ``benchmarks/serving.py`` is made of."""
