"""Requests that end early: between steps, before the first, and in the middle of a prompt."""

import pytest

from engine.api import FinishReason, GenerateRequest
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import GREEDY, engine_for, finish, plain_greedy, run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model):
    with engine_for(model) as engine:
        yield engine


def test_abort_between_steps(engine):
    engine.add(GenerateRequest(id=7, prompt="the fox", sampling=GREEDY, ignore_eos=True))
    engine.step()
    engine.abort(99)
    assert engine.step()[0].finish is None
    engine.abort(7)
    (step,) = engine.step()
    assert (step.finish, step.usage.output_tokens) == (FinishReason.ABORT, 2)
    assert not engine.has_work()


def test_abort_before_the_first_step(engine):
    engine.add(GenerateRequest(id=8, prompt="the fox"))
    engine.abort(8)
    outcome = finish(engine)
    assert (outcome.finish, outcome.usage.cached_tokens) == (FinishReason.ABORT, 0)


def test_request_behind_an_aborted_one_need_not_wait_for_a_step(engine):
    engine.add(GenerateRequest(id=20, prompt="the fox", sampling=GREEDY, ignore_eos=True))
    engine.step()
    engine.abort(20)
    engine.add(GenerateRequest(id=21, prompt="the dog", sampling=GREEDY, max_tokens=1))
    last, first = engine.step()
    assert (last.id, last.finish) == (20, FinishReason.ABORT)
    assert (first.id, first.finish) == (21, FinishReason.LENGTH)
    assert not engine.has_work()


class LongModel:
    """A model slow enough that its prompt is still running at the first poll."""

    def __init__(self, folder):
        self.path = tiny_llama_gguf(folder / "long.gguf", layers=8, context=4096)
        self.prompt = [(7 * n + n // 250) % 250 for n in range(4000)]


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    return LongModel(tmp_path_factory.mktemp("long"))


def test_abort_from_poll_ends_a_prompt_in_the_middle(long_model):
    polls = []

    def poll():
        polls.append(engine.tokenize("the", add_special=False, parse_special=False))
        engine.abort(1)

    with engine_for(long_model.path, poll=poll, context_length=4096, batch_size=4096) as engine:
        outcome = run(engine, long_model.prompt, max_tokens=4)
        assert outcome.finish is FinishReason.ABORT
        assert outcome.tokens == []
        assert len(polls) == 1  # nothing was computed any more
        assert engine.stats()["kv_tokens"] == 0


def test_abort_in_a_later_part_of_a_batch_leaves_nothing_behind(long_model):
    """One call to llama.cpp computes 4000 tokens in parts of 512; finished parts must go too."""
    polls = []

    def poll():
        polls.append(1)
        if len(polls) == 20:
            engine.abort(1)

    spec = {"context_length": 4096, "batch_size": 4096}
    with engine_for(long_model.path, poll=poll, **spec) as engine:
        assert run(engine, long_model.prompt, max_tokens=4).finish is FinishReason.ABORT
        assert engine.stats()["kv_tokens"] == 0
        prompt = long_model.prompt[:50]
        again = run(engine, prompt, max_tokens=6, ignore_eos=True)
    assert again.tokens == plain_greedy(long_model.path, prompt, 6)


def test_what_was_computed_before_an_abort_is_reused_and_right(long_model):
    stopped = []

    def poll():
        if engine.stats()["kv_tokens"] >= 1024 and not stopped:
            stopped.append(True)
            engine.abort(1)

    spec = {"context_length": 4096, "batch_size": 512}
    with engine_for(long_model.path, poll=poll, **spec) as engine:
        outcome = run(engine, long_model.prompt, max_tokens=4)
        assert outcome.finish is FinishReason.ABORT
        held = engine.stats()["kv_tokens"]
        assert 1024 <= held < 4000
        again = run(engine, long_model.prompt, max_tokens=4, ignore_eos=True)
    assert again.usage.cached_tokens == held
    with engine_for(long_model.path, **spec) as engine:
        cold = run(engine, long_model.prompt, max_tokens=4, ignore_eos=True)
    assert again.tokens == cold.tokens


def test_an_exception_of_poll_comes_out_of_step(long_model):
    def poll():
        raise ConnectionError("the control plane is gone")

    spec = {"context_length": 4096, "batch_size": 4096}
    with engine_for(long_model.path, poll=poll, **spec) as engine:
        engine.add(GenerateRequest(id=1, prompt=long_model.prompt))
        with pytest.raises(ConnectionError):
            engine.step()
