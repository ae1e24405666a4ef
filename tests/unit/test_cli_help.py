"""Every verb and option says in one line what it does: imperative, capital, no period."""

import re

import click
import pytest

from appliance.cli.main import ALIASES, VERBS, hearth


def commands():
    """Path and command of every verb, those below a group included."""
    root = click.Context(hearth)
    for name in hearth.list_commands(root):
        command = hearth.get_command(root, name)
        yield name, command
        if isinstance(command, click.Group):
            for below in command.commands.values():
                yield f"{name} {below.name}", below


COMMANDS = dict(commands())
# A verb in the imperative is no -s, -ed or -ing form; "pass" and the like are not used here.
IMPERATIVE = re.compile(r"[A-Z][a-z]*(?<!s)(?<!ed)(?<!ing)\b")


def is_good(line):
    return IMPERATIVE.match(line) is not None and not line.rstrip().endswith(".")


@pytest.mark.parametrize("path", COMMANDS)
def test_verb_has_a_help_line(path):
    line = COMMANDS[path].get_short_help_str(limit=100)
    assert is_good(line), line


@pytest.mark.parametrize("path", COMMANDS)
def test_options_have_help_lines(path):
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.help[0].isupper(), option.help
            assert not option.help.endswith("."), option.help


@pytest.mark.parametrize("path", COMMANDS)
def test_parameters_have_names_of_their_own(path):
    names = [parameter.name for parameter in COMMANDS[path].params]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("line", ["Lists models", "list models", "List models.", "Listing models"])
def test_the_grammar_refuses(line):
    assert not is_good(line)


def test_every_name_in_the_tables_is_a_command():
    root = click.Context(hearth)
    for name in [*VERBS, *ALIASES]:
        assert isinstance(hearth.get_command(root, name), click.Command)
    assert hearth.get_command(root, "nonsense") is None
