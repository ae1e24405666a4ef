"""Memories other than a plain KV cache, and memory that is not there."""

import random
import subprocess
import sys

import pytest

from engine.api import FinishReason, Pooling
from tests.fakes.gguf_builder import (
    F32,
    Tensor,
    bpe_vocabulary,
    build_gguf,
    encode_floats,
    tiny_llama_gguf,
)
from tests.fakes.llama_runs import engine_for, plain_greedy, run

EMBD, INNER, STATE, RANK, CONV, VOCAB = 64, 128, 16, 4, 4, 320


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    """A random Mamba model: its memory is one running state, which cannot be cut."""
    draw = random.Random(3)

    def tensor(name, *shape, scale=None, value=None):
        count = 1
        for size in shape:
            count *= size
        sigma = 1.5 / shape[0] ** 0.5 if scale is None else scale
        values = [draw.gauss(0, sigma) if value is None else value for _ in range(count)]
        return Tensor(name, shape, F32, encode_floats(values, F32))

    tensors = [tensor("token_embd.weight", EMBD, VOCAB, scale=1.0)]
    for layer in range(2):
        p = f"blk.{layer}."
        tensors += [
            tensor(p + "attn_norm.weight", EMBD, value=1.0),
            tensor(p + "ssm_in.weight", EMBD, 2 * INNER),
            tensor(p + "ssm_conv1d.weight", CONV, INNER),
            tensor(p + "ssm_conv1d.bias", INNER, value=0.0),
            tensor(p + "ssm_x.weight", INNER, RANK + 2 * STATE),
            tensor(p + "ssm_dt.weight", RANK, INNER),
            tensor(p + "ssm_dt.bias", INNER, value=0.1),
            tensor(p + "ssm_a", STATE, INNER, value=-1.0),
            tensor(p + "ssm_d", INNER, value=1.0),
            tensor(p + "ssm_out.weight", INNER, EMBD),
        ]
    tensors += [
        tensor("output_norm.weight", EMBD, value=1.0),
        tensor("output.weight", EMBD, VOCAB),
    ]
    metadata = {
        "general.architecture": "mamba",
        "general.file_type": 0,
        "mamba.context_length": 512,
        "mamba.embedding_length": EMBD,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": 2,
        "mamba.ssm.conv_kernel": CONV,
        "mamba.ssm.inner_size": INNER,
        "mamba.ssm.state_size": STATE,
        "mamba.ssm.time_step_rank": RANK,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        **bpe_vocabulary(VOCAB),
    }
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    path.write_bytes(build_gguf(metadata, tensors))
    return path


def test_a_running_state_is_reused_only_when_the_prompt_goes_on_from_it(mamba):
    prompt = [(7 * n) % 250 for n in range(20)]
    with engine_for(mamba) as engine:
        first = run(engine, prompt, max_tokens=6, ignore_eos=True)
        assert first.tokens == plain_greedy(mamba, prompt, 6)
        turn = [*prompt, *first.tokens, 3, 4]
        second = run(engine, turn, max_tokens=6, ignore_eos=True)
        assert second.usage.cached_tokens == 25
        assert second.tokens == plain_greedy(mamba, turn, 6)
        other = [*prompt[:10], 9, 9, 9]
        third = run(engine, other, max_tokens=6, ignore_eos=True)
        assert third.usage.cached_tokens == 0
        assert third.tokens == plain_greedy(mamba, other, 6)


def test_a_running_state_survives_a_full_context(mamba):
    with engine_for(mamba, context_length=32) as engine:
        outcome = run(engine, [5, 6, 7, 8], max_tokens=100, ignore_eos=True)
        assert outcome.finish is FinishReason.LENGTH
        assert outcome.error is None
        assert len(outcome.tokens) >= 29
        again = run(engine, [5, 6, 7, 8], max_tokens=5, ignore_eos=True)
        assert again.tokens == plain_greedy(mamba, [5, 6, 7, 8], 5)


def test_a_running_state_embeds_one_input_at_a_time(mamba):
    with engine_for(mamba, embedding=True) as engine:
        together, _ = engine.embed(["the dog", "fox"], pooling=Pooling.MEAN, truncate=True)
        alone = engine.embed(["fox"], pooling=Pooling.MEAN, truncate=True)[0]
        assert together[1] == pytest.approx(alone[0], abs=1e-4)


HUNGRY = """
import resource, sys
from engine.errors import EngineError
from tests.fakes.llama_runs import engine_for
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    with engine_for(sys.argv[1], context_length=200_000_000):
        print("loaded")
except EngineError as error:
    print(error.code, error)
"""


def test_a_context_that_does_not_fit_is_named_as_such(tmp_path):
    path = tiny_llama_gguf(tmp_path / "wide.gguf", context=2**31 - 1)
    ended = subprocess.run(
        [sys.executable, "-c", HUNGRY, str(path)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.startswith("device_memory no memory for a context of 200000000 tokens")
    assert "num_ctx" in ended.stdout
