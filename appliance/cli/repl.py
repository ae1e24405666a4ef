"""The interactive prompt as a state machine: fed with lines, it changes the session and says what
to do next.

Knows the slash commands of Ollama's `run`; does no input, output or request itself (chat.py does).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from appliance.cli.repl_help import HELP, PARAMETER_HELP, SET_HELP, SHORTCUTS_HELP, SHOW_HELP
from appliance.cli.session import Session
from appliance.errors import ApplianceError

QUOTES = '"""'


@dataclass(frozen=True, slots=True)
class Say:
    """Print a text to the person."""

    text: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a message to the model and show the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Load:
    """Go on with another model."""

    name: str


@dataclass(frozen=True, slots=True)
class Save:
    """Make a model of the session."""

    name: str


@dataclass(frozen=True, slots=True)
class Show:
    """Show a part of the model: info, license, modelfile, parameters, system or template."""

    part: str


@dataclass(frozen=True, slots=True)
class SetHistory:
    """Remember the lines that follow, or stop it."""

    keep: bool


@dataclass(frozen=True, slots=True)
class ListModels:
    """List the installed models."""


@dataclass(frozen=True, slots=True)
class Leave:
    """End the conversation."""


Action = Say | Ask | Load | Save | Show | SetHistory | ListModels | Leave

SHOW_PARTS = ("info", "license", "modelfile", "parameters", "system", "template")


class Repl:
    """Turns lines into actions. `parse_parameter` gives the value of a parameter from its words
    and raises ApplianceError for an unknown name or a wrong type."""

    def __init__(
        self, session: Session, parse_parameter: Callable[[str, list[str]], object]
    ) -> None:
        self._session = session
        self._parse_parameter = parse_parameter
        self._block: list[str] | None = None  # lines of an open triple-quoted text
        self._use_block: Callable[[str], Action] = Ask
        self._commands: dict[str, Callable[[list[str], str], Action]] = {
            "/set": self._set,
            "/show": self._show,
            "/load": self._load,
            "/save": self._save,
            "/clear": self._clear,
            "/list": lambda _words, _rest: ListModels(),
            "/bye": lambda _words, _rest: Leave(),
            "/exit": lambda _words, _rest: Leave(),
            "/help": self._help,
            "/?": self._help,
        }
        self._settings: dict[str, Callable[[list[str], str], Action]] = {
            "history": lambda _words, _rest: SetHistory(keep=True),
            "nohistory": lambda _words, _rest: SetHistory(keep=False),
            "wordwrap": lambda _words, _rest: self._set_wrap(on=True),
            "nowordwrap": lambda _words, _rest: self._set_wrap(on=False),
            "verbose": lambda _words, _rest: self._set_verbose(on=True),
            "quiet": lambda _words, _rest: self._set_verbose(on=False),
            "format": self._set_format,
            "noformat": self._set_noformat,
            "think": self._set_think,
            "nothink": self._set_nothink,
            "parameter": self._set_parameter,
            "system": self._set_system,
        }

    @property
    def prompt(self) -> str:
        """What to show before the next line."""
        return ">>> " if self._block is None else "... "

    def interrupt(self) -> None:
        """Forget an unfinished block (Ctrl+C at the prompt)."""
        self._block = None

    def feed(self, line: str) -> Action | None:
        """Take one line; None means that nothing is to be done yet. A pasted text may hold
        newlines and counts as one line."""
        if self._block is not None:
            return self._go_on(line)
        if line.startswith(QUOTES):
            return self._open(line, Ask)
        if line.startswith("/"):
            return self._command(line)
        return Ask(line) if line.strip() else None

    def _open(self, text: str, use: Callable[[str], Action]) -> Action | None:
        self._use_block, self._block = use, []
        return self._go_on(text.removeprefix(QUOTES))

    def _go_on(self, line: str) -> Action | None:
        assert self._block is not None
        self._block.append(line.removesuffix(QUOTES))
        if not line.endswith(QUOTES):
            return None
        text = "\n".join(self._block)
        self._block = None
        return self._use_block(text) if text.strip() else None

    def _command(self, line: str) -> Action | None:
        words = line.split()
        command = self._commands.get(words[0])
        if command is None:
            return Say(f"Unknown command '{words[0]}'. Type /? for help")
        if words[0] == "/set" and words[1:2] == ["system"]:
            text = line.split(maxsplit=2)[2] if len(words) > 2 else ""
            if text.startswith(QUOTES):
                return self._open(text, self._use_system)
        return command(words[1:], line)

    def _set(self, words: list[str], line: str) -> Action:
        if not words:
            return Say(SET_HELP)
        setting = self._settings.get(words[0])
        if setting is None:
            return Say(f"Unknown command '/set {words[0]}'. Type /? for help")
        return setting(words[1:], line)

    def _set_wrap(self, *, on: bool) -> Action:
        self._session.look = replace(self._session.look, word_wrap=on)
        return Say(f"Set '{'wordwrap' if on else 'nowordwrap'}' mode.")

    def _set_verbose(self, *, on: bool) -> Action:
        self._session.verbose = on
        return Say(f"Set '{'verbose' if on else 'quiet'}' mode.")

    def _set_format(self, words: list[str], _line: str) -> Action:
        if words != ["json"]:
            return Say("Invalid or missing format. For 'json' mode use '/set format json'")
        self._session.wishes = replace(self._session.wishes, format="json")
        return Say("Set format to 'json' mode.")

    def _set_noformat(self, _words: list[str], _line: str) -> Action:
        self._session.wishes = replace(self._session.wishes, format=None)
        return Say("Disabled format.")

    def _set_think(self, words: list[str], _line: str) -> Action:
        self._session.wishes = replace(self._session.wishes, think=words[0] if words else True)
        return Say(f"Set 'think' mode to '{words[0]}'." if words else "Set 'think' mode.")

    def _set_nothink(self, _words: list[str], _line: str) -> Action:
        self._session.wishes = replace(self._session.wishes, think=False)
        return Say("Set 'nothink' mode.")

    def _set_parameter(self, words: list[str], _line: str) -> Action:
        if len(words) < 2:
            return Say(PARAMETER_HELP)
        name, *values = words
        try:
            self._session.options[name] = self._parse_parameter(name, values)
        except ApplianceError as error:
            return Say(f"Couldn't set parameter: {error}")
        return Say(f"Set parameter '{name}' to '{', '.join(values)}'")

    def _set_system(self, words: list[str], line: str) -> Action:
        return self._use_system(line.split(maxsplit=2)[2]) if words else Say(SET_HELP)

    def _use_system(self, text: str) -> Action:
        self._session.system = text
        return Say("Set system message.")

    def _show(self, words: list[str], _line: str) -> Action:
        if not words:
            return Say(SHOW_HELP)
        if words[0] not in SHOW_PARTS:
            return Say(f"Unknown command '/show {words[0]}'. Type /? for help")
        return Show(words[0])

    def _load(self, words: list[str], _line: str) -> Action:
        return Load(words[0]) if len(words) == 1 else Say("Usage:\n  /load <modelname>")

    def _save(self, words: list[str], _line: str) -> Action:
        return Save(words[0]) if len(words) == 1 else Say("Usage:\n  /save <modelname>")

    def _clear(self, _words: list[str], _line: str) -> Action:
        self._session.messages = []
        return Say("Cleared session context")

    def _help(self, words: list[str], _line: str) -> Action:
        topics = {"set": SET_HELP, "show": SHOW_HELP, "shortcuts": SHORTCUTS_HELP}
        topic = words[0].lstrip("/") if words else ""
        return Say(topics.get(topic, HELP))
