"""JSON schemas to grammars: refusals and limits. What they accept is tested with llama.cpp."""

import json

import pytest

from engine.errors import EngineRequestError
from engine.llama import gbnf
from engine.llama.schema import schema_to_gbnf


def refusal(schema):
    source = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(EngineRequestError) as caught:
        gbnf.check(schema_to_gbnf(source))
    return str(caught.value)


def nested(depth):
    schema = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("", "not JSON"),
        ("[]", "must be a JSON object"),
        ('"json"', "must be a JSON object"),
        ('{"const": NaN}', "not JSON"),
        ('{"a":' * 10_000, "not JSON"),
        ('{"maxItems":' + "9" * 5000 + "}", "not JSON"),
        (" " * 70_000, "at most 65536"),
        ({"type": "text"}, "known are object, array"),
        ({"type": 5}, "known are object, array"),
        ({"type": "object", "properties": [1]}, "properties must be an object"),
        ({"type": "object", "properties": {"a": 5}}, "must be an object or true"),
        ({"type": "object", "required": "a"}, "required must be an array"),
        ({"type": "array", "items": {}, "maxItems": 10**9}, "maxItems is 1000000000, at most 2000"),
        ({"type": "array", "items": {}, "minItems": 10**9}, "minItems is 1000000000, at most 2000"),
        ({"type": "string", "maxLength": 10**9}, "maxLength is 1000000000, at most 2000"),
        ({"type": "string", "maxLength": -1}, "whole number"),
        ({"type": "string", "minLength": "1"}, "whole number"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "nothing satisfies both"),
        ({"enum": []}, "enum has 0"),
        ({"enum": list(range(1001))}, "enum has 1001"),
        ({"anyOf": []}, "anyOf is empty"),
        ({"allOf": [5]}, "allOf must contain objects"),
        ({"$ref": "https://example.com/schema"}, "points outside"),
        ({"$ref": 5}, "points outside"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$ref": "#"}, "left recursion"),
        ({"allOf": [{"$ref": "#"}]}, "over 5000 schemas"),
        (nested(200), "nested more than 64"),
        ({"pattern": 5}, "pattern must be a string"),
        ({"pattern": "a" * 1001}, "at most 1000"),
        ({"pattern": "(?=a)b"}, "look-around"),
        ({"pattern": "(a"}, "not closed"),
        ({"pattern": "[a"}, "not closed"),
        ({"pattern": "a)"}, "unmatched"),
        ({"pattern": "\\bword"}, r"\b"),
        ({"pattern": "(a)\\1"}, r"\1"),
        ({"pattern": "[z-a]"}, "backwards"),
        ({"pattern": "a*?"}, "lazy"),
        ({"pattern": "(a*)*"}, "may be empty"),
        ({"pattern": "(" * 200 + ")" * 200}, "nested groups"),
        ({"pattern": "((a{1000}){1000}){1000}"}, "elements"),
        ({"pattern": "a{1000000}"}, "at most 2000"),
    ],
)
def test_refusals_name_the_cause(schema, reason):
    assert reason in refusal(schema)


def test_references_that_go_round_without_a_value_are_refused():
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    assert "left recursion" in refusal(loop)


def test_references_that_double_at_each_level_end_in_bounded_work():
    defs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    assert "over 5000 schemas" in refusal({"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {}}})


def test_type_lists_that_multiply_end_in_bounded_work():
    schema = {}
    for _ in range(12):
        schema = {"type": ["array", "array", "array"], "items": schema}
    assert "over 5000 schemas" in refusal(schema)


def test_thousands_of_properties_end_in_bounded_work():
    wide = {"type": "object", "properties": {f"p{n}": {} for n in range(2000)}}
    assert "at most" in refusal(wide)


def test_equal_parts_share_one_rule():
    once = schema_to_gbnf(json.dumps({"anyOf": [{"enum": ["a"]}]}))
    thrice = schema_to_gbnf(json.dumps({"anyOf": [{"enum": ["a"]}] * 3}))
    assert len(thrice.splitlines()) == len(once.splitlines())
