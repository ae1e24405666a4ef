"""Which proxy an address is asked through: the setting, the variables, and who is excepted."""

import base64

import pytest
from yarl import URL

from appliance.config import load_settings
from appliance.errors import ConfigError
from appliance.transfer.proxies import Proxies

OUTSIDE = URL("https://registry.example/v2/x")


def address(proxies, url):
    proxy = proxies.of_url(URL(url))
    return str(proxy.address) if proxy else None


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, None, None),
        ({"https_proxy": "http://p:1"}, None, "http://p:1/"),
        ({"HTTPS_PROXY": "http://p:1"}, None, "http://p:1/"),
        ({"HTTP_PROXY": "p:1"}, "http://p:1/", None),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1/", "http://p:1/"),
        ({"all_proxy": "http://p:1", "https_proxy": "https://q:2"}, "http://p:1/", "https://q:2/"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, None, "http://p:1/"),
    ],
)
def test_the_variables(environ, http, https):
    proxies = Proxies.of("", environ)
    assert address(proxies, "http://registry.example/") == http
    assert address(proxies, "https://registry.example/") == https


def test_the_setting_wins():
    environ = {"HTTPS_PROXY": "http://p:1"}
    assert address(Proxies.of("http://q:2", environ), OUTSIDE) == "http://q:2/"
    assert address(Proxies.of("off", environ), OUTSIDE) is None


@pytest.mark.parametrize(
    "url",
    ["http://localhost:1/", "http://127.0.0.5/", "http://[::1]:80/", "https://a.localhost/"],
)
def test_this_machine_is_never_asked_through_a_proxy(url):
    assert address(Proxies.of("http://p:1", {}), url) is None


@pytest.mark.parametrize(
    ("rules", "url", "is_direct"),
    [
        ("*", "https://a.example/", True),
        ("a.example", "https://a.example/", True),
        ("a.example", "https://A.Example./", True),
        ("a.example", "https://x.a.example/", True),
        (".a.example", "https://x.a.example/", True),
        ("*.a.example", "https://x.a.example/", True),
        ("a.example", "https://ba.example/", False),
        ("a.example:5000", "https://a.example:5000/", True),
        ("a.example:5000", "https://a.example/", False),
        (" b.example , a.example", "https://a.example/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.1.2.3", "https://10.1.2.3:5000/", True),
        ("[fd00::1]", "https://[fd00::1]:5000/", True),
        ("fd00::/8", "https://[fd12::1]/", True),
        ("", "https://a.example/", False),
        (",", "https://a.example/", False),
        (".", "https://a.example/", False),
    ],
)
def test_exceptions(rules, url, is_direct):
    proxies = Proxies.of("http://p:1", {"NO_PROXY": rules})
    assert (address(proxies, url) is None) == is_direct


def test_credentials_are_used_and_never_shown():
    proxies = Proxies.of("http://me:s%40cret@proxy.example:3128", {})
    proxy = proxies.of_url(OUTSIDE)
    assert proxy.authorization == "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert "cret" not in f"{proxies!r} {proxy!r} {proxy.address}"


@pytest.mark.parametrize("text", ["ftp://p:1", "http://", "http://me:secret@:x"])
def test_an_address_that_is_none_is_refused_without_repeating_it(text):
    with pytest.raises(ConfigError) as refused:
        Proxies.of("", {"HTTPS_PROXY": text})
    assert "secret" not in str(refused.value) + refused.value.hint


def test_the_setting_is_shown_without_its_password():
    secret = {"HEARTH_TRANSFER_PROXY": "http://me:secret@proxy.example:3128"}
    settings = load_settings({}, secret)
    assert settings.transfer_proxy.endswith("secret@proxy.example:3128")
    assert settings.texts["transfer_proxy"] == "http://***@proxy.example:3128"
    assert "secret" not in repr(settings)
    bad = {"HEARTH_TRANSFER_PROXY": "http://me:secret@two words"}
    with pytest.raises(ConfigError) as refused:
        load_settings({}, bad)
    assert "secret" not in str(refused.value)
