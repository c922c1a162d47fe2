"""Names that nobody knows are told with those that are near."""

import pytest

from steelyard.core.errors import InputError, ParamsError
from steelyard.plan.names import check_keys, pick
from steelyard.plan.training_catalogue import find_training_cluster, find_training_model, training_models

TABLE = {"A100-80GB": 1, "A10G": 2, "H100": 3}


def test_case_does_not_matter():
    assert pick(TABLE, "a10g", field="gpu") == 2


def test_near_names_are_suggested():
    with pytest.raises(InputError, match="'A100' is not known") as caught:
        pick(TABLE, "A100", field="gpu")
    assert "A100-80GB" in caught.value.remedy
    assert caught.value.field == "gpu"


def test_all_names_are_listed_when_none_is_near():
    with pytest.raises(InputError) as caught:
        pick(TABLE, "xyzzy", field="gpu")
    assert caught.value.remedy == "There are: A100-80GB, A10G, H100"


def test_unknown_keys_are_named():
    check_keys({"rate": 1}, ["rate", "slo"], field="fleet.toml")
    with pytest.raises(ParamsError, match="'rat' is no key") as caught:
        check_keys({"rat": 1}, ["rate", "slo"], field="fleet.toml")
    assert caught.value.remedy == "Did you mean rate"


def test_everything_in_the_training_catalogue_loads():
    for name in training_models():
        assert find_training_model(name.upper()).name == name
    for name in ("dgx-a100", "dgx-h100", "frontier"):
        assert find_training_cluster(name)[0].name == name
    with pytest.raises(InputError):
        find_training_cluster("dgx-a1000")
