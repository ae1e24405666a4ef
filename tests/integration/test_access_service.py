"""Keys, scopes, claiming and their attacks against the running service, and the official clients.

Requests with a forwarding header come from outside, so that loopback suffices; the LAN itself is
in tests/system/test_access_lan.py.
"""

import json
import re
from contextlib import closing

import ollama
import openai
import pytest

from tests.integration.cli_process import Command
from tests.integration.raw_http import assert_error, send

OUTSIDE = ("X-Forwarded-For", "203.0.113.9")
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "stream": False}


def make_key(service, *scopes, **more):
    """A key's token and id."""
    wanted = {"name": more.pop("name", "test"), "scopes": list(scopes), **more}
    status, answer = service.call("POST", "/hearth/v1/keys", wanted)
    assert status == 201, answer
    return answer["secret"], answer["key"]["id"]


def run_cli(service, *arguments, **environ):
    return Command(service.url).run(*arguments, **environ)


def bearer(token):
    return ("Authorization", f"Bearer {token}")


@pytest.fixture(scope="module")
def keyed(module_service, tiny_gguf):
    """A service with two models and a key of each scope."""
    running = module_service()
    for name in ("echo", "other"):
        running.create(name, tiny_gguf)
    running.tokens = {scope: make_key(running, scope)[0] for scope in ("chat", "manage", "admin")}
    return running


# -- keys over HTTP -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [("chat", (200, 403, 403)), ("manage", (200, 200, 403)), ("admin", (200,) * 3)],
)
def test_each_scope_reaches_what_it_should(keyed, scope, statuses):
    headers = [OUTSIDE, bearer(keyed.tokens[scope])]
    copy = {"source": "echo", "destination": f"copy-{scope}"}
    found = (
        send(keyed, "POST", "/api/chat", body=CHAT, headers=headers).status,
        send(keyed, "POST", "/api/copy", body=copy, headers=headers).status,
        send(keyed, "GET", "/hearth/v1/keys", headers=headers).status,
    )
    assert found == statuses


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models"])
def test_refusals_have_the_dialects_shape(keyed, path):
    text = assert_error(send(keyed, "GET", path, headers=[OUTSIDE]), 401, path)
    assert "needs a key" in text
    wrong = send(keyed, "GET", path, headers=[OUTSIDE, bearer("hearth_aaaaaaaa_bbbb")])
    assert "wrong or was revoked" in assert_error(wrong, 401, path)
    assert wrong.headers["WWW-Authenticate"].startswith("Bearer")


def test_anthropics_header_and_odd_spellings(keyed):
    token = keyed.tokens["chat"]
    for header in (
        ("x-api-key", token),
        ("X-Api-Key", token),
        ("authorization", f"bearer {token}"),
        ("Authorization", f"BEARER   {token} "),
    ):
        assert send(keyed, "GET", "/api/tags", headers=[OUTSIDE, header]).status == 200
    for header in (
        ("Authorization", token),
        ("Authorization", f"Basic {token}"),
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer " + "x" * 4000),
        ("Cookie", f"key={token}"),
    ):
        assert send(keyed, "GET", "/api/tags", headers=[OUTSIDE, header]).status == 401
    doubled = [OUTSIDE, bearer(token), bearer("hearth_a_b")]
    assert send(keyed, "GET", "/api/tags", headers=doubled).status == 400
    assert send(keyed, "GET", f"/api/tags?key={token}", headers=[OUTSIDE]).status == 401


def test_openais_client(keyed):
    token = keyed.tokens["chat"]
    for key in (token, "ollama", "sk-dummy"):
        with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0) as client:
            assert "echo:latest" in [model.id for model in client.models.list()]
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=token + "x", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="wrong or was revoked"),
    ):
        client.models.list()


def test_ollamas_client(keyed):
    outside = {OUTSIDE[0]: OUTSIDE[1]}
    token = {"Authorization": f"Bearer {keyed.tokens['chat']}"}
    with closing(ollama.Client(keyed.url, headers=outside | token)) as client:
        assert client.list().models
    with closing(ollama.Client(keyed.url, headers=outside)) as client:
        with pytest.raises(ollama.ResponseError) as refused:
            client.list()
        assert refused.value.status_code == 401


