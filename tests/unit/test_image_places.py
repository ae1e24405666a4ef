"""Where images stand among texts: each dialect's way, and the marks that templates carry."""

import asyncio

import pytest

from appliance.chat.events import Completion, Message
from appliance.chat.pictures import Pictures
from appliance.errors import UnsupportedError
from appliance.http.image_places import Parts, joined_content, places_by_mark, places_by_number


@pytest.mark.parametrize(
    ("content", "count", "expected"),
    [
        ("look", 2, ("look", ())),
        ("a [img] b", 1, ("a  b", (2,))),
        ("a [img] b [img] c", 2, ("a  b  c", (2, 5))),
        ("a [img]", 3, ("a ", (2, 0, 0))),
        ("a [img] [img]", 1, ("a  [img]", (2,))),
        ("no image, [img] is text", 0, ("no image, [img] is text", ())),
    ],
)
def test_ollamas_marks(content, count, expected):
    assert places_by_mark(content, count) == expected


@pytest.mark.parametrize(
    ("prompt", "count", "expected"),
    [
        ("plain", 1, ("plain", ())),
        ("[img-1]a[img-0]b", 2, ("ab", (1, 0))),
        ("x[img-7]y[img-0][img-0]", 1, ("x[img-7]y[img-0]", (9,))),
    ],
)
def test_numbers_in_raw_prompts(prompt, count, expected):
    assert places_by_number(prompt, count) == expected


def test_parts_keep_their_order():
    parts = Parts("\n")
    parts.add_text("a")
    parts.add_text("b")
    parts.add_image(b"1")
    parts.add_text("c")
    parts.add_image(b"2")
    assert (parts.content, parts.images, parts.places) == ("a\nbc", (b"1", b"2"), (3, 4))


def test_joined_turns_move_their_images():
    joined = joined_content([("ab", 1, (1,)), ("", 1, ()), ("cd", 1, (2,))], "\n")
    assert joined == ("ab\ncd", (1, 2, 5))


def test_marks_are_numbered_through_all_messages_and_unknown_to_clients():
    messages = [
        Message("user", "ab", images=(b"1", b"2"), image_places=(1,)),
        Message("assistant", "[img-0]"),
        Message("user", "c", images=(b"3",)),
    ]
    pictures = Pictures([b"1", b"2", b"3"], [1, 1, 1])
    shown = [pictures.shown(m.content) for m in pictures.marked(messages)]
    assert shown == ["[img-1]a[img-0]b", "[img-0]", "[img-2]c"]
    assert pictures.marked(messages)[0].content != Pictures([b"1"] * 3).marked(messages)[0].content


def tokens(pictures, text, *, add_special=True):
    async def tokenize(texts, add_special):
        return [[9] * add_special + [ord(c) for c in text] for text in texts]

    return asyncio.run(pictures.tokens_of(text, tokenize, add_special=add_special))


def test_images_become_as_many_tokens_as_they_take():
    pictures = Pictures([b"1", b"2"], [2, 3])
    work = Completion(prompt="ab", images=(b"1", b"2"), image_places=(1, 2))
    text = pictures.marked_prompt(work)
    assert tokens(pictures, text) == [9, 97, -1, -1, 98, -2, -2, -2]
    assert tokens(pictures, text, add_special=False) == [97, -1, -1, 98, -2, -2, -2]
    front = pictures.marked_prompt(Completion(prompt="ab", images=(b"1", b"2")))
    assert tokens(pictures, front) == [9, -1, -1, -2, -2, -2, 97, 98]
    assert tokens(Pictures(), "ab") == [9, 97, 98]


def test_a_template_that_drops_an_image_is_told_on():
    pictures = Pictures([b"1", b"2"], [1, 1])
    text = pictures.marked([Message("user", "a", images=(b"1", b"2"))])[0].content
    pictures.check_all_in(text, 2)
    pictures.check_all_in("", 0)
    with pytest.raises(UnsupportedError, match="no place for image 1"):
        pictures.check_all_in("", 1)
