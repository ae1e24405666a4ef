"""Scores of the llama engine: a cross-encoder, a causal reranker, cosines, limits."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
from llama_cpp import llama_cpp as lib

from engine.api import GenerateRequest, Pooling
from engine.errors import ContextLengthError, EngineRequestError
from tests.fakes.gguf_builder import (
    RERANK_TEMPLATE,
    tiny_embedding_gguf,
    tiny_llama_gguf,
    tiny_qwen3_reranker_gguf,
)
from tests.fakes.llama_runs import engine_for

QUERY = "what is the question"
DOCUMENTS = ["the dog", "the user asked the assistant", "answer", "", "fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
def cross(tmp_path_factory):
    """Without a pooling type, as files of cross-encoders are."""
    return tiny_embedding_gguf(tmp_path_factory.mktemp("rank") / "c.gguf", pooling=None, labels=1)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return tiny_qwen3_reranker_gguf(tmp_path_factory.mktemp("rank") / "q.gguf")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_embedding_gguf(tmp_path_factory.mktemp("rank") / "bert.gguf")


@contextmanager
def ranker(path, **spec):
    with engine_for(path, embedding=True, ranking=True, **spec) as engine:
        yield engine


def score(engine, documents=DOCUMENTS, queries=(QUERY,), *, limit=0, truncate=True):
    return engine.score(queries, documents, max_document_tokens=limit, truncate=truncate)


def plain_outputs(path, tokens, width):
    """What llama.cpp's classifier says of one input, all of it in one batch: (width,) float32."""
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    settings = lib.llama_context_default_params()
    settings.embeddings = True
    settings.pooling_type = lib.LLAMA_POOLING_TYPE_RANK
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = 1
    context = lib.llama_init_from_model(model, settings)
    array = (lib.llama_token * len(tokens))(*tokens)
    compute = lib.llama_decode if lib.llama_get_memory(context) else lib.llama_encode
    assert compute(context, lib.llama_batch_get_one(array, len(tokens))) == 0
    pointer = lib.llama_get_embeddings_seq(context, 0)
    found = np.ctypeslib.as_array(pointer, (width,)).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    return found


def as_pair(engine, document, query=QUERY):
    """[CLS] query [SEP] document: what a WordPiece vocabulary adds, as llama-server has it."""
    one, other = (
        engine.tokenize(text, add_special=False, parse_special=False) for text in (query, document)
    )
    return [2, *one, 3, *other]


def test_a_cross_encoders_score_is_what_llama_cpp_computes_of_the_pair(cross):
    with ranker(cross) as engine:
        assert engine.info.scoring == "logit"
        pairs = [as_pair(engine, document) for document in DOCUMENTS]
        scores, tokens = score(engine)
        assert tokens == sum(map(len, pairs))
        expected = [float(plain_outputs(cross, pair, 1)[0]) for pair in pairs]
        assert scores == pytest.approx(expected, abs=2e-3)
        assert len({round(value, 3) for value in scores}) == len(scores)


def test_many_documents_go_in_several_batches(cross):
    with ranker(cross) as engine:
        alone = [score(engine, [document])[0][0] for document in DOCUMENTS]
        together, _ = score(engine, DOCUMENTS * 9)
        assert together == pytest.approx(alone * 9, abs=5e-3)


def test_one_query_for_all_or_one_for_each(cross):
    with ranker(cross) as engine:
        queries = ["what", "is", "the", "answer", "dog"]
        each, _ = score(engine, queries=queries)
        one_by_one = [
            score(engine, [document], [query])[0][0]
            for query, document in zip(queries, DOCUMENTS, strict=True)
        ]
        assert each == pytest.approx(one_by_one, abs=5e-3)
        assert each != pytest.approx(score(engine)[0], abs=5e-2)


