"""JSON schemas as GBNF, within limits."""

import json

from llama_cpp.llama_grammar import json_schema_to_gbnf

from engine.errors import EngineRequestError


def schema_to_gbnf(source: str) -> str:
    try:
        return str(json_schema_to_gbnf(source))
    except (ValueError, json.JSONDecodeError) as error:
        raise EngineRequestError(f"schema: {error}") from error
