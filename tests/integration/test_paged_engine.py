"""The paged engine as a whole on the CPU: the same tokens in every mode, alone and in a crowd."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.api import Constraint, FinishReason, GenerateRequest, LoadSpec, SamplingParams
from engine.errors import (
    ContextLengthError,
    DeviceMemoryError,
    EngineError,
    EngineRequestError,
)
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.engine import PagedEngine
from engine.paged.limits import Limits
from engine.paged.model import PagedModel
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import engine_for
from tests.fakes.llama_runs import run as run_llama

GREEDY = SamplingParams(temperature=0)
CONTEXT = 256
SHARED = "the dog thinks about the answer to this question and then thinks again " * 2
PROMPTS = [SHARED + f"number {n}" for n in range(5)] + ["a", "the fox", "what is it " * 12]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("paged") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path):
    torch.set_num_threads(1)
    return PagedModel.open(
        LoadSpec(engine="paged", model_path=str(path), context_length=CONTEXT, threads=1)
    )


def engine_of(model, *, overlap=True, graphs=False, num_blocks=200, step_tokens=512, rows=8):
    limits = Limits(
        num_blocks=min(num_blocks, model.limits.num_blocks),
        block_size=model.limits.block_size,
        context_length=CONTEXT,
        max_running=rows,
        max_waiting=64,
        step_tokens=step_tokens,
    )
    return PagedEngine(
        replace(model, limits=limits), overlap=overlap, graphs=graphs, capture=replayed
    )


def replayed(compute):
    """A capture without a GPU: the same work again, on the memory that it read the first time."""
    return compute


def serve(engine, requests):
    """(token ids, finish, usage, logprobs) of each request, all given at once."""
    for request in requests:
        engine.add(request)
    tokens = {request.id: [] for request in requests}
    logprobs = {request.id: [] for request in requests}
    ends = {}
    for _ in range(10_000):
        if not engine.has_work():
            break
        for step in engine.step():
            assert step.error is None
            assert step.id not in ends
            tokens[step.id] += step.token_ids
            logprobs[step.id] += step.logprobs
            if step.finish is not None:
                ends[step.id] = (step.finish, step.usage)
    assert ends.keys() == tokens.keys()
    return tokens, ends, logprobs


def greedy(prompts=PROMPTS, first=1, **fields):
    fields = {"max_tokens": 24, "ignore_eos": True, **fields}
    return [
        GenerateRequest(id=first + n, prompt=text, sampling=GREEDY, **fields)
        for n, text in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def alone(model):
    """Each prompt's tokens, computed one after the other without anything shared."""
    found = {}
    for request in greedy():
        engine = engine_of(model, overlap=False, rows=1)
        found |= serve(engine, [request])[0]
    return found


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("num_blocks", [200, 14])
@pytest.mark.parametrize("step_tokens", [512, 24])
@pytest.mark.parametrize("graphs", [True, False])  # the padding and the places that graphs need
def test_same_tokens_in_every_mode(model, alone, overlap, num_blocks, step_tokens, graphs):
    engine = engine_of(
        model, overlap=overlap, num_blocks=num_blocks, step_tokens=step_tokens, graphs=graphs
    )
    assert serve(engine, greedy())[0] == alone
    again, ends, _ = serve(engine, greedy(first=101))  # now with a warm prefix cache
    assert list(again.values()) == list(alone.values())
    if num_blocks == 200:
        assert ends[101][1].cached_tokens >= model.limits.block_size


def test_captured_steps_choose_what_launched_ones_choose(model):
    def mixed(seed):
        ways = ({"temperature": 0.0}, {}, {"top_k": 64, "min_p": 0.1}, {"repeat_penalty": 1.2},
                {"top_k": 0, "top_p": 0.8}, {"logit_bias": {9: 2.0}})  # fmt: skip
        return [
            GenerateRequest(
                id=id, prompt=PROMPTS[id % 8], max_tokens=30 - 3 * id, ignore_eos=True,
                sampling=SamplingParams(seed=seed + id, **ways[id]),
            )
            for id in range(len(ways))
        ]  # fmt: skip

    for requests in (mixed(1), mixed(2)[:3], greedy(PROMPTS[:3])):
        engine = engine_of(model, graphs=True)
        assert serve(engine, requests)[0] == serve(engine_of(model), requests)[0]
        assert engine.stats()["graphs"] >= 1


