"""Go templates with conversations: the three ways in which Ollama fills them (template.Execute).

A template that mentions `.Messages` gets the whole conversation; one with a suffix to fill gets
`.Prompt` and `.Suffix`; an old one, with `.System`, `.Prompt` and `.Response`, is run once per turn
and the last time only up to `.Response`, where the model goes on.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from appliance.chat.events import Message
from appliance.chat.render.go_values import message_value, tool_values
from appliance.chat.render.inputs import RenderInput
from appliance.errors import TemplateError
from appliance.templates.facts import go_variables, mentions
from appliance.templates.go.errors import GoTemplateError
from appliance.templates.go.nodes import Action, Branch, Command, Field, Node, Pipe, Tree
from appliance.templates.go.program import Program, Run, compile_template, compile_tree_of

_RESPONSE = Pipe(0, (), (), False, (Command(0, (Field(0, ("Response",)),)),))
_APPENDED = Action(0, _RESPONSE)


def render_go(template: str, given: RenderInput) -> str:
    """The prompt; raises TemplateError in Go's words when the template is broken or too greedy."""
    try:
        program = compile_template(template)
        run = Run(given.now)
        _execute(program, run, given)
        return run.text()
    except GoTemplateError as error:
        raise TemplateError(f"the chat template failed: {error}") from error
    except RecursionError as error:
        raise TemplateError("a tool's parameters or a call's arguments nest too deep") from error


def _execute(program: Program, run: Run, given: RenderInput) -> None:
    variables = program.fact("variables", go_variables)
    assert isinstance(variables, frozenset)
    think = {
        "Think": given.think is not None and given.think is not False,
        "ThinkLevel": _level(given.think),
        "IsThinkSet": given.think is not None,
    }
    if given.suffix and given.messages:
        prompt = given.messages[-1].content
        values = {"Prompt": prompt, "Suffix": given.suffix, "Response": "", **think}
        program.execute(run, values)
        return
    system, messages = collate(given.messages)
    if "messages" not in variables:
        _execute_turns(program, run, messages, think)
        return
    values = {
        "System": system,
        "Messages": [message_value(message) for message in messages],
        "Tools": tool_values(given.tools),
        "Response": "",
        **think,
    }
    program.execute(run, values)


def _level(think: bool | str | None) -> str:
    """`medium` is what a bare yes means (Ollama, api.ThinkValue)."""
    if isinstance(think, str):
        return think
    return "medium" if think else ""


def collate(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """All system texts in one, and the conversation with successive turns of a role made one.

    Results of tools stay apart. Unlike upstream an empty content adds no blank line, and calls and
    thinking of joined turns are kept: clients send an answer and its calls as two turns.
    """
    system = [message.content for message in messages if message.role == "system"]
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role != "tool":
            joined[-1] = _together(joined[-1], message)
        else:
            joined.append(message)
    return "\n\n".join(system), joined


def _together(first: Message, second: Message) -> Message:
    return replace(
        first,
        content="\n\n".join(filter(None, (first.content, second.content))),
        thinking="\n\n".join(filter(None, (first.thinking, second.thinking))),
        tool_calls=first.tool_calls + second.tool_calls,
        images=first.images + second.images,
    )


# -- templates without .Messages -------------------------------------------------------------


def _execute_turns(
    program: Program, run: Run, messages: Sequence[Message], think: dict[str, Any]
) -> None:
    whole = program.fact("whole", _with_response)
    opening = program.fact("opening", _up_to_response)
    assert isinstance(whole, Program)
    assert isinstance(opening, Program)
    turn = {"System": "", "Prompt": "", "Response": ""}

    def complete() -> None:
        whole.execute(run, {**turn, **think})
        turn.update(System="", Prompt="", Response="")

    for message in messages:
        match message.role:
            case "system":
                if turn["Prompt"] or turn["Response"]:
                    complete()
                turn["System"] = message.content
            case "user":
                if turn["Response"]:
                    complete()
                turn["Prompt"] = message.content
            case "assistant":
                turn["Response"] = message.content
    opening.execute(run, {**turn, **think})


def _with_response(tree: Tree) -> Program:
    """A template that never says where the answer goes has it at its end."""
    return compile_tree_of(_complete(tree))


def _complete(tree: Tree) -> Tree:
    if "response" in go_variables(tree):
        return tree
    main = replace(tree.main, nodes=(*tree.main.nodes, _APPENDED))
    return Tree(tree.source, {**tree.templates, "": main})


def _up_to_response(tree: Tree) -> Program:
    """The template without what comes after `.Response`: there the model goes on."""
    complete = _complete(tree)
    nodes, _ = _cut(complete.main.nodes)
    main = replace(complete.main, nodes=nodes)
    return compile_tree_of(Tree(complete.source, {**complete.templates, "": main}))


def _cut(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """The nodes up to and with the first that prints `.Response`; whether there was one."""
    kept: list[Node] = []
    for node in nodes:
        match node:
            case Branch():
                body, is_cut = _cut(node.body)
                otherwise, cuts_there = ((), False) if is_cut else _cut(node.otherwise)
                kept.append(replace(node, body=body, otherwise=otherwise))
                if is_cut or cuts_there:
                    return tuple(kept), True
            case _:
                kept.append(node)
                if isinstance(node, Action) and mentions(node, "Response"):
                    return tuple(kept), True
    return tuple(kept), False
