"""A command whose verbs are imported when they are called, and whose errors are one sentence.

`hearth list` does not pay for `hearth serve`. The publisher's tool is built on the same.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from appliance.cli.inert import inert
from appliance.errors import ApplianceError

FAILED = 1


class LazyGroup(click.Group):
    """A group whose verbs live in modules of their own; `verbs` says where, as `module:name`."""

    def __init__(
        self,
        *args: Any,
        verbs: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs
        self._aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table, without aliases."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module; None for a verb that does not exist."""
        target = self._verbs.get(self._aliases.get(cmd_name, cmd_name))
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def run_command(command: click.Command, name: str, arguments: Sequence[str] | None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        code = command.main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:  # wrong usage brings its own exit code
        error.show()
        return error.exit_code
    except click.Abort:  # Ctrl+C
        return FAILED
    except ApplianceError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        return _fail(inert(f"{error.message}{hint}"))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return code if isinstance(code, int) else 0


def _fail(text: str) -> int:
    click.echo(f"Error: {text}", err=True)
    return FAILED
