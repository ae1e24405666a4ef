"""What do rendering and parsing cost per token, with 64 streams in one process?

64 answers of one family at a time, their tokens of four characters fed in turn, as an engine that
runs 64 sequences sends them: bytes to text, text to events, calls parsed. Beside it the prompt: 20
messages and 5 tools, rendered once per answer, shared out over its tokens. Without engine and
sockets, which bench_service.py has.
"""

from __future__ import annotations

import argparse
import time

import harness
from bench_render import JINJA, conversation, tools

from appliance.chat.events import Tool
from appliance.chat.parse.families import Family
from appliance.chat.parse.tools import forms
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.template import render
from appliance.templates.choice import ChatTemplate
from engine.text import TextAssembler

STREAMS = 64
TOKEN_BYTES = 4
BAR_US = 50.0
THINK = ("<think>", "</think>")
PROSE = "The box keeps its models on disk, and answers every device on the site. " * 12
ARGUMENTS = '{"city": "Bern", "days": [1, 2, 3], "note": "' + "take an umbrella; " * 12 + '"}'
CALL = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'
ANALYSIS = f"<|channel|>analysis<|message|>{PROSE}<|end|><|start|>assistant"
TO_WEATHER = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
CASES = {
    "text alone": (Family("bare", forms.BARE), False, PROSE),
    "thinking, then text": (
        Family("qwen", forms.HERMES, THINK),
        False,
        f"<think>{PROSE}</think>ok",
    ),
    "Hermes, Qwen": (
        Family("qwen", forms.HERMES, THINK),
        True,
        f"<think>{PROSE}</think><tool_call>{CALL}</tool_call>",
    ),
    "Llama 3": (Family("llama", forms.LLAMA), True, f"{CALL}; {CALL}"),
    "Mistral": (Family("mistral", forms.MISTRAL), True, f"{PROSE}[TOOL_CALLS][{CALL}, {CALL}]"),
    "gpt-oss": (
        Family("harmony", forms.BARE, is_harmony=True),
        True,
        f"{ANALYSIS}{TO_WEATHER}{ARGUMENTS}<|call|>",
    ),
}


def parse_us(family: Family, tools: tuple[Tool, ...], output: bytes, rounds: int) -> list[float]:
    """Microseconds per token in each round of 64 streams."""
    pieces = [output[at : at + TOKEN_BYTES] for at in range(0, len(output), TOKEN_BYTES)]
    found = []
    for _ in range(rounds):
        streams = [(TextAssembler(["<|im_end|>"]), family.parser(tools)) for _ in range(STREAMS)]
        events = 0
        began = time.perf_counter()
        for piece in pieces:
            for assembler, parser in streams:
                events += len(parser.feed(assembler.feed(piece)))
        for assembler, parser in streams:
            events += len([*parser.feed(assembler.finish()), *parser.finish()])
        elapsed_s = time.perf_counter() - began
        assert events >= STREAMS
        found.append(elapsed_s * 1e6 / (STREAMS * len(pieces)))
    return found


def render_us(tokens: int, rounds: int) -> float:
    template = ChatTemplate(JINJA, is_go=False)
    given = RenderInput(conversation(20), tools(5))
    render(template, given)
    began = time.perf_counter()
    for _ in range(rounds):
        render(template, given)
    return (time.perf_counter() - began) * 1e6 / rounds / tokens


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments("Cost of rendering and parsing per token")
    options: argparse.Namespace = parser.parse_args(argv)
    rounds = 5 if options.quick else 20
    rows, measured = [], {}
    for name, (family, has_tools, output) in CASES.items():
        known = (Tool("weather"),) if has_tools else ()
        spread = harness.Spread.of(parse_us(family, known, output.encode(), rounds))
        tokens = len(output.encode()) // TOKEN_BYTES
        rendering = render_us(tokens, rounds)
        whole = spread.median + rendering
        rows.append([name, spread.text(1), f"{rendering:.1f}", f"{whole:.1f}"])
        measured[f"{name}, us"] = whole
    conditions = harness.machine() | {"streams": STREAMS, "rounds": rounds, "bar_us": BAR_US}
    head = ["64 streams, µs per token", "parsing", "rendering", f"both (bar: {BAR_US:g})"]
    harness.report("parse", conditions, head, rows, measured)


if __name__ == "__main__":
    main()
