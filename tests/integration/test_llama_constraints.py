"""Output held to JSON, a schema or a grammar, through llama.cpp's own grammar sampler."""

import json
import signal
import subprocess
import sys

import pytest

from engine.api import Constraint, FinishReason, GenerateRequest, LoadSpec, SamplingParams
from engine.errors import EngineRequestError
from engine.llama.grammar import Grammar
from engine.llama.model import LoadedModel
from engine.llama.schema import schema_to_gbnf
from tests.fakes.gguf_builder import bpe_vocabulary, tiny_llama_gguf
from tests.fakes.llama_runs import engine_for, run

JSON_MODE = Constraint(kind="json")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model):
    with engine_for(model) as engine:
        yield engine


@pytest.fixture(scope="module")
def loaded(model):
    loaded = LoadedModel(LoadSpec(engine="llama", model_path=str(model)), 1)
    yield loaded
    loaded.close()


def likely(engine, characters, bias=9.0):
    """Biases that make a random model write these characters."""
    ids = [engine.tokenize(c, add_special=False, parse_special=False)[0] for c in characters]
    return dict.fromkeys(ids, bias)


def forced(token):
    return SamplingParams(temperature=0, logit_bias={token: 1000.0})


def constrained(engine, constraint, *, seed=1, characters='"}]0,:', **fields):
    sampling = SamplingParams(seed=seed, temperature=1.5, logit_bias=likely(engine, characters))
    return run(engine, constraint=constraint, sampling=sampling, max_tokens=400, **fields)


def accepts(loaded, source, text):
    """Whether the whole of `text`, byte by byte, satisfies a grammar."""
    grammar = Grammar(source, loaded.vocab, loaded.log)
    try:
        for token in loaded.vocab.tokenize(text, add_special=False, parse_special=False):
            if not grammar.allows(token):
                return False
            grammar.accept(token)
        return grammar.is_complete()
    finally:
        grammar.close()


@pytest.mark.parametrize("seed", range(12))
def test_json_mode_writes_one_object(engine, seed):
    outcome = constrained(engine, JSON_MODE, seed=seed)
    assert outcome.finish is FinishReason.STOP, outcome.data
    assert isinstance(json.loads(outcome.data), dict)


def test_json_mode_cannot_be_filled_with_blanks(engine):
    outcome = constrained(engine, JSON_MODE, characters=" \n\t")
    assert b" " * 22 not in outcome.data
    assert b"\n\n" not in outcome.data


@pytest.mark.parametrize("seed", range(8))
def test_schema_mode_writes_what_the_schema_says(engine, seed):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer"},
            "kind": {"enum": ["a", "b", None]},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
    }
    outcome = constrained(engine, Constraint(kind="schema", source=json.dumps(schema)), seed=seed)
    assert outcome.finish is FinishReason.STOP, outcome.data
    found = outcome.json
    assert list(found) in (["name", "age", "tags"], ["name", "age", "kind", "tags"])
    assert len(found["name"]) <= 8
    assert isinstance(found["age"], int)
    assert 1 <= len(found["tags"]) <= 3
    assert all(isinstance(tag, bool) for tag in found["tags"])


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_grammar_forces_its_words_and_ends_the_answer(engine, temperature):
    constraint = Constraint(kind="grammar", source='root ::= "yes" | "no"')
    outcome = run(engine, constraint=constraint, sampling=SamplingParams(temperature=temperature))
    assert outcome.data in (b"yes", b"no")
    assert outcome.finish is FinishReason.STOP


def test_a_constrained_seed_reproduces(engine):
    one = constrained(engine, JSON_MODE, seed=5)
    assert constrained(engine, JSON_MODE, seed=5).tokens == one.tokens
    assert constrained(engine, JSON_MODE, seed=6).tokens != one.tokens


def test_a_grammar_that_rejects_nothing_changes_no_greedy_token(engine):
    anything = Constraint(kind="grammar", source="root ::= [^\\x00]*")
    ascii_only = {token: -100.0 for token in range(320) if engine.detokenize([token])[0] > 126}
    sampling = SamplingParams(temperature=0, logit_bias=ascii_only)
    free = run(engine, max_tokens=20, sampling=sampling)
    assert run(engine, max_tokens=20, sampling=sampling, constraint=anything).tokens == free.tokens


