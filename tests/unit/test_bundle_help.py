"""Every verb and option of the publisher's tool says in one line what it does, like the box's."""

import click
import pytest

from tests.unit.test_cli_help import is_good
from tools.bundles.main import VERBS, bundle


def commands(group, path=""):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


COMMANDS = dict(commands(bundle))


@pytest.mark.parametrize("path", COMMANDS)
def test_verb_and_options_have_help_lines(path):
    line = COMMANDS[path].get_short_help_str(limit=100)
    assert is_good(line), line
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.help[0].isupper(), option.help
            assert not option.help.endswith("."), option.help


def test_the_table_names_commands():
    assert set(VERBS) <= set(COMMANDS)
    assert {"keys paper", "repo rotate online"} <= set(COMMANDS)
