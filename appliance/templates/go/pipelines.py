"""Pipelines and operands of a Go template, from tokens (text/template/parse/parse.go)."""

from collections.abc import Container

from appliance.templates.go.errors import GoParseError
from appliance.templates.go.lexer import Token, line_of, tokens_of
from appliance.templates.go.literals import number, unquote
from appliance.templates.go.nodes import (
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Nil,
    Operand,
    Pipe,
    Variable,
)

MAX_NESTING = 100  # of blocks and parentheses
KEYWORDS = frozenset(
    "if else end range with define template block break continue".split()  # noqa: SIM905
)
_OPERANDS = frozenset(
    {"word", "dot", "field", "variable", "number", "string", "raw", "char", "open"}
)


class Scope:
    """The variables of one template while it is parsed."""

    def __init__(self) -> None:
        self.names = ["$"]
        self.slots = 1  # most that exist at a time

    def declare(self, name: str) -> int:
        self.names.append(name)
        self.slots = max(self.slots, len(self.names))
        return len(self.names) - 1

    def find(self, name: str) -> int | None:
        places = (i for i in range(len(self.names) - 1, -1, -1) if self.names[i] == name)
        return next(places, None)


class PipelineParser:
    """The tokens of one text, read from front to back; `parser.py` adds the blocks."""

    def __init__(self, source: str, functions: Container[str]) -> None:
        self._source = source
        self._functions = functions
        self._tokens = tokens_of(source)
        self._at = 0
        self._scope = Scope()
        self._nesting = 0

    # -- tokens -------------------------------------------------------------------------------

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _skip_space(self) -> Token:
        """The next token that is no blank, not yet taken."""
        while self._peek().kind == "space":
            self._at += 1
        return self._peek()

    def _next_solid(self) -> Token:
        self._skip_space()
        return self._next()

    def _right(self, context: str) -> None:
        token = self._next_solid()
        if token.kind != "right":
            raise self._unexpected(token, context)

    def _error(self, token: Token, message: str) -> GoParseError:
        return GoParseError(line_of(self._source, token.pos), message)

    def _unexpected(self, token: Token, context: str) -> GoParseError:
        if token.kind == "end":
            return self._error(token, "unexpected EOF")
        if token.kind == "word" and token.text in KEYWORDS:
            return self._error(token, f"unexpected <{token.text}> in {context}")
        text = token.text if len(token.text) <= 10 else f"{token.text[:10]}..."
        return self._error(token, f'unexpected "{text}" in {context}')

    def _enter(self, token: Token) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._error(token, f"blocks or parentheses nest deeper than {MAX_NESTING}")

    # -- pipelines ----------------------------------------------------------------------------

    def _pipe(self, context: str, end: str) -> Pipe:
        """A pipeline and the token that ends it, "right" or "close"."""
        start = self._skip_space()
        names, is_assign = self._declarations(context)
        commands: list[Command] = []
        while True:
            token = self._skip_space()
            if token.kind == end:
                self._at += 1
                break
            if token.kind not in _OPERANDS or (token.kind == "word" and token.text in KEYWORDS):
                raise self._unexpected(token, context)
            commands.append(self._command())
        if not commands:
            raise self._error(start, f"missing value for {context}")
        for stage, command in enumerate(commands[1:], 2):
            if isinstance(command.args[0], Dot | Nil | Constant):
                raise self._error(start, f"non executable command in pipeline stage {stage}")
        slots = tuple(self._slot(start, name, is_assign) for name in names)
        return Pipe(start.pos, names, slots, is_assign, tuple(commands))

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """The names before `:=` or `=`, none when the pipeline has no such sign."""
        names: list[str] = []
        before = self._at
        while self._skip_space().kind == "variable":
            names.append(self._next().text)
            sign = self._skip_space()
            if sign.kind in {"declare", "assign"}:
                self._at += 1
                return tuple(names), sign.kind == "assign"
            if sign.kind != "comma":
                break
            if context != "range" or len(names) > 1:
                raise self._error(sign, f"too many declarations in {context}")
            self._at += 1
        if len(names) > 1 or self._tokens[self._at - 1].kind == "comma":
            raise self._error(self._peek(), "range can only initialize variables")
        self._at = before
        return (), False

    def _slot(self, token: Token, name: str, is_assign: bool) -> int:
        if not is_assign:
            return self._scope.declare(name)
        slot = self._scope.find(name)
        if slot is None:
            raise self._error(token, f'undefined variable "{name}"')
        return slot

    def _command(self) -> Command:
        args: list[Operand] = []
        start = self._peek()
        while True:
            self._skip_space()
            operand = self._operand()
            if operand is not None:
                args.append(operand)
            token = self._next()
            if token.kind == "space":
                continue
            if token.kind in {"right", "close"}:
                self._at -= 1
            elif token.kind != "pipe":
                raise self._unexpected(token, "operand")
            elif self._skip_space().kind in {"right", "close"}:
                raise self._error(token, "missing value for command")
            break
        if not args:
            raise self._error(start, "empty command")
        return Command(start.pos, tuple(args))

    def _operand(self) -> Operand | None:
        start = self._peek()
        operand = self._term()
        if operand is None:
            return None
        names: list[str] = []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        if not names:
            return operand
        match operand:
            case Field():
                return Field(operand.pos, (*operand.names, *names))
            case Variable():
                return Variable(operand.pos, operand.name, operand.slot, tuple(names))
            case Dot() | Nil() | Constant():
                raise self._error(start, f'unexpected . after term "{operand}"')
            case _:
                return Chain(operand.pos, operand, tuple(names))

    def _term(self) -> Operand | None:
        token = self._next()
        match token.kind:
            case "word" if token.text not in KEYWORDS:
                return self._word(token)
            case "dot":
                return Dot(token.pos)
            case "field":
                return Field(token.pos, (token.text[1:],))
            case "variable":
                slot = self._scope.find(token.text)
                if slot is None:
                    raise self._error(token, f'undefined variable "{token.text}"')
                return Variable(token.pos, token.text, slot)
            case "number" | "char":
                try:
                    return Constant(token.pos, number(token.text), token.text)
                except ValueError as error:
                    raise self._error(token, str(error)) from error
            case "string" | "raw":
                return Constant(token.pos, self._unquoted(token), token.text)
            case "open":
                self._enter(token)
                pipe = self._pipe("parenthesized pipeline", "close")
                self._nesting -= 1
                return pipe
        self._at -= token.kind != "end"
        return None

    def _word(self, token: Token) -> Operand:
        if token.text in {"true", "false"}:
            return Constant(token.pos, token.text == "true", token.text)
        if token.text == "nil":
            return Nil(token.pos)
        if token.text not in self._functions:
            raise self._error(token, f'function "{token.text}" not defined')
        return Function(token.pos, token.text)

    def _unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            raise self._error(token, str(error)) from error
