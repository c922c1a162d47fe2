"""Names that users give: found in either case, or told with what is near."""

import pytest

from steelyard.core.errors import InputError
from steelyard.core.names import check_keys, pick, suggestion


def test_pick_finds_either_case():
    assert pick({"H100": 1, "l4": 2}, "h100", field="device") == 1
    assert pick({"H100": 1, "l4": 2}, "L4", field="device") == 2


def test_pick_names_the_field_and_what_is_near():
    with pytest.raises(InputError) as caught:
        pick({"nvlink-3": 1, "slingshot": 2}, "nvlnk-3", field="link")
    assert caught.value.field == "link"
    assert caught.value.remedy == "Did you mean nvlink-3"


def test_names_that_are_begun_come_before_names_that_look_alike():
    assert suggestion("a100", ["h100", "a100-40gb", "a100-80gb"]) == "Did you mean a100-40gb or a100-80gb"


def test_without_a_near_name_all_are_told():
    assert suggestion("zzz", ["abc", "def"]) == "There are: abc, def"
    assert suggestion("", ["abc"]) == "There are: abc"


def test_check_keys_names_the_first_key_that_is_not_known():
    check_keys({"count": 1}, ("count",), field="group")
    with pytest.raises(InputError) as caught:
        check_keys({"cuont": 1}, ("count",), field="group")
    assert "cuont" in caught.value.problem
    assert caught.value.remedy == "Did you mean count"
