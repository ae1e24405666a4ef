"""The llama engine on a real, tiny, random model: steps, prefix cache, limits of the context."""

import pytest

from engine.api import FinishReason, GenerateRequest, SamplingParams
from engine.errors import (
    ContextLengthError,
    EngineBusyError,
    EngineRequestError,
)
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import GREEDY, engine_for, finish, plain_greedy, run

END = 318  # <|im_end|> of the tiny vocabulary, its end-of-generation token


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model):
    with engine_for(model) as engine:
        yield engine


def test_greedy_equals_a_plain_loop(engine, model):
    prompt = engine.tokenize("the dog thinks", add_special=True, parse_special=True)
    outcome = run(engine, prompt, max_tokens=24, ignore_eos=True)
    assert outcome.tokens == plain_greedy(model, prompt, 24)
    assert outcome.finish is FinishReason.LENGTH


def test_the_first_token_comes_with_the_last_chunk_of_the_prompt(model):
    with engine_for(model, batch_size=8) as engine:
        engine.add(GenerateRequest(id=1, prompt=[5] * 20, sampling=GREEDY, max_tokens=2))
        steps = [engine.step() for _ in range(4)]
    assert [len(step) for step in steps] == [0, 0, 1, 1]
    assert len(steps[2][0].token_ids) == 1
    assert steps[3][0].finish is FinishReason.LENGTH
    assert not engine.has_work()


def test_chunks_of_any_size_give_the_same_tokens(model):
    prompt = [(7 * n) % 250 for n in range(60)]
    seen = []
    for batch_size in (1, 7, 512):
        with engine_for(model, batch_size=batch_size) as engine:
            seen.append(run(engine, prompt, max_tokens=12, ignore_eos=True).tokens)
    assert seen[0] == seen[1] == seen[2]


def test_a_shared_prefix_is_reused_and_changes_nothing(engine, model):
    common = [(3 * n) % 250 for n in range(40)]
    run(engine, [*common, 1, 2, 3], max_tokens=4, ignore_eos=True)
    warm = run(engine, [*common, 9, 8, 7], max_tokens=12, ignore_eos=True)
    assert warm.usage.cached_tokens == 40
    assert warm.tokens == plain_greedy(model, [*common, 9, 8, 7], 12)


def test_a_repeated_prompt_computes_its_last_token_only(engine):
    prompt = [(11 * n) % 250 for n in range(30)]
    cold = run(engine, prompt, max_tokens=6, ignore_eos=True)
    warm = run(engine, prompt, max_tokens=6, ignore_eos=True)
    assert (warm.usage.prompt_tokens, warm.usage.cached_tokens) == (30, 29)
    assert warm.tokens == cold.tokens


def test_a_following_turn_reuses_the_answer_too(engine):
    prompt = [(13 * n) % 250 for n in range(30)]
    first = run(engine, prompt, max_tokens=8, ignore_eos=True)
    second = run(engine, [*prompt, *first.tokens, 4, 5], max_tokens=1)
    assert second.usage.cached_tokens == 30 + 7  # the last token of an answer is never computed


def test_nothing_is_reused_of_a_prompt_with_another_salt(engine, model):
    """The count of cached tokens, and the time, would tell one client what another has asked."""
    prompt = [(17 * n) % 250 for n in range(30)]
    salts = ("ann", "ann", "bob", "ann", "", "")
    outcomes = [run(engine, prompt, max_tokens=4, ignore_eos=True, cache_salt=s) for s in salts]
    assert [outcome.usage.cached_tokens for outcome in outcomes] == [0, 29, 0, 0, 0, 29]
    assert all(outcome.tokens == plain_greedy(model, prompt, 4) for outcome in outcomes)


def test_end_of_generation_stops_and_is_not_output(engine):
    outcome = run(engine, max_tokens=50, sampling=greedy_with({END: 100.0}))
    assert (outcome.finish, outcome.tokens, outcome.data) == (FinishReason.STOP, [], b"")


def test_ignore_eos_goes_on_and_prints_the_token(engine):
    outcome = run(engine, max_tokens=3, ignore_eos=True, sampling=greedy_with({END: 1000.0}))
    assert outcome.tokens == [END] * 3
    assert outcome.data == b"<|im_end|>" * 3


def test_control_tokens_are_not_printed(engine):
    control = 317  # <|im_start|>
    outcome = run(engine, max_tokens=3, sampling=greedy_with({control: 1000.0}))
    assert (outcome.tokens, outcome.data) == ([control] * 3, b"")


def test_bytes_of_one_character_may_come_in_several_steps(engine):
    euro = "€".encode()
    tokens = engine.tokenize("€", add_special=False, parse_special=False)
    assert engine.detokenize(tokens) == euro
    assert [len(engine.detokenize([token])) for token in tokens] == [1, 1, 1]


