"""A signed release of the built-in model, proved and served by llama.cpp; then one that has gone
bad in the weights, which only the real engine can find out.
"""

from pathlib import Path

import pytest

from tests.fakes.gguf_builder import tiny_embedding_gguf, tiny_llama_bytes
from tests.integration.bundle_box import Box, enrol

MODEL = Path(__file__).parents[2] / "appliance/builtin/hearth.gguf"
QUESTION = {
    "name": "knows itself",
    "messages": [{"role": "user", "content": "What is Hearth?"}],
    "matches": "[A-Z][a-z]+",
    "max_tokens": 24,
}

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the built-in model is not built")


@pytest.fixture
def box(publisher, web, tmp_path, start_service):
    enrol(tmp_path / "box", publisher, web.url)
    return Box(start_service(tmp_path / "box", engine="llama"), publisher, web)


def test_it_proves_itself_on_the_real_engine_and_a_bad_update_does_not(box):
    weights = MODEL.read_bytes()
    box.publish("1.0.0", "", weights=weights, smoke={"tests": [QUESTION], "min_tokens_per_s": 1.0})
    statuses = box.install()
    assert "running smoke tests" in statuses
    answer = box.ask("What is Hearth?")
    assert answer
    assert box.show()["active_release"]["tokens_per_s"] > 1
    wrong = {**QUESTION, "contains": ["a word that it never says"]}
    box.publish("1.1.0", "Be brief.", weights=weights, smoke={"tests": [wrong]})
    assert box.refused()[0] == "activation_failed"
    assert box.ask("What is Hearth?") == answer
    box.publish("1.2.0", "", weights=weights, smoke={"tests": [QUESTION], "min_tokens_per_s": 1e5})
    assert "too slow" in box.refused()[1]
    assert box.ask("What is Hearth?") == answer


def test_numbers_that_are_not_finite_do_not_pass_the_test_that_every_release_gets(box):
    good = tiny_llama_bytes()
    box.publish("1.0.0", "", weights=good)
    box.install()
    box.publish("1.1.0", "", weights=with_nan(good))
    code, error = box.refused()
    assert code == "activation_failed"
    assert "no finite numbers" in error


def with_nan(gguf):
    """The model with every weight of its last tensors not a number."""
    return gguf[: -64 * 4 * 64] + b"\x00\x00\xc0\x7f" * (64 * 64)


def test_an_embedding_model_is_proved_by_a_vector(box, tmp_path):
    box.publish("1.0.0", "", weights=tiny_embedding_gguf(tmp_path / "e.gguf").read_bytes())
    box.install()
    body = {"model": box.name(), "input": "one two"}
    assert box.service.call("POST", "/api/embed", body)[0] == 200


def test_a_reranker_is_proved_by_a_score(box, tmp_path):
    weights = tiny_embedding_gguf(tmp_path / "r.gguf", pooling=None, labels=1).read_bytes()
    box.publish("1.0.0", "", weights=weights)
    box.install()
    body = {"model": box.name(), "query": "one", "documents": ["two", "one"]}
    assert box.service.call("POST", "/v1/rerank", body)[0] == 200
