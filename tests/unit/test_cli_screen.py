"""What goes to the screen: answers, timings, progress, status."""

import io
import sys
from datetime import UTC, datetime

import click
import pytest

from appliance.cli.answer import AnswerView, Look, timing_lines
from appliance.cli.bundle import why
from appliance.cli.lazy import run_command
from appliance.cli.models import models_table, processor_words
from appliance.cli.progress import Progress, render_bar
from appliance.cli.status import status_screen
from appliance.errors import RegistryError


class Screen(io.StringIO):
    def isatty(self):
        return True


def shown(look, *pieces, out=None):
    out = out or io.StringIO()
    view = AnswerView(look, out)
    for content, thinking in pieces:
        view.feed(content, thinking)
    view.finish()
    return out.getvalue()


def test_answer_ends_with_a_blank_line():
    assert shown(Look(), ("Hel", ""), ("lo", "")) == "Hello\n\n"


def test_thinking_is_framed():
    assert shown(Look(), ("", "Hm, "), ("", "yes."), ("Hi", "")) == (
        "Thinking...\nHm, yes.\n...done thinking.\n\nHi\n\n"
    )


def test_thinking_can_be_hidden():
    assert shown(Look(hide_thinking=True), ("", "Hm."), ("Hi", "")) == "Hi\n\n"


def test_answer_cut_off_while_thinking_closes_the_frame():
    assert shown(Look(), ("", "Hm")) == "Thinking...\nHm\n...done thinking.\n\n"


def test_calls_of_tools_are_shown_and_kept():
    out = io.StringIO()
    view = AnswerView(Look(), out)
    first = {"function": {"name": "now", "arguments": {"zone": "UTC"}}}
    second = {"function": {"name": "date", "arguments": {}}}
    view.feed("", "Hm.")
    view.feed("Wait.", "")
    view.call(first)
    view.call(second)
    view.finish()
    assert out.getvalue().endswith('Wait.\nnow({"zone": "UTC"})\ndate({})\n\n')
    assert view.message() == {
        "role": "assistant",
        "content": "Wait.",
        "thinking": "Hm.",
        "tool_calls": [first, second],
    }


def test_escape_sequences_of_a_model_reach_files_and_not_terminals():
    evil = "a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\td\n"
    assert shown(Look(), (evil, "")) == f"{evil}\n\n"
    assert shown(Look(), (evil, ""), out=Screen()) == "a]52;c;ZXZpbA==b2Jc\td\n\n\n"


def test_escape_sequences_of_a_registry_reach_no_terminal(capsys):
    progress = Progress(sys.stderr)
    progress.step("a\x1b]52;c;ZXZpbA==\x07b")

    @click.command()
    def fails():
        raise RegistryError("it says \x1b[2Jno", hint="ask\x9b2J")

    assert run_command(fails, "hearth", []) == 1
    assert capsys.readouterr().err == "a]52;c;ZXZpbA==b\nError: it says [2Jno\nask2J\n"
    failure = {"version": "1", "variant": "", "at": "", "reason": "\x1bx", "prompt": "\x07y"}
    failure |= {"tokens_per_s": 0, "log": "\x1b[2J"}
    body = {"model": "m", "variant": "v", "version": "1", "reasons": [], "failure": failure}

    class Answers:
        def get(self, _path):
            return body

    assert why.callback(Answers(), "m", as_json=False) is None
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().out)


def test_timings():
    last = {
        "total_duration": 2_500_000_000,
        "load_duration": 4_835_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 130_000_000,
        "eval_count": 100,
        "eval_duration": 2_000_000_000,
    }
    assert timing_lines(last) == (
        "total duration:       2.5s\n"
        "load duration:        4.835ms\n"
        "prompt eval count:    26 token(s)\n"
        "prompt eval duration: 130ms\n"
        "prompt eval rate:     200.00 tokens/s\n"
        "eval count:           100 token(s)\n"
        "eval duration:        2s\n"
        "eval rate:            50.00 tokens/s\n"
    )
    assert timing_lines({}) == ""
    assert timing_lines({"queue_position": 2}) == "queue position:       2\n"


