"""Pulls through a real forward proxy on loopback, with and without a password, and around it."""

import asyncio

import pytest

from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.forward_proxy import forward_proxy
from tests.fakes.publisher import Publisher, web_root
from tests.integration.bundle_box import Box, enrol
from tests.integration.pulls import names, offer
from tests.integration.raw_http import send

NAME = "registry.example:5000/library/m"  # has no address: only a proxy can reach it
# plain HTTP where the administrator spells the address out
NAMED = {"registry_mirrors": "registry.example:5000=http://registry.example:5000"}


@pytest.fixture
async def world(tiny_gguf):
    async with fault_proxy() as registry:
        offer(registry, tiny_gguf.read_bytes())
        async with forward_proxy(registry.address) as proxy:
            proxy.registry = registry
            yield proxy


async def pulled(service, name, *, insecure=True):
    body = {"model": name, "insecure": insecure, "stream": False}
    return await asyncio.to_thread(send, service, "POST", "/api/pull", body=body)


async def test_everything_goes_through_the_proxy(start_service, world):
    service = start_service(transfer_proxy=f"http://{world.address}", **NAMED)
    reply = await pulled(service, NAME)
    assert reply.json == {"status": "success"}
    assert len(world.targets) == len(world.registry.requests) == 3
    assert all(target.startswith("http://registry.example:5000/v2/") for target in world.targets)
    assert f"{NAME}:latest" in names(service)


async def test_the_standard_variables_count_and_no_proxy_too(start_service, world, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{world.address}")
    assert (await pulled(start_service(**NAMED), NAME)).json == {"status": "success"}
    world.targets.clear()
    monkeypatch.setenv("no_proxy", "localhost, .example")
    assert (
        await pulled(start_service(**NAMED), NAME)
    ).status >= 500  # there is no address without it
    assert world.targets == []


async def test_this_machine_is_asked_directly(start_service, world):
    service = start_service(transfer_proxy=f"http://{world.address}")
    reply = await pulled(service, f"{world.registry.address}/library/m")
    assert reply.json == {"status": "success"}
    assert world.targets == []


async def test_a_password_is_sent_and_never_said(start_service, world):
    world.user = "me:pass word"
    service = start_service(
        transfer_proxy=f"http://me:pass%20word@{world.address}", log_level="debug", **NAMED
    )
    assert (await pulled(service, NAME)).json == {"status": "success"}
    world.user = "me:another"
    refused = await pulled(service, f"{NAME}:2")
    assert refused.status >= 400
    tls = await pulled(service, "registry.example/library/m", insecure=False)
    assert tls.status >= 400
    assert world.targets[-1] == "CONNECT registry.example:443"
    for secret in ("pass%20word", "pass word", "bWU6cGFzcyB3b3Jk"):
        assert secret not in service.log
        assert secret not in str(refused.json) + str(tls.json)


async def test_a_proxy_that_is_gone_is_an_error_with_a_name(start_service, world):
    service = start_service(transfer_proxy="http://me:secret@127.0.0.1:1", **NAMED)
    reply = await pulled(service, NAME)
    assert reply.status >= 500
    assert "secret" not in service.log + str(reply.json)


async def test_a_proxy_of_another_kind_is_told_when_it_is_needed(start_service, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1080")
    service = start_service(**NAMED)
    reply = await pulled(service, NAME)
    assert "proxy for transfers is not an address" in reply.json["error"]
    assert "secret" not in service.log + str(reply.json)


@pytest.fixture
def box(tmp_path):
    """Trusts a repository at a name without an address; `web` is what answers there."""
    publisher = Publisher(tmp_path / "published")
    enrol(tmp_path / "box", publisher, "http://releases.example")
    with web_root(publisher.folder) as web:
        box = Box(None, publisher, web)
        box.publish("1.0.0", "Be kind.")
        yield box


async def test_signed_metadata_goes_through_the_proxy_too(
    start_service, box, tmp_path, monkeypatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the setting wins
    async with forward_proxy(box.web.url.removeprefix("http://")) as proxy:
        box.service = start_service(tmp_path / "box", transfer_proxy=f"http://{proxy.address}")
        await asyncio.to_thread(box.install)
        asked = {target.rpartition("/")[2] for target in proxy.targets}
        assert {"timestamp.json", "2.root.json"} <= asked
        assert all(target.startswith("http://releases.example/") for target in proxy.targets)


async def test_no_redirect_of_metadata_leads_into_this_network(start_service, box, tmp_path):
    web, timestamp = box.web, "tuf/acme/metadata/timestamp.json"
    async with forward_proxy(web.url.removeprefix("http://")) as proxy:
        box.service = start_service(tmp_path / "box", transfer_proxy=f"http://{proxy.address}")
        await asyncio.to_thread(box.install)
        await asyncio.to_thread(box.publish, "2.0.0", "Be new.")
        web.moved[timestamp] = f"{web.url}/inner"
        code, error = await asyncio.to_thread(box.refused)
        assert code == "unreachable"
        assert "redirects into this network" in error
        assert "inner" not in web.wanted
        assert "Be kind." in await asyncio.to_thread(box.ask)
        web.moved[timestamp] = "timestamp.json?elsewhere"  # in a circle
        assert (await asyncio.to_thread(box.refused))[0] == "unreachable"
