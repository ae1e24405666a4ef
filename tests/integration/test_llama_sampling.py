"""How the llama engine chooses tokens: seeds, penalties, biases, log-probabilities, adapters."""

import math

import numpy as np
import pytest

from engine.api import FinishReason, SamplingParams
from engine.errors import EngineRequestError, ModelFormatError
from tests.fakes.gguf_builder import tiny_llama_gguf, tiny_lora_gguf
from tests.fakes.llama_runs import GREEDY, engine_for, plain_context, plain_logits, run

PROMPT = [12, 34, 56, 78, 90]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model):
    with engine_for(model) as engine:
        yield engine


@pytest.fixture(scope="module")
def first_logits(model):
    """The raw logits after PROMPT, by plain llama.cpp: (320,) float32."""
    with plain_context(model) as (context, vocab):
        return plain_logits(context, vocab, PROMPT)


def sampled(engine, count=20, **params):
    outcome = run(
        engine, PROMPT, max_tokens=count, ignore_eos=True, sampling=SamplingParams(**params)
    )
    assert outcome.error is None
    return outcome.tokens


def firsts(engine, draws=150, **params):
    """The first token under many seeds."""
    return [sampled(engine, 1, seed=seed, **params)[0] for seed in range(draws)]


def test_a_seed_reproduces_and_others_differ(engine):
    one = sampled(engine, seed=7, temperature=1.5)
    assert sampled(engine, seed=7, temperature=1.5) == one
    assert sampled(engine, seed=8, temperature=1.5) != one


def test_a_seed_reproduces_whatever_is_cached(engine, model):
    warm = sampled(engine, seed=7)
    run(engine, [1, 2, 3], max_tokens=1)
    assert sampled(engine, seed=7) == warm
    with engine_for(model) as fresh:
        assert sampled(fresh, seed=7) == warm


def test_no_seed_is_a_fresh_one_each_time(engine):
    assert len({tuple(sampled(engine, temperature=1.5)) for _ in range(4)}) == 4


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**63, -(2**70)])
def test_any_integer_is_a_seed(engine, seed):
    assert sampled(engine, seed=seed) == sampled(engine, seed=seed)


def test_temperature_zero_top_k_one_and_tiny_top_p_are_the_argmax(engine, first_logits):
    best = int(first_logits.argmax())
    assert sampled(engine, 1, temperature=0)[0] == best
    assert set(firsts(engine, 20, top_k=1)) == {best}
    assert set(firsts(engine, 20, top_k=0, top_p=1e-6)) == {best}
    assert set(firsts(engine, 20, top_k=0, top_p=1.0, min_p=1.0)) == {best}


def test_greedy_of_the_chain_is_greedy_of_the_fast_path(engine):
    assert sampled(engine, temperature=0, logit_bias={5: 0.0}) == sampled(engine, temperature=0)


def test_top_k_keeps_the_best(engine, first_logits):
    best = set(np.argsort(-first_logits)[:3].tolist())
    assert set(firsts(engine, top_k=3, top_p=1.0, temperature=5.0)) == best


def test_top_p_keeps_the_smallest_sufficient_set(engine, first_logits):
    order = np.argsort(-first_logits)
    share = np.exp(first_logits[order] - first_logits.max())
    count = int(np.searchsorted(np.cumsum(share / share.sum()), 0.5)) + 1
    seen = set(firsts(engine, top_k=0, top_p=0.5, temperature=3.0))
    assert seen <= set(order[:count].tolist())
    assert len(seen) > 1


def test_min_p_keeps_what_is_near_the_best(engine, first_logits):
    allowed = set(np.flatnonzero(first_logits >= first_logits.max() + math.log(0.3)).tolist())
    seen = set(firsts(engine, top_k=0, top_p=1.0, min_p=0.3, temperature=1.0))
    assert seen <= allowed
    assert len(seen) > 1


def test_temperature_sharpens_and_flattens(engine, first_logits):
    best = int(first_logits.argmax())
    cold = firsts(engine, 60, top_k=0, top_p=1.0, temperature=0.01)
    hot = firsts(engine, 60, top_k=0, top_p=1.0, temperature=100.0)
    assert set(cold) == {best}
    assert len(set(hot)) > 40  # nearly uniform over 320


def test_typical_p_changes_the_choice(engine):
    wide = firsts(engine, 60, top_k=0, top_p=1.0, temperature=1.0)
    typical = firsts(engine, 60, top_k=0, top_p=1.0, temperature=1.0, typical_p=0.1)
    assert len(set(typical)) < len(set(wide))


def test_frequencies_follow_the_softmax(engine, first_logits):
    draws = firsts(engine, 1500, top_k=0, top_p=1.0, temperature=1.0)
    share = np.exp(first_logits - first_logits.max())
    best = int(share.argmax())
    assert draws.count(best) / 1500 == pytest.approx(share[best] / share.sum(), abs=0.04)


def test_a_bias_bans_and_forces(engine, first_logits):
    best = int(first_logits.argmax())
    second = int(np.argsort(-first_logits)[1])
    assert sampled(engine, 1, temperature=0, logit_bias={best: -100})[0] == second
    assert sampled(engine, 3, temperature=1, logit_bias={42: 100.0}) == [42] * 3
    assert best not in firsts(engine, 60, logit_bias={best: -1000.0})


