"""The Modelfile language: parse, print, and read as a recipe for a model.

A state machine over characters that accepts and refuses exactly what Ollama's does
(parser/parser.go), because a Modelfile must mean the same on both. Knows no files and no network.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from appliance.errors import ModelfileError
from appliance.library.parameters import RETIRED, ParameterValue, parse_parameter

_KEYWORDS = frozenset(
    {
        "from",
        "license",
        "template",
        "system",
        "adapter",
        "draft",
        "renderer",
        "parser",
        "parameter",
        "message",
        "requires",
    }
)
_ROLES = frozenset({"system", "user", "assistant"})
_BAD_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "message", or "requires"'
)
_BAD_ROLE = 'message role must be one of "system", "user", or "assistant"'
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_KEY_CHARACTERS = _LETTERS | frozenset("0123456789_")
_BLANKS = " \t"
_NEWLINES = "\r\n"
_SEMVER = re.compile(r"v?(0|[1-9]\d*)(\.(0|[1-9]\d*)){0,2}([-+][0-9A-Za-z.+-]+)?")


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction. FROM is called "model", PARAMETER by its key; MESSAGE has "role: text"."""

    name: str
    args: str

    def __str__(self) -> str:
        if self.name == "model":
            return f"FROM {self.args}"
        if self.name == "message":
            role, _, text = self.args.partition(": ")
            return f"MESSAGE {role} {_quote(text)}"
        if self.name in _KEYWORDS:
            return f"{self.name.upper()} {_quote(self.args)}"
        return f"PARAMETER {self.name} {_quote(self.args)}"


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The instructions in order. `str` prints a text that parses to the same."""

    commands: tuple[Command, ...]

    def __str__(self) -> str:
        return "".join(f"{command}\n" for command in self.commands)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a Modelfile asks for; FROM and ADAPTER may be names or paths, which the caller tells."""

    bases: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    drafts: list[str] = field(default_factory=list)
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    licenses: list[str] = field(default_factory=list)
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def parse(data: bytes | str) -> Modelfile:
    """Raises ModelfileError with the line. Bytes are UTF-8, or UTF-16 with a byte order mark."""
    text = data if isinstance(data, str) else _decode(data)
    commands = _Machine().run(text)
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("no FROM line", hint="say what to build on: FROM <model or file.gguf>")
    return Modelfile(tuple(commands))


def read_recipe(modelfile: Modelfile) -> Recipe:
    """Collect the instructions by kind; raises BadRequestError for bad parameters."""
    single: dict[str, str] = {}
    lists: dict[str, list[str]] = {"model": [], "adapter": [], "draft": [], "license": []}
    texts: dict[str, list[str]] = {}
    recipe_messages: list[tuple[str, str]] = []
    warnings: list[str] = []
    for command in modelfile.commands:
        if command.name in lists:
            lists[command.name].append(command.args)
        elif command.name == "message":
            role, _, content = command.args.partition(": ")
            recipe_messages.append((role, content))
        elif command.name in _KEYWORDS:
            single[command.name] = command.args
        elif command.name in RETIRED:
            warnings.append(f"parameter {command.name} is deprecated")
        else:
            texts.setdefault(command.name, []).append(command.args)
    if "requires" in single:
        single["requires"] = _version(single["requires"])
    return Recipe(
        bases=lists["model"],
        adapters=lists["adapter"],
        drafts=lists["draft"],
        licenses=lists["license"],
        parameters={key: parse_parameter(key, values) for key, values in texts.items()},
        messages=recipe_messages,
        warnings=warnings,
        **single,
    )


def _version(text: str) -> str:
    if not _SEMVER.fullmatch(text):
        raise ModelfileError("requires must be a valid semver (e.g. 0.14.0)")
    return text.removeprefix("v")


# -- the state machine -----------------------------------------------------------------------


class _State(Enum):
    NIL = auto()
    NAME = auto()
    VALUE = auto()
    PARAMETER = auto()
    MESSAGE = auto()
    COMMENT = auto()


