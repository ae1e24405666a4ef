"""A tree as Python closures: `body(run, frame, dot)` prints what the nodes say.

`frame` holds the variables of one call of a template, `$` in slot 0. A body answers None, or
`BREAK` or `CONTINUE` for the loop around it. Closures run several times as fast as walking a tree.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from appliance.templates.go.errors import GoLimitError
from appliance.templates.go.expressions import Evaluate, Expressions
from appliance.templates.go.nodes import Action, Branch, Call, Jump, Node, Text, Tree, weight
from appliance.templates.go.values import Struct, Value, shown

if TYPE_CHECKING:
    from appliance.templates.go.program import Run

Body = Callable[["Run", list[Value], Value], int | None]

BREAK, CONTINUE = 1, 2
MAX_DEPTH = 64  # of templates that call templates


def compile_tree(tree: Tree) -> Body:
    """The main template of a tree, ready to run. Deep trees may raise RecursionError."""
    bodies: dict[str, Body] = {}
    for name, template in tree.templates.items():
        bodies[name] = _Compiler(tree, bodies, name).nodes(template.nodes)
    return bodies[""]


class _Compiler:
    """Compiles one template; `bodies` has or will have those that it calls."""

    def __init__(self, tree: Tree, bodies: dict[str, Body], name: str) -> None:
        self._tree = tree
        self._bodies = bodies
        self._values = Expressions(tree.source, name)

    def nodes(self, nodes: Sequence[Node]) -> Body:
        bodies = [self._node(node) for node in nodes]
        cost = 1 + sum(weight(node) for node in nodes)

        def run_all(run: "Run", frame: list[Value], dot: Value) -> int | None:
            run.steps -= cost
            if run.steps < 0 or run.room < 0:
                run.exhausted()
            for body in bodies:
                if (jump := body(run, frame, dot)) is not None:
                    return jump
            return None

        return run_all

    def _node(self, node: Node) -> Body:
        match node:
            case Text():
                return _text(node.text)
            case Action():
                return self._action(node)
            case Branch(kind="range"):
                return self._range(node)
            case Branch():
                return self._branch(node)
            case Jump():
                jump = BREAK if node.kind == "break" else CONTINUE
                return lambda _run, _frame, _dot: jump
            case Call():
                return self._call(node)

    def _action(self, node: Action) -> Body:
        value_of = self._values.pipe(node.pipe)
        if node.pipe.names:
            return lambda run, frame, dot: _nothing(value_of(run, frame, dot))

        def write(run: "Run", frame: list[Value], dot: Value) -> None:
            value = value_of(run, frame, dot)
            if type(value) is not str:
                value = shown(value)
                run.charge(len(value))
            run.out.append(value)
            run.room -= len(value)

        return write

    def _branch(self, node: Branch) -> Body:
        condition = self._values.pipe(node.pipe)
        body = self.nodes(node.body)
        otherwise = self.nodes(node.otherwise) if node.otherwise else None
        moves_dot = node.kind == "with"

        def choose(run: "Run", frame: list[Value], dot: Value) -> int | None:
            value = condition(run, frame, dot)
            if value or type(value) is Struct:  # values.truth, without the call
                return body(run, frame, value if moves_dot else dot)
            return otherwise(run, frame, dot) if otherwise else None

        return choose

    def _range(self, node: Branch) -> Body:
        source = self._values.pipe(node.pipe, assigns=False)
        body = self.nodes(node.body)
        otherwise = self.nodes(node.otherwise) if node.otherwise else None
        element_slot = node.pipe.slots[-1] if node.pipe.slots else None
        key_slot = node.pipe.slots[0] if len(node.pipe.slots) == 2 else None
        error = self._values.error

        def loop(run: "Run", frame: list[Value], dot: Value) -> int | None:
            value = source(run, frame, dot)
            pairs = _pairs(value)
            if isinstance(value, list | dict):
                run.charge(len(value))
            if pairs is None:
                raise error(node.pipe, f"range can't iterate over {shown(value)[:100]}")
            if key_slot is not None and type(value) is int:
                raise error(node.pipe, f"can't use {value} to iterate over more than one variable")
            is_empty = True
            for key, element in pairs:
                is_empty = False
                if key_slot is not None:
                    frame[key_slot] = key
                if element_slot is not None:
                    frame[element_slot] = element
                if body(run, frame, element) == BREAK:
                    return None
            return otherwise(run, frame, dot) if is_empty and otherwise else None

        return loop

    def _call(self, node: Call) -> Body:
        argument: Evaluate | None = self._values.pipe(node.pipe) if node.pipe else None
        slots = self._tree.templates[node.name].slots
        bodies = self._bodies

        def call(run: "Run", frame: list[Value], dot: Value) -> None:
            value = argument(run, frame, dot) if argument else None
            if run.depth >= MAX_DEPTH:
                raise GoLimitError(f"exceeded maximum template depth ({MAX_DEPTH})")
            inner: list[Value] = [None] * slots
            inner[0] = value
            run.depth += 1
            bodies[node.name](run, inner, value)
            run.depth -= 1

        return call


def _text(text: str) -> Body:
    size = len(text)

    def write(run: "Run", _frame: list[Value], _dot: Value) -> None:
        run.out.append(text)
        run.room -= size

    return write


def _nothing(_value: Value) -> None:
    """An action that sets a variable prints nothing."""


def _pairs(value: Value) -> Iterable[tuple[Value, Value]] | None:
    """What `range` walks, or None for what it cannot."""
    match value:
        case bool():
            return None
        case list():
            return enumerate(value)
        case dict():
            return sorted(value.items())
        case int():
            return ((i, i) for i in range(value))
        case None:
            return ()
    return None
