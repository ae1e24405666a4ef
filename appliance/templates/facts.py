"""What a chat template says about its model, read off its syntax tree and never by running it.

For Go templates by Ollama's rules (template.Vars; thinking/template.go; tools/template.go), for
Jinja by the names and the literal texts that the template uses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import jinja2
from jinja2 import nodes as jinja_nodes

from appliance.templates.go.errors import GoTemplateError
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
    Text,
    Tree,
    Variable,
)
from appliance.templates.go.program import MAX_TEMPLATE_CHARS, compile_template
from appliance.templates.jinja_syntax import EXTENSIONS

# What models write around their thinking, as their Jinja templates spell it.
TAG_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_SWITCHES = frozenset({"enable_thinking", "reasoning_effort"})


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the template has a place for."""

    tools: bool = False
    insert: bool = False  # text between a prompt and a suffix
    thinking: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """In Ollama's words."""
        return tuple(name for name in ("tools", "insert", "thinking") if getattr(self, name))


def abilities_of(template: str, *, is_go: bool) -> Abilities:
    """The abilities; none for a template that cannot be parsed, as it cannot run either."""
    if not is_go:
        found = jinja_facts(template)
        tools = not found.names.isdisjoint({"tools", "tool_calls", "tool_call"})
        return Abilities(tools=tools, thinking=found.thinks)
    try:
        tree = compile_template(template).tree
    except GoTemplateError:
        return Abilities()
    variables = go_variables(tree)
    return Abilities(
        tools="tools" in variables,
        insert="suffix" in variables,
        thinking=go_thinking_tags(tree) is not None,
    )


def answers_calls(template: str, *, is_go: bool) -> bool:
    """Whether it has a place for tools, for calls of them, and for what they returned (Ollama,
    goTemplateHasToolRoundTrip and chatTemplateHasToolRoundTrip); False if it cannot be parsed."""
    if not is_go:
        found = jinja_facts(template)
        marks = ("tool_response", "tool_results", "TOOL_RESULTS")
        has_results = "tool" in found.names or any(mark in found.texts for mark in marks)
        return "tool_calls" in found.names and has_results
    try:
        variables = go_variables(compile_template(template).tree)
    except GoTemplateError:
        return False
    marks = ('Role "tool"', "tool_response", "TOOL_RESULTS")
    return {"tools", "toolcalls"} <= variables and any(mark in template for mark in marks)


# -- Go --------------------------------------------------------------------------------------


def go_variables(tree: Tree) -> frozenset[str]:
    """Names of the fields that any template of the tree mentions, in lower case."""
    found: set[str] = set()
    for template in tree.templates.values():
        for node in _walk(template.nodes):
            for operand in _operands(node):
                if isinstance(operand, Field | Variable | Chain):
                    found.update(name.lower() for name in operand.names)
    return frozenset(found)


def _walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Branch):
            yield from _walk(node.body)
            yield from _walk(node.otherwise)


def _operands(node: Node) -> Iterator[Operand]:
    """Everything that a node's own pipeline is made of."""
    match node:
        case Action() | Branch():
            yield from _parts(node.pipe)
        case Call():
            if node.pipe:
                yield from _parts(node.pipe)
        case Text() | Jump():
            pass


def _parts(operand: Operand | Command) -> Iterator[Operand]:
    match operand:
        case Pipe():
            for command in operand.commands:
                yield from _parts(command)
        case Command():
            for arg in operand.args:
                yield from _parts(arg)
        case Chain():
            yield operand
            yield from _parts(operand.operand)
        case Field() | Variable() | Function() | Constant() | Dot() | Nil():
            yield operand


def mentions(node: Node, name: str) -> bool:
    """Whether the node's own pipeline looks up the field `name`."""
    return any(
        isinstance(part, Field | Variable | Chain) and name in part.names
        for part in _operands(node)
    )


def go_thinking_tags(tree: Tree) -> tuple[str, str] | None:
    """The texts around `.Thinking` where the messages are printed, if it stands between two."""
    found: tuple[str, str] | None = None
    for template in tree.templates.values():
        for siblings, node in _in_messages(template.nodes, inside=template.name != ""):
            if not isinstance(node, Action) or not mentions(node, "Thinking"):
                continue
            first, last = siblings[0], siblings[-1]
            if isinstance(first, Text) and isinstance(last, Text):
                opening, closing = first.text.split(), last.text.split()
                if opening and closing:
                    found = opening[-1], closing[0]
    return found


def _in_messages(
    nodes: tuple[Node, ...], *, inside: bool
) -> Iterator[tuple[tuple[Node, ...], Node]]:
    """Each node inside a loop over the messages, with the list that it stands in."""
    for node in nodes:
        if inside:
            yield nodes, node
        if isinstance(node, Branch):
            enters = inside or (node.kind == "range" and mentions(node, "Messages"))
            yield from _in_messages(node.body, inside=enters)
            yield from _in_messages(node.otherwise, inside=enters)


def go_tool_call_tag(tree: Tree) -> str:
    """The text before the JSON where the template prints `.ToolCalls`, or empty."""
    for template in tree.templates.values():
        for node in _walk(template.nodes):
            if isinstance(node, Branch) and mentions(node, "ToolCalls"):
                return _first_text(node.body).partition("{")[0].strip()
    return ""


def _first_text(nodes: tuple[Node, ...]) -> str:
    """The text that is printed first, before any value."""
    for node in nodes:
        match node:
            case Text():
                return node.text
            case Branch():
                return _first_text(node.body) or _first_text(node.otherwise)
            case Action() if not node.pipe.names:
                return ""
            case Call() | Jump():
                return ""
    return ""


# -- Jinja -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JinjaFacts:
    """Names: variables, attributes and text keys; `texts`: everything literal, joined."""

    names: frozenset[str] = frozenset()
    texts: str = ""

    @property
    def thinking_tags(self) -> tuple[str, str] | None:
        """The first known pair that the template knows the end of."""
        return next((pair for pair in TAG_PAIRS if pair[1] in self.texts), None)

    @property
    def thinks(self) -> bool:
        """Ollama's rule, and for other tags and switches the same in spirit."""
        if not self.names.isdisjoint(_SWITCHES):
            return True
        pair = self.thinking_tags
        if pair is None:
            return False
        # To cut the thinking off old answers alone says little: a later model of the family, that
        # no longer thinks, still does so. Then it takes the thinking apart (`reasoning_content`).
        return pair[0] in self.texts or "reasoning_content" not in self.names


@lru_cache(maxsize=32)
def jinja_facts(template: str) -> JinjaFacts:
    """Facts of a Jinja template; none when it cannot be parsed."""
    if len(template) > MAX_TEMPLATE_CHARS:
        return JinjaFacts()
    try:
        tree = jinja2.Environment(extensions=EXTENSIONS).parse(template)  # noqa: S701 - not run
    except (jinja2.TemplateError, RecursionError):
        return JinjaFacts()
    names: set[str] = set()
    texts: list[str] = []
    kinds = (jinja_nodes.Name, jinja_nodes.Getattr, jinja_nodes.Const, jinja_nodes.TemplateData)
    try:
        for node in tree.find_all(kinds):
            match node:
                case jinja_nodes.Name():
                    names.add(node.name)
                case jinja_nodes.Getattr():
                    names.add(node.attr)
                case jinja_nodes.TemplateData():
                    texts.append(node.data)
                case jinja_nodes.Const(value=str() as text):
                    names.add(text)
                    texts.append(text)
    except RecursionError:
        return JinjaFacts()
    return JinjaFacts(frozenset(names), "\n".join(texts))