def test_a_causal_reranker_reads_its_template_in_pieces(causal):
    documents = [*DOCUMENTS, "the dog thinks about the answer " * 12]
    with ranker(causal) as engine:
        assert engine.info.scoring == "probability"
        prompts = [
            RERANK_TEMPLATE.replace("{query}", QUERY).replace("{document}", document)
            for document in documents
        ]
        tokens = [
            engine.tokenize(prompt, add_special=False, parse_special=True) for prompt in prompts
        ]
        scores, count = score(engine, documents)
        assert count == sum(map(len, tokens))
        outputs = [plain_outputs(causal, ids, 2) for ids in tokens]
        assert [float(output.sum()) for output in outputs] == pytest.approx([1.0] * len(outputs))
        assert scores == pytest.approx([float(output[0]) for output in outputs], abs=5e-3)


def test_a_text_with_a_placeholder_is_not_replaced_again(causal):
    with ranker(causal) as engine:
        found, _ = score(engine, ["the dog"], ["{document}"])
        prompt = RERANK_TEMPLATE.replace("{document}", "the dog").replace("{query}", "{document}")
        tokens = engine.tokenize(prompt, add_special=False, parse_special=True)
        assert found == [pytest.approx(float(plain_outputs(causal, tokens, 2)[0]), abs=5e-3)]


@pytest.mark.parametrize("kind", ["cross", "causal"])
def test_long_documents_are_cut_or_refused(kind, request):
    long = "the dog thinks " * 300
    with ranker(request.getfixturevalue(kind), context_length=100) as engine:
        scores, count = score(engine, ["the dog", long])
        assert count <= 100 + score(engine, ["the dog"])[1]
        assert math.isfinite(scores[1])
        with pytest.raises(ContextLengthError, match=r"document 1 has \d+ tokens.*reads 100"):
            score(engine, ["the dog", long], truncate=False)
        with pytest.raises(ContextLengthError, match=r"the query has \d+ tokens"):
            score(engine, ["the dog"], [long])
        few, tokens = score(engine, [long], limit=3)
        shortest, least = score(engine, [""])
        assert least <= tokens <= least + 4
        assert few != shortest


def test_a_document_cut_to_its_first_tokens_is_that_document(cross):
    with ranker(cross) as engine:
        assert score(engine, ["the dog answer"], limit=2) == score(engine, ["the dog"])


def test_a_classifier_of_several_labels_does_not_rank(tmp_path):
    path = tiny_embedding_gguf(tmp_path / "mood.gguf", labels=3)
    with ranker(path) as engine, pytest.raises(EngineRequestError, match="3 classes"):
        score(engine)


def test_an_embedding_model_scores_by_the_cosine(bert):
    with engine_for(bert, embedding=True) as engine:
        assert engine.info.scoring == "cosine"
        scores, count = score(engine)
        vectors, tokens = engine.embed([QUERY, *DOCUMENTS], pooling=Pooling.MODEL, truncate=True)
        query, *rows = (np.array(vector) for vector in vectors)
        norm = np.linalg.norm
        expected = [float(query @ row / norm(query) / norm(row)) for row in rows]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert count == tokens
        same, _ = score(engine, [QUERY])
        assert same == [pytest.approx(1.0, abs=1e-3)]
        cut, _ = score(engine, ["the dog answer"], limit=4)  # with [CLS] and [SEP]
        assert cut == pytest.approx(score(engine, ["the dog"])[0], abs=1e-3)
        with pytest.raises(ContextLengthError, match="document 0 has 502 tokens"):
            score(engine, ["a " * 500], truncate=False)


def test_who_generates_cannot_score_and_who_scores_cannot_generate(tmp_path, cross):
    with engine_for(tiny_llama_gguf(tmp_path / "tiny.gguf")) as engine:
        assert engine.info.scoring == ""
        with pytest.raises(EngineRequestError, match="cannot score"):
            score(engine)
    with ranker(cross) as engine:
        with pytest.raises(EngineRequestError, match="embeddings"):
            engine.add(GenerateRequest(id=1, prompt="a"))
        with pytest.raises(EngineRequestError, match="reranker"):
            engine.embed(["the dog"], pooling=Pooling.MODEL, truncate=True)
