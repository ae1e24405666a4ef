"""The paged decoder and llama.cpp on the same GGUF files: the same greedy tokens."""

from pathlib import Path

import pytest
import torch

from tests.fakes import gguf_builder
from tests.fakes.llama_runs import engine_for, plain_context, plain_greedy, plain_logits, run
from tests.fakes.paged_runs import Sequences, load_decoder

BUILT_IN = Path(__file__).parents[2] / "appliance/builtin/hearth.gguf"
PROMPT = "<|im_start|>user\nWhat is Hearth?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("ftype", [gguf_builder.F32, gguf_builder.F16], ids=["F32", "F16"])
def test_greedy_tokens_are_those_of_the_llama_engine(ftype, tmp_path):
    path = gguf_builder.tiny_llama_gguf(tmp_path / "tiny.gguf", ftype=ftype, seed=7)
    with engine_for(path) as engine:
        prompt = engine.tokenize("the quick brown fox", add_special=True, parse_special=True)
        expected = run(engine, prompt, max_tokens=40, ignore_eos=True).tokens
    assert Sequences(load_decoder(path), [prompt]).greedy(40) == [expected]


def test_logits_are_those_of_llama_cpp(tiny_gguf):
    prompt = list(range(5, 45))
    with plain_context(tiny_gguf) as (context, vocab):
        expected = torch.from_numpy(plain_logits(context, vocab, prompt))
    found = Sequences(load_decoder(tiny_gguf), [prompt]).step([len(prompt)])[-1]
    assert (found - expected).abs().max() < 0.02  # llama.cpp keeps keys and values in float16


@pytest.mark.skipif(not BUILT_IN.exists(), reason="the built-in model is not built")
def test_the_built_in_model_says_the_same():
    with engine_for(BUILT_IN) as engine:
        prompt = engine.tokenize(PROMPT, add_special=True, parse_special=True)
    expected = plain_greedy(BUILT_IN, prompt, 24)
    assert Sequences(load_decoder(BUILT_IN), [prompt]).greedy(24) == [expected]
