"""Tokens to a tree, by the rules of text/template/parse/parse.go: the blocks of a template.

Variables are resolved to slots here: what Go does with a stack while it runs is fixed by the text.
"""

from collections.abc import Container

from appliance.templates.go.errors import GoParseError
from appliance.templates.go.lexer import Token, line_of
from appliance.templates.go.nodes import (
    Action,
    Branch,
    Call,
    Jump,
    Node,
    Pipe,
    Template,
    Text,
    Tree,
)
from appliance.templates.go.pipelines import KEYWORDS, PipelineParser, Scope

_CONTROLS = frozenset({"if", "range", "with"})


def parse(source: str, functions: Container[str]) -> Tree:
    """The tree of `source`, which may call `functions`; raises GoParseError."""
    return _Parser(source, functions).parse()


class _Parser(PipelineParser):
    def __init__(self, source: str, functions: Container[str]) -> None:
        super().__init__(source, functions)
        self._templates: dict[str, Template] = {}
        self._called: list[Call] = []
        self._ranges = 0

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
        if word.kind == "word" and word.text in KEYWORDS:
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
        outer, ranges, self._scope, self._ranges = self._scope, self._ranges, Scope(), 0
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


def _is_empty(template: Template) -> bool:
    return all(isinstance(node, Text) and not node.text.strip() for node in template.nodes)
