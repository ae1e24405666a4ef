"""Log-probabilities of a prompt on the llama engine, against llama.cpp asked token by token."""

import math

import numpy as np
import pytest

from engine.api import FinishReason
from engine.errors import ContextLengthError, EngineRequestError
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import engine_for, plain_context, plain_logits, run

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("prompt") / "tiny.gguf")


def plain_logprobs(path, tokens):
    """(len(tokens) - 1, vocab_size): the distribution behind each prefix."""
    with plain_context(path) as (context, vocab):
        rows = [plain_logits(context, vocab, tokens[:n]) for n in range(1, len(tokens))]
    logits = np.array(rows, dtype=np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def values(step_logprobs):
    return [entry.logprob for entry in step_logprobs]


def ask(engine, prompt=TEXT, **fields):
    """(log-probabilities of the prompt, folded outcome)."""
    told = []
    step = engine.step

    def listen():
        steps = step()
        told.extend(entry for one in steps for entry in one.prompt_logprobs)
        return steps

    engine.step = listen
    try:
        outcome = run(engine, prompt, **{"prompt_logprobs": 0, **fields})
    finally:
        engine.step = step
    return told, outcome


def test_each_token_has_the_models_own_log_probability(path):
    with engine_for(path) as engine:
        tokens = engine.tokenize(TEXT, add_special=True, parse_special=True)
        told, outcome = ask(engine, prompt_logprobs=2, max_tokens=0)
        assert outcome.finish is FinishReason.LENGTH
        assert outcome.tokens == []
        assert [entry.token_id for entry in told] == tokens
        assert b"".join(entry.piece for entry in told) == TEXT.encode()
        assert math.isnan(told[0].logprob)
        assert told[0].top == []
        expected = plain_logprobs(path, tokens)
        for entry, row in zip(told[1:], expected, strict=True):
            assert entry.logprob == pytest.approx(row[entry.token_id], abs=5e-3)
            assert [id for id, _, _ in entry.top] == np.argsort(-row)[:2].tolist()


def test_a_prompt_of_several_chunks(path):
    tokens = [n * 7 % 250 for n in range(300)]
    with engine_for(path, batch_size=200) as engine:
        told, outcome = ask(engine, tokens, max_tokens=3, logprobs=0, ignore_eos=True)
        assert len(told) == 300
        assert len(outcome.logprobs) == 3
        expected = plain_logprobs(path, tokens)
        assert values(told[1:]) == pytest.approx(
            [row[token] for token, row in zip(tokens[1:], expected, strict=True)], abs=1e-2
        )


def test_what_is_cached_is_computed_anew_and_the_answer_stays_the_same(path):
    with engine_for(path) as engine:
        plain = run(engine, TEXT, max_tokens=8, ignore_eos=True)
        first, answer = ask(engine, max_tokens=8, ignore_eos=True)
        again, _ = ask(engine, max_tokens=0)
        assert answer.tokens == plain.tokens
        assert answer.usage.cached_tokens == 0
        assert values(again[1:]) == pytest.approx(values(first[1:]), abs=1e-4)
        after = run(engine, TEXT, max_tokens=8, ignore_eos=True)
        assert after.tokens == plain.tokens
        assert after.usage.cached_tokens > 0


def test_a_prompt_that_is_asked_about_is_never_cut(path):
    with engine_for(path, context_length=64) as engine:
        with pytest.raises(ContextLengthError):
            ask(engine, [1] * 64)
        with pytest.raises(EngineRequestError, match="logprobs is 21"):
            ask(engine, prompt_logprobs=21)
        assert run(engine, [1] * 64, max_tokens=1).usage.truncated_tokens > 0


def test_an_abort_in_the_middle_of_the_prompt(path):
    with engine_for(path) as engine:
        from engine.api import GenerateRequest

        engine.add(GenerateRequest(id=5, prompt=[1] * 400, prompt_logprobs=0))
        assert engine.step() == []
        engine.abort(5)
        (last,) = engine.step()
        assert last.finish is FinishReason.ABORT
        told, _ = ask(engine, max_tokens=0)
        assert len(told) == len(engine.tokenize(TEXT, add_special=True, parse_special=True))
