"""What does it cost to write one event of an answer in each dialect's form?

The encoders alone, in this process: from an event to the bytes of a line, a chunk or an event. The
bar is for rendering and parsing a token together, 50 us; writing comes on top, so it should be a
small part.
"""

from __future__ import annotations

import argparse
import timeit

import harness
import msgspec

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Event,
    JobRequest,
    Text,
    Thinking,
    ToolCall,
)
from appliance.http import anthropic_answers, ollama_answers, openai_answers, responses_answers
from appliance.http.responses_wire import ResponsesRequest
from engine.api import TokenLogprob

ARGUMENTS = {"city": "Oslo", "days": 3}
BEST = [(n, b" word", -0.5) for n in range(5)]
EVENTS: dict[str, Event] = {
    "text": Text(" word", (), 1),
    "text with 5 logprobs": Text(" word", (TokenLogprob(1, b" word", -0.5, BEST),), 1),
    "thinking": Thinking(" word"),
    "piece of arguments": CallArguments(0, '{"city": "Os'),
    "call": CallDone(0, ToolCall("get_weather", ARGUMENTS, "call_ab12cd34")),
}


def writing_us(event: Event, rounds: int) -> list[float]:
    """Microseconds for Ollama's line, OpenAI's chunk, Anthropic's event and that of a Response; an
    event that has none costs little."""
    job = JobRequest(model="llama3.2:3b", work=None, logprobs=5)
    shape = openai_answers.ChatShape(top=5)
    writer = openai_answers.Writer(shape, job.model, usage_in_chunks=True)
    has_logprobs = isinstance(event, Text) and bool(event.logprobs)

    def line() -> None:
        found = ollama_answers.line_of(event, job, ollama_answers.chat_answer)
        if found is not None:
            msgspec.json.encode(found)

    def chunk() -> None:
        choice = shape.delta(0, event, has_logprobs=has_logprobs)
        if choice is not None:
            msgspec.json.encode(writer.chunk(choice))

    message = anthropic_answers.Writer(model=job.model)
    response = responses_answers.Writer(ResponsesRequest(model=job.model))
    for one in (message, response):
        one.feed(_opening(event))

    def named() -> None:
        for piece in message.feed(event):
            msgspec.json.encode(piece)

    def numbered() -> None:
        for piece in response.feed(event):
            msgspec.json.encode(piece)

    calls = (line, chunk, named, numbered)
    return [min(timeit.repeat(call, number=rounds, repeat=5)) / rounds * 1e6 for call in calls]


def _opening(event: Event) -> Event:
    """What opens the block that the event is in."""
    if isinstance(event, CallArguments | CallDone):
        return CallStarted(0, "call_ab12cd34", "get_weather")
    return event


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    conditions = harness.machine() | {"rounds": options.rounds}
    rows, measured = [], {}
    for name, event in EVENTS.items():
        costs = writing_us(event, options.rounds)
        rows.append([name, *(f"{cost:.1f} us" for cost in costs)])
        forms = ("ollama_us", "openai_us", "anthropic_us", "responses_us")
        measured[name] = dict(zip(forms, costs, strict=True))
    headers = ["one event", "Ollama's line", "OpenAI's chunk", "Anthropic's", "a Response's"]
    harness.report("wires", conditions, headers, rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Cost of writing one event of an answer")
    parser.add_argument("--rounds", type=int, help="default 100000, with --quick 10000")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (10_000 if options.quick else 100_000)
    return options


if __name__ == "__main__":
    main()