def test_a_failed_capture_costs_its_graph_and_is_told(model):
    def refuse(_compute):
        raise RuntimeError("CUDA error: operation not permitted")

    requests = greedy(PROMPTS[:3])
    engine = PagedEngine(model, graphs=True, capture=refuse)
    assert serve(engine, requests)[0] == serve(engine_of(model), requests)[0]
    told = "no graphs for GREEDY of 4, GREEDY of 2 (CUDA error: operation not permitted)"
    assert told in engine.info.description
    assert engine.stats()["graphs_failed"] == told
    assert engine.stats()["graphs"] == 0


def test_starving_pool_preempts_and_loses_nothing(model):
    requests = greedy(["a", "b", "c", "d", "e", "f"], max_tokens=120)
    expected = serve(engine_of(model), requests)[0]
    engine = engine_of(model, num_blocks=12)
    assert serve(engine, requests)[0] == expected
    assert engine.stats()["preemptions"] > 0


def test_greedy_tokens_are_those_of_the_llama_engine(model, path, alone):
    """As far as a random model's near ties allow: llama.cpp keeps its KV in half precision."""
    with engine_for(path) as llama:
        for request in greedy():
            prompt = llama.tokenize(request.prompt, add_special=True, parse_special=True)
            outcome = run_llama(llama, prompt, max_tokens=12, ignore_eos=True)
            assert outcome.tokens == alone[request.id][:12]


def test_seeded_request_is_the_same_alone_and_in_a_crowd(model):
    def ask(id, prompt, seed):
        sampling = SamplingParams(temperature=1.0, top_p=0.95, seed=seed)
        return GenerateRequest(id=id, prompt=prompt, sampling=sampling, max_tokens=24)

    alone = serve(engine_of(model), [ask(1, "the fox", 7)])[0][1]
    crowd = [ask(10 + n, f"other {n}", n) for n in range(6)] + [ask(1, "the fox", 7)]
    assert serve(engine_of(model), crowd)[0][1] == alone
    assert serve(engine_of(model), [ask(1, "the fox", 8)])[0][1] != alone


@pytest.mark.parametrize("overlap", [True, False])
def test_penalized_tokens_never_come_again_beside_rows_without_penalty(model, alone, overlap):
    params = SamplingParams(temperature=0, presence_penalty=1000.0, repeat_last_n=-1)
    request = GenerateRequest(
        id=50, prompt=[5, 6, 7], sampling=params, max_tokens=40, ignore_eos=True
    )
    tokens = serve(engine_of(model, overlap=overlap, graphs=True), [request, *greedy()])[0]
    once = [5, 6, 7, *tokens.pop(50)]
    assert len(set(once)) == len(once) == 43
    assert tokens == alone


def test_abort_in_every_state_leaves_nothing_behind(model):
    engine = engine_of(model, rows=2, step_tokens=24)
    requests = greedy(max_tokens=100)
    for request in requests:
        engine.add(request)
    ended = []
    for number, request in enumerate(requests):
        for _ in range(number):
            ended += [step for step in engine.step() if step.finish is not None]
        engine.abort(request.id)
        engine.abort(request.id)
    while engine.has_work():
        ended += [step for step in engine.step() if step.finish is not None]
    assert sorted(step.id for step in ended) == [request.id for request in requests]
    assert {step.finish for step in ended} == {FinishReason.ABORT}
    stats = engine.stats()
    assert stats["blocks_free"] == stats["blocks_total"]


def test_schema_holds_the_output(model):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    constraint = Constraint(kind="schema", source=json.dumps(schema))
    sampling = SamplingParams(temperature=1.0, seed=3)
    engine = engine_of(model)
    requests = [
        GenerateRequest(
            id=n, prompt="say", sampling=sampling, max_tokens=120, constraint=constraint
        )
        for n in (1, 2)
    ]
    tokens, ends, _ = serve(engine, [*requests, *greedy(["free"], first=5)])
    for request in requests:
        if ends[request.id][0] is FinishReason.STOP:
            value = json.loads(engine.detokenize(tokens[request.id]))
            assert isinstance(value["a"], bool)
    assert len(tokens[5]) == 24


