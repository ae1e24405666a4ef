"""The tree of a Go template. `pos` is where a node begins in the text, in characters."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dot:
    pos: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Nil:
    pos: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class Constant:
    """A bool, number or string; `source` is how the template writes it."""

    pos: int
    value: bool | int | float | str
    source: str

    def __str__(self) -> str:
        return self.source


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`: looked up from the dot."""

    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; `slot` is the variable's place in the frame, `$` itself is slot 0."""

    pos: int
    name: str
    slot: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name + "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Function:
    pos: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """`(…).A.B`."""

    pos: int
    operand: "Operand"
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.operand})" if isinstance(self.operand, Pipe) else str(self.operand)
        return inner + "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Command:
    """A function and its arguments, or one operand alone. Never empty."""

    pos: int
    args: tuple["Operand", ...]

    def __str__(self) -> str:
        return " ".join(f"({a})" if isinstance(a, Pipe) else str(a) for a in self.args)


@dataclass(frozen=True, slots=True)
class Pipe:
    """`$a, $b := command | command`; `slots` are the places of the variables it sets."""

    pos: int
    names: tuple[str, ...]
    slots: tuple[int, ...]
    is_assign: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        text = " | ".join(map(str, self.commands))
        sign = "=" if self.is_assign else ":="
        return f"{', '.join(self.names)} {sign} {text}" if self.names else text


Operand = Dot | Nil | Constant | Field | Variable | Function | Chain | Pipe


@dataclass(frozen=True, slots=True)
class Text:
    pos: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipe }}`: prints its value, unless it sets a variable."""

    pos: int
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`; `kind` says which."""

    pos: int
    kind: str
    pipe: Pipe
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    pos: int
    kind: str


@dataclass(frozen=True, slots=True)
class Call:
    """`{{ template "name" pipe }}`."""

    pos: int
    name: str
    pipe: Pipe | None


Node = Text | Action | Branch | Jump | Call


@dataclass(frozen=True, slots=True)
class Template:
    """One named template: its nodes and how many variables a call of it has."""

    name: str
    nodes: tuple[Node, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole text: the main template has the name ""."""

    source: str
    templates: dict[str, Template]

    @property
    def main(self) -> Template:
        return self.templates[""]


def weight(node: Node | Operand | Command) -> int:
    """Steps of running a node once, without the bodies of a branch: they are counted themselves."""
    match node:
        case Action() | Branch():
            return 1 + weight(node.pipe)
        case Call():
            return 1 + (weight(node.pipe) if node.pipe else 0)
        case Pipe():
            return sum(weight(command) for command in node.commands)
        case Command():
            return sum(weight(arg) for arg in node.args)
        case Chain():
            return len(node.names) + weight(node.operand)
        case Field() | Variable():
            return max(1, len(node.names))
    return 1