def test_choices_keep_their_proportions_under_a_grammar(engine):
    """Rejected first draws must not shift the odds among what is allowed."""
    letters = [engine.tokenize(c, add_special=False, parse_special=False)[0] for c in "ab"]
    logprobs = [
        run(engine, max_tokens=1, logprobs=0, sampling=forced(letter)).logprobs[0].logprob
        for letter in letters
    ]
    bias = logprobs[0] - logprobs[1]  # now b is as likely as a
    constraint = Constraint(kind="grammar", source='root ::= "a" | "b"')
    drawn = [
        run(engine, constraint=constraint, sampling=SamplingParams(
            seed=seed, temperature=1, top_k=0, top_p=1.0, logit_bias={letters[1]: bias})).data
        for seed in range(400)
    ]  # fmt: skip
    assert 0.4 < drawn.count(b"a") / 400 < 0.6


def test_logprobs_and_penalties_work_under_a_grammar(engine):
    constraint = Constraint(kind="grammar", source="root ::= [a-z]{5}")
    sampling = SamplingParams(temperature=0, repeat_penalty=50.0, repeat_last_n=-1)
    outcome = run(engine, constraint=constraint, sampling=sampling, logprobs=3)
    assert len(outcome.logprobs) == len(outcome.tokens)
    assert len(set(outcome.data)) == 5 == len(outcome.data)


def test_a_dead_end_is_an_error_and_not_an_endless_answer(engine):
    a = engine.tokenize("a", add_special=False, parse_special=False)[0]
    outcome = run(
        engine,
        constraint=Constraint(kind="grammar", source='root ::= "aq"'),
        sampling=SamplingParams(logit_bias={a: -100}),
    )
    assert outcome.error is not None
    assert "loosen" in outcome.error[1]
    assert run(engine, max_tokens=1).error is None


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint(kind="grammar", source='root ::= "a'),
        Constraint(kind="grammar", source="root ::= <no-such-token>"),
        Constraint(kind="schema", source='{"type": "nonsense"}'),
    ],
)
def test_what_does_not_compile_is_refused_and_the_engine_stays_free(engine, constraint):
    with pytest.raises(EngineRequestError):
        engine.add(GenerateRequest(id=1, prompt="a", constraint=constraint))
    assert not engine.has_work()
    assert run(engine, max_tokens=1).error is None


def test_ignore_eos_excludes_a_constraint(engine):
    with pytest.raises(EngineRequestError, match="ignore_eos"):
        engine.add(GenerateRequest(id=1, prompt="a", constraint=JSON_MODE, ignore_eos=True))


def cases(schema, good, bad):
    return [(schema, text, True) for text in good] + [(schema, text, False) for text in bad]


