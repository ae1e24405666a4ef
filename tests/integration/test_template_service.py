"""Which template a served model's prompts come from, and who is told: /api/chat, /api/show,
/hearth/v1/plan, `hearth show --why`."""

import hashlib
import json

import pytest

from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.integration.cli_process import Command
from tests.integration.raw_http import assert_error, send

TEMPLATE = "TEMPLATE {{ .System }} {{ .Prompt }}"
JINJA = "GGUF {% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
ABLE = JINJA + "{% if tools %}{{ tools }}{% endif %}<think></think>"
ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(module_service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ggufs")
    service = module_service(engine="echo")
    plain = tiny_llama_gguf(folder / "plain.gguf", chat_template=JINJA)
    able = tiny_llama_gguf(folder / "able.gguf", chat_template=ABLE)
    bare = tiny_llama_gguf(folder / "bare.gguf", chat_template=None)
    service.create("own", plain, template=TEMPLATE)
    service.create("more", able, template=TEMPLATE)
    service.create("named", able, template=TEMPLATE, renderer="qwen3.5", parser="qwen3.5")
    service.create("new", able, template="{{ .Prompt }}", renderer="qwen3.5")
    service.create("lost", bare, template="{{ .Prompt }}", renderer="qwen3.5")
    for name in ("new", "lost"):
        as_of_a_newer_ollama(service.state / "models", name)
    return service


def as_of_a_newer_ollama(models, name):
    """Give an installed model a RENDERER that nobody here knows, as a pulled one may have."""
    path = models / "manifests/registry.ollama.ai/library" / name / "latest"
    manifest = json.loads(path.read_bytes())
    old = models / "blobs" / manifest["config"]["digest"].replace(":", "-")
    config = old.read_bytes().replace(b'"qwen3.5"', b'"qwen9.9"')
    digest = hashlib.sha256(config).hexdigest()
    (models / "blobs" / f"sha256-{digest}").write_bytes(config)
    manifest["config"] |= {"digest": f"sha256:{digest}", "size": len(config)}
    path.write_text(json.dumps(manifest))


def prompt_of(service, name, **more):
    body = {"model": name, "messages": ASK, "_debug_render_only": True, "stream": False, **more}
    reply = send(service, "POST", "/api/chat", body=body)
    assert reply.status == 200, reply.json
    return reply.json["_debug_info"]["rendered_template"]


@pytest.mark.parametrize(
    ("name", "prompt", "why"),
    [
        ("own", "TEMPLATE  hi", "prompts: the Modelfile's TEMPLATE"),
        ("more", "GGUF user: hi;<think></think>",
         "prompts: the GGUF's own template, which has tools and thinking, the Modelfile's TEMPLATE"
         " not (setting go_template)"),
        ("named", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n",
         "prompts: RENDERER qwen3.5"),
        ("new", "GGUF user: hi;<think></think>",
         "prompts: the GGUF's own template, for RENDERER qwen9.9 is none of deepseek3.1"),
    ],
)  # fmt: skip
def test_the_prompt_and_why_it_is_so(served, name, prompt, why):
    assert prompt_of(served, name) == prompt
    assert why in Command(served.url)("show", "--why", name).stdout
    plan = send(served, "GET", f"/hearth/v1/plan?model={name}").json
    assert plan["reasons"][-1].startswith(why)


def test_show_has_the_template_that_renders_and_what_it_can_do(served):
    def shown(name):
        return served.call("POST", "/api/show", {"model": name})[1]

    assert shown("own")["template"] == TEMPLATE
    assert shown("more")["template"] == ABLE
    assert {"tools", "thinking"} <= set(shown("more")["capabilities"])
    named = shown("named")
    assert (named["renderer"], named["parser"]) == ("qwen3.5", "qwen3.5")
    assert f"TEMPLATE {TEMPLATE}\nRENDERER qwen3.5\nPARSER qwen3.5\n" in named["modelfile"]


def test_a_parser_reads_what_the_model_says(served):
    """The echo engine says the prompt again, and the prompt ends inside of the thinking."""
    answer = "I see.</think><tool_call><function=look>\n</function></tool_call>"
    body = {
        "model": "named",
        "messages": [{"role": "user", "content": f"[[bytes {answer.encode().hex()}]]"}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        "stream": False,
    }
    message = served.call("POST", "/api/chat", body)[1]["message"]
    assert (message["thinking"], message["content"]) == ("I see.", "")
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["look"]


def test_a_model_that_only_a_newer_renderer_could_ask_says_so(served):
    reply = send(served, "POST", "/api/chat", body={"model": "lost", "messages": ASK})
    error = assert_error(reply, 400, "/api/chat")
    assert "lost:latest cannot be talked to: RENDERER qwen9.9 is none of" in error
    assert (
        "prompts: none, for RENDERER qwen9.9" in Command(served.url)("show", "--why", "lost").stdout
    )


@pytest.mark.parametrize("word", ["renderer", "parser"])
def test_an_unknown_name_is_refused_when_a_model_is_made(served, tmp_path, word):
    reply = send(served, "POST", "/api/create", body={"model": "x", "from": "own", word: "qwen9.9"})
    assert f"unknown {word} 'qwen9.9'" in assert_error(reply, 400, "/api/create")
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM own\n{word.upper()} qwen9.9\n")
    told = Command(served.url).fails(1, "create", "x", "-f", modelfile)
    assert f"unknown {word} 'qwen9.9'" in told
    assert "functiongemma" in told


def test_the_setting_takes_the_template_back(start_service, tmp_path):
    service = start_service(engine="echo", go_template="on")
    service.create("more", tiny_llama_gguf(tmp_path / "able.gguf", chat_template=ABLE),
                   template=TEMPLATE)  # fmt: skip
    assert prompt_of(service, "more") == "TEMPLATE  hi"
