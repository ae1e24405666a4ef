"""A compiled Go template, what one rendering of it may spend, and a cache of compiled ones."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import NoReturn

from appliance.templates.go.compiler import Body, compile_tree
from appliance.templates.go.errors import GoLimitError, GoParseError
from appliance.templates.go.functions import NAMES
from appliance.templates.go.nodes import Tree
from appliance.templates.go.parser import parse
from appliance.templates.go.values import Value

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_STEPS = 1_000_000  # nodes and turns of loops in one rendering
MAX_OUTPUT = 16 * 1024 * 1024  # characters
MAX_VALUE = 8 * 1024 * 1024  # characters of one value that a function builds
MAX_WORK = 32 * 1024 * 1024  # characters and elements that functions read or build in all
_CACHED_PROGRAMS, _CACHED_CHARS = 64, 2 * 1024 * 1024


class Run:
    """One rendering: the output so far and what is left of the budget. Not for two threads."""

    __slots__ = ("depth", "now", "out", "room", "steps", "work")

    largest_value = MAX_VALUE

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        self.now = now or (lambda: datetime.now(UTC).astimezone())
        self.out: list[str] = []
        self.steps = MAX_STEPS
        self.room = MAX_OUTPUT
        self.work = MAX_WORK
        self.depth = 0

    def charge(self, size: int) -> None:
        """Spend on a value of this size; raises GoLimitError."""
        self.work -= size
        if size > MAX_VALUE:
            raise GoLimitError(f"it builds a value of {size} characters; {MAX_VALUE} are allowed")
        if self.work < 0:
            raise GoLimitError(f"it works on more than {MAX_WORK} characters")

    def exhausted(self) -> NoReturn:
        """Say which of the steps and the room for output is used up."""
        if self.steps < 0:
            raise GoLimitError(f"it takes more than {MAX_STEPS} steps")
        raise GoLimitError(f"its output has more than {MAX_OUTPUT} characters")

    def text(self) -> str:
        if self.room < 0:
            self.exhausted()
        return "".join(self.out)


@dataclass(frozen=True)
class Program:
    """A template that can run; `tree` is for those who ask what it mentions."""

    tree: Tree
    main: Body
    _facts: dict[str, object] = field(default_factory=dict, repr=False)

    def execute(self, run: Run, values: dict[str, Value]) -> None:
        """Add the output for `values` to `run`; raises GoTemplateError."""
        frame: list[Value] = [None] * self.tree.main.slots
        frame[0] = values
        try:
            self.main(run, frame, values)
        except (RecursionError, MemoryError) as error:
            raise GoLimitError("it nests too deep") from error

    def fact(self, name: str, find: Callable[[Tree], object]) -> object:
        """What `find` says of the tree, asked once."""
        if name not in self._facts:
            self._facts[name] = find(self.tree)
        return self._facts[name]


def compile_tree_of(tree: Tree) -> Program:
    """A program of a tree that was made or changed by hand."""
    return Program(tree, compile_tree(tree))


class _Cache:
    """The programs used last, bounded in number and in characters of their texts."""

    def __init__(self) -> None:
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._chars = 0
        self._lock = Lock()

    def get(self, text: str) -> Program | None:
        with self._lock:
            program = self._programs.get(text)
            if program is not None:
                self._programs.move_to_end(text)
            return program

    def put(self, text: str, program: Program) -> None:
        with self._lock:
            if text not in self._programs:
                self._chars += len(text)
            self._programs[text] = program
            while len(self._programs) > _CACHED_PROGRAMS or self._chars > _CACHED_CHARS:
                gone, _ = self._programs.popitem(last=False)
                self._chars -= len(gone)


_cache = _Cache()


def compile_template(text: str) -> Program:
    """The program of a template's text; raises GoParseError. Used ones are kept."""
    program = _cache.get(text)
    if program is not None:
        return program
    if len(text) > MAX_TEMPLATE_CHARS:
        raise GoParseError(
            1, f"the template has {len(text)} characters; {MAX_TEMPLATE_CHARS} are allowed"
        )
    try:
        program = compile_tree_of(parse(text, NAMES))
    except RecursionError as error:
        raise GoParseError(1, "the template nests too deep") from error
    _cache.put(text, program)
    return program