PERSON = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "number"},
                           "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "next"],
        }
    },
    "$ref": "#/$defs/node",
}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        *cases(PERSON, ["{}", '{"a":1}', '{"b":null}', '{"a": 1, "b": null}', '{ "a" :-20 }'],
               ['{"b":null,"a":1}', '{"a":1.5}', '{"c":1}', '{"a":1,}', '{"a":01}', "[]", "{"]),
        *cases({**PERSON, "required": ["b"]},
               ['{"b":null}', '{"a":1,"b":null}'], ["{}", '{"a":1}']),
        *cases({**PERSON, "additionalProperties": {"type": "boolean"}},
               ['{"a":1,"x":true}', '{"x":true,"y":false}'], ['{"x":1}', '{"x":true,"a":1,"b":2}']),
        *cases({}, ["{}", "[1, 2]", '"x"', "-1.5e+10", "true", "null"], ["tru", "1.", ""]),
        *cases({"type": "object"}, ["{}", '{"x": {"y": [1]}}'], ["[]", "1"]),
        *cases({"type": ["string", "null"]}, ['"a"', "null"], ["1"]),
        *cases({"type": "string"}, ['"a\\n\\u00e4ä€"', '""'], ['"a', "a", '"\n"', '"\\q"']),
        *cases({"type": "string", "minLength": 1, "maxLength": 2},
               ['"a"', '"\\"ä"'], ['""', '"abc"']),
        *cases({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
               ["[1,2]", "[1, 2, 3]"], ["[1]", "[1,2,3,4]", "[]", '["a","b"]']),
        *cases({"type": "array", "items": {"type": "null"}, "maxItems": 0}, ["[]"], ["[null]"]),
        *cases({"type": "array", "items": {"type": "null"}}, ["[]", "[ null,null]"], ["[1]"]),
        *cases({"prefixItems": [{"const": 1}, {"const": "x"}], "items": False},
               ['[1,"x"]'], ["[1]", '["x",1]', '[1,"x",2]']),
        *cases({"prefixItems": [{"const": 1}]}, ["[1]"], ["[2]", "[1,2]"]),
        *cases({"prefixItems": [{"const": 1}], "items": True}, ["[1]", "[1,2,{}]"], ["[2]"]),
        *cases({"enum": ["a", 1, {"k": [None]}, 'q"\\\n']},
               ['"a"', "1", '{"k":[null]}', '"q\\"\\\\\\n"'], ['"b"', "2"]),
        *cases({"allOf": [PERSON, {"properties": {"c": {"type": "null"}}, "required": ["c"]}]},
               ['{"a":1,"c":null}', '{"c":null}'], ['{"a":1}']),
        *cases({"type": "object", "properties": {"a": {"type": "null"}},
                "anyOf": [{"required": ["a"]}, {"properties": {"z": {"type": "null"}},
                                                "required": ["z"]}]},
               ['{"a":null}', '{"z":null}', '{"a":null,"z":null}'], ["{}"]),
        *cases(TREE, ['{"v":1,"next":null}', '{"v":1,"next":{"v":2,"next":null}}'],
               ['{"v":1}', '{"v":1,"next":{"v":2}}']),
        *cases({"type": "string", "pattern": '^[a-c"]{2,3}-(\\d+|x?)$'},
               ['"ab-12"', '"\\"a-x"', '"ccc-"'], ['"a-1"', '"ab-1a"', '"ad-1"', '""a-x"']),
        *cases({"pattern": "^[ -~]+$"}, ['"A z~"', '"\\""', '"\\\\"'], ['"ä"', '"""', '"\\"']),
        *cases({"pattern": "^[^a-c]\\w\\W\\s.$"}, ['"dX- ä"'], ['"aX- ä"', '"d-- ä"', '"\nX- a"']),
        *cases({"pattern": "a|b"}, ['"a"', '"b"'], ['"ab"', "a"]),
        *cases({"format": "date"}, ['"2024-12-31"'], ['"2024-13-01"', '"24-1-1"']),
        *cases({"format": "date-time"}, ['"2024-12-31T23:59:59Z"', '"2024-12-31T23:59:59.5+02:00"'],
               ['"2024-12-31"', '"2024-12-31T25:00:00Z"']),
        *cases({"format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
    ],
)  # fmt: skip
def test_schema_grammars_accept_and_reject(loaded, schema, text, expected):
    assert accepts(loaded, schema_to_gbnf(json.dumps(schema)), text) is expected


BOMB = r"""
import sys
from engine.api import Constraint, SamplingParams
from tests.fakes.llama_runs import engine_for, run
source = 'root ::= "a" root x | "a" root y | "a" root z | "b"\nx ::= "x"\ny ::= "x"\nz ::= "x"'
with engine_for(sys.argv[1]) as engine:
    [b] = engine.tokenize("b", add_special=False, parse_special=False)
    never_b = SamplingParams(temperature=0, logit_bias={b: -100})
    print(run(engine, constraint=Constraint(kind="grammar", source=source), sampling=never_b).error)
"""


def bomb(path):
    return subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, timeout=60
    )


def test_an_ambiguous_grammar_ends_its_request(model):
    """Three readings per letter: a few letters in, a single token costs seconds."""
    ended = bomb(model)
    assert ended.returncode == 0, ended.stderr
    assert "too ambiguous" in ended.stdout


def test_an_ambiguous_grammar_inside_one_token_ends_the_process(tmp_path):
    vocabulary = bpe_vocabulary(320)
    tokens = [*vocabulary["tokenizer.ggml.tokens"]]
    kinds = [*vocabulary["tokenizer.ggml.token_type"]]
    tokens[315], kinds[315] = "a" * 60, 4  # user-defined: an ordinary token of many letters
    changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    ended = bomb(tiny_llama_gguf(tmp_path / "long.gguf", metadata=changed))
    assert ended.returncode == -signal.SIGVTALRM
