"""Ollama's answers: from events to JSON, in Ollama's order of keys."""

import pytest

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Done,
    JobRequest,
    Started,
    Text,
    Thinking,
    ToolCall,
)
from appliance.http import ollama_answers as answers
from appliance.http.streams import Folded
from engine.api import TokenLogprob

JOB = JobRequest(model="m", work=None)
CALL = ToolCall("now", {"zone": "UTC"}, "call_ab12cd34")
WIRE_CALL = {
    "id": "call_ab12cd34",
    "function": {"index": 0, "name": "now", "arguments": {"zone": "UTC"}},
}
STARTED = Started(queue_position=0, queue_ns=0, load_ns=0, slots=1)
EVENTS = [
    STARTED,
    Thinking("Let me "),
    Thinking("see."),
    Text("Well. "),
    CallStarted(0, "call_ab12cd34", "now"),
    CallArguments(0, '{"zone": '),
    CallArguments(0, '"UTC"}'),
    CallDone(0, CALL),
    Done(reason="stop", total_ns=5, output_tokens=9, tool_calls=1),
]


def lines(encode, job=JOB, events=EVENTS):
    found = [answers.line_of(event, job, encode) for event in events]
    return [line for line in found if line is not None]


def test_a_stream_of_chat_carries_calls_whole_and_thinking_apart():
    messages = [line["message"] for line in lines(answers.chat_answer)]
    assert messages == [
        {"role": "assistant", "content": "", "thinking": "Let me "},
        {"role": "assistant", "content": "", "thinking": "see."},
        {"role": "assistant", "content": "Well. "},
        {"role": "assistant", "content": "", "tool_calls": [WIRE_CALL]},
        {"role": "assistant", "content": ""},
    ]
    *pieces, last = lines(answers.chat_answer)
    assert all(not piece["done"] and "done_reason" not in piece for piece in pieces)
    assert (last["done"], last["done_reason"]) == (True, "stop")  # also after calls


def test_the_order_of_keys_is_ollamas():
    thought, _, _, called, last = lines(answers.chat_answer)
    assert list(thought) == ["model", "created_at", "message", "done"]
    assert list(thought["message"]) == ["role", "content", "thinking"]
    (call,) = called["message"]["tool_calls"]
    assert list(call) == ["id", "function"]
    assert list(call["function"]) == ["index", "name", "arguments"]
    assert list(last)[:5] == ["model", "created_at", "message", "done", "done_reason"]
    thought = lines(answers.generate_answer)[0]
    assert list(thought) == ["model", "created_at", "response", "thinking", "done"]


def test_a_whole_answer_is_a_fold_over_the_same_events():
    folded = Folded()
    for event in EVENTS:
        folded.add(event)
    said = answers.Said(folded.text, folded.thinking, folded.calls)
    assert answers.chat_answer("m", said, True, {})["message"] == {
        "role": "assistant",
        "content": "Well. ",
        "thinking": "Let me see.",
        "tool_calls": [WIRE_CALL],
    }


@pytest.mark.parametrize("encode", [answers.chat_answer, answers.generate_answer])
def test_thinking_carries_its_logprobs(encode):
    entry = TokenLogprob(7, b"hm", -0.5)
    job = JobRequest(model="m", work=None, logprobs=0)
    (line,) = lines(encode, job, [Thinking("hm", (entry,))])
    assert line["logprobs"] == [{"token": "hm", "logprob": -0.5, "bytes": [0x68, 0x6D]}]


def test_a_call_without_arguments_keeps_its_empty_object():
    (line,) = lines(answers.chat_answer, events=[CallDone(1, ToolCall("now"))])
    assert line["message"]["tool_calls"] == [
        {"function": {"index": 1, "name": "now", "arguments": {}}}
    ]


def test_zero_values_are_left_out_of_answers():
    done = Done(reason="stop", total_ns=5, output_tokens=2, prompt_tokens=0)
    answer = answers.generate_answer("m", answers.NOTHING, True, answers.metrics_of(done))
    assert answer.keys() == {
        "model",
        "created_at",
        "response",
        "done",
        "done_reason",
        "total_duration",
        "eval_count",
    }
    empty = answers.chat_answer("m", answers.NOTHING, False, {})
    assert empty["message"] == {"role": "assistant", "content": ""}


def test_logprobs_of_an_answer():
    entry = TokenLogprob(7, b"\xe2\x82", -0.5, [(7, b"\xe2\x82", -0.5), (8, b"a", -1.0)])
    token = {"token": "\ufffd", "logprob": -0.5, "bytes": [0xE2, 0x82]}
    assert answers.logprobs_of([entry], 0) == [token]
    assert answers.logprobs_of([entry], 1) == [token | {"top_logprobs": [token]}]


def test_timestamps_have_nanoseconds_and_utc():
    assert answers.timestamp(1_700_000_000_000_000_042) == "2023-11-14T22:13:20.000000042Z"
