"""Log-probabilities of prompts on the paged engine: the same in every mode, and llama.cpp's own."""

import math
from dataclasses import replace

import msgspec
import pytest
import torch

from engine.api import GenerateRequest, LoadSpec, SamplingParams
from engine.errors import ContextLengthError, EngineRequestError
from engine.paged.engine import PagedEngine
from engine.paged.limits import Limits
from engine.paged.model import PagedModel
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import engine_for

GREEDY = SamplingParams(temperature=0)
CONTEXT = 256
LONG = "the dog thinks about the answer to this question and then thinks again " * 2
PROMPTS = [LONG + "one", LONG + "two", "a", LONG]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("paged") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path):
    torch.set_num_threads(1)
    return PagedModel.open(
        LoadSpec(engine="paged", model_path=str(path), context_length=CONTEXT, threads=1)
    )


@pytest.fixture(scope="module")
def expected(path):
    """What the llama engine says of each prompt."""
    with engine_for(path) as engine:
        return [told_by(engine, [asked(n)])[n] for n in range(len(PROMPTS))]


def asked(number, **fields):
    fields = {"prompt_logprobs": 2, "max_tokens": 6, "ignore_eos": True, **fields}
    return GenerateRequest(id=number, prompt=PROMPTS[number % 10], sampling=GREEDY, **fields)


def told_by(engine, requests):
    """The prompts' log-probabilities by id, all requests given at once; told once, first."""
    for request in requests:
        engine.add(request)
    told, begun = {}, set()
    for _ in range(10_000):
        if not engine.has_work():
            break
        for step in engine.step():
            assert step.error is None
            if step.prompt_logprobs:
                assert step.id not in begun
                told[step.id] = step.prompt_logprobs
            begun.add(step.id)
    return told


def engine_of(model, *, overlap=True, num_blocks=200, step_tokens=512):
    limits = Limits(
        num_blocks=min(num_blocks, model.limits.num_blocks),
        block_size=model.limits.block_size,
        context_length=CONTEXT,
        max_running=8,
        max_waiting=64,
        step_tokens=step_tokens,
    )
    return PagedEngine(replace(model, limits=limits), overlap=overlap)


def assert_same(found, expected):
    assert [entry.token_id for entry in found] == [entry.token_id for entry in expected]
    assert math.isnan(found[0].logprob)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=2e-2)
        assert [value for _, _, value in one.top] == pytest.approx(
            [value for _, _, value in other.top], abs=2e-2
        )


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("num_blocks", [200, 14])  # with few, requests lose their blocks
@pytest.mark.parametrize("step_tokens", [512, 24])  # with few, prompts come in chunks
def test_the_same_in_every_mode_and_with_a_warm_cache(
    model, expected, overlap, num_blocks, step_tokens
):
    engine = engine_of(model, overlap=overlap, num_blocks=num_blocks, step_tokens=step_tokens)
    plain = [replace_id(asked(n, prompt_logprobs=None), n + 100) for n in range(len(PROMPTS))]
    for requests in (plain, [asked(n) for n in range(len(PROMPTS))], [asked(0), *plain]):
        told = told_by(engine, requests)
        for number, found in told.items():
            assert_same(found, expected[number])
        assert told.keys() == {r.id for r in requests if r.prompt_logprobs is not None}


def replace_id(request, number):

    return msgspec.structs.replace(request, id=number)


def test_a_prompt_alone(model, expected):
    told = told_by(engine_of(model), [asked(3, max_tokens=0)])
    assert_same(told[3], expected[3])


def test_a_prompt_that_is_asked_about_is_never_cut(model):
    engine = engine_of(model)
    long = GenerateRequest(id=1, prompt=[1] * CONTEXT, prompt_logprobs=0)
    with pytest.raises(ContextLengthError):
        engine.add(long)
    with pytest.raises(EngineRequestError, match="logprobs is 21"):
        engine.add(asked(0, prompt_logprobs=21))
