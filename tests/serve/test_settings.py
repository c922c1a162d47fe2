"""Where settings come from and what they may be."""

from __future__ import annotations

import dataclasses

import pytest

from steelyard.core.errors import ParamsError
from steelyard.core.units import GIB, MIB
from steelyard.models.catalogue import default_model
from steelyard.serve.config import KeyLimits, ModelSpec, ServeConfig, SharingConfig, ToolsConfig
from steelyard.serve.files import read_config_file, read_key_file
from steelyard.serve.settings import SETTINGS, load_config


def test_defaults_are_the_configurations_own():
    config = load_config({})
    assert config == ServeConfig(models=(ModelSpec(source=None, names=(default_model(),)),))


def test_flags_before_environment_before_file():
    file = {"port": 1, "host": "file", "log_format": "json", "seed": 3}
    environment = {"port": "2", "host": "environment"}
    config = load_config({"port": "4", "host": None}, environment, file)
    assert (config.listen.port, config.listen.host, config.engine.seed) == (4, "environment", 3)
    assert config.observe.log_format == "json"


def test_values_are_read():
    config = load_config(
        {
            "models": ["small=x.gguf", "/models/big.gguf", "org/name"],
            "model_memory": "8G",
            "kv_cache_memory": "512MiB",
            "max_body_bytes": 1000,
            "allowed_origins": "https://a, https://b",
            "enable_prefix_caching": "off",
            "drain_timeout": "2.5",
            "tool_call_parser": "llama3_json",
            "enable_auto_tool_choice": "no",
            "api_key": ["a:12345678", "123456789"],
        }
    )
    assert config.models == (
        ModelSpec(source="x.gguf", names=("small",)),
        ModelSpec(source="/models/big.gguf", names=("big",)),
        ModelSpec(source="org/name", names=("org/name",)),
    )
    assert config.model_memory_bytes == 8 * GIB
    assert config.engine.kv_cache_memory_bytes == 512 * MIB
    assert config.limits.max_body_bytes == 1000
    assert config.listen.allowed_origins == ("https://a", "https://b")
    assert config.engine.enable_prefix_caching is False
    assert config.listen.drain_timeout_s == 2.5
    assert config.tools == ToolsConfig(tool_call_parser="llama3_json", enable_auto_tool_choice=False)
    assert config.access.api_keys == ("a:12345678", "123456789")
    assert "12345678" not in repr(config)


def test_limits_of_all_keys():
    flags = {"requests_per_min": "60", "tokens_per_min": "1e4", "max_concurrent": "3", "kv_overcommit": "2"}
    config = load_config(flags | {"max_engine_restarts": "0"})
    assert config.sharing == SharingConfig(
        default=KeyLimits(requests_per_min=60, tokens_per_min=1e4, max_concurrent=3), kv_overcommit=2
    )
    assert config.max_engine_restarts == 0


def test_served_names():
    config = load_config({"models": ["x.gguf"], "served_model_name": ["one", "two"]})
    assert config.models == (ModelSpec(source="x.gguf", names=("one", "two")),)


@pytest.mark.parametrize("source", ["flags", "file"])
def test_unknown_names_are_told_with_the_known_ones(source):
    with pytest.raises(ParamsError) as caught:
        load_config(**{"flags": {}} | {source: {"prot": 80}})
    assert caught.value.field == "prot"
    assert all(name in caught.value.remedy for name in SETTINGS)


def test_unknown_variables_get_a_warning(caplog, monkeypatch):
    monkeypatch.setattr("steelyard.serve.settings.logger.propagate", True)
    assert load_config({}, {"prot": "80", "port": "81"}).listen.port == 81
    assert "prot" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "eighty"), ("port", -1), ("port", True), ("port", 1.5), ("max_body_bytes", "0"),
        ("model_memory", "much"), ("drain_timeout", "0"), ("drain_timeout", "nan"), ("drain_timeout", []),
        ("log_level", "loud"), ("log_format", "xml"), ("enable_docs", "perhaps"),
        ("requests_per_min", "0"), ("tokens_per_min", "inf"), ("max_concurrent", 0), ("kv_overcommit", True),
        ("models", ["a=x", "a=y"]), ("models", ["x", "x"]),
    ],
)  # fmt: skip
def test_wrong_values_are_named(name, value):
    with pytest.raises(ParamsError) as caught:
        load_config({name: value})
    assert caught.value.field == name


def test_names_for_several_models_are_given_otherwise():
    with pytest.raises(ParamsError) as caught:
        load_config({"models": ["a", "b"], "served_model_name": ["c"]})
    assert caught.value.field == "served_model_name"


def test_every_setting_leads_to_a_field_and_has_a_default():
    for setting in SETTINGS.values():
        assert setting.field in {field.name for field in dataclasses.fields(setting.group)}
        assert isinstance(setting.default_text, str)
        assert setting.meaning.endswith(".")


def test_config_files(tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text("max-model-len: 100\nmodels: [a, b=c]\n", encoding="utf-8")
    assert read_config_file(str(path)) == {"max_model_len": 100, "models": ["a", "b=c"]}
    path.write_text("", encoding="utf-8")
    assert read_config_file(str(path)) == {}


@pytest.mark.parametrize("text", ["- a", "a: [", "just text", "a: !!python/object/apply:os.getcwd []", b"\xff\xfe\x00"])
def test_config_files_that_are_no_good(tmp_path, text):
    path = tmp_path / "server.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError) as caught:
        read_config_file(str(path))
    assert caught.value.field == "config"


def test_key_files(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\nann:secret-of-ann\n\n  other-secret  \n", encoding="utf-8")
    assert read_key_file(str(path)) == ("ann:secret-of-ann", "other-secret")
    path.write_text("# none\n", encoding="utf-8")
    for wrong in (path, tmp_path / "missing"):
        with pytest.raises(ParamsError) as caught:
            read_key_file(str(wrong))
        assert caught.value.field == "api_key_file"