def test_a_revoked_key_is_refused_at_once(keyed):
    token, key_id = make_key(keyed, "admin")
    headers = [OUTSIDE, bearer(token)]
    assert send(keyed, "DELETE", f"/hearth/v1/keys/{key_id}", headers=headers).status == 200
    assert send(keyed, "GET", "/api/tags", headers=headers).status == 401
    entry = next(k for k in keyed.call("GET", "/hearth/v1/keys")[1]["keys"] if k["id"] == key_id)
    assert entry["revoked_at"]
    assert entry["last_used_at"]
    assert keyed.call("DELETE", "/hearth/v1/keys/nobody")[0] == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"scopes": ["chat"]}, "name"),
        ({"name": "x" * 65, "scopes": ["chat"]}, "name"),
        ({"name": "a\nb", "scopes": ["chat"]}, "printable"),
        ({"name": "a\u202eb", "scopes": ["chat"]}, "printable"),
        ({"name": "a"}, "chat, manage, admin"),
        ({"name": "a", "scopes": ["root"]}, "'root'"),
        ({"name": "a", "scopes": "admin"}, "scopes"),
        ({"name": "a", "scopes": ["chat"], "models": ["../x"]}, "model name"),
        ({"name": "a", "scopes": ["chat"], "models": []}, "models"),
        ({"name": "a", "scopes": ["admin"], "models": ["echo"]}, "chat alone"),
        ({"name": "a", "scopes": ["chat"], "rate_per_minute": 0}, "rate_per_minute"),
        ({"name": "a", "scopes": ["chat"], "tokens_per_day": -1}, "tokens_per_day"),
        ({"name": "a", "scopes": ["chat"], "token": "mine"}, "token"),
    ],
)
def test_keys_that_cannot_be_made(keyed, body, says):
    reply = send(keyed, "POST", "/hearth/v1/keys", body=body)
    assert says in assert_error(reply, 400, "/hearth/v1/keys")


def test_me(keyed):
    assert keyed.call("GET", "/hearth/v1/me")[1] == {
        "ring": "here",
        "scopes": ["chat", "manage", "admin"],
        "key": None,
        "claimed": True,
        "access_lan": "open",
    }
    outside = send(keyed, "GET", "/hearth/v1/me", headers=[OUTSIDE]).json
    assert (outside["ring"], outside["scopes"]) == ("outside", [])
    headers = [OUTSIDE, bearer(keyed.tokens["manage"])]
    mine = send(keyed, "GET", "/hearth/v1/me", headers=headers).json
    assert mine["scopes"] == ["chat", "manage"]
    assert mine["key"]["name"] == "test"
    assert send(keyed, "GET", "/hearth/v1/me", host="evil.example").status == 403


# -- a key for some models ----------------------------------------------------------------------


def test_a_key_for_one_model_knows_no_other(keyed):
    token, _ = make_key(keyed, "chat", models=["echo"])
    headers = [OUTSIDE, bearer(token)]

    def ask(method, path, body=None):
        return send(keyed, method, path, body=body, headers=headers)

    prompt = {"prompt": "hi", "stream": False}
    named = [
        ("POST", "/api/chat", CHAT),
        ("POST", "/api/generate", prompt),
        ("POST", "/api/generate", prompt | {"suffix": "x"}),
        ("POST", "/api/show", {}),
        ("POST", "/v1/chat/completions", {"messages": CHAT["messages"]}),
        ("POST", "/v1/completions", {"prompt": "hi"}),
        ("POST", "/api/embed", {"input": "hi"}),
        ("POST", "/api/embeddings", {"prompt": "hi"}),
        ("POST", "/v1/embeddings", {"input": "hi"}),
    ]
    for method, path, body in named:
        for name in ("other", "OTHER:latest", "nobody", "registry.ollama.ai/library/other"):
            reply = ask(method, path, body | {"model": name})
            text = assert_error(reply, 403, path)
            assert "may not use the model" in text
        assert ask(method, path, body | {"model": "echo"}).status != 403
    for path in ("/v1/models/other", "/hearth/v1/plan?model=other"):
        assert ask("GET", path).status == 403
    assert ask("GET", "/hearth/v1/bundles/show?model=other").status == 403
    assert ask("GET", "/v1/models/echo").status == 200
    assert [m["name"] for m in ask("GET", "/api/tags").json["models"]] == ["echo:latest"]
    assert [m["id"] for m in ask("GET", "/v1/models").json["data"]] == ["echo:latest"]
    send(keyed, "POST", "/api/chat", body=CHAT | {"model": "other"})
    assert "other" in str(send(keyed, "GET", "/api/ps").json)
    assert "other" not in str(ask("GET", "/api/ps").json)
    assert "other" not in str(ask("GET", "/hearth/v1/status").json)


