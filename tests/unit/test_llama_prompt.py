"""Prompts that do not fit: what is kept, what is dropped, what is refused."""

import pytest

from engine.errors import ContextLengthError
from engine.prompt import fit_prompt


def fit(tokens, **overrides):
    settings = {
        "context_length": 100, "trained_context": 1000, "num_keep": 4, "max_tokens": -1,
        "truncate": True,
    }  # fmt: skip
    return fit_prompt(list(tokens), **(settings | overrides))


def test_a_prompt_that_leaves_room_for_one_token_is_untouched():
    fitted = fit(range(99))
    assert (fitted.tokens, fitted.truncated, fitted.keep) == (list(range(99)), 0, 4)


def test_a_longer_one_keeps_its_front_and_its_newest_half():
    fitted = fit(range(300))
    assert fitted.tokens == [0, 1, 2, 3, *range(252, 300)]
    assert fitted.truncated == 300 - 52


def test_a_short_answer_leaves_more_room_for_the_prompt():
    assert len(fit(range(300), max_tokens=10).tokens) == 90
    assert len(fit(range(300), max_tokens=0).tokens) == 99


def test_an_answer_as_long_as_the_context_does_not_push_the_prompt_out():
    assert len(fit(range(300), max_tokens=5000).tokens) == 52


def test_keeping_everything_keeps_at_most_half():
    fitted = fit(range(300), num_keep=-1)
    assert fitted.keep == 50
    assert fitted.tokens[:50] == list(range(50))
    assert fitted.tokens[-1] == 299
    assert fit(range(300), num_keep=10**9).keep == 50


def test_more_kept_than_there_is():
    assert fit(range(3), num_keep=24).keep == 3


@pytest.mark.parametrize("length", [4, 5, 6, 7, 100])
@pytest.mark.parametrize("context_length", [4, 5, 6])
@pytest.mark.parametrize("num_keep", [-1, 0, 1, 4, 100])
@pytest.mark.parametrize("max_tokens", [-1, 0, 1, 3, 1000])
def test_the_smallest_contexts_always_fit(length, context_length, num_keep, max_tokens):
    fitted = fit(
        range(length), context_length=context_length, num_keep=num_keep, max_tokens=max_tokens
    )
    assert 1 <= len(fitted.tokens) < context_length
    assert len(fitted.tokens) + fitted.truncated == length
    assert fitted.tokens[-1] == length - 1
    assert fitted.keep < context_length


@pytest.mark.parametrize(
    ("trained", "advice"),
    [(1000, "num_ctx above 300"), (200, "was trained for 200"), (100, "all the model was trained")],
)
def test_refusal_gives_both_numbers_and_the_cure(trained, advice):
    with pytest.raises(ContextLengthError) as caught:
        fit(range(300), truncate=False, trained_context=trained)
    assert "prompt is longer than the context length" in str(caught.value)
    assert "300 tokens" in str(caught.value)
    assert "context is 100" in str(caught.value)
    assert advice in str(caught.value)
