"""Tokens to a tree, by the rules of text/template/parse/parse.go.

Variables are resolved to slots here: what Go does with a stack while it runs is fixed by the text.
"""

from collections.abc import Container

from appliance.templates.go.errors import GoParseError
from appliance.templates.go.lexer import Token, line_of, tokens_of
from appliance.templates.go.literals import number, unquote
from appliance.templates.go.nodes import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Jump,
    Nil,
    Node,
    Operand,
    Pipe,
    Template,
    Text,
    Tree,
    Variable,
)

MAX_NESTING = 100  # of blocks and parentheses
_KEYWORDS = frozenset(
    "if else end range with define template block break continue".split()  # noqa: SIM905
)
_CONTROLS = frozenset({"if", "range", "with"})
_OPERANDS = frozenset(
    {"word", "dot", "field", "variable", "number", "string", "raw", "char", "open"}
)


def parse(source: str, functions: Container[str]) -> Tree:
    """The tree of `source`, which may call `functions`; raises GoParseError."""
    parser = _Parser(source, functions)
    return parser.parse()


class _Scope:
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


class _Parser:
    def __init__(self, source: str, functions: Container[str]) -> None:
        self._source = source
        self._functions = functions
        self._tokens = tokens_of(source)
        self._at = 0
        self._scope = _Scope()
        self._templates: dict[str, Template] = {}
        self._called: list[Call] = []
        self._ranges = 0
        self._nesting = 0

    def parse(self) -> Tree:
        nodes, stop = self._nodes(is_top=True)
        if stop.kind != "end":
            raise self._error(stop, f"unexpected {{{{{stop.text}}}}}")
        main = Template("", nodes, self._scope.slots)
        tree = Tree(self._source, {**self._templates, "": main})
        for call in self._called:
            if call.name not in tree.templates:
                raise GoParseError(
                    line_of(self._source, call.pos), f'template "{call.name}" not defined'
                )
        return tree

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
        if token.kind == "word" and token.text in _KEYWORDS:
            return self._error(token, f"unexpected <{token.text}> in {context}")
        text = token.text if len(token.text) <= 10 else f"{token.text[:10]}..."
        return self._error(token, f'unexpected "{text}" in {context}')

    def _enter(self, token: Token) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._error(token, f"blocks or parentheses nest deeper than {MAX_NESTING}")

    # -- nodes --------------------------------------------------------------------------------

    def _nodes(self, *, is_top: bool = False) -> tuple[tuple[Node, ...], Token]:
        """Nodes up to `end`, `else` or the end of the text; that token, taken."""
        nodes: list[Node] = []
        while True:
            token = self._next()
            if token.kind == "text":
                nodes.append(Text(token.pos, token.text))
                continue
            if token.kind == "end":
                return tuple(nodes), token
            word = self._skip_space()
            if word.kind == "word" and word.text in {"end", "else"}:
                self._at += 1
                return tuple(nodes), word
            if is_top and word.kind == "word" and word.text == "define":
                self._at += 1
                self._define(word)
                continue
            nodes.append(self._action(token))

    def _action(self, left: Token) -> Node:
        word = self._peek()
        if word.kind == "word" and word.text in _KEYWORDS:
            self._at += 1
            if word.text in _CONTROLS:
                return self._control(word)
            if word.text == "template":
                return self._call(word)
            if word.text == "block":
                return self._block(word)
            if word.text in {"break", "continue"}:
                return self._jump(word)
            raise self._unexpected(word, "command")
        return Action(left.pos, self._pipe("command", "right"))

    def _control(self, word: Token) -> Branch:
        self._enter(word)
        visible = len(self._scope.names)
        pipe = self._pipe(word.text, "right")
        self._ranges += word.text == "range"
        body, stop = self._nodes()
        self._ranges -= word.text == "range"
        otherwise: tuple[Node, ...] = ()
        if stop.text == "else" and stop.kind == "word":
            following = self._skip_space()
            if following.text == word.text and word.text in {"if", "with"}:
                self._at += 1
                otherwise = (self._control(following),)  # it takes the `end` of both
                return self._close(word, visible, pipe, body, otherwise)
            self._right("else")
            otherwise, stop = self._nodes()
            if stop.kind == "word" and stop.text == "else":
                raise self._error(stop, "expected end; found {{else}}")
        if stop.kind == "end":
            raise self._error(stop, "unexpected EOF")
        self._right("end")
        return self._close(word, visible, pipe, body, otherwise)

    def _close(
        self,
        word: Token,
        visible: int,
        pipe: Pipe,
        body: tuple[Node, ...],
        otherwise: tuple[Node, ...],
    ) -> Branch:
        del self._scope.names[visible:]
        self._nesting -= 1
        return Branch(word.pos, word.text, pipe, body, otherwise)

    def _jump(self, word: Token) -> Jump:
        token = self._next_solid()
        if token.kind != "right":
            raise self._unexpected(token, f"{{{{{word.text}}}}}")
        if not self._ranges:
            raise self._error(word, f"{{{{{word.text}}}}} outside {{{{range}}}}")
        return Jump(word.pos, word.text)

    def _define(self, word: Token) -> None:
        name = self._name("define clause")
        self._right("define clause")
        self._add(word, name)

    def _add(self, word: Token, name: str) -> None:
        """Parse a body up to its `end` as the template `name`."""
        self._enter(word)
        outer, ranges, self._scope, self._ranges = self._scope, self._ranges, _Scope(), 0
        nodes, stop = self._nodes()
        if stop.kind == "end":
            raise self._error(stop, "unexpected EOF")
        if stop.text == "else":
            raise self._error(stop, "unexpected {{else}} in define clause")
        self._right("end")
        template = Template(name, nodes, self._scope.slots)
        self._scope, self._ranges = outer, ranges
        self._nesting -= 1
        known = self._templates.get(name)
        if known is not None and not _is_empty(known) and not _is_empty(template):
            raise self._error(word, f'multiple definition of template "{name}"')
        if known is None or not _is_empty(template):
            self._templates[name] = template

    def _call(self, word: Token) -> Call:
        name = self._name("template clause")
        pipe = None
        if self._skip_space().kind == "right":
            self._at += 1
        else:
            pipe = self._pipe("template clause", "right")
        call = Call(word.pos, name, pipe)
        self._called.append(call)
        return call

    def _block(self, word: Token) -> Call:
        name = self._name("block clause")
        pipe = self._pipe("block clause", "right")
        self._add(word, name)
        call = Call(word.pos, name, pipe)
        self._called.append(call)
        return call

    def _name(self, context: str) -> str:
        token = self._next_solid()
        if token.kind not in {"string", "raw"}:
            raise self._unexpected(token, context)
        return self._unquoted(token)

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
            if token.kind not in _OPERANDS or (token.kind == "word" and token.text in _KEYWORDS):
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
            case "word" if token.text not in _KEYWORDS:
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


def _is_empty(template: Template) -> bool:
    return all(isinstance(node, Text) and not node.text.strip() for node in template.nodes)
