"""Templates, roles and schemas that no answer can come of, as a client sends them: one clear error,
in each dialect's shape, and the service goes on."""

import pytest

from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.integration.raw_http import assert_error, send

HELLO = [{"role": "user", "content": "hello"}]
STRICT = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


BOMBS = [
    ("{{ range 999999 }}{{ range 999999 }}{{ end }}{{ end }}{{ .Prompt }}", "steps"),
    ('{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}{{ .Prompt }}', "depth"),
]
BROKEN = [
    ("\n{{ nope .Prompt }}", 'template: :2: function "nope" not defined'),
    ("{{ if .Prompt }}", "unexpected EOF"),
    ("{{ .Prompt", "unclosed action"),
]


@pytest.fixture(scope="module")
def llama(module_service, tiny_gguf):
    """A service with the model `real`, whose schemas are compiled: the echo engine reads none."""
    running = module_service(engine="llama")
    running.create("real", tiny_gguf)
    return running


@pytest.mark.parametrize(("template", "text"), [*BOMBS, *BROKEN])
def test_a_broken_template_of_a_request(service, template, text):
    """500, as in Ollama, whoever wrote the template."""
    body = {"model": "echo", "prompt": "a", "template": template, "stream": False}
    reply = send(service, "POST", "/api/generate", body=body)
    assert text in assert_error(reply, 500, "/api/generate")


@pytest.mark.parametrize(("template", "text"), BROKEN)
def test_a_broken_template_of_a_new_model(service, template, text):
    body = {"model": "broken", "from": "echo", "template": template, "stream": False}
    reply = send(service, "POST", "/api/create", body=body)
    assert text in assert_error(reply, 400, "/api/create")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_roles_out_of_order_where_the_template_refuses_them(service, tmp_path, path):
    gguf = tiny_llama_gguf(tmp_path / "strict.gguf", chat_template=STRICT)
    service.create("strict", gguf)
    answer = {"role": "assistant", "content": "hi"}
    body = {"model": "strict", "max_tokens": 9, "stream": False}
    good = send(service, "POST", path, body=body | {"messages": [*HELLO, answer, *HELLO]})
    assert good.status == 200
    reply = send(service, "POST", path, body=body | {"messages": [answer, *HELLO]})
    assert "roles must alternate user/assistant" in assert_error(reply, 400, path)


RECURSIVE = {"allOf": [{"$ref": "#"}]}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"format": RECURSIVE}),
        (
            "/v1/chat/completions",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": RECURSIVE},
                }
            },
        ),
        (
            "/v1/messages",
            {"output_config": {"format": {"type": "json_schema", "schema": RECURSIVE}}},
        ),
    ],
)
def test_a_schema_that_goes_round(llama, path, fields):
    body = {"model": "real", "messages": HELLO, "max_tokens": 9, "stream": False} | fields
    reply = send(llama, "POST", path, body=body)
    assert "over 5000 schemas" in assert_error(reply, 400, path)
