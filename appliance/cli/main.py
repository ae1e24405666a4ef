"""The `hearth` command: finds the verb, runs it, turns errors into one sentence and an exit code.

Verbs are imported when they are called, so that `hearth list` does not pay for `hearth serve`.
"""

import importlib
import os
from collections.abc import Sequence

import click

from appliance.errors import ApplianceError

VERBS = {
    "serve": "appliance.cli.serve:serve",
    "run": "appliance.cli.run:run",
    "pull": "appliance.cli.transfer:pull",
    "push": "appliance.cli.transfer:push",
    "create": "appliance.cli.create:create",
    "list": "appliance.cli.models:list_models",
    "ps": "appliance.cli.models:ps",
    "show": "appliance.cli.show:show",
    "cp": "appliance.cli.models:cp",
    "rm": "appliance.cli.models:rm",
    "stop": "appliance.cli.models:stop",
    "import": "appliance.cli.media:import_models",
    "export": "appliance.cli.media:export_models",
    "trust": "appliance.cli.trust:trust",
    "bundle": "appliance.cli.bundle:bundle",
    "scrub": "appliance.cli.scrub:scrub",
    "status": "appliance.cli.status:status",
    "config": "appliance.cli.status:config",
}
ALIASES = {"ls": "list"}

FAILED = 1


class LazyGroup(click.Group):
    """A group whose verbs live in modules of their own, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table, without aliases."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module; None for a verb that does not exist."""
        target = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from importlib import metadata

    from appliance.cli.address import find_address
    from appliance.cli.client import Client, ClientError

    mine = metadata.version("hearth")
    try:
        answer = Client(find_address(None, os.environ)).get("/api/version")
        theirs = answer.get("hearth", answer.get("version"))
    except ClientError:
        click.echo(f"hearth version is {mine}")
        click.echo("Warning: could not connect to a running hearth", err=True)
        context.exit()
    click.echo(f"hearth version is {theirs}")
    if theirs != mine:
        click.echo(f"Warning: client version is {mine}", err=True)
    context.exit()


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-v",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version of the service and warn if this command differs",
)
def hearth() -> None:
    """Run language models on this box for everyone on the local network.

    The service is found at HEARTH_HOST, else OLLAMA_HOST, else http://127.0.0.1:11434.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        code = hearth.main(arguments, prog_name="hearth", standalone_mode=False)
    except click.ClickException as error:  # wrong usage brings its own exit code
        error.show()
        return error.exit_code
    except click.Abort:  # Ctrl+C
        return FAILED
    except ApplianceError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        return _fail(f"{error.message}{hint}")
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return code if isinstance(code, int) else 0


def _fail(text: str) -> int:
    click.echo(f"Error: {text}", err=True)
    return FAILED
