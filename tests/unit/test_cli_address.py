"""Addresses: Ollama's table for OLLAMA_HOST, and what a client makes of it."""

import pytest

from appliance.cli.address import find_address, parse_address
from appliance.errors import ConfigError

TABLE = {
    "": "http://127.0.0.1:11434",
    "1.2.3.4": "http://1.2.3.4:11434",
    ":1234": "http://:1234",
    "1.2.3.4:1234": "http://1.2.3.4:1234",
    "example.com": "http://example.com:11434",
    "example.com:1234": "http://example.com:1234",
    ":0": "http://:0",
    ":66000": "http://:11434",
    ":-1": "http://:11434",
    "[::1]": "http://[::1]:11434",
    "[::]": "http://[::]:11434",
    "::1": "http://[::1]:11434",
    "[::1]:1337": "http://[::1]:1337",
    " 1.2.3.4 ": "http://1.2.3.4:11434",
    '"1.2.3.4"': "http://1.2.3.4:11434",
    ' " 1.2.3.4 " ': "http://1.2.3.4:11434",
    "'1.2.3.4'": "http://1.2.3.4:11434",
    "http://1.2.3.4": "http://1.2.3.4:80",
    "http://1.2.3.4:4321": "http://1.2.3.4:4321",
    "https://1.2.3.4": "https://1.2.3.4:443",
    "https://1.2.3.4:4321": "https://1.2.3.4:4321",
    "https://example.com/ollama": "https://example.com:443/ollama",
    "ollama.com": "https://ollama.com:443",
}


@pytest.mark.parametrize(("text", "url"), TABLE.items())
def test_address_is_parsed_as_ollama_parses_it(text, url):
    assert str(parse_address(text)) == url


def test_other_scheme_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"ftp://box.*http:// or https://"):
        parse_address("ftp://box")


@pytest.mark.parametrize(
    ("text", "url"),
    {
        "0.0.0.0": "http://127.0.0.1:11434",
        "0.0.0.0:8080": "http://127.0.0.1:8080",
        "[::]": "http://[::1]:11434",
        ":1234": "http://127.0.0.1:1234",
        "box.local": "http://box.local:11434",
    }.items(),
)
def test_client_connects_to_loopback_when_the_service_binds_everything(text, url):
    assert str(find_address(text, {})) == url


def test_flag_wins_over_hearth_host_over_ollama_host():
    environ = {"HEARTH_HOST": "hearth:1", "OLLAMA_HOST": "ollama:2"}
    assert str(find_address("flag:3", environ)) == "http://flag:3"
    assert str(find_address(None, environ)) == "http://hearth:1"
    assert str(find_address(None, {"OLLAMA_HOST": "ollama:2"})) == "http://ollama:2"
    assert str(find_address(None, {"HEARTH_HOST": ""})) == "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    {"127.0.0.1": True, "::1": True, "localhost": True, "192.168.1.2": False, "box": False}.items(),
)
def test_is_loopback(host, is_loopback):
    assert parse_address(host).is_loopback is is_loopback
