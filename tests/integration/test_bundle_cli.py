"""`hearth bundle`, and what `hearth pull` says about signed models."""

import json

import pytest

from tests.fakes.publisher import Publisher, web_root
from tests.integration.bundle_box import Box, says
from tests.integration.cli_process import Command

NAME = "acme/assistant"


@pytest.fixture(scope="module")
def shop(tmp_path_factory, module_service):
    """A publisher on the web, and a box that enrols it by the command, as a person does."""
    publisher = Publisher(tmp_path_factory.mktemp("shop"))
    with web_root(publisher.folder) as web:
        service = module_service()
        hearth = Command(service.url)
        source = f"{web.url}/tuf/acme/metadata/"
        options = ["--names", "acme/*", "--fingerprint", _fingerprint(publisher)]
        env = {"HEARTH_STATE": str(service.state)}
        hearth("trust", "add", "acme", source, *options, "--content", web.url, **env)
        yield Box(service, publisher, web), hearth, env


def _fingerprint(publisher):
    from appliance.trust.repositories import read_root

    return read_root(publisher.root).fingerprint


def test_a_release_from_pull_to_rollback(shop):
    box, hearth, _ = shop
    box.publish("1.0.0", "Be first.", smoke=says("Be first."))
    done = hearth("pull", NAME)
    assert "running smoke tests" in done.stderr
    assert done.stdout == ""
    assert "release 1.0.0 is active" in hearth("pull", NAME).stderr
    box.publish("1.1.0", "[[slow 20]] Be slow.", smoke=says(min_tokens_per_s=500.0))
    told = hearth.fails(1, "pull", NAME)
    assert "too slow for this box" in told
    why = hearth("bundle", "why", NAME).stdout
    assert "f32: chosen, rank 0" in why
    assert "1.1.0 (f32)" in why
    assert "tokens/s" in why
    box.publish("1.2.0", "Be second.")
    hearth("pull", NAME)
    listed = hearth("bundle", "list").stdout
    assert listed.split("\n")[1].split() == [
        "acme/assistant:latest", "1.2.0", "f32", "1.0.0", "active", "acme",
    ]  # fmt: skip
    assert "is release 1.0.0 again" in hearth("bundle", "rollback", NAME).stdout
    shown = hearth("bundle", "show", NAME).stdout
    assert "rolled back from it" in shown
    assert hearth("bundle", "pin", NAME, "1.0.0").stdout == "acme/assistant:latest stays at 1.0.0\n"
    assert "active, pinned" in hearth("bundle", "list").stdout
    assert "follows its name" in hearth("bundle", "unpin", NAME).stdout
    assert "nothing was taken back" in hearth("bundle", "check", NAME).stdout
    assert "rolled back" in hearth.fails(1, "pull", NAME)
    hearth("pull", "--retry", NAME)
    assert "Be second." in box.ask()


@pytest.mark.parametrize("words", [["list"], ["show", NAME], ["why", NAME], ["check", NAME]])
def test_readers_print_the_apis_own_body(shop, words):
    box, hearth, _ = shop
    box.publish("9.0.0", "Be read.")
    box.install(retry=True)
    body = json.loads(hearth("bundle", *words, "--json").stdout)
    assert body.get("model", "acme/assistant:latest") == "acme/assistant:latest"


def test_show_tells_where_releases_are_had(shop):
    box, hearth, env = shop
    lines = hearth("trust", "show", "acme", **env).stdout.splitlines()
    assert ["releases", box.web.url] in [line.split() for line in lines]


def test_a_model_that_nobody_signed(shop):
    _, hearth, _ = shop
    for verb in ("show", "why", "rollback", "unpin"):
        assert "is not a signed model" in hearth.fails(1, "bundle", verb, "nobody")
