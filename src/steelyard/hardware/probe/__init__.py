"""Measuring the machine: one short file per subject, each from a :class:`Scale` to readings.

:mod:`steelyard.hardware.probe.run` goes through all of them, :mod:`steelyard.hardware.probe.description` makes a
:class:`~steelyard.hardware.device.Machine` of what they found.
"""
