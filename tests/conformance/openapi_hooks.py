"""What schemathesis checks beyond its own list; loaded by its command, see test_openapi_fuzz.py."""

import json
import os
from pathlib import Path

import jsonschema_rs
import schemathesis

DOCUMENT = json.loads(Path(os.environ["OPENAPI_DOCUMENT"]).read_text())
WRONG_OPTION = "bad_option"  # Ollama answers 500 to these, and so do we


def conforms(value, schema):
    """Raise AssertionError unless a value fits a schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    validator = jsonschema_rs.validator_for(whole)
    problem = next(validator.iter_errors(value), None)
    assert problem is None, (
        f"{problem.message} at {problem.instance_path}: {json.dumps(value)[:500]}"
    )


@schemathesis.check
def no_fault_of_ours(ctx, response, case):
    """A 500 is a bug, but for the one that is Ollama's way to refuse an option."""
    if response.status_code == 500:
        assert response.json()["code"] == WRONG_OPTION, response.text[:500]


@schemathesis.check
def pieces_conform(ctx, response, case):
    """Each line or event of a stream fits the schema, or is an error at the very end."""
    content_type = response.headers.get("content-type", [""])[0].partition(";")[0]
    if response.status_code != 200 or content_type not in (
        "application/x-ndjson",
        "text/event-stream",
    ):
        return
    methods = DOCUMENT["paths"][case.operation.path]
    schema = methods[case.method.lower()]["responses"]["200"]["content"][content_type]["x-piece"]
    lines = response.content.decode().split("\n")
    if content_type == "text/event-stream":
        lines = [line[6:] for line in lines if line.startswith("data: ")]
    pieces = [json.loads(line) for line in lines if line and line != "[DONE]"]
    assert pieces, "a stream without a piece"
    if "error" in pieces[-1] and "sequence_number" not in pieces[-1]:
        del pieces[-1]
    for piece in pieces:
        conforms(piece, schema)
