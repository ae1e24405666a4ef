"""The llama engine on trained weights: the model that ships with Hearth."""

import json
from pathlib import Path

import pytest

from engine.api import Constraint, FinishReason, SamplingParams
from tests.fakes.llama_runs import engine_for, plain_greedy, run

MODEL = Path(__file__).parents[2] / "appliance/builtin/hearth.gguf"
PROMPT = "<|im_start|>user\nWhat is Hearth?<|im_end|>\n<|im_start|>assistant\n"

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the built-in model is not built")


@pytest.fixture(scope="module")
def engine():
    with engine_for(MODEL) as engine:
        yield engine


def test_an_answer_ends_by_itself_and_is_text(engine):
    outcome = run(engine, PROMPT, max_tokens=200)
    assert outcome.finish is FinishReason.STOP
    assert outcome.data.decode()
    assert "<|im_end|>" not in outcome.data.decode()


def test_greedy_is_a_plain_loop_warm_and_cold(engine):
    prompt = engine.tokenize(PROMPT, add_special=True, parse_special=True)
    expected = plain_greedy(MODEL, prompt, 12)
    for _ in range(2):
        assert run(engine, prompt, max_tokens=12, ignore_eos=True).tokens == expected


@pytest.mark.parametrize("seed", range(4))
def test_structured_answers_parse(engine, seed):
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": 40}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
    }
    for constraint in (
        Constraint(kind="json"),
        Constraint(kind="schema", source=json.dumps(schema)),
    ):
        sampling = SamplingParams(seed=seed)
        outcome = run(engine, PROMPT, constraint=constraint, sampling=sampling, max_tokens=300)
        assert outcome.error is None
        if outcome.finish is FinishReason.STOP:
            assert isinstance(json.loads(outcome.data), dict)
        if constraint.kind == "schema":
            assert outcome.finish is FinishReason.STOP
            assert set(outcome.json) == {"answer", "sure"}
