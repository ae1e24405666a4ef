"""The shipped GGUF in llama.cpp: it loads, splits text as its trainer does, answers and stops."""

import random

import gguf
import pytest

from tools.builtin_model import SHIPPED
from tools.builtin_model.bpe import ByteBPE
from tools.builtin_model.conversations import SPECIAL
from tools.builtin_model.evaluate import ask, open_model
from tools.builtin_model.topics import load

MAX_BYTES = 8 * 1000 * 1000


@pytest.fixture(scope="module")
def model():
    llama = open_model(SHIPPED, threads=2)
    yield llama
    llama.close()


@pytest.fixture(scope="module")
def bpe():
    fields = gguf.GGUFReader(SHIPPED).fields
    lines = fields["tokenizer.ggml.merges"].contents()
    return ByteBPE([tuple(line.split(" ")) for line in lines], SPECIAL)


def test_the_file_is_small_enough_to_ship():
    assert SHIPPED.stat().st_size <= MAX_BYTES


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("What is Hearth?", "local network"),
        ("which port does it listen on", "11434"),
        ("How do I download a model?", "hearth pull"),
        ("who are you?", "tiny"),
        ("What is the capital of France?", "do not know"),
    ],
)
def test_it_answers_and_ends_by_itself(model, question, part):
    reply, finished = ask(model, question)
    assert part in reply
    assert finished


def test_a_system_prompt_and_earlier_turns_do_not_confuse_it(model):
    result = model.create_chat_completion(
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is Hearth?"},
            {"role": "assistant", "content": "An AI box for your local network."},
            {"role": "user", "content": "How do I delete a model?"},
        ],
        temperature=0.0,
        max_tokens=100,
    )
    assert "hearth rm" in result["choices"][0]["message"]["content"]


def test_llama_cpp_splits_text_as_the_trainer_does(model, bpe):
    for text in [*written_texts(), *odd_texts(random.Random(3))]:
        expected = model.tokenize(text.encode(), add_bos=False, special=False)
        assert bpe.encode(text) == expected, text
        assert bpe.decode(expected) == text


def written_texts():
    for topic in load():
        yield topic.answer
        yield from topic.asked[:5]


def odd_texts(source):
    """White space in runs, contractions, digits, signs, and characters of one to four bytes."""
    pieces = [
        " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "a", "Hearth", "don't", "'ll",
        "x's", "11434", "\u00b2", "\u0663", "\u2167", "!?", "_", "-", "<|im_end|>", "\u00e9",
        "e\u0301", "\u00df", "\u0416", "\u4e2d\u6587", "\u0939\u093f", "\U0001f525",
    ]  # fmt: skip
    for _ in range(500):
        yield "".join(source.choice(pieces) for _ in range(source.randint(1, 12)))
