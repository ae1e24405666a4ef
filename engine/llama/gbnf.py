"""GBNF, llama.cpp's grammar notation: what it may look like before llama.cpp sees it.

llama.cpp recurses without limit over nested groups, and never comes back from a rule that can call
itself without consuming a character. `check` reads a grammar by the same syntax (llama.cpp,
grammars/README.md) and refuses what is malformed, too big or endless. It builds nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import EngineRequestError

MAX_SOURCE_BYTES = 128 * 1024
MAX_REPETITION = 2000  # llama.cpp's own limit (llama-grammar.cpp)
MAX_DEPTH = 48  # nested groups
MAX_RULES = 5000
MAX_ELEMENTS = 100_000  # characters, classes and references after repetitions are written out
MAX_CHOICES = 2000  # places that the next character may match at once

# Blank space is bounded, so that no model can fill its answer with it.
JSON_RULES = r"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ws ("," ws pair ws)*)? "}"
pair ::= string ws ":" ws value
array ::= "[" ws (value ws ("," ws value ws)*)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?
ws ::= | " " | "\n" [ \t]{0,20}
"""
JSON = "root ::= object" + JSON_RULES

_NAME = re.compile(r"[a-zA-Z0-9-]+")
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_CHARACTER = r'(?:\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[tnr\\"\[\]])|[^\\\x00%s])'
_LITERAL_CHARACTER = re.compile(_CHARACTER % '"')
_CLASS = re.compile(r"\[\^?(?:" + _CHARACTER % r"\]" + r")*\]")
_TOKEN = re.compile(r"!?<(?:\[[0-9]{1,9}\]|[^<>\r\n]{1,200})>")
_REPEAT = re.compile(r"\{[ \t]*([0-9]{1,18})[ \t]*(?:(,)[ \t]*([0-9]{1,18})?[ \t]*)?\}")


@dataclass(frozen=True, slots=True)
class _Text:
    """Characters, a class of them or a token: `count` elements that must be consumed."""

    count: int


@dataclass(frozen=True, slots=True)
class _Ref:
    name: str


@dataclass(frozen=True, slots=True)
class _Seq:
    items: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Alt:
    options: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    item: "_Node"
    low: int
    high: int | None


_Node = _Text | _Ref | _Seq | _Alt | _Repeat


