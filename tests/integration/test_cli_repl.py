"""The interactive prompt on a real terminal, against the real service with the echo engine."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.integration.cli_process import Command, Terminal

CTRL_C, CTRL_D = b"\x03", b"\x04"
TALK = [
    {"role": "user", "content": "Are you there?"},
    {"role": "assistant", "content": "Yes, I am."},
]


@pytest.fixture(scope="module")
def model(service, tiny_gguf):
    """A model with a conversation of its own, which is shown at the start."""
    service.create("talker", tiny_gguf, system="Be brief.", messages=TALK)
    return "talker"


@pytest.fixture
def terminal(service, model, tmp_path):
    with Terminal(service.url, "run", model, XDG_STATE_HOME=str(tmp_path / "state")) as opened:
        opened.expect(">>> Are you there?\nYes, I am.\n\n>>> ")
        yield opened


def test_talks_and_leaves(terminal):
    answer = terminal.ask("What is a hearth?")
    assert "What is a hearth?" in answer
    terminal.enter("/bye")
    assert terminal.exit_code() == 0


def test_earlier_messages_are_sent_again_until_cleared(terminal):
    terminal.ask("Remember the heron.")
    assert "heron" in terminal.ask("And now?")
    assert terminal.ask("/clear") == "Cleared session context"
    assert "heron" not in terminal.ask("Anything left?")


def test_block_in_triple_quotes_is_one_message(terminal):
    terminal.enter('"""first line')
    terminal.expect("... ")
    answer = terminal.ask('second line"""')
    assert "first line\nsecond line" in answer


def test_ctrl_c_ends_the_answer_and_not_the_conversation(terminal, service):
    terminal.enter("[[forever]] [[slow 20]]")
    terminal.expect(" on on")
    terminal.press(CTRL_C)
    terminal.expect(">>> ")
    assert terminal.ask("/clear") == "Cleared session context"
    assert "still here" in terminal.ask("still here")
    assert "0 of" in Command(service.url)("status").stdout


def test_ctrl_c_at_the_prompt_explains_and_ctrl_d_leaves(terminal):
    terminal.interrupt_until("Use Ctrl + d or /bye to exit.")
    terminal.expect(">>> ")
    terminal.press(CTRL_D)
    assert terminal.exit_code() == 0


def test_settings_reach_the_service(terminal):
    assert terminal.ask("/set system Speak like a heron.") == "Set system message."
    assert "Speak like a heron." in terminal.ask("Hello")
    assert terminal.ask("/set parameter num_predict 1") == "Set parameter 'num_predict' to '1'"
    assert terminal.ask("/set verbose") == "Set 'verbose' mode."
    assert "eval count:           1 token(s)" in terminal.ask("one two three")
    assert terminal.ask("/set think") == "Set 'think' mode."
    assert "does not support thinking" in terminal.ask("and now")


def test_show_list_and_help(terminal):
    assert "talker:latest" in terminal.ask("/list")
    assert "architecture        llama" in terminal.ask("/show info")
    assert "Be brief." in terminal.ask("/show system")
    assert "No license was specified" in terminal.ask("/show license")
    assert "Set session variables" in terminal.ask("/?")


def test_session_is_saved_and_loaded(terminal, service):
    terminal.ask("/set system Speak like a heron.")
    terminal.ask("Remember the reed.")
    assert terminal.ask("/save saved") == "Created new model 'saved'"
    assert "Couldn't find model 'nobody'" in terminal.ask("/load nobody")
    assert "Loading model 'saved'" in terminal.ask("/load saved")
    answer = terminal.ask("Go on.")
    assert "Speak like a heron." in answer
    assert "Remember the reed." in answer
    Command(service.url)("rm", "saved")


def test_history_is_kept_in_a_private_file(terminal, tmp_path):
    terminal.ask("Keep this line.")
    terminal.ask("/set nohistory")
    terminal.ask("Forget this line.")
    terminal.enter("/bye")
    assert terminal.exit_code() == 0
    file = tmp_path / "state" / "hearth" / "history"
    assert "Keep this line." in file.read_text()
    assert "Forget this line." not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_the_path_of_an_image_is_text_to_a_model_that_cannot_see(terminal):
    with TemporaryDirectory(dir="/tmp") as folder:  # short: a path that fits no line is broken
        picture = Path(folder) / "cat.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n")
        answer = terminal.ask(f"Rename {picture}")
    assert "cannot see images: the path" in answer
    assert f"Rename {picture}" in answer


def test_long_answer_is_wrapped_between_words(terminal):
    words = " ".join(f"word{number:03d}" for number in range(30))
    answer = terminal.ask(words)
    lines = [line for line in answer.split("\n") if "word" in line]
    assert len(lines) > 1
    assert all(len(line) < 80 for line in lines[1:])
