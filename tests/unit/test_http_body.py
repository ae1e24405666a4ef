"""Decoding of JSON bodies: lenient where Ollama is, strict where safety asks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import BadRequestError, RequestTooLargeError
from appliance.http.body import MAX_VALUES, decode


def value_of(text, max_depth=64):
    return decode(text.encode() if isinstance(text, str) else text, max_depth=max_depth)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_as_it_was(value):
    assert value_of(json.dumps(value)) == value
    assert value_of(json.dumps(value, ensure_ascii=False)) == value


def test_bytes_after_the_value_are_ignored():
    assert value_of('{"a": 1} trailing') == {"a": 1}
    assert value_of('{"a": 1}{"a": 2}') == {"a": 1}


def test_a_byte_order_mark_and_blanks_are_skipped():
    assert value_of(b"\xef\xbb\xbf \n {}") == {}


def test_the_last_of_equal_keys_counts():
    assert value_of('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    "text",
    ["{", '{"a": NaN}', "[Infinity]", "[-Infinity]", "nul", "{'a': 1}", b"\xff\xfe{}", b'"\xff"'],
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(BadRequestError, match="not valid JSON"):
        value_of(text)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_infinite_numbers_are_refused(number):
    with pytest.raises(BadRequestError, match="out of range"):
        value_of(f'{{"a": [{number}]}}')


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_whole_numbers_beyond_64_bits_are_refused(number):
    with pytest.raises(BadRequestError, match="beyond 64 bits"):
        value_of(f"[{number}]")


def test_numbers_of_thousands_of_digits_are_refused():
    with pytest.raises(BadRequestError):
        value_of("9" * 5000)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [65, 100, 500_000])
def test_deep_nesting_is_refused(opening, depth):
    closing = "]" if opening == "[" else "}"
    with pytest.raises(RequestTooLargeError, match="deeper than the 64 levels"):
        value_of(opening * depth + "1" + closing * depth)


def test_nesting_up_to_the_limit_passes():
    value_of("[" * 64 + "1" + "]" * 64)


def test_too_many_values_are_refused_before_they_are_decoded():
    with pytest.raises(RequestTooLargeError, match="values"):
        value_of("[" + "[]," * MAX_VALUES + "1]")


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\uD83D\uDE00", "\U0001f600"),
        (r"\ud83d", "\ufffd"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\u0041", "\ufffdA"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\\ufffd"),
    ],
)
def test_half_of_a_surrogate_pair_becomes_the_replacement_character(escaped, text):
    assert value_of(f'["{escaped}"]') == [text]


@given(st.text(alphabet="\\ud83deE0A\"'n/ ", max_size=24))
def test_decoded_text_can_always_be_encoded(inside):
    try:
        value = value_of(f'["{inside}"]')
    except BadRequestError:
        return
    assert value[0].encode().decode() == value[0]
