"""The OpenAPI document against what it describes: routes, scopes, bodies, statuses."""

import re
import subprocess
import sys

import jsonschema_rs
import pytest

from appliance.http.access import NEEDS
from appliance.http.app import all_routes
from appliance.http.errors import VLLM_PATHS
from appliance.http.openapi.document import OPERATIONS, build, document_bytes

DOCUMENT = build()


def routes():
    """(method, path) of all routes as the document writes them."""
    return {(route.method, re.sub(r":[^}]*}", "}", route.path)) for route in all_routes()}


def operations():
    return [
        (method.upper(), path, entry)
        for path, methods in DOCUMENT["paths"].items()
        for method, entry in methods.items()
    ]


def schema_of(path, method="post"):
    """The body's schema, the reference followed."""
    content = DOCUMENT["paths"][path][method]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name]


def test_every_route_is_described_and_no_other():
    assert {(method, path) for method, path, _ in operations()} == routes() == set(OPERATIONS)


def test_it_is_openapi_3_1():
    metaschema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    validate = jsonschema_rs.validator_for(metaschema)
    assert DOCUMENT["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        validate.validate(schema)
    ids = [entry["operationId"] for _, _, entry in operations()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere():
    names = set(re.findall(rb'"#/components/schemas/([^"]+)"', document_bytes()))
    assert {name.decode() for name in names} <= set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize(("method", "path", "entry"), operations())
def test_each_operation_says_what_it_takes_and_answers(method, path, entry):
    assert entry["summary"]
    need = NEEDS[method, path]
    scopes = {scope for way in entry["security"] for each in way.values() for scope in each}
    assert scopes == (set() if need is None else {str(need)})
    assert {"400", "401", "403", "429", "500"} <= set(entry["responses"])
    if "requestBody" in entry:
        assert {"408", "413"} <= set(entry["responses"])
    shape = {"/api": "Ollama", "/v1/": "OpenAI"}.get(path[:4], "Ollama")
    shape = "OpenAI" if path in VLLM_PATHS else shape
    shape = "Anthropic" if path.startswith("/v1/messages") else shape
    if method != "HEAD":
        error = entry["responses"]["403"]["content"]["application/json"]["schema"]
        assert f"{shape}Error" in str(error) or "anyOf" in error


def test_bodies_are_those_that_the_handlers_parse():
    chat = schema_of("/api/chat")
    assert chat["required"] == ["model"]
    assert chat["properties"]["stream"] == {"type": ["boolean", "null"], "default": True}
    assert "temperature" in chat["properties"]["options"]["properties"]
    assert "_debug_render_only" in chat["properties"]
    strict = schema_of("/hearth/v1/keys")
    assert strict["additionalProperties"] == {"type": "null"}  # all else is refused
    scrub = DOCUMENT["paths"]["/hearth/v1/scrub"]["post"]["requestBody"]["content"]
    assert {"type": "null"} in scrub["application/json"]["schema"]["anyOf"]  # nothing is required


def test_streams_have_their_media_types():
    chat = DOCUMENT["paths"]["/api/chat"]["post"]["responses"]["200"]["content"]
    assert set(chat) == {"application/json", "application/x-ndjson"}
    messages = DOCUMENT["paths"]["/v1/messages"]["post"]["responses"]
    assert set(messages["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "529" in messages


def test_the_start_does_not_import_it():
    code = "import sys, appliance.http.app; print('appliance.http.openapi.document' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
