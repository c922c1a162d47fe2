"""Forecasts of demand as distributions, for scaling decisions (S27)."""
