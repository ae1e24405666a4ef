"""The interactive conversation of `hearth run NAME`: terminal on one side, service on the other.

Reads lines, lets `repl.py` decide and carries out what it says.
"""

import os
from contextlib import suppress
from pathlib import Path

import click

from appliance.cli.answer import AnswerView, stream_answer, timing_lines
from appliance.cli.client import Client, ClientError, Json
from appliance.cli.models import models_table
from appliance.cli.pictures import find_pictures
from appliance.cli.progress import Progress
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
from appliance.cli.session import Session
from appliance.cli.show import model_sections
from appliance.library.parameters import parse_parameter

try:
    import readline
except ImportError:  # a Python without it still reads lines, without editing and history
    readline = None  # type: ignore[assignment]

_HISTORY_LINES = 1000
_NOTHING = {
    "license": "No license was specified for this model.",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


def converse(client: Client, session: Session) -> None:
    """Hold the conversation until the person leaves."""
    _load(client, session)
    _print_preset(session)
    chat = _Chat(client, session)
    with _History():
        while chat.turn():
            pass


class _Chat:
    def __init__(self, client: Client, session: Session) -> None:
        self._client = client
        self._session = session
        self._repl = Repl(session, parse_parameter)

    def turn(self) -> bool:
        """Read a line and act on it; False ends the conversation."""
        try:
            action = self._repl.feed(input(self._repl.prompt))
        except EOFError:
            click.echo()
            return False
        except KeyboardInterrupt:
            self._repl.interrupt()
            click.echo("\nUse Ctrl + d or /bye to exit.")
            return True
        if action is None:
            return True
        if isinstance(action, Leave):
            return False
        try:
            self._act(action)
        except ClientError as error:
            # The conversation outlives a failed request: it can be tried again or saved.
            click.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            click.echo()
        return True

    def _act(self, action: Say | Ask | Load | Save | Show | SetHistory | ListModels) -> None:
        match action:
            case Say(text):
                click.echo(text)
            case Ask(text):
                self._ask(text)
            case Load(name):
                self._load(name)
            case Save(name):
                self._save(name)
            case Show(part):
                body = self._client.post("/api/show", self._session.show_body())
                click.echo(part_text(body, part, self._session))
            case SetHistory(keep):
                _keep_history(keep=keep)
            case ListModels():
                click.echo(models_table(self._client.get("/api/tags")), nl=False)

    def _ask(self, text: str) -> None:
        session = self._session
        asked = find_pictures(text, session.model, sees=session.sees, say=click.echo)
        session.messages.append({"role": "user", "content": asked.text} | asked.fields())
        view = AnswerView(session.look)
        try:
            last = stream_answer(self._client, "/api/chat", session.chat_body(), view)
        except KeyboardInterrupt:
            last = {}
            view.finish()
        except ClientError:
            session.messages.pop()
            if not view.is_empty:
                view.finish()
            raise
        if view.content or view.calls:
            session.messages.append(view.message())
        elif not last:  # aborted before the first word: as if never asked
            session.messages.pop()
        if session.verbose:
            click.echo(timing_lines(last), err=True, nl=False)

    def _load(self, name: str) -> None:
        click.echo(f"Loading model '{name}'")
        try:
            info = self._client.post("/api/show", {"model": name})
        except ClientError as error:
            if error.status != 404:
                raise
            click.echo(f"Couldn't find model '{name}'")
            return
        session = self._session
        before = session.model, session.preset, session.sees, session.messages
        sees = "vision" in (info.get("capabilities") or ())
        session.restart_with(name, info.get("messages") or [], sees=sees)
        try:
            _load(self._client, session)
        except (ClientError, KeyboardInterrupt):
            session.model, session.preset, session.sees, session.messages = before
            raise

    def _save(self, name: str) -> None:
        for _ in self._client.stream("/api/create", self._session.save_body(name)):
            pass
        click.echo(f"Created new model '{name}'")


def part_text(body: Json, part: str, session: Session) -> str:
    """What `/show PART` prints, from an answer of /api/show."""
    if part == "info":
        return model_sections(body)
    if part == "parameters":
        return _parameters_text(body, session)
    text = str(body.get(part) or "")
    if part == "system":
        text = session.system or text
    return text or _NOTHING.get(part, "")


def _parameters_text(body: Json, session: Session) -> str:
    own = (body.get("parameters") or "").splitlines()
    none = ["No additional parameters were specified for this model."]
    lines = ["Model defined parameters:", *(f"  {line}" for line in own or none), ""]
    if session.options:
        lines.append("User defined parameters:")
        lines += [f"  {name:<30} {value}" for name, value in session.options.items()]
        lines.append("")
    return "\n".join(lines)


def _load(client: Client, session: Session) -> None:
    with Progress() as waiting:
        client.post("/api/generate", session.load_body(), patient=True)
        waiting.clear()


def _print_preset(session: Session) -> None:
    for message in session.preset:
        if message["role"] == "user":
            click.echo(f">>> {message['content']}")
        elif message["role"] == "assistant":
            view = AnswerView(session.look)
            view.feed(message["content"], "")
            view.finish()


class _History:
    """The lines of earlier conversations, kept in a file that only this user may read."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
        self._file = Path(base) / "hearth" / "history"

    def __enter__(self) -> None:
        if readline is None:
            return
        with suppress(OSError):  # none yet, or written by another line editor
            readline.read_history_file(self._file)
        readline.set_history_length(_HISTORY_LINES)
        _keep_history(keep=not os.environ.get("OLLAMA_NOHISTORY"))

    def __exit__(self, *_: object) -> None:
        if readline is None:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            readline.write_history_file(self._file)
        except OSError as error:
            click.echo(f"Warning: history not kept: {error}", err=True)


def _keep_history(*, keep: bool) -> None:
    if readline is not None:
        readline.set_auto_history(keep)