def test_progress_without_a_terminal_is_one_line_per_step():
    out = io.StringIO()
    with Progress(out) as progress:
        progress.step("hashing")
        progress.step("hashing")
        progress.count("copying", 1, 10)
        progress.count("copying", 10, 10)
        progress.step("success")
    assert out.getvalue() == "hashing\ncopying\nsuccess\n"


@pytest.mark.parametrize(
    ("done", "elapsed_s", "columns", "line"),
    [
        (0, 0, 100, "copy:   0% ▕                    ▏ 0 B/4 MB"),
        (2_000_000, 4, 99, "copy:  50% ▕██████████          ▏ 2 MB/4 MB  500 KB/s  4 seconds left"),
        (4_000_000, 2, 100, "copy: 100% ▕████████████████████▏ 4 MB"),
        (1_000_000, 2, 40, "copy:  25%"),
    ],
)  # fmt: skip
def test_bar(done, elapsed_s, columns, line):
    assert render_bar("copy", done, 4_000_000, elapsed_s, columns) == line


@pytest.mark.parametrize(
    ("size", "size_vram", "words"),
    [
        (100, 0, "100% CPU"),
        (100, 100, "100% GPU"),
        (100, 52, "48%/52% CPU/GPU"),
        (100, 101, "Unknown"),
        (0, 5, "Unknown"),
    ],
)
def test_processor_words(size, size_vram, words):
    assert processor_words(size, size_vram) == words


def test_models_table_cuts_the_digest_and_marks_remote_models():
    model = {
        "name": "a:latest",
        "digest": "0123456789abcdef" * 4,
        "size": 4_661_224_676,
        "modified_at": "2020-01-01T00:00:00.123456789+02:00",
    }
    header, row, remote = models_table(
        {"models": [model, model | {"remote_model": "b"}]}
    ).splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert row.split()[:4] == ["a:latest", "0123456789ab", "4.7", "GB"]
    assert row.rstrip().endswith("years ago")
    assert remote.split()[2] == "-"


def test_status_screen():
    body = {
        "version": "1.2.3",
        "uptime_s": 7200.5,
        "state": "ready",
        "engine": "llama",
        "models": [
            {
                "name": "a:latest",
                "engine": "llama",
                "slots": 1,
                "running": 1,
                "waiting": 2,
                "context_length": 4096,
                "size": 5_000_000,
                "expires_at": "2026-08-01T12:04:30Z",
            }
        ],
        "memory": {"total": 8_000_000_000, "available": 3_500_000_000},
        "conditions": [
            {
                "code": "undervoltage",
                "severity": "error",
                "title": "too little power",
                "text": "the supply is weak",
            },
            {
                "code": "models_on_card",
                "severity": "note",
                "title": "slow disk",
                "text": "models are on a card",
            },
        ],
        "problems": ["disk is nearly full"],
    }
    now = datetime(2026, 8, 1, 12, tzinfo=UTC)
    assert [line.rstrip() for line in status_screen(body, "http://h:1", now).splitlines()] == [
        "hearth 1.2.3",
        "    address    http://h:1",
        "    state      ready",
        "    uptime     2 hours",
        "    engine     llama",
        "    memory     3.5 GB free of 8 GB",
        "",
        "MODEL       ENGINE    SIZE    CONTEXT    RUNNING    WAITING    UNTIL",
        "a:latest    llama     5 MB    4096       1 of 1     2          4 minutes from now",
        "",
        "Conditions (`hearth doctor` tells the cures)",
        "  error: too little power: the supply is weak",
        "",
        "Problems",
        "  disk is nearly full",
    ]
    idle = status_screen(body | {"models": [], "problems": [], "conditions": []}, "http://h:1", now)
    assert idle.endswith("\nNo model is loaded.\n")
    update = {"at": "2026-07-31T09:30:00Z", "from": "1.2.3", "to": "1.3.0", "result": "returned",
              "reason": "it ended 3 times"}  # fmt: skip
    told = status_screen(body | {"update": update}, "http://h:1", now)
    assert "    update     1.3.0 came back (2026-07-31 09:30, before: 1.2.3)" in told