def test_a_stream_for_another_model_is_refused_before_it_begins(keyed):
    token, _ = make_key(keyed, "chat", models=["echo"])
    body = CHAT | {"model": "other", "stream": True}
    reply = send(keyed, "POST", "/api/chat", body=body, headers=[OUTSIDE, bearer(token)])
    assert reply.status == 403


# -- pages and apps -----------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["null", "http://evil.example"])
def test_a_foreign_page_with_a_valid_key_is_refused(keyed, origin):
    headers = [bearer(keyed.tokens["admin"]), ("Origin", origin)]
    for method, path, body in (("POST", "/api/chat", CHAT), ("GET", "/hearth/v1/keys", None)):
        reply = send(keyed, method, path, body=body, headers=headers)
        assert reply.status == 403
        assert "Access-Control-Allow-Origin" not in reply.headers


def test_an_app_with_the_owners_key_still_only_infers(keyed):
    headers = [bearer(keyed.tokens["admin"]), ("Origin", "app://x"), OUTSIDE]
    assert send(keyed, "POST", "/api/chat", body=CHAT, headers=headers).status == 200
    copy = {"source": "echo", "destination": "by-an-app"}
    for method, path, body in (("POST", "/api/copy", copy), ("GET", "/hearth/v1/keys", None)):
        reply = send(keyed, method, path, body=body, headers=headers)
        assert "app://x" in assert_error(reply, 403, path)


def test_a_page_may_send_a_key(keyed):
    headers = [("Origin", "http://localhost:3000"), ("Access-Control-Request-Headers", "x-api-key")]
    reply = send(keyed, "OPTIONS", "/api/chat", headers=headers)
    allowed = reply.headers["Access-Control-Allow-Headers"].split(", ")
    assert {"x-api-key", "anthropic-dangerous-direct-browser-access"} <= set(allowed)


# -- claiming -----------------------------------------------------------------------------------


def test_claiming_over_http(start_service):
    fresh = start_service()
    shown = fresh.call("GET", "/hearth/v1/pair")[1]
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}", shown["code"])
    assert shown["claimed"] is False
    claim = {"code": shown["code"], "name": "Anna"}
    assert send(fresh, "GET", "/hearth/v1/pair", headers=[OUTSIDE]).status == 401
    outside = send(fresh, "POST", "/hearth/v1/claim", body=claim, headers=[OUTSIDE])
    assert "its own network" in assert_error(outside, 403, "/hearth/v1/claim")
    for bad in ({}, {"code": ""}, {"code": "AAAA-AAAA", "name": "x\ny"}, {"code": 1}):
        assert send(fresh, "POST", "/hearth/v1/claim", body=bad).status == 400
    wrong = send(fresh, "POST", "/hearth/v1/claim", body={"code": "AAAA-AAAA"})
    assert "hearth pair" in wrong.json["hint"]
    assert wrong.status == 403
    made = send(fresh, "POST", "/hearth/v1/claim", body=claim)
    assert made.status == 201
    assert made.headers["Cache-Control"] == "no-store"
    assert made.json["key"]["scopes"] == ["admin"]
    replayed = send(fresh, "POST", "/hearth/v1/claim", body=claim)
    assert "has an owner" in assert_error(replayed, 409, "/hearth/v1/claim")
    headers = [OUTSIDE, bearer(made.json["secret"])]
    assert send(fresh, "GET", "/hearth/v1/keys", headers=headers).status == 200
    assert fresh.call("GET", "/hearth/v1/pair")[1]["code"] is None
    assert shown["code"] not in fresh.log
    assert made.json["secret"] not in fresh.log


def test_who_writes_the_reset_file_takes_the_box_back(start_service, tmp_path):
    state = tmp_path / "kept"
    first = start_service(state)
    token, _ = make_key(first, "admin")
    first.stop()
    (state / "reset-claim").touch()
    again = start_service(state)
    assert send(again, "GET", "/api/tags", headers=[OUTSIDE, bearer(token)]).status == 401
    assert again.call("GET", "/hearth/v1/pair")[1]["code"]
    assert not (state / "reset-claim").exists()