class _Machine:
    """One run over one text. The buffer holds what the current state has collected."""

    def __init__(self) -> None:
        self._state = _State.NIL
        self._buffer: list[str] = []
        self._name = ""
        self._role = ""
        self._line = 1
        self._commands: list[Command] = []

    def run(self, text: str) -> list[Command]:
        steps = {
            _State.NIL: self._in_nil,
            _State.NAME: self._in_name,
            _State.VALUE: self._in_value,
            _State.PARAMETER: self._in_parameter,
            _State.MESSAGE: self._in_message,
            _State.COMMENT: self._in_comment,
        }
        for character in text:
            if character in _NEWLINES:
                self._line += 1
            steps[self._state](character)
        if self._state is _State.VALUE:
            self._end_value()
        if self._state not in {_State.NIL, _State.COMMENT}:
            raise ModelfileError("unexpected EOF", hint="the last instruction is not complete")
        return self._commands

    def _in_nil(self, character: str) -> None:
        if character == "#":
            self._enter(_State.COMMENT)
        elif character not in _BLANKS + _NEWLINES:
            self._enter(_State.NAME, character)

    def _in_comment(self, character: str) -> None:
        if character in _NEWLINES:
            self._enter(_State.NIL)

    def _in_name(self, character: str) -> None:
        keyword = "".join(self._buffer).lower()
        if character in _LETTERS:
            self._buffer.append(character)
        elif character not in _BLANKS or keyword not in _KEYWORDS:
            raise ModelfileError(_BAD_COMMAND, line=self._line)
        elif keyword == "parameter":
            self._enter(_State.PARAMETER)
        else:
            self._name = "model" if keyword == "from" else keyword
            self._enter(_State.MESSAGE if keyword == "message" else _State.VALUE)

    def _in_parameter(self, character: str) -> None:
        if character in _KEY_CHARACTERS:
            self._buffer.append(character)
        elif character in _BLANKS:
            self._name = "".join(self._buffer)
            self._enter(_State.VALUE)
        else:
            self._unexpected_end()

    def _in_message(self, character: str) -> None:
        if character in _LETTERS:
            self._buffer.append(character)
        elif character in _BLANKS:
            self._role = "".join(self._buffer)
            if self._role not in _ROLES:
                raise ModelfileError(_BAD_ROLE, line=self._line)
            self._enter(_State.VALUE)
        else:
            self._unexpected_end()

    def _in_value(self, character: str) -> None:
        if character in _NEWLINES and _is_complete(self._buffer):
            self._end_value()
        elif character in _BLANKS + _NEWLINES or _is_printable(character):
            self._buffer.append(character)

    def _end_value(self) -> None:
        if not _is_complete(self._buffer):
            return
        value = _unquote("".join(self._buffer).strip())
        if self._role:
            value = f"{self._role}: {value}"
            self._role = ""
        self._commands.append(Command(self._name, value))
        self._enter(_State.NIL)

    def _enter(self, state: _State, *first: str) -> None:
        self._state = state
        self._buffer = list(first)

    def _unexpected_end(self) -> None:
        raise ModelfileError(
            f"unexpected EOF: {''.join(self._buffer)}",
            line=0,
            hint=f"line {self._line}: a key or role is followed by a blank and a value",
        )


def _is_complete(buffer: list[str]) -> bool:
    """Not the beginning of a quoted text whose end is still to come."""
    first, last = 0, len(buffer)
    while first < last and buffer[first].isspace():
        first += 1
    while last > first and buffer[last - 1].isspace():
        last -= 1
    head = buffer[first : min(first + 3, last)]
    if head == ['"'] * 3:
        return last - first >= 6 and buffer[last - 3 : last] == head
    if head[:1] == ['"']:
        return last - first >= 2 and buffer[last - 1] == '"'
    return True


def _unquote(value: str) -> str:
    """Without the outer quotes of a complete value; nothing inside is escaped."""
    for mark in ('"""', '"'):
        if value.startswith(mark):
            return value[len(mark) : -len(mark)]
    return value


def _quote(value: str) -> str:
    if "\n" not in value and value == value.strip(" "):
        return value
    return f'"""{value}"""' if '"' in value else f'"{value}"'


def _is_printable(character: str) -> bool:
    """What Go calls printable: joiners, odd spaces and controls are dropped from values.

    This tears joined emoji apart, as it does in Ollama: the same Modelfile must give the same
    digests on both. Characters newer than our Unicode tables count as printable.
    """
    return character == " " or unicodedata.category(character) not in _DROPPED


_DROPPED = frozenset({"Cc", "Cf", "Co", "Cs", "Zs", "Zl", "Zp"})


def _decode(data: bytes) -> str:
    encodings: Iterable[tuple[bytes, str]] = (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    )
    for mark, encoding in encodings:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    return data.decode(errors="replace")
