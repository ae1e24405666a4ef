"""Where a name leads, whom a token is asked of, how long one waits: rules without IO."""

import pytest
from yarl import URL

from appliance.config import load_settings
from appliance.errors import BadRequestError, ModelNameError, RegistryError
from appliance.transfer.challenge import Challenge
from appliance.transfer.patience import Patience
from appliance.transfer.redirects import is_inner, next_hop
from appliance.transfer.sources import Reference
from appliance.trust.hosts import is_loopback

REGISTRY = URL("https://registry.example:5000")
DEFAULTS = load_settings({}, {})


def addresses(text, *, insecure=False, **environ):
    settings = load_settings({}, {f"HEARTH_{k.upper()}": v for k, v in environ.items()})
    found = Reference.parse(text, insecure=insecure).sources(settings)
    return [str(source.url("manifests/x")) for source in found]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("llama3", "https://registry.ollama.ai/v2/library/llama3"),
        ("me/llama3:8b", "https://registry.ollama.ai/v2/me/llama3"),
        ("hf.co/me/repo:Q4_K_M", "https://hf.co/v2/me/repo"),
        ("box.lan:5000/a/b", "https://box.lan:5000/v2/a/b"),
        ("https://box.lan/a/b", "https://box.lan/v2/a/b"),
        ("localhost:5000/a/b", "http://localhost:5000/v2/a/b"),
        ("127.0.0.1:5000/a/b", "http://127.0.0.1:5000/v2/a/b"),
        ("http://127.0.0.1:5000/a/b", "http://127.0.0.1:5000/v2/a/b"),
        ("https://127.0.0.1:5000/a/b", "https://127.0.0.1:5000/v2/a/b"),
    ],
)
def test_where_a_name_leads(text, address):
    assert addresses(text) == [f"{address}/manifests/x"]


def test_insecure_means_http_as_in_ollama():
    wanted = ["http://box.lan:5000/v2/a/b/manifests/x"]
    for text in ("box.lan:5000/a/b", "http://box.lan:5000/a/b", "https://box.lan:5000/a/b"):
        assert addresses(text, insecure=True) == wanted
    with pytest.raises(BadRequestError, match=r"^insecure protocol http$"):
        Reference.parse("http://box.lan:5000/a/b")


@pytest.mark.parametrize("host", ["h:http", "h:99999", "h:1:2"])
def test_hosts_that_no_url_can_have(host):
    with pytest.raises(ModelNameError):
        addresses(f"{host}/a/b")


def test_settings_move_names_without_host_and_put_mirrors_in_front():
    mirrors = "http://one:1, hf.co=http://two , https://three"
    places = {"registry": "http://site:5000/", "registry_mirrors": mirrors}
    tail = "v2/library/m/manifests/x"
    assert addresses("m", **places) == [
        f"http://one:1/{tail}",
        f"https://three/{tail}",
        f"http://site:5000/{tail}",
    ]
    assert addresses("HF.co/a/b", **places)[0] == "http://two/v2/a/b/manifests/x"
    assert len(addresses("other/a/b", **places)) == 1


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.8.9.1", "::1", "LOCALHOST."])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "10.0.0.1", "127.0.0.1.example", ""])
def test_not_loopback(host):
    assert not is_loopback(host)


# -- tokens --------------------------------------------------------------------------------------


def token_url(header):
    return Challenge.parse(header, REGISTRY).token_url(REGISTRY, 1700000000, "non_ce-1")


def test_the_token_url_is_gos_text():
    header = (
        'Bearer realm="https://registry.example:5000/token?a=b",service="the service",'
        'scope="repository:a/b:pull,push registry:c:*"'
    )
    assert str(token_url(header)) == (
        "https://registry.example:5000/token?a=b&nonce=non_ce-1"
        "&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=registry%3Ac%3A%2A"
        "&service=the+service&ts=1700000000"
    )


@pytest.mark.parametrize(
    "realm",
    [
        "https://evil.example/token",
        "http://registry.example:5000/token",
        "https://registry.example/token",
        "https://registry.example:5000@evil.example/token",
        "https://registry.example:5000.evil.example/token",
        "//evil.example/token",
        "/token",
        "ftp://registry.example:5000/",
        "https://[::1/token",
    ],
)
def test_foreign_realms_are_refused(realm):
    with pytest.raises(RegistryError, match="for a token"):
        token_url(f'Bearer realm="{realm}",service="s"')


@pytest.mark.parametrize("header", ["", "Basic realm=x", 'Bearer service="s"', "Bearer"])
def test_other_challenges_are_refused(header):
    with pytest.raises(RegistryError, match="authentication"):
        token_url(header)


# -- redirects and waits -------------------------------------------------------------------------


async def test_redirects_that_stay_are_followed():
    url = URL("https://registry.example/v2/x")
    assert str(await next_hop(url, "/elsewhere?sig=a%2Bb")) == (
        "https://registry.example/elsewhere?sig=a%2Bb"
    )


@pytest.mark.parametrize(
    "location", ["", "ftp://registry.example/x", "file:///etc/passwd", "http://registry.example/x"]
)
async def test_redirects_that_are_refused(location):
    with pytest.raises(RegistryError, match="redirects"):
        await next_hop(URL("https://registry.example/v2/x"), location)


@pytest.mark.parametrize(
    "inside", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "[::1]", "[fd00::1]", "[fe80::1]"]
)
async def test_no_redirect_from_outside_leads_inside(inside):
    with pytest.raises(RegistryError, match="into this network"):
        await next_hop(URL("http://8.8.8.8/v2/x"), f"http://{inside}/x")


async def test_inside_redirects_may_stay_inside():
    url = URL("http://10.0.0.1/v2/x")
    assert str(await next_hop(url, "http://10.0.0.2/y")) == "http://10.0.0.2/y"


@pytest.mark.parametrize(
    ("address", "inner"),
    [("8.8.8.8", False), ("::ffff:10.0.0.1", True), ("fe80::1%eth0", True), ("2600::1", False)],
)
def test_inner_addresses(address, inner):
    assert is_inner(address) is inner


def test_waits_grow_within_bounds_and_honour_a_wish():
    patience = Patience(first_wait_s=1, longest_wait_s=8)
    for failures, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (1000, 8)):
        waits = [patience.wait_s(failures) for _ in range(50)]
        assert longest / 2 <= min(waits) <= max(waits) <= longest
        assert len(set(waits)) > 1
    assert patience.wait_s(1, 5) == 5
    assert patience.wait_s(1, 100) == 8
