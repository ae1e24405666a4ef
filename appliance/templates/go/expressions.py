"""Pipelines and operands as closures that compute: `value_of(run, frame, dot)`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.templates.go.errors import CallError, GoExecError
from appliance.templates.go.functions import BUILTINS, Builtin
from appliance.templates.go.lexer import line_of
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
from appliance.templates.go.values import Struct, Value, truth, type_name

if TYPE_CHECKING:
    from appliance.templates.go.program import Run

Evaluate = Callable[["Run", list[Value], Value], Value]


class Expressions:
    """Compiles the expressions of one template, which has the name `name`."""

    def __init__(self, source: str, name: str) -> None:
        self._source = source
        self._name = name

    def error(self, node: Operand | Command, message: str) -> GoExecError:
        start = self._source.rfind("\n", 0, node.pos) + 1
        column = len(self._source[start : node.pos].encode(errors="replace"))
        line = line_of(self._source, node.pos)
        return GoExecError(line, column, self._name, str(node), message)

    def pipe(self, pipe: Pipe, *, assigns: bool = True) -> Evaluate:
        """The value of a pipeline, its variables set unless the caller does that."""
        value_of = self._command(pipe.commands[0], None)
        for command in pipe.commands[1:]:
            value_of = self._command(command, value_of)
        if not pipe.slots or not assigns:
            return value_of
        slots = pipe.slots

        def assign(run: "Run", frame: list[Value], dot: Value) -> Value:
            value = value_of(run, frame, dot)
            for slot in slots:
                frame[slot] = value
            return value

        return assign

    # -- commands -----------------------------------------------------------------------------

    def _command(self, command: Command, before: Evaluate | None) -> Evaluate:
        """A command; what came before it in the pipeline is its last argument."""
        first, *rest = command.args
        args = [self._operand(arg) for arg in rest]
        if before is not None:
            args.append(before)
        if isinstance(first, Function):
            return self._function(command, first, args)
        if not args:
            return self._operand(first)
        if isinstance(first, Field | Variable | Chain):
            name = first.names[-1] if first.names else str(first)
            return self._failing(
                first, f"{name} has arguments but cannot be invoked as function", args
            )
        return self._failing(first, f"can't give argument to non-function {first}", args)

    def _failing(self, node: Operand, message: str, args: list[Evaluate]) -> Evaluate:
        """What Go accepts as text but refuses to run."""

        def fail(_run: "Run", _frame: list[Value], _dot: Value) -> Value:
            raise self.error(node, message)

        return fail

    def _function(self, command: Command, name: Function, args: list[Evaluate]) -> Evaluate:
        if name.name in {"and", "or"}:
            if not args:
                return self._failing(
                    name, f"wrong number of args for {name.name}: want at least 1 got 0", args
                )
            return _short_circuit(args, stops_at=name.name == "or")
        builtin = BUILTINS[name.name]
        problem = _arity_problem(name.name, builtin, len(args))
        if problem:
            return self._failing(name, problem, args)
        return self._call(command, name, builtin, args)

    def _call(
        self, command: Command, name: Function, builtin: Builtin, args: list[Evaluate]
    ) -> Evaluate:
        function = builtin.call

        def call(run: "Run", frame: list[Value], dot: Value) -> Value:
            try:
                result = function(run, *[arg(run, frame, dot) for arg in args])
            except CallError as error:
                raise self.error(command, f"error calling {name}: {error}") from error
            if type(result) is str:
                run.charge(len(result))
            return result

        return call

    # -- operands -----------------------------------------------------------------------------

    def _operand(self, operand: Operand) -> Evaluate:
        match operand:
            case Dot():
                return lambda _run, _frame, dot: dot
            case Nil():
                return lambda _run, _frame, _dot: None
            case Constant():
                value = operand.value
                return lambda _run, _frame, _dot: value
            case Field():
                return self._field(operand)
            case Variable():
                return self._variable(operand)
            case Chain():
                inner = self._operand(operand.operand)
                names = operand.names
                return lambda run, frame, dot: self._follow(operand, inner(run, frame, dot), names)
            case Pipe():
                return self.pipe(operand)
            case Function():
                return self._command(Command(operand.pos, (operand,)), None)

    def _field(self, node: Field) -> Evaluate:
        names = node.names
        if len(names) > 1:
            return lambda _run, _frame, dot: self._follow(node, dot, names)
        name = names[0]

        def look_up(_run: "Run", _frame: list[Value], dot: Value) -> Value:
            if type(dot) is Struct and name in dot.fields:
                return dot.fields[name]
            return self._follow(node, dot, names)

        return look_up

    def _variable(self, node: Variable) -> Evaluate:
        slot, names = node.slot, node.names
        if not names:
            return lambda _run, frame, _dot: frame[slot]
        return lambda _run, frame, _dot: self._follow(node, frame[slot], names)

    def _follow(self, node: Operand, value: Value, names: tuple[str, ...]) -> Value:
        """`.A.B` of a value. What is missing in a map is nil, what is missing in a struct an
        error (text/template, evalField)."""
        for index, name in enumerate(names):
            if type(value) is Struct:
                if name not in value.fields:
                    raise self.error(
                        node, f"can't evaluate field {name} in type {type_name(value)}"
                    )
                value = value.fields[name]
            elif isinstance(value, dict):
                value = value.get(name)
            elif value is not None:
                raise self.error(node, f"can't evaluate field {name} in type {type_name(value)}")
            elif index:
                raise self.error(node, f"nil pointer evaluating interface {{}}.{name}")
        return value


def _short_circuit(args: list[Evaluate], *, stops_at: bool) -> Evaluate:
    """`and` and `or`: the first operand that decides, else the last one."""

    def decide(run: "Run", frame: list[Value], dot: Value) -> Value:
        value = None
        for arg in args:
            value = arg(run, frame, dot)
            if truth(value) is stops_at:
                break
        return value

    return decide


def _arity_problem(name: str, builtin: Builtin, count: int) -> str:
    if count >= builtin.least and (builtin.most is None or count <= builtin.most):
        return ""
    at_least = "" if builtin.most == builtin.least else "at least "
    return f"wrong number of args for {name}: want {at_least}{builtin.least} got {count}"
