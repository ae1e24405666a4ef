"""config.py: every value knows its origin, and a bad one is refused by name."""

import math

import pytest

from appliance.config import SETTINGS, Settings, load_settings
from appliance.errors import ConfigError
from appliance.values import parse_duration


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "hearth.toml"
    path.write_text('host = "0.0.0.0:1000"\nmax_queue = 5\nallowed_hosts = ["a.example", "b"]\n')
    return path


def test_sources_win_in_order_and_are_remembered(file):
    environ = {"HEARTH_HOST": "127.0.0.1:2000", "HEARTH_KEEP_ALIVE": "1h30m"}
    settings = load_settings({"host": ":3000"}, environ, file)
    assert settings.address == ("0.0.0.0", 3000)
    assert settings.max_queue == 5
    assert settings.allowed_hosts == ("a.example", "b")
    assert settings.keep_alive == 5400
    assert settings.origins["host"] == "flag --host"
    assert settings.origins["max_queue"] == f"file {file}"
    assert settings.origins["keep_alive"] == "environment HEARTH_KEEP_ALIVE"
    assert settings.origins["threads"] == "default"


def test_table_and_class_have_the_same_settings():
    fields = set(Settings.__slots__) - {"origins", "texts", "warnings", "file", "broken_file"}
    assert fields == {setting.name for setting in SETTINGS}


def test_every_setting_has_a_help_text():
    assert all(setting.help and not setting.help.endswith(".") for setting in SETTINGS)


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({"HEARTH_HOST": "nonsense:port"}, "HEARTH_HOST"),
        ({"HEARTH_HOST": "127.0.0.1:70000"}, "70000"),
        ({"HEARTH_ENGINE": "warp"}, "'llama'"),
        ({"HEARTH_MAX_QUEUE": "0"}, "from 1"),
        ({"HEARTH_MAX_QUEUE": "many"}, "whole number"),
        ({"HEARTH_KEEP_ALIVE": "soon"}, "5m"),
        ({"HEARTH_DRAIN_TIMEOUT_S": "-1"}, "seconds"),
        ({"HEARTH_ALLOWED_ORIGINS": "example.com"}, "https://"),
        ({"HEARTH_ALLOWED_HOSTS": "a b"}, "host names"),
        ({"HEARTH_MODEL_ENGINES": "qwen3"}, "name=engine"),
        ({"HEARTH_MODEL_ENGINES": "qwen3=warp"}, "paged"),
        ({"HEARTH_MODEL_ENGINES": "a=llama,a=paged"}, "once"),
    ],
)
def test_bad_value_names_the_setting_and_what_is_allowed(environ, seen):
    with pytest.raises(ConfigError) as refused:
        load_settings({}, environ)
    assert seen in str(refused.value)


@pytest.mark.parametrize(
    "text", ["unknown_thing = 1", "host = [", "max_queue = true", "[host]\nx = 1", "\xff"]
)
def test_bad_file_is_refused(tmp_path, text):
    path = tmp_path / "hearth.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"hearth\.toml"):
        load_settings({}, {}, path)


def test_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings({}, {"HEARTH_CONFIG": str(tmp_path / "none.toml")})


def test_strange_variable_is_reported_not_swallowed():
    settings = load_settings({}, {"HEARTH_HOTS": "1.2.3.4"})
    assert settings.warnings == ("environment variable HEARTH_HOTS is not a setting",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("30", 30), ("0", 0), ("1.5s", 1.5), ("250ms", 0.25),
     ("-1", math.inf), ("-1s", math.inf), ("-0", 0)],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "5m 3", "1h-3m", "--1", "nan", "1e9"])
def test_bad_durations(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