def check(source: str) -> None:
    """Raise EngineRequestError unless llama.cpp can compile and follow the grammar safely."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise EngineRequestError(f"the grammar is not valid text: {error}") from error
    if size > MAX_SOURCE_BYTES:
        raise _refused(f"it has {size} bytes, at most {MAX_SOURCE_BYTES} are allowed")
    if "\0" in source:  # llama.cpp would see only what is before it
        raise _refused("it contains a NUL character")
    rules = _Parser(source).rules()
    if "root" not in rules:
        raise _refused("it has no rule named root; every grammar starts there")
    _check_references(rules)
    _check_size(rules)
    _check_choices(rules)


def _refused(reason: str) -> EngineRequestError:
    return EngineRequestError(f"the grammar cannot be used: {reason}")


class _Parser:
    """Recursive descent over the text; the depth is bounded by MAX_DEPTH."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def rules(self) -> dict[str, _Node]:
        found: dict[str, _Node] = {}
        self._skip(_BLANK_LINES)
        while self._at < len(self._source):
            name = self._take(_NAME, "a rule name")[0]
            self._skip(_BLANK)
            self._expect("::=")
            self._skip(_BLANK_LINES)
            found[name] = self._alternatives(0)
            if self._at < len(self._source) and self._source[self._at] not in "\r\n":
                raise self._error("a new line after the rule")
            self._skip(_BLANK_LINES)
            if len(found) > MAX_RULES:
                raise _refused(f"it has more than {MAX_RULES} rules")
        return found

    def _alternatives(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise _refused(f"its groups are nested more than {MAX_DEPTH} deep")
        options = [self._sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            self._skip(_BLANK_LINES)
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else _Alt(tuple(options))

    def _sequence(self, depth: int) -> _Node:
        items: list[_Node] = []
        while (item := self._item(depth)) is not None:
            self._skip(_BLANK_LINES if depth else _BLANK)
            while (bounds := self._repetition()) is not None:
                item = _Repeat(item, *bounds)
                self._skip(_BLANK_LINES if depth else _BLANK)
            items.append(item)
        return items[0] if len(items) == 1 else _Seq(tuple(items))

    def _item(self, depth: int) -> _Node | None:
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                self._take(_CLASS, "a closed character class with known escapes")
                return _Text(1)
            case ".":
                self._at += 1
                return _Text(1)
            case "(":
                self._at += 1
                self._skip(_BLANK_LINES)
                inner = self._alternatives(depth + 1)
                self._expect(")")
                return inner
            case "<" | "!":
                self._take(_TOKEN, "a token such as <name> or <[1234]>")
                return _Text(1)
        named = _NAME.match(self._source, self._at)
        if named is None:
            return None
        self._at = named.end()
        return _Ref(named[0])

    def _literal(self) -> _Node:
        self._at += 1
        count = 0
        while self._peek() != '"':
            self._take(_LITERAL_CHARACTER, 'a closing " or a known escape')
            count += 1
        self._at += 1
        return _Text(count)

    def _repetition(self) -> tuple[int, int | None] | None:
        match self._peek():
            case "*":
                bounds: tuple[int, int | None] = (0, None)
            case "+":
                bounds = (1, None)
            case "?":
                bounds = (0, 1)
            case "{":
                return self._counted()
            case _:
                return None
        self._at += 1
        return bounds

    def _counted(self) -> tuple[int, int | None]:
        found = self._take(_REPEAT, "a repetition such as {2} or {1,5}")
        low = int(found[1])
        high = low if not found[2] else int(found[3]) if found[3] else None
        if max(low, high or 0) > MAX_REPETITION:
            raise _refused(
                f"it repeats something {max(low, high or 0)} times, at most {MAX_REPETITION}"
                " are allowed"
            )
        if high is not None and high < low:
            raise self._error("a repetition whose second number is not the smaller one")
        return low, high

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _skip(self, blank: re.Pattern[str]) -> None:
        found = blank.match(self._source, self._at)
        self._at = found.end() if found else self._at

    def _expect(self, text: str) -> None:
        if not self._source.startswith(text, self._at):
            raise self._error(text)
        self._at += len(text)

    def _take(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        found = pattern.match(self._source, self._at)
        if found is None:
            raise self._error(wanted)
        self._at = found.end()
        return found

    def _error(self, wanted: str) -> EngineRequestError:
        line = self._source.count("\n", 0, self._at) + 1
        seen = self._source[self._at : self._at + 20].splitlines() or ["its end"]
        return _refused(f"line {line}: expected {wanted}, found {seen[0]!r}")


def _check_references(rules: dict[str, _Node]) -> None:
    for name, node in rules.items():
        for part in _walk(node):
            if isinstance(part, _Ref) and part.name not in rules:
                raise _refused(f"rule {name} uses {part.name}, which is not defined")


def _check_size(rules: dict[str, _Node]) -> None:
    if sum(map(_size, rules.values())) > MAX_ELEMENTS:
        raise _refused(f"with its repetitions it has more than {MAX_ELEMENTS} elements; shorten it")


def _check_choices(rules: dict[str, _Node]) -> None:
    """Refuse rules that can reach themselves, or too many places, without consuming anything."""
    empty = _nullable_rules(rules)
    choices: dict[str, int] = {}
    for name in _left_first(rules, empty):
        choices[name] = _choices(rules[name], empty, choices)
    for name, node in rules.items():
        for part in _walk(node):
            if isinstance(part, _Repeat) and part.high != 1 and _is_nullable(part.item, empty):
                raise _refused(f"rule {name} repeats something that may be empty")
            if _most_choices(part, empty, choices) > MAX_CHOICES:
                raise _refused(
                    f"rule {name} leaves more than {MAX_CHOICES} choices open at once;"
                    " offer fewer alternatives"
                )


def _most_choices(node: _Node, empty: set[str], known: dict[str, int]) -> int:
    """The most choices that are open anywhere inside this node."""
    if not isinstance(node, _Seq):
        return _choices(node, empty, known)
    most = tail = 0
    for item in reversed(node.items):
        own = _choices(item, empty, known)
        tail = min(own + tail, MAX_CHOICES + 1) if _is_nullable(item, empty) else own
        most = max(most, tail)
    return most


def _left_first(rules: dict[str, _Node], empty: set[str]) -> Iterator[str]:
    """Every rule after those that it may begin with; refuses left recursion, hidden or not."""
    done: set[str] = set()
    for start in rules:
        path = [] if start in done else [(start, _beginnings(rules[start], empty))]
        entered = {start}
        while path:
            name, rest = path[-1]
            following = next((other for other in rest if other not in done), None)
            if following is None:
                path.pop()
                entered.discard(name)
                done.add(name)
                yield name
            elif following in entered:
                raise _refused(
                    f"rule {following} begins with itself (left recursion); let it begin with"
                    " something else"
                )
            else:
                entered.add(following)
                path.append((following, _beginnings(rules[following], empty)))


def _beginnings(node: _Node, empty: set[str]) -> Iterator[str]:
    """Rules that `node` may call before it consumes anything."""
    match node:
        case _Ref(name):
            yield name
        case _Seq(items):
            for item in items:
                yield from _beginnings(item, empty)
                if not _is_nullable(item, empty):
                    break
        case _Alt(options):
            for option in options:
                yield from _beginnings(option, empty)
        case _Repeat(item):
            yield from _beginnings(item, empty)


def _nullable_rules(rules: dict[str, _Node]) -> set[str]:
    """Rules that may produce nothing."""
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, node in rules.items():
        for part in _walk(node):
            if isinstance(part, _Ref):
                users[part.name].add(name)
    empty: set[str] = set()
    pending = list(rules)
    while pending:
        name = pending.pop()
        if name not in empty and _is_nullable(rules[name], empty):
            empty.add(name)
            pending.extend(users[name])
    return empty


def _is_nullable(node: _Node, empty: set[str]) -> bool:
    match node:
        case _Text(count):
            return count == 0
        case _Ref(name):
            return name in empty
        case _Seq(items):
            return all(_is_nullable(item, empty) for item in items)
        case _Alt(options):
            return any(_is_nullable(option, empty) for option in options)
        case _Repeat(item, low):
            return low == 0 or _is_nullable(item, empty)


def _choices(node: _Node, empty: set[str], known: dict[str, int]) -> int:
    """How many places the next character may match when `node` is what comes next."""
    match node:
        case _Text(count):
            return min(count, 1)
        case _Ref(name):
            return known[name]
        case _Alt(options):
            return _capped(_choices(option, empty, known) for option in options)
        case _Repeat(item):
            return _choices(item, empty, known)
        case _Seq(items):
            return _capped(_choices(item, empty, known) for item in _until_solid(items, empty))


def _until_solid(items: tuple[_Node, ...], empty: set[str]) -> Iterator[_Node]:
    """Items up to and with the first that must consume something."""
    for item in items:
        yield item
        if not _is_nullable(item, empty):
            return


def _capped(values: Iterator[int]) -> int:
    return min(sum(values), MAX_CHOICES + 1)


def _size(node: _Node) -> int:
    match node:
        case _Text(count):
            return count
        case _Ref():
            return 1
        case _Seq(items):
            total = sum(map(_size, items))
        case _Alt(options):
            total = sum(map(_size, options)) + len(options)
        case _Repeat(item, low, high):
            total = _size(item) * max(1, low if high is None else high) + 1
    return min(total, MAX_ELEMENTS + 1)


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    match node:
        case _Seq(items):
            children: tuple[_Node, ...] = items
        case _Alt(options):
            children = options
        case _Repeat(item):
            children = (item,)
        case _:
            return
    for child in children:
        yield from _walk(child)
