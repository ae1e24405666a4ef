"""Anthropic's answers: from a job's events to the events of a message, and to the whole of it."""

import pytest

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Done,
    Started,
    Text,
    Thinking,
    ToolCall,
)
from appliance.http.anthropic_answers import SIGNATURE, Folded, Writer

STARTED = Started(queue_position=0, queue_ns=0, load_ns=0, slots=1, prompt_tokens=7)


def done(**fields):
    known = {"reason": "stop", "total_ns": 1, "prompt_tokens": 7, "cached_tokens": 4}
    return Done(**{**known, "output_tokens": 3, **fields})


def call(index, *, pieces=('{"at":', '"Bonn"}')):
    made = ToolCall("weather", {"at": "Bonn"}, f"call_{index}")
    return [
        CallStarted(index, made.id, made.name),
        *(CallArguments(index, piece) for piece in pieces),
        CallDone(index, made),
    ]


def written(*events, **fields):
    writer = Writer(model="m", **fields)
    return [piece for event in events for piece in writer.feed(event)]


def kinds(pieces):
    return [
        piece["delta"]["type"] if piece["type"] == "content_block_delta" else piece["type"]
        for piece in pieces
    ]


def whole(pieces):
    folded = Folded()
    for piece in pieces:
        folded.add(piece)
    return folded.message


def test_a_plain_answer():
    pieces = written(STARTED, Text("Good "), Text(""), Text("day"), done())
    assert kinds(pieces) == [
        "message_start",
        "content_block_start",
        "text_delta",
        "text_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = pieces[0]["message"]
    assert start["id"].startswith("msg_")
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert start["usage"]["input_tokens"] == 7
    assert pieces[1]["content_block"] == {"type": "text", "text": ""}
    assert pieces[-2]["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 3,
    }


def test_all_kinds_of_blocks_in_their_order():
    pieces = written(
        STARTED, Thinking("hm"), Text("I look"), *call(0), *call(1), done(tool_calls=2)
    )
    assert kinds(pieces) == [
        "message_start",
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "input_json_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    starts = [p for p in pieces if p["type"] == "content_block_start"]
    assert [p["index"] for p in starts] == [0, 1, 2, 3]
    assert starts[2]["content_block"]["input"] == {}


def test_the_whole_message_is_the_sum_of_its_events():
    message = whole(
        written(STARTED, Thinking("h"), Thinking("m"), Text("I look"), *call(0), done())
    )
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
        {"type": "text", "text": "I look"},
        {"type": "tool_use", "id": "call_0", "name": "weather", "input": {"at": "Bonn"}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["output_tokens"] == 3


def test_a_call_whose_arguments_come_at_once():
    message = whole(written(STARTED, *call(0, pieces=()), done()))
    assert message["content"][0]["input"] == {"at": "Bonn"}


def test_text_between_calls():
    message = whole(written(STARTED, *call(0), Text("and"), *call(1), done()))
    assert [block["type"] for block in message["content"]] == ["tool_use", "text", "tool_use"]


def test_one_call_alone_where_the_client_wants_no_more():
    pieces = written(STARTED, *call(0), *call(1), done(), only_one_call=True)
    assert [block["id"] for block in whole(pieces)["content"]] == ["call_0"]


def test_thinking_that_is_not_told():
    pieces = written(STARTED, Thinking("hm"), Text("a"), done(), tells_thinking=False)
    assert whole(pieces)["content"][0] == {
        "type": "thinking",
        "thinking": "",
        "signature": SIGNATURE,
    }


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"reason": "length"}, "max_tokens", None),
        ({"stop_sequence": "END"}, "stop_sequence", "END"),
        ({"stop_sequence": "<|im_end|>"}, "end_turn", None),  # the model's own, not the client's
    ],
)
def test_why_it_stopped(fields, reason, sequence):
    message = whole(written(STARTED, Text("a"), done(**fields), stops=frozenset({"END"})))
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_an_empty_answer():
    assert kinds(written(STARTED, done())) == ["message_start", "message_delta", "message_stop"]
