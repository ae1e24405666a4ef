"""What jinja2's sandbox lacks: bounds on the work and on the values of a stranger's template.

Loops and macros are counted; every operation that can multiply a value is measured before it is
done (`*`, `+`, `~`, join, replace, nested containers), those that pad are banned, and the result of
every filter and method is charged to the rendering's budget. What is left can only do a bounded
amount of work. The checks enter the syntax tree as filters, which a template cannot redefine.
"""

import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import wraps
from typing import Any, Self

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 200_000  # turns of loops and macro calls in one rendering
MAX_VALUE = 8 * 1024 * 1024  # characters of a text, or leaves of a nested container
MAX_ELEMENTS = 250_000  # of one list or dictionary
MAX_WORK = 128 * 1024 * 1024  # characters and leaves over all values of one rendering
MAX_BITS = 4096  # of a whole number

_BANNED_FILTERS = ("center", "indent", "format", "wordwrap", "batch", "slice", "pprint", "urlize")
_BANNED_METHODS = frozenset(
    {"format", "format_map", "center", "ljust", "rjust", "zfill", "expandtabs", "translate"}
)
_CONTAINERS = (list, tuple, dict)


class LimitError(Exception):
    """A template did more than it may; the message says what."""


class Budget:
    """What one rendering may still spend. A context manager: the template inside is charged."""

    _current: ContextVar["Budget"] = ContextVar("hearth_template_budget")

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._work = MAX_WORK
        # Sizes of containers by identity. The container is kept too, so that its id stays its own.
        self._measured: dict[int, tuple[int, object]] = {}

    def __enter__(self) -> Self:
        self._token = Budget._current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        Budget._current.reset(self._token)

    @classmethod
    def current(cls) -> "Budget | None":
        """The budget of the rendering that this code is part of."""
        return cls._current.get(None)

    def step(self) -> None:
        """Charge one turn of a loop or one call of a macro."""
        self._steps -= 1
        if self._steps < 0:
            raise LimitError(f"it takes more than {MAX_STEPS} steps")

    def measure(self, value: Any) -> int:
        """Leaves of a container, shared parts counted each time; characters of a text."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, Namespace):
            raise LimitError("it uses a namespace as a value")
        if not isinstance(value, _CONTAINERS):
            return 1
        if id(value) in self._measured:
            return self._measured[id(value)][0]
        if len(value) > MAX_ELEMENTS:
            raise LimitError(f"it builds a list of {len(value)} elements")
        parts: Iterable[Any] = value
        if isinstance(value, dict):
            parts = [*value.keys(), *value.values()]
        size = 1 + sum(self.measure(part) for part in parts)
        if size > MAX_VALUE:
            raise LimitError(f"it builds a value of {size} elements")
        self._measured[id(value)] = (size, value)
        return size

    def spend(self, size: int) -> None:
        """Charge a value of this size, best before it is built."""
        self._work -= size
        if size > MAX_VALUE:
            raise LimitError(f"it builds a value of {size} characters or elements")
        if self._work < 0:
            raise LimitError(f"it builds more than {MAX_WORK} characters and elements in all")


def _spend(size: int) -> None:
    # Without a budget a constant expression is being folded; it is computed again when it renders.
    if (budget := Budget.current()) is None:
        raise nodes.Impossible
    budget.spend(size)


def _size(value: Any) -> int:
    if (budget := Budget.current()) is None:
        raise nodes.Impossible
    return budget.measure(value)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates run inside a `Budget`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in _BANNED_FILTERS:
            self.filters.pop(name, None)
        self.globals.pop("lipsum", None)
        self.globals["dict"] = _charged(dict)
        self.filters |= {"join": _join, "replace": _replace, "sum": _sum}
        self.filters["tojson"] = _to_json
        self.filters = {name: _charged(function) for name, function in self.filters.items()}
        self.filters["hearth_step"] = _step
        self.filters["hearth_charge"] = _charge
        self.filters["hearth_concat"] = _concat

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        checked = _Instrument().visit(tree)
        assert isinstance(checked, nodes.Template)
        checked.set_environment(self)
        return checked

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        match operator:
            case "**":
                raise SecurityError("the operator ** is not allowed")
            case "%" if not isinstance(left, int | float):
                raise SecurityError("formatting with % is not allowed")
            case "*":
                _check_product(left, right)
            case "+" if hasattr(left, "__len__") and hasattr(right, "__len__"):
                _spend(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        if getattr(value, "__name__", "") in _BANNED_METHODS and isinstance(
            getattr(value, "__self__", None), str
        ):
            raise SecurityError("formatting with str.format is not allowed")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes) and attr in _BANNED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            if obj.__name__ == "replace":
                return _replace(text, *args, **kwargs)
            if obj.__name__ == "join":
                return _join(args[0], text)
        result = super().call(context, obj, *args, **kwargs)
        if text is not None:
            _spend(_size(result))
        return result


class _Instrument(NodeTransformer):
    """Puts the checks into the tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's visitor names
        return self._count(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._count(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._count(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return _filter(parts, "hearth_concat")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else _filter(part, "hearth_charge")
            for part in node.nodes
        ]
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "hearth_charge")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "hearth_charge")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "hearth_charge") if node.ctx == "load" else node

    def _count(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        tick = _filter(nodes.Const("", lineno=node.lineno), "hearth_step")
        node.body.insert(0, nodes.Output([tick], lineno=node.lineno))
        return node


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


# A filter of a constant would be folded at compile time; one with a context never is.


@jinja2.pass_context
def _step(_context: Any, value: str) -> str:
    if (budget := Budget.current()) is not None:
        budget.step()
    return value


@jinja2.pass_context
def _charge(_context: Any, value: Any) -> Any:
    _spend(_size(value))
    return value


@jinja2.pass_context
def _concat(_context: Any, parts: list[Any]) -> str:
    return _join(parts)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its result charged; each can only grow what it is given by a small factor."""

    @wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        _spend(_size(result))
        return result

    return charged


def _join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        raise SecurityError("join with an attribute is not allowed; use map first")
    parts = []
    size = 0
    for part in value:
        size += _size(part) + len(d)
        if size > MAX_VALUE:
            raise LimitError(f"it joins more than {MAX_VALUE} characters")
        parts.append(str(part))
    return d.join(parts)


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = str(value)
    _spend(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _sum(value: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    if attribute is not None:
        raise SecurityError("sum with an attribute is not allowed; use map first")
    total = start
    for part in value:
        if not isinstance(part, int | float) or not isinstance(total, int | float):
            raise SecurityError("only numbers can be summed")
        total += part
    return total


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Transformers has it: not escaped for HTML, key order kept, blanks after `:` and `,`."""
    _spend(_size(value))
    if separators is not None and sum(map(len, separators)) > 16:
        raise LimitError("it separates JSON with more than 16 characters")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=None if indent is None else max(0, min(indent, 16)),
        separators=separators,
        sort_keys=sort_keys,
    )


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise LimitError("it computes with numbers of more than 4096 bits")
    elif isinstance(left, int) and hasattr(right, "__len__"):
        _spend(left * _size(right))
    elif isinstance(right, int) and hasattr(left, "__len__"):
        _spend(right * _size(left))
