"""OpenAI's answers: from events to choices and chunks."""

import json
import math

import pytest

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Done,
    Echoed,
    Started,
    Text,
    Thinking,
    ToolCall,
)
from appliance.http import openai_answers as answers
from appliance.http.streams import Folded
from engine.api import TokenLogprob

DONE = Done(reason="stop", total_ns=5, output_tokens=9)
CALLS = [
    Thinking("Let me see."),
    CallStarted(0, "call_1", "now"),
    CallArguments(0, '{"zone": '),
    CallArguments(0, '"UTC"}'),
    CallDone(0, ToolCall("now", {"zone": "UTC"}, "call_1")),
    CallStarted(1, "call_2", "date"),
    CallArguments(1, "{}"),
    CallDone(1, ToolCall("date", {}, "call_2")),
    Done(reason="stop", total_ns=5, output_tokens=9, tool_calls=2),
]


def folded(events):
    found = Folded()
    for event in events:
        found.add(event)
    return found


def deltas(events):
    shape = answers.ChatShape()
    choices = [shape.delta(0, event, has_logprobs=False) for event in events]
    return [choice["delta"] for choice in choices if choice is not None]


def test_calls_stream_with_their_names_first_and_arguments_in_pieces():
    function = {"name": "now", "arguments": ""}
    begun = {"index": 0, "id": "call_1", "type": "function", "function": function}
    other = {"name": "date", "arguments": ""}
    assert deltas(CALLS) == [
        {"reasoning": "Let me see."},
        {"tool_calls": [begun]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"zone": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"UTC"}'}}]},
        {"tool_calls": [{"index": 1, "id": "call_2", "type": "function", "function": other}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]


def test_a_whole_answer_with_calls():
    message = answers.ChatShape().choice(0, folded(CALLS), has_logprobs=False)["message"]
    assert (message["content"], message["reasoning"]) == (None, "Let me see.")
    assert [call["id"] for call in message["tool_calls"]] == ["call_1", "call_2"]
    assert message["tool_calls"][0]["type"] == "function"
    function = message["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("now", {"zone": "UTC"})


def test_a_plain_answer_names_neither_calls_nor_reasoning():
    message = answers.ChatShape().choice(0, folded([Text("hi"), DONE]), has_logprobs=False)[
        "message"
    ]
    assert message == {"role": "assistant", "content": "hi", "refusal": None}


def test_finish_reasons():
    assert answers.finish_of(DONE) == "stop"
    assert answers.finish_of(CALLS[-1]) == "tool_calls"
    assert answers.finish_of(Done(reason="length", total_ns=0, tool_calls=1)) == "length"


def test_only_the_first_call_of_an_answer_that_may_hold_one():
    kept = [answers.without_further_calls(event) for event in CALLS]
    kept = [event for event in kept if event is not None]
    assert kept[:-1] == CALLS[:5]
    assert kept[-1].tool_calls == 1


def test_completions_echo_their_prompts():
    shape = answers.TextShape()
    found = folded([Echoed("two "), Text("x"), DONE])
    assert shape.choice(1, found, has_logprobs=False)["text"] == "two x"
    started = Started(queue_position=0, queue_ns=0, load_ns=0, slots=1)
    assert shape.delta(0, started, has_logprobs=False) is None
    chunk = shape.delta(0, Echoed("one "), has_logprobs=False)
    assert chunk == {"index": 0, "text": "one ", "logprobs": None}


def test_log_probabilities_of_a_prompt_come_before_those_of_the_answer():
    prompt = (
        TokenLogprob(9, b"<s>", math.nan),
        TokenLogprob(1, b"a", -0.5, [(2, b"c", -0.25)]),
        TokenLogprob(2, b" b", -1.0, [(2, b" b", -1.0)]),
    )
    answer = TokenLogprob(3, b"!", -2.0, [(3, b"!", -2.0)])
    found = folded([Echoed("a b", prompt), Text("!", (answer,)), DONE])
    choice = answers.TextShape(top=1).choice(0, found, has_logprobs=True)
    assert choice["text"] == "a b!"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "a", " b", "!"],
        "token_logprobs": [None, -0.5, -1.0, -2.0],
        "top_logprobs": [None, {"c": -0.25}, {" b": -1.0}, {"!": -2.0}],
        "text_offset": [0, 0, 1, 3],
    }
    shape = answers.TextShape()
    assert shape.delta(0, Echoed("a b", prompt), has_logprobs=True)["logprobs"]["text_offset"] == [
        *(0, 0, 1)
    ]
    assert shape.delta(0, Text("!", (answer,)), has_logprobs=True)["logprobs"] == {
        "tokens": ["!"],
        "token_logprobs": [-2.0],
        "top_logprobs": None,
        "text_offset": [3],
    }


@pytest.mark.parametrize(
    ("text", "pieces", "offsets"),
    [
        ("", [], []),
        ("hello you", [b"<s>", b" hello", b" you"], [0, 0, 5]),  # a blank that is not in the text
        ("aé b", [b"a", b"\xc3", b"\xa9", b" b"], [0, 1, 2, 2]),  # a character in two tokens
        ("\U0001f600x", [b"\xf0\x9f", b"\x98\x80", b"x"], [0, 1, 1]),
    ],
)
def test_offsets_of_a_prompts_tokens_count_characters(text, pieces, offsets):
    entries = tuple(TokenLogprob(0, piece, -1.0) for piece in pieces)
    assert answers.prompt_offsets(Echoed(text, entries)) == offsets


def test_a_prompt_with_several_choices_counts_once():
    usage = answers.Usage()
    done = Done(
        reason="stop",
        total_ns=0,
        prompt_tokens=10,
        cached_tokens=8,
        output_tokens=2,
        thinking_tokens=1,
    )
    usage.add(done, is_new_prompt=True)
    usage.add(done, is_new_prompt=False)
    assert usage.as_json() == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_text_offsets_go_on_from_piece_to_piece():
    shape = answers.TextShape(top=1)
    first = TokenLogprob(1, b"ab", -0.5, [(1, b"ab", -0.5)])
    second = TokenLogprob(2, b"c", -0.25, [(2, b"c", -0.25)])
    assert shape.delta(0, Text("ab", (first,)), has_logprobs=True)["logprobs"] == {
        "tokens": ["ab"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"ab": -0.5}],
        "text_offset": [0],
    }
    assert shape.delta(0, Text("c", (second,)), has_logprobs=True)["logprobs"]["text_offset"] == [2]
    assert shape.delta(1, Text("c", (second,)), has_logprobs=True)["logprobs"]["text_offset"] == [0]


def test_chat_logprobs():
    entry = TokenLogprob(1, b"ab", -0.5, [(1, b"ab", -0.5), (2, b"c", -1.0)])
    token = {"token": "ab", "logprob": -0.5, "bytes": [97, 98]}
    found = folded([Text("ab", (entry,)), DONE])
    choice = answers.ChatShape(top=1).choice(0, found, has_logprobs=True)
    assert choice["logprobs"]["content"] == [token | {"top_logprobs": [token]}]
    assert answers.ChatShape().choice(0, found, has_logprobs=False)["logprobs"] is None