def test_no_output_was_asked_for(engine):
    outcome = run(engine, max_tokens=0)
    assert (outcome.finish, outcome.tokens) == (FinishReason.LENGTH, [])
    assert outcome.usage.output_tokens == 0


def test_thirty_one_equal_tokens_in_a_row_end_the_answer(engine):
    outcome = run(engine, max_tokens=100, sampling=greedy_with({65: 1000.0}))
    assert (outcome.finish, len(outcome.tokens)) == (FinishReason.STOP, 31)


def test_one_sequence_at_a_time(engine):
    engine.add(GenerateRequest(id=1, prompt="a", max_tokens=2))
    with pytest.raises(EngineBusyError):
        engine.add(GenerateRequest(id=2, prompt="b"))
    finish(engine)
    assert run(engine, max_tokens=1, id=3).finish is FinishReason.LENGTH


def test_a_prompt_that_is_too_long_is_cut_in_the_middle(model):
    prompt = [n % 250 for n in range(200)]
    with engine_for(model, context_length=64) as engine:
        outcome = run(engine, prompt, num_keep=6, max_tokens=10, ignore_eos=True)
        kept = [*prompt[:6], *prompt[-48:]]
        assert outcome.usage.truncated_tokens == 200 - 54
        assert outcome.usage.prompt_tokens == 54
        assert outcome.tokens == plain_greedy(model, kept, 10)


def test_a_prompt_that_may_not_be_cut_is_refused_with_both_numbers(model):
    with engine_for(model, context_length=64) as engine:
        with pytest.raises(ContextLengthError, match=r"has 64 tokens, the context is 64.*num_ctx"):
            run(engine, [1] * 64, truncate=False)
        assert run(engine, [1] * 63, truncate=False, max_tokens=1).error is None


def test_without_shift_the_answer_ends_with_the_context(model):
    with engine_for(model, context_length=32) as engine:
        outcome = run(engine, [5, 6, 7, 8], shift=False, ignore_eos=True)
    assert outcome.finish is FinishReason.LENGTH
    assert len(outcome.tokens) == 32 - 4 + 1  # the last token needs no room


def test_with_shift_the_answer_goes_on_to_ten_contexts(model):
    with engine_for(model, context_length=32) as engine:
        outcome = run(engine, [5, 6, 7, 8], ignore_eos=True)
        assert (outcome.finish, len(outcome.tokens)) == (FinishReason.LENGTH, 320)
        held = engine.stats()["kv_tokens"]
        assert 4 < held <= 32
        # Just these tokens are in the KV, but computed after others that are gone: no prefix.
        exactly = [5, 6, 7, 8, *outcome.tokens[-(held - 4) - 1 : -1]]
        again = run(engine, exactly[:31], max_tokens=1)
        assert again.usage.cached_tokens == 4


def test_prompt_ids_are_checked(engine):
    for bad in ([320], [-1], [2**40]):
        with pytest.raises(EngineRequestError, match="allowed are 0 to 319"):
            run(engine, bad)
        with pytest.raises(EngineRequestError):
            engine.detokenize(bad)


def test_an_empty_prompt_starts_with_the_first_token_of_a_text(engine):
    assert run(engine, "", max_tokens=2).usage.prompt_tokens == 1
    assert run(engine, [], max_tokens=2).usage.prompt_tokens == 1


def test_tokenize_long_and_strange_texts(engine):
    text = "\ud800 \0 \U0001f600 " + "the fox " * 20_000
    tokens = engine.tokenize(text, add_special=False, parse_special=False)
    assert engine.detokenize(tokens) == text.encode("utf-8", "replace")


def test_a_text_of_more_than_a_million_tokens(engine):
    text = "1 2 " * 270_000
    assert len(engine.tokenize(text, add_special=False, parse_special=False)) > 2**20 + 16


def test_special_tokens_are_parsed_on_request_only(engine):
    parsed = engine.tokenize("<|im_end|>", add_special=False, parse_special=True)
    plain = engine.tokenize("<|im_end|>", add_special=False, parse_special=False)
    assert parsed == [END]
    assert len(plain) > 1
    assert engine.detokenize(parsed) == engine.detokenize(plain) == b"<|im_end|>"


def test_stats_add_up(model):
    with engine_for(model) as engine:
        run(engine, [1, 2, 3, 4], max_tokens=5, ignore_eos=True)
        run(engine, [1, 2, 3, 4], max_tokens=5, ignore_eos=True)
        stats = engine.stats()
    assert (stats["requests"], stats["prompt_tokens"], stats["cached_tokens"]) == (2, 8, 3)
    assert stats["output_tokens"] == 10


def greedy_with(bias):
    return SamplingParams(temperature=0.0, logit_bias=bias)