def test_logprobs_are_those_of_the_raw_distribution(model):
    request = GenerateRequest(
        id=1,
        prompt="the fox",
        sampling=SamplingParams(temperature=0, logit_bias={5: 100.0}),
        max_tokens=3,
        logprobs=4,
    )
    _, _, logprobs = serve(engine_of(model), [request])
    for entry in logprobs[1]:
        assert entry.token_id == 5
        best = [value for _, _, value in entry.top]
        assert best == sorted(best, reverse=True)
        assert entry.logprob <= best[0] + 1e-6
        assert np.exp(best).sum() <= 1 + 1e-5


def test_what_can_never_be_served_is_refused_at_once(model):
    engine = engine_of(model)
    with pytest.raises(ContextLengthError, match="256"):
        engine.add(GenerateRequest(id=1, prompt=[1] * 300, truncate=False))
    with pytest.raises(EngineRequestError, match="vocabulary"):
        engine.add(GenerateRequest(id=1, prompt=[2**31 - 1]))
    with pytest.raises(EngineRequestError, match="logprobs"):
        engine.add(GenerateRequest(id=1, prompt="x", logprobs=99))
    bad = Constraint(kind="schema", source='{"type": "nothing"}')
    with pytest.raises(EngineRequestError, match="cannot be used: type"):
        engine.add(GenerateRequest(id=1, prompt="x", constraint=bad))
    assert not engine.has_work()


def test_priority_and_salt_of_a_request_reach_the_scheduler(model):
    engine = engine_of(model, rows=1)
    for request in [*greedy(["a", "b"], max_tokens=2), *greedy(["c"], first=3, priority=1)]:
        engine.add(request)
    order = []
    while engine.has_work():
        order += [step.id for step in engine.step() if step.finish is not None]
    assert order == [3, 1, 2]
    cached = [
        serve(engine, greedy([SHARED * 2], first=first, cache_salt=salt))[1][first][1].cached_tokens
        for first, salt in ((10, "x"), (11, "x"), (12, "y"), (13, ""))
    ]
    assert cached[1] > 0
    assert cached[0] == cached[2] == cached[3] == 0


def test_int8_cache_is_small_and_gives_the_same_tokens(path, alone):
    """As far as a random model's near ties allow."""
    spec = LoadSpec(
        engine="paged", model_path=str(path), context_length=CONTEXT, threads=1, kv_type="q8_0"
    )
    model = PagedModel.open(spec)
    assert model.budget.bytes_per_token == 2 * 2 * 2 * (16 + 2)  # 2 layers, k and v, 2 heads of 16
    assert model.kv[0].k.dtype == torch.int8
    found = serve(engine_of(model), greedy())[0]
    for id, tokens in alone.items():
        assert found[id][:12] == tokens[:12]


def test_a_cache_of_four_bits_is_refused_with_what_is_allowed(path):
    spec = LoadSpec(engine="paged", model_path=str(path), kv_type="q4_0")
    with pytest.raises(EngineRequestError, match="f16 or q8_0"):
        PagedModel.open(spec)


class Failing(TorchPaged):
    """A back end whose device fails."""

    def __init__(self, error):
        super().__init__()
        self._error = error

    def attend(self, q, cache, batch, params):
        raise self._error


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (torch.OutOfMemoryError("x"), DeviceMemoryError, "step of 512 tokens did not fit on cpu"),
        (torch.AcceleratorError("illegal address"), EngineError, "cpu failed .* illegal address"),
    ],
)
def test_a_failing_device_ends_the_engine_with_what_happened(model, error, expected, text):
    back_ends = replace(model.back_ends, attention=Failing(error))
    engine = engine_of(replace(model, back_ends=back_ends))
    engine.add(greedy()[0])
    with pytest.raises(expected, match=text):
        engine.step()


class Nonsense(TorchPaged):
    """A back end that computes no numbers."""

    def attend(self, q, cache, batch, params):
        return super().attend(q, cache, batch, params) * float("nan")


def test_self_test_passes_and_notices_nonsense(model):
    engine = engine_of(model)
    engine.self_test()
    assert not engine.has_work()
    assert engine.stats()["served"] == 0
    broken = replace(model, back_ends=replace(model.back_ends, attention=Nonsense()))
    with pytest.raises(EngineError, match="nonsense on cpu"):
        engine_of(broken).self_test()


def test_max_tokens_zero_computes_the_prompt_only(model):
    tokens, ends, _ = serve(engine_of(model), greedy(["the fox"], max_tokens=0))
    assert tokens == {1: []}
    assert ends[1][0] is FinishReason.LENGTH
