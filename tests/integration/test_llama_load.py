"""Opening models in the llama engine: settings, what it says of itself, files that do not load."""

import math
import os
import struct

import pytest

from engine.api import FinishReason, GenerateRequest, LoadSpec
from engine.errors import (
    EngineError,
    EngineRequestError,
    ModelFormatError,
)
from engine.llama.engine import load
from tests.fakes.gguf_builder import F16, tiny_embedding_gguf, tiny_llama_gguf
from tests.fakes.llama_runs import engine_for, run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model):
    with engine_for(model) as engine:
        yield engine


def test_info_describes_the_model(engine):
    info = engine.info
    assert (info.engine, info.slots, info.context_length) == ("llama", 1, 512)
    assert (info.vocab_size, info.embedding_length) == (320, 64)
    assert (info.bos_token, info.eos_token) == ("<|endoftext|>", "<|im_end|>")
    # 2 layers, K and V, 512 tokens, 2 heads of 16, 2 bytes; llama.cpp logs hundredths of a MiB
    assert info.kv_bytes == pytest.approx(131072, rel=0.05)
    assert info.weight_bytes > 400_000
    assert info.compute_bytes > 0
    assert info.threads == 1
    assert "llama" in info.description


def test_context_is_cut_to_what_the_model_was_trained_for_and_at_least_4(model):
    with engine_for(model, context_length=100_000) as engine:
        assert engine.info.context_length == 512
    with engine_for(model, context_length=1) as engine:
        assert engine.info.context_length == 4
        assert run(engine, "the quick brown fox jumps", max_tokens=2).error is None


def test_close_frees_once_and_may_be_repeated(model):
    with engine_for(model) as engine:
        engine.add(GenerateRequest(id=1, prompt="a"))
        engine.close()
        engine.close()
        assert not engine.has_work()


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_quantised_kv(tmp_path, kv_type):
    path = tiny_llama_gguf(tmp_path / "wide.gguf", embd=128, heads=4, kv_heads=2)
    with engine_for(path, kv_type=kv_type) as engine:
        assert run(engine, max_tokens=4, ignore_eos=True).finish is FinishReason.LENGTH
        assert engine.info.kv_bytes < 200_000  # 262144 in f16


def test_quantised_kv_needs_flash_attention(model):
    with pytest.raises(EngineRequestError, match="flash attention"):
        load(LoadSpec(engine="llama", model_path=str(model), kv_type="q8_0",
                      flash_attention=False), lambda: None)  # fmt: skip


def test_files_that_do_not_load_say_why(tmp_path):
    def attempt(path, **spec):
        with pytest.raises(EngineError) as caught:
            load(LoadSpec(engine="llama", model_path=str(path), **spec), lambda: None)
        assert isinstance(caught.value, ModelFormatError)
        return str(caught.value)

    assert "failed to open" in attempt(tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("this is not a model " * 10)
    assert "magic" in attempt(tmp_path / "text.gguf")
    alien = tiny_llama_gguf(tmp_path / "alien.gguf", metadata={"general.architecture": "alien"})
    assert "alien" in attempt(alien)
    bert = tiny_embedding_gguf(tmp_path / "bert.gguf")
    assert "embeddings" in attempt(bert)


def test_threads_fit_the_model_unless_they_are_given(model):
    with engine_for(model, threads=0) as engine:
        assert engine.info.threads == 1
    with engine_for(model, threads=2) as engine:
        assert engine.info.threads == min(2, len(os.sched_getaffinity(0)))


def test_a_large_vocabulary_costs_the_logits_of_one_token_only(tmp_path):
    path = tiny_llama_gguf(tmp_path / "words.gguf", vocab=8000)
    with engine_for(path) as engine:
        assert engine.info.compute_bytes < 4_000_000  # of all 512 tokens of a batch: 16 MB


def test_load_without_mmap_and_other_weight_types(tmp_path):
    path = tiny_llama_gguf(tmp_path / "half.gguf", ftype=F16)
    with engine_for(path, use_mmap=False) as engine:
        plain = run(engine, max_tokens=6, ignore_eos=True).tokens
    with engine_for(path, use_mmap=True, flash_attention=False) as engine:
        assert run(engine, max_tokens=6, ignore_eos=True).tokens == plain


def test_a_model_with_broken_numbers_fails_the_request_only(tmp_path):
    path = tiny_llama_gguf(tmp_path / "nan.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + struct.pack("<f", math.nan))  # a weight of the last token's logit
    with engine_for(path) as engine:
        outcome = run(engine, max_tokens=3)
        assert outcome.error is not None
        assert "finite" in outcome.error[1]
        assert not engine.has_work()