def test_repeat_penalty_looks_on_the_prompt_and_the_output(engine, first_logits):
    best = int(first_logits.argmax())

    def first(prompt, **params):
        sampling = SamplingParams(temperature=0, repeat_penalty=50.0, **params)
        return run(engine, prompt, max_tokens=1, ignore_eos=True, sampling=sampling).tokens[0]

    prompt = [best, *PROMPT]
    free = run(engine, prompt, max_tokens=1, ignore_eos=True, sampling=GREEDY).tokens[0]
    with_it = [free, *PROMPT, free]
    assert (
        first(with_it, repeat_last_n=0)
        == run(engine, with_it, max_tokens=1, ignore_eos=True, sampling=GREEDY).tokens[0]
    )
    output = sampled(engine, 100, temperature=0, repeat_penalty=50.0, repeat_last_n=-1)
    assert len(set(output)) == 100
    assert not set(output) & set(PROMPT)


def test_the_penalty_window_ends_where_it_says(engine):
    short = sampled(engine, 60, temperature=0, frequency_penalty=100.0, repeat_last_n=5)
    for start in range(55):
        assert len(set(short[start : start + 5])) == 5
    assert len(set(short)) < 60


def test_presence_penalty_counts_once_and_frequency_each_time(engine):
    """30 equal tokens forced by a bias: a frequency penalty ends the run, presence does not."""
    bias = {42: 60.0}
    presence = sampled(engine, 20, temperature=0, logit_bias=bias, presence_penalty=5.0)
    frequency = sampled(engine, 20, temperature=0, logit_bias=bias, frequency_penalty=5.0)
    assert presence == [42] * 20
    assert frequency.count(42) < 20


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"top_p": math.nan}, "top_p"),
        ({"min_p": -math.inf}, "min_p"),
        ({"typical_p": math.nan}, "typical_p"),
        ({"repeat_penalty": 0.0}, "repeat_penalty"),
        ({"repeat_penalty": -1.0}, "repeat_penalty"),
        ({"presence_penalty": math.nan}, "presence_penalty"),
        ({"frequency_penalty": math.inf}, "frequency_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"logit_bias": {320: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: math.nan}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(320), -100.0)}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(5000), 1.0)}, "logit_bias"),
    ],
)
def test_values_without_meaning_are_refused_by_name(engine, params, name):
    with pytest.raises(EngineRequestError, match=name):
        run(engine, PROMPT, sampling=SamplingParams(**params))
    assert not engine.has_work()


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 2**40},
        {"top_k": -(2**40)},
        {"top_p": -1.0},
        {"top_p": 0.0},
        {"min_p": 7.0},
        {"typical_p": -1.0},
        {"temperature": -5.0},
        {"temperature": 1e6},
        {"temperature": 1e-30},
        {"repeat_last_n": 2**40, "repeat_penalty": 1.1},
        {"repeat_penalty": 1e6},
        {"logit_bias": {1: 1e300}},
        {"logit_bias": {1: math.inf, 2: -math.inf}},
    ],
)
def test_extreme_values_are_clamped_to_what_they_mean(engine, params):
    outcome = run(engine, PROMPT, max_tokens=5, ignore_eos=True, sampling=SamplingParams(**params))
    assert (outcome.finish, len(outcome.tokens)) == (FinishReason.LENGTH, 5)


def test_logprobs_are_the_log_softmax_of_raw_logits(engine, first_logits):
    outcome = run(engine, PROMPT, max_tokens=1, logprobs=5, sampling=SamplingParams(seed=3))
    expected = first_logits.astype(np.float64)
    expected -= expected.max()
    expected -= np.log(np.exp(expected).sum())
    (entry,) = outcome.logprobs
    assert entry.token_id == outcome.tokens[0]
    assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-4)
    order = np.argsort(-expected)[:5].tolist()
    assert [token for token, _, _ in entry.top] == order
    assert [value for _, _, value in entry.top] == pytest.approx(expected[order], abs=1e-4)
    assert [piece for _, piece, _ in entry.top] == [engine.detokenize([t]) for t in order]


def test_every_token_has_one_logprob_also_under_a_bias(engine):
    outcome = run(
        engine,
        max_tokens=12,
        logprobs=0,
        ignore_eos=True,
        sampling=SamplingParams(temperature=0, logit_bias={7: 50.0}),
    )
    assert [entry.token_id for entry in outcome.logprobs] == outcome.tokens
    assert all(entry.top == [] and entry.logprob < 0 for entry in outcome.logprobs)
    assert b"".join(entry.piece for entry in outcome.logprobs) == outcome.data


def test_no_logprobs_unless_asked_and_at_most_20(engine):
    assert run(engine, max_tokens=2).logprobs == []
    assert len(run(engine, max_tokens=1, logprobs=20).logprobs[0].top) == 20
    for bad in (-1, 21):
        with pytest.raises(EngineRequestError, match="0 to 20"):
            run(engine, logprobs=bad)


def test_an_adapter_changes_the_output_and_scale_zero_does_not(model, tmp_path):
    adapter = str(tiny_lora_gguf(tmp_path / "lora.gguf"))
    seen = {}
    for scale in (None, 0.0, 1.0, 1.0, 2.0):
        adapters = [] if scale is None else [(adapter, scale)]
        with engine_for(model, adapters=adapters) as engine:
            tokens = run(engine, PROMPT, max_tokens=16, ignore_eos=True).tokens
            assert seen.setdefault(scale, tokens) == tokens
    assert seen[0.0] == seen[None]
    assert len({tuple(seen[scale]) for scale in (None, 1.0, 2.0)}) == 3


def test_an_adapter_of_another_model_is_refused(model, tmp_path):
    adapter = str(tiny_lora_gguf(tmp_path / "lora.gguf", embd=96))
    with pytest.raises(ModelFormatError, match="LoRA"), engine_for(model, adapters=[(adapter, 1)]):
        pass
    missing = [(str(tmp_path / "none.gguf"), 1.0)]
    with pytest.raises(ModelFormatError, match="LoRA"), engine_for(model, adapters=missing):
        pass
