"""Embeddings of the llama engine: an encoder and a causal model, every pooling, limits."""

import math
import struct

import numpy as np
import pytest
from llama_cpp import llama_cpp as lib

from engine.api import GenerateRequest, Pooling
from engine.errors import ContextLengthError, EngineError, EngineRequestError
from tests.fakes.gguf_builder import tiny_embedding_gguf, tiny_llama_gguf
from tests.fakes.llama_runs import GREEDY, engine_for, run

TEXTS = ["the dog", "the user asked the assistant", "a " * 90, "answer", "fox jumps over"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_embedding_gguf(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf")


def token_vectors(path, tokens, width):
    """llama.cpp's vector of each token of one input: (tokens, width) float32."""
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    settings = lib.llama_context_default_params()
    settings.embeddings = True
    settings.pooling_type = lib.LLAMA_POOLING_TYPE_NONE
    settings.n_threads = settings.n_threads_batch = 1
    context = lib.llama_init_from_model(model, settings)
    array = (lib.llama_token * len(tokens))(*tokens)
    batch = lib.llama_batch_get_one(array, len(tokens))
    compute = lib.llama_decode if lib.llama_get_memory(context) else lib.llama_encode
    assert compute(context, batch) == 0
    shape = (len(tokens), width)
    found = np.ctypeslib.as_array(lib.llama_get_embeddings(context), shape).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    return found


@pytest.mark.parametrize("kind", ["bert", "causal"])
def test_poolings_equal_what_they_say_of_the_token_vectors(kind, request):
    path = request.getfixturevalue(kind)
    with engine_for(path, embedding=True) as engine:
        width = engine.info.embedding_length
        tokens = engine.tokenize(TEXTS[1], add_special=True, parse_special=False)
        rows = token_vectors(path, tokens, width)
        for pooling, expected in (
            (Pooling.MEAN, rows.mean(axis=0)),
            (Pooling.CLS, rows[0]),
            (Pooling.LAST, rows[-1]),
        ):
            vectors, count = engine.embed([TEXTS[1]], pooling=pooling, truncate=True)
            assert vectors == [pytest.approx(expected.tolist(), abs=1e-4)]
            assert count == len(tokens)


@pytest.mark.parametrize("kind", ["bert", "causal"])
@pytest.mark.parametrize("pooling", list(Pooling))
def test_a_batch_gives_the_vectors_of_its_inputs_in_order(kind, pooling, request):
    with engine_for(request.getfixturevalue(kind), embedding=True) as engine:
        inputs = TEXTS * 8  # more than one batch holds
        together, count = engine.embed(inputs, pooling=pooling, truncate=True)
        alone = [engine.embed([text], pooling=pooling, truncate=True) for text in TEXTS]
        assert len(together) == 40
        assert count == 8 * sum(tokens for _, tokens in alone)
        expected = np.array([vectors[0] for vectors, _ in alone] * 8)
        # attention rounds to f16 in another order; a neighbour that leaked in would be near 1
        assert np.abs(np.array(together) - expected).max() < 5e-3


def test_the_model_decides_unless_told_otherwise(tmp_path, bert, causal):
    def model_equals(path, pooling):
        with engine_for(path, embedding=True) as engine:
            chosen = engine.embed(TEXTS, pooling=Pooling.MODEL, truncate=True)
            return chosen == engine.embed(TEXTS, pooling=pooling, truncate=True)

    assert model_equals(bert, Pooling.MEAN)
    assert model_equals(tiny_embedding_gguf(tmp_path / "cls.gguf", pooling=2), Pooling.CLS)
    assert model_equals(tiny_embedding_gguf(tmp_path / "none.gguf", pooling=0), Pooling.MEAN)
    assert model_equals(causal, Pooling.LAST)


def test_a_reranker_has_no_embedding(tmp_path):
    path = tiny_embedding_gguf(tmp_path / "rank.gguf", pooling=4)
    with engine_for(path, embedding=True) as engine:
        with pytest.raises(EngineRequestError, match="reranker"):
            engine.embed(["the dog"], pooling=Pooling.MODEL, truncate=True)
        assert engine.embed(["the dog"], pooling=Pooling.CLS, truncate=True)[1] == 4


def test_long_inputs_are_cut_or_refused(bert, causal):
    with engine_for(bert, embedding=True) as engine:
        assert engine.info.max_embed_tokens == engine.info.context_length == 128
        long = "a " * 500
        vectors, count = engine.embed([long], pooling=Pooling.MODEL, truncate=True)
        assert count == 128
        tokens = engine.tokenize(long, add_special=True, parse_special=False)
        closed = [*tokens[:127], tokens[-1]]  # [SEP] stays the last
        assert vectors == engine.embed([closed], pooling=Pooling.MODEL, truncate=True)[0]
        with pytest.raises(ContextLengthError, match=r"input 1 has 502 tokens.*reads 128"):
            engine.embed(["a", long], pooling=Pooling.MODEL, truncate=False)
    with engine_for(causal, embedding=True, context_length=300) as engine:
        assert engine.embed([long], pooling=Pooling.MEAN, truncate=True)[1] == 300


def test_numbers_that_are_not_finite_are_an_error(tmp_path):
    path = tiny_embedding_gguf(tmp_path / "nan.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + struct.pack("<f", math.nan))  # a bias of the last norm
    with (
        engine_for(path, embedding=True) as engine,
        pytest.raises(EngineError, match="not finite"),
    ):
        engine.embed(["the dog"], pooling=Pooling.MODEL, truncate=True)


def test_token_ids_are_checked(bert):
    with engine_for(bert, embedding=True) as engine:
        with pytest.raises(EngineRequestError, match="token id 5000"):
            engine.embed([[5000]], pooling=Pooling.MODEL, truncate=True)
        assert engine.embed([], pooling=Pooling.MODEL, truncate=True) == ([], 0)


def test_an_embedding_engine_does_not_generate(bert):
    with engine_for(bert, embedding=True) as engine:
        with pytest.raises(EngineRequestError, match="embeddings"):
            engine.add(GenerateRequest(id=1, prompt="a"))
        assert engine.info.weight_bytes > 0
        assert engine.info.compute_bytes > 0


def test_a_generating_engine_embeds_between_two_tokens(causal):
    with engine_for(causal) as engine:
        plain = run(engine, max_tokens=8, ignore_eos=True).tokens
        engine.add(GenerateRequest(id=1, prompt="the quick brown fox", max_tokens=8,
                                   ignore_eos=True, sampling=GREEDY))  # fmt: skip
        seen = []
        while engine.has_work():
            seen += [token for step in engine.step() for token in step.token_ids]
            vectors, _ = engine.embed(["the dog"], pooling=Pooling.MEAN, truncate=True)
            assert len(vectors[0]) == 64
        assert seen == plain


def test_poll_is_called_inside_a_long_embedding(tmp_path):
    polls = []
    path = tiny_llama_gguf(tmp_path / "deep.gguf", layers=8, context=4096)
    spec = {"context_length": 4096, "embedding": True}
    with engine_for(path, poll=lambda: polls.append(1), **spec) as engine:
        engine.embed([[n % 250 for n in range(4000)]], pooling=Pooling.LAST, truncate=True)
    assert polls


@pytest.mark.parametrize("context_length", [4, 5, 17, 100, 127])
def test_encoder_with_a_context_that_is_no_multiple_of_its_sequences(bert, context_length):
    """llama.cpp aborts the process on such a batch."""
    with engine_for(bert, embedding=True, context_length=context_length) as engine:
        vectors, _ = engine.embed([*TEXTS, "x"], pooling=Pooling.MEAN, truncate=True)
    assert len(vectors) == len(TEXTS) + 1
