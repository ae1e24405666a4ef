"""The interactive prompt: lines in, actions and session out."""

import pytest

from appliance.cli.repl import (
    Ask,
    Leave,
    ListModels,
    Load,
    Repl,
    Save,
    Say,
    SetHistory,
    Show,
)
from appliance.cli.session import Session, Wishes
from appliance.library.parameters import parse_parameter


@pytest.fixture
def session():
    return Session("m")


@pytest.fixture
def repl(session):
    return Repl(session, parse_parameter)


def feed(repl, *lines):
    """Feed all lines; the action of the last, after checking that the others gave none."""
    *first, last = lines
    for line in first:
        assert repl.feed(line) is None
        assert repl.prompt == "... "
    action = repl.feed(last)
    assert repl.prompt == ">>> "
    return action


def test_plain_line_is_asked(repl):
    assert feed(repl, "Why is the sky blue?") == Ask("Why is the sky blue?")


def test_empty_line_does_nothing(repl):
    assert feed(repl, "") is None
    assert feed(repl, "   ") is None


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
        (['"""one line"""'], "one line"),
        (['"""', "inner", '"""'], "\ninner\n"),
        (['"""a', "/bye", 'b"""'], "a\n/bye\nb"),
        (["pasted\nin two lines"], "pasted\nin two lines"),
    ],
)
def test_blocks_are_asked_whole(repl, lines, text):
    assert feed(repl, *lines) == Ask(text)


def test_empty_block_is_not_asked(repl):
    assert feed(repl, '"""', '"""') is None


def test_interrupt_forgets_an_open_block(repl):
    assert repl.feed('"""lost') is None
    repl.interrupt()
    assert feed(repl, "next") == Ask("next")


@pytest.mark.parametrize(
    ("line", "action"),
    {
        "/bye": Leave(),
        "/exit": Leave(),
        "/list": ListModels(),
        "/load other": Load("other"),
        "/save mine": Save("mine"),
        "/show info": Show("info"),
        "/show template": Show("template"),
        "/set history": SetHistory(keep=True),
        "/set nohistory": SetHistory(keep=False),
        "/load": Say("Usage:\n  /load <modelname>"),
        "/save a b": Say("Usage:\n  /save <modelname>"),
        "/nonsense": Say("Unknown command '/nonsense'. Type /? for help"),
        "/set nonsense": Say("Unknown command '/set nonsense'. Type /? for help"),
        "/show nonsense": Say("Unknown command '/show nonsense'. Type /? for help"),
        "/set format xml": Say("Invalid or missing format. For 'json' mode use '/set format json'"),
    }.items(),
)
def test_commands(repl, line, action):
    assert feed(repl, line) == action


@pytest.mark.parametrize(
    ("line", "begin"),
    {
        "/?": "Available Commands:\n  /set ",
        "/help": "Available Commands:\n  /set ",
        "/? set": "Available Commands:\n  /set parameter",
        "/help /show": "Available Commands:\n  /show info",
        "/? shortcuts": "Available keyboard shortcuts:",
        "/set": "Available Commands:\n  /set parameter",
        "/show": "Available Commands:\n  /show info",
        "/set parameter": "Available Parameters:",
        "/set parameter top_k": "Available Parameters:",
        "/set system": "Available Commands:\n  /set parameter",
    }.items(),
)
def test_help(repl, line, begin):
    action = feed(repl, line)
    assert isinstance(action, Say)
    assert action.text.startswith(begin)


def test_settings_change_the_next_request(repl, session):
    for line in (
        "/set parameter temperature 0.5",
        "/set parameter stop A  B",
        "/set system Be  brief.",
        "/set format json",
        "/set think high",
    ):
        feed(repl, line)
    session.messages.append({"role": "user", "content": "hi"})
    assert session.chat_body() == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be  brief."},
            {"role": "user", "content": "hi"},
        ],
        "options": {"temperature": 0.5, "stop": ["A", "B"]},
        "format": "json",
        "think": "high",
    }


def test_settings_can_be_taken_back(repl, session):
    session.wishes = Wishes(format="json", think=True, keep_alive="5m")
    assert feed(repl, "/set noformat") == Say("Disabled format.")
    assert feed(repl, "/set nothink") == Say("Set 'nothink' mode.")
    assert session.wishes == Wishes(format=None, think=False, keep_alive="5m")


def test_look_and_timings_are_switched(repl, session):
    feed(repl, "/set nowordwrap")
    feed(repl, "/set verbose")
    assert (session.look.word_wrap, session.verbose) == (False, True)
    feed(repl, "/set wordwrap")
    feed(repl, "/set quiet")
    assert (session.look.word_wrap, session.verbose) == (True, False)


def test_system_message_over_several_lines(repl, session):
    action = feed(repl, '/set system """You are', 'brief."""')
    assert action == Say("Set system message.")
    assert session.system == "You are\nbrief."


def test_bad_parameters_are_reported_and_not_kept(repl, session):
    unknown = feed(repl, "/set parameter warmth 3")
    wrong = feed(repl, "/set parameter top_k many")
    assert "unknown parameter 'warmth'" in unknown.text
    assert "top_k" in wrong.text
    assert session.options == {}


def test_clear_forgets_messages_and_keeps_settings(repl, session):
    session.system = "Be brief."
    session.messages.append({"role": "user", "content": "hi"})
    assert feed(repl, "/clear") == Say("Cleared session context")
    assert session.chat_body()["messages"] == [{"role": "system", "content": "Be brief."}]


def test_saved_session_holds_the_models_own_messages_before_the_new_ones(session):
    session.preset = [{"role": "user", "content": "old"}]
    assert "messages" not in session.save_body("mine")  # inherited from the base
    session.messages = [{"role": "user", "content": "new"}]
    session.system = "Be brief."
    session.options = {"top_k": 3}
    assert session.save_body("mine") == {
        "model": "mine",
        "from": "m",
        "system": "Be brief.",
        "parameters": {"top_k": 3},
        "messages": [{"role": "user", "content": "old"}, {"role": "user", "content": "new"}],
    }