# -- audit and log ------------------------------------------------------------------------------


def test_the_audit_log_tells_who_changed_what(keyed):
    headers = [OUTSIDE, bearer(keyed.tokens["manage"])]
    copy = {"source": "echo", "destination": "audited"}
    send(keyed, "POST", "/api/copy", body=copy, headers=headers)
    send(keyed, "POST", "/api/copy", body=copy | {"source": "nobody"}, headers=headers)
    send(keyed, "POST", "/api/copy", body=copy, headers=[OUTSIDE])
    entries = keyed.call("GET", "/hearth/v1/audit?limit=3")[1]["entries"]
    assert [entry["outcome"] for entry in entries] == ["unauthorized", "model_not_found", "ok"]
    assert entries[2]["target"] == "echo"
    assert entries[2]["who"].startswith("test (")
    assert entries[0]["who"] == "127.0.0.1"
    for bad in ("0", "x", "-1", "99999999999", "%C2%B2"):
        assert send(keyed, "GET", f"/hearth/v1/audit?limit={bad}").status == 400


def test_neither_log_can_be_forged(keyed):
    evil = "x\nINFO ready address=http://evil\x1b[2J"
    make_key(keyed, "chat", name="Anna 'INFO' ready=1")
    copy = {"source": evil, "destination": "echo2"}
    send(keyed, "POST", "/api/copy", body=copy)
    headers = [OUTSIDE, bearer("hearth_evil%0a_x")]
    send(keyed, "DELETE", "/hearth/v1/keys/a%0AINFO%20ready%1b%5b2J", headers=headers)
    send(keyed, "DELETE", "/hearth/v1/keys/a%0AINFO%20ready%1b%5b2J")
    text = json.dumps(keyed.call("GET", "/hearth/v1/audit")[1], ensure_ascii=False)
    assert "\x1b" not in text + keyed.log
    assert "\nINFO ready address=http://evil" not in keyed.log
    assert all(
        entry[field].isprintable()
        for entry in json.loads(text)["entries"]
        for field in ("who", "action", "target", "outcome")
    )


# -- the command --------------------------------------------------------------------------------


def test_the_commands(keyed):
    made = run_cli(keyed, "keys", "create", "Anna's phone", "--scope", "chat", "--model", "echo")
    token = made.stdout.strip()
    assert made.returncode == 0
    assert re.fullmatch(r"hearth_[0-9a-z]{8}_[0-9a-z]{52}", token)
    key_id = token.split("_")[1]
    listed = run_cli(keyed, "keys", "list").stdout
    assert "Anna's phone" in listed
    assert "never" in listed
    body = json.loads(run_cli(keyed, "keys", "list", "--json").stdout)
    assert body["keys"][0]["id"] == key_id
    refused = run_cli(keyed, "keys", "list", "--key", token)
    assert refused.returncode == 1
    assert "has not the scope admin" in refused.stderr
    assert run_cli(keyed, "list", HEARTH_KEY=token).stdout.count("latest") == 1
    assert run_cli(keyed, "keys", "list", "--key", "a b").returncode == 2
    revoked = run_cli(keyed, "keys", "revoke", key_id)
    assert (revoked.returncode, revoked.stderr) == (0, "")
    wrong = run_cli(keyed, "list", HEARTH_KEY=token)
    assert "wrong or was revoked" in wrong.stderr
    assert "revoked" in run_cli(keyed, "keys", "list").stdout
    assert "owned; network: guests may chat" in run_cli(keyed, "status").stdout


def test_pair_shows_addresses_code_and_a_picture(start_service):
    fresh = start_service(host="0.0.0.0:0")
    shown = run_cli(fresh, "pair").stdout
    body = json.loads(run_cli(fresh, "pair", "--json").stdout)
    assert body["code"] in shown
    if body["urls"]:
        assert body["claim_url"] == f"{body['urls'][0]}/#claim={body['code']}"
        assert body["urls"][0] in shown
        assert len([line for line in shown.splitlines() if set(line) & set("█▀▄#")]) > 10
    assert "█" not in run_cli(fresh, "pair", "--no-qr").stdout
    alone = start_service()
    assert "HEARTH_HOST=0.0.0.0" in run_cli(alone, "pair").stdout
