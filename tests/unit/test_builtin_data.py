"""The built-in model's written material: the format, and that measuring and training stay apart."""

import random
from dataclasses import replace

import pytest

from tools.builtin_model import topics as material
from tools.builtin_model.bpe import ByteBPE
from tools.builtin_model.conversations import SPECIAL, Conversations
from tools.builtin_model.topics import DataError, expand, word_key
from tools.builtin_model.vary import vary


@pytest.fixture(scope="module")
def topics():
    return material.load()


def test_the_shipped_material_keeps_its_rules(topics):
    material.check(topics)
    assert len(topics) >= 150
    assert sum(len(topic.held) for topic in topics) >= 300


def test_no_held_out_question_is_trained_on(topics):
    trained = {word_key(question) for topic in topics for question in topic.asked}
    assert not [q for topic in topics for q in topic.held if word_key(q) in trained]


def test_no_variation_that_is_shown_is_nearly_a_held_out_question(topics):
    crowded = [replace(topics[0], held=("tell me about the hearth",)), *topics[1:]]
    bpe = ByteBPE([], SPECIAL)
    source = Conversations(crowded, bpe, seed=1, batch_tokens=64, longest=64)
    shown = [source.question(crowded[0]) for _ in range(600)]
    assert not [q for q in shown if material.is_near(q, "tell me about the hearth")]


def test_a_line_with_choices_is_several_questions():
    assert expand("{start|launch} {it|}") == ["start it", "start", "launch it", "launch"]


def test_every_part_of_must_is_needed_in_one_of_its_wordings(topics):
    topic = replace(topics[0], must=(("red", "crimson"), ("box",)))
    assert topic.is_answered_by("A Crimson\n box")
    assert not topic.is_answered_by("A red thing")


def broken_by_training_on_a_held_out_question(topics):
    first = topics[0]
    return [replace(first, lines=((first.held[0].upper() + "?!",), *first.lines)), *topics[1:]]


def broken_by_a_must_that_another_answer_meets(topics):
    return [replace(topics[0], answer=topics[1].answer, must=(("hearth",),)), *topics[1:]]


def broken_by_one_question_for_two_answers(topics):
    return [replace(topics[0], lines=(*topics[0].lines, topics[1].lines[0])), *topics[1:]]


def broken_by_too_few_questions(topics):
    return [replace(topics[0], lines=(topics[0].asked[:3],)), *topics[1:]]


def broken_by_a_name_used_twice(topics):
    return [topics[0], *topics]


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (broken_by_training_on_a_held_out_question, "is also trained on"),
        (broken_by_a_must_that_another_answer_meets, "is also met by"),
        (broken_by_one_question_for_two_answers, "asks for both"),
        (broken_by_too_few_questions, "are needed"),
        (broken_by_a_name_used_twice, "must be unique"),
    ],
)
def test_broken_material_is_refused_with_the_rule(topics, breaking, message):
    with pytest.raises(DataError, match=message):
        material.check(breaking(topics))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("answer: early", "is no answer"),
        ("[name]\nreply: x", "is no answer"),
        ("[name]\nanswer: x\nask: y", "exactly one answer"),
    ],
)
def test_a_malformed_file_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "odd.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        material.load(tmp_path)


def test_variations_repeat_with_the_seed_and_differ_without():
    question = "How do I change the port of the box?"
    first = [vary(question, random.Random(1)) for _ in range(2)]
    assert first[0] == first[1]
    assert len({vary(question, random.Random(seed)) for seed in range(50)}) > 20
