"""The service against its own OpenAPI document: every example, and what schemathesis makes of it:
right and wrong values for each field, then random ones. Its cases are the same in every run.

The document is the closed one: an answer with a field that it does not list is a failure. State and
models are thrown away afterwards; no registry, channel or repository can be reached.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import jsonschema_rs
import pytest

from appliance.http.openapi.document import OPERATIONS, build
from appliance.http.openapi.operation import RUNS

HERE = Path(__file__).parent
NOWHERE = "http://127.0.0.1:1"
# An endless stream, and the one route that writes where it is told.
LEFT_OUT = ("/hearth/v1/live", "/hearth/v1/export")
CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "no_fault_of_ours",
    "pieces_conform",
)
EXAMPLES = 4  # of each operation in the fuzzing phase; the coverage phase brings some 5,000 cases
SECONDS = 240  # a run takes half a minute on two idle cores
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "413", "415", "429", "5xx"]
"""
_STREAMS = ("application/x-ndjson", "text/event-stream")


@pytest.fixture(scope="module")
def service(module_service):
    """A service with the built-in model, from which no request leaves this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, NOWHERE)
            patch.delenv(name.lower(), raising=False)
        return module_service()


def test_the_document_is_served(service):
    with urllib.request.urlopen(f"{service.url}/openapi.json", timeout=60) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        served = json.load(answer)
    assert served == json.loads(json.dumps(build()))


@pytest.mark.parametrize(
    ("method", "path"), [route for route, each in OPERATIONS.items() if each.example is not None]
)
def test_each_example_is_answered_as_the_document_says(service, method, path):
    document = build(closed=True)
    operation = OPERATIONS[method, path]
    status, answer = service.call(method, path, dict(operation.example))
    assert status == operation.status, answer
    content = document["paths"][path][method.lower()]["responses"][str(status)].get("content")
    if content and (schema := content.get("application/json")):
        whole = {**schema["schema"], "components": document["components"]}
        problems = [each.message for each in jsonschema_rs.validator_for(whole).iter_errors(answer)]
        assert not problems, answer


def fuzzed_document():
    """The closed document; whatever runs a model names the one that is here."""
    document = build(closed=True)
    for route, operation in OPERATIONS.items():
        if operation.body and set(RUNS) <= set(operation.errors):
            method, path = route[0].lower(), route[1]
            content = document["paths"][path][method]["requestBody"]["content"]
            name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
            document["components"]["schemas"][name]["properties"]["model"] = {"const": "hearth"}
    # A check of the store at one byte per second is right, and has no end.
    scrub = document["components"]["schemas"]["Models.ScrubBody"]["properties"]
    scrub["rate"] = {"enum": [0, None]}
    for methods in document["paths"].values():
        for entry in methods.values():
            for answer in entry["responses"].values():
                for media_type in _STREAMS:  # whose pieces only our own check knows to read
                    if media := answer.get("content", {}).get(media_type):
                        media["x-piece"] = media.pop("schema")
    return document


@pytest.mark.timeout(SECONDS + 60)
def test_schemathesis_finds_nothing(service, tmp_path):
    document = fuzzed_document()
    place, config = tmp_path / "openapi.json", tmp_path / "schemathesis.toml"
    place.write_text(json.dumps(document))
    config.write_text(CONFIG)
    left_out = [word for path in LEFT_OUT for word in ("--exclude-path", path)]
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis as s; s()"),
        *("--config-file", str(config)),
        *("run", str(place), "--url", service.url, "--checks", ",".join(CHECKS)),
        *("--seed", "1", "--generation-deterministic", "--max-examples", str(EXAMPLES)),
        *("--phases", "examples,coverage,fuzzing", "--workers", "1"),
        *("--request-timeout", "20", "--no-shrink", "--continue-on-failure", "--no-color"),
        *("--suppress-health-check", "all", "--warnings", "off", *left_out),
    ]
    environ = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.conformance.openapi_hooks",
        "OPENAPI_DOCUMENT": str(place),
        "PYTHONPATH": str(HERE.parent.parent),
    }
    report = tmp_path / "report"
    with report.open("w") as output:
        try:
            status = subprocess.run(
                command, cwd=tmp_path, env=environ, stdout=output, stderr=output, timeout=SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            status = f"not done in {SECONDS} s: see the service's last line for what it was at"
    assert status == 0, f"{status}\n{report.read_text()[-20_000:]}"
