"""Factors of operators: checked, found, and to a TOML table and back."""

import math
import tomllib

import pytest

from steelyard.core.errors import InputError
from steelyard.core.toml_text import toml_text
from steelyard.cost.calibration import (
    IDEAL,
    Calibration,
    OperatorFit,
    cached_share,
    calibration_from_table,
    calibration_table,
    joined,
)

LINEAR = OperatorFit(
    operator="linear", dtype="float32", compute_efficiency=0.5, memory_efficiency=1.25, overhead_s=1e-5
)
CALIBRATION = Calibration(path="torch", num_threads=2, fits=(LINEAR, OperatorFit(operator="step", dtype="float32")))


@pytest.mark.parametrize("calibration", [CALIBRATION, IDEAL])
def test_reads_back_as_it_was(calibration):
    text = toml_text(calibration_table(calibration))
    assert calibration_from_table(tomllib.loads(text)) == calibration


def test_what_was_not_measured_is_ideal():
    assert CALIBRATION.fit("linear", "float32") is LINEAR
    assert CALIBRATION.fit("linear", "bfloat16") == OperatorFit(operator="linear", dtype="bfloat16")
    assert CALIBRATION.covers("float32")
    assert not CALIBRATION.covers("bfloat16")


def test_seconds_by_hand():
    fit = OperatorFit(
        operator="linear", dtype="int8", compute_efficiency=0.5, memory_efficiency=0.25, overhead_s=1.0, overlap=0.75,
        cached_efficiency=0.5,
    )  # fmt: skip
    assert fit.seconds(1.0, 2.0, 3) == 3 * 1.0 + 8.0 + 0.25 * 2.0
    assert fit.seconds(8.0, 2.0) == 1.0 + 16.0 + 0.25 * 8.0
    assert fit.seconds(0.0, 2.0, cached=0.5) == 1.0 + 0.5 * 8.0 + 0.5 * 4.0
    assert LINEAR.seconds(1.0, 0.0, cached=1.0) == LINEAR.seconds(1.0, 0.0), "without a cached rate nothing is cached"


def test_a_cache_holds_less_and_less_of_what_every_step_reads():
    assert [cached_share(num_bytes, 10.0) for num_bytes in (0, 10, 20, 30, 99)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert cached_share(1.0, 0.0) == 0.0, "there is no cache"


def test_two_implementations_in_one():
    native = Calibration(path="native", num_threads=2, fits=(OperatorFit(operator="linear", dtype="int8"),))
    both = joined(native, CALIBRATION)
    assert (both.path, both.num_threads) == ("native, torch", 2)
    assert both.covers("int8")
    assert both.fit("linear", "float32") is LINEAR
    with pytest.raises(InputError, match="occurs twice"):
        joined(native, native)


@pytest.mark.parametrize(
    "field", ["compute_efficiency", "memory_efficiency", "cached_efficiency", "overhead_s", "overlap"]
)
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_factors_are_refused(field, value):
    with pytest.raises(InputError) as caught:
        OperatorFit(**{"operator": "linear", "dtype": "float32", field: value})
    assert caught.value.field == field


def test_one_fit_per_operator_and_dtype():
    with pytest.raises(InputError, match="occurs twice"):
        Calibration(path="torch", fits=(LINEAR, LINEAR))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.pop("path"), "missing"),
        (lambda table: table.update(paths=1), "no such key"),
        (lambda table: table["fits"][0].pop("dtype"), "missing"),
        (lambda table: table["fits"][0].update(speed=1), "no such key"),
        (lambda table: table["fits"][0].update(compute_efficiency=0), "not a positive number"),
    ],
)
def test_broken_tables_are_refused(change, problem):
    table = calibration_table(CALIBRATION)
    change(table)
    with pytest.raises(InputError, match=problem):
        calibration_from_table(table)
