"""Sizes of shipped workloads and of files; rows that are none are told by number."""

import pytest

from steelyard.core.errors import InputError
from steelyard.plan.workload_sizes import known_workloads, request_sizes


@pytest.mark.parametrize("name", known_workloads())
def test_shipped_rates_add_up(name):
    assert sum(bucket.rate_per_s for bucket in request_sizes(name, 7.0)) == pytest.approx(7.0)


def test_a_file_gives_shares(tmp_path):
    path = tmp_path / "sizes.csv"
    path.write_text("prompt_tokens,answer_tokens,requests\n10,5,3\n20,5,1\n", encoding="utf-8")
    assert [bucket.rate_per_s for bucket in request_sizes(str(path), 8.0)] == [6.0, 2.0]


@pytest.mark.parametrize("row", ["0,5,3", "10,x,1", "10,5", "10,5,-1", "10,5,nan"])
def test_rows_that_are_no_size(tmp_path, row):
    path = tmp_path / "sizes.csv"
    path.write_text(f"prompt_tokens,answer_tokens,requests\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 1 is no size"):
        request_sizes(str(path), 1.0)


def test_no_such_workload_and_no_request(tmp_path):
    with pytest.raises(InputError, match="no file") as caught:
        request_sizes("azure-conv", 1.0)
    assert "azure-conversation" in caught.value.remedy
    path = tmp_path / "empty.csv"
    path.write_text("prompt_tokens,answer_tokens,requests\n", encoding="utf-8")
    with pytest.raises(InputError, match="no request"):
        request_sizes(str(path), 1.0)
