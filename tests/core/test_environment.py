"""The cache directory, by environment."""

from pathlib import Path

import pytest

from steelyard.core import environment
from steelyard.core.environment import cache_directory, compiler_words
from steelyard.core.errors import StorageError


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("STEELYARD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")


def test_default_is_below_home():
    assert cache_directory() == Path("/home/someone/.cache/steelyard")


def test_own_variable_comes_first(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/steelyard")
    monkeypatch.setenv("STEELYARD_CACHE", "/own")
    assert cache_directory() == Path("/own")


def test_home_and_relative_paths_are_made_absolute(monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", "~/models")
    assert cache_directory() == Path("/home/someone/models")
    monkeypatch.setenv("STEELYARD_CACHE", "models")
    assert cache_directory() == Path.cwd() / "models"


@pytest.mark.parametrize("variable", ["STEELYARD_CACHE", "XDG_CACHE_HOME"])
def test_empty_counts_as_unset(monkeypatch, variable):
    monkeypatch.setenv(variable, "")
    assert cache_directory() == Path("/home/someone/.cache/steelyard")


def test_relative_xdg_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == Path("/home/someone/.cache/steelyard")


def test_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(environment.Path, "home", no_home)
    with pytest.raises(StorageError) as caught:
        cache_directory()
    assert caught.value.field == "STEELYARD_CACHE"


def test_the_compiler_may_be_named_with_options(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    assert compiler_words() == ["c++"]
    monkeypatch.setenv("CXX", "ccache 'my g++'")
    assert compiler_words() == ["ccache", "my g++"]
