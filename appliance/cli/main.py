"""The `hearth` command: its verbs, and where each lives (lazy.py imports and runs them)."""

import os
from collections.abc import Sequence

import click

from appliance.cli.lazy import LazyGroup, run_command
from appliance.cli.verb import BOX

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
    "channel": "appliance.cli.channel:channel",
    "pair": "appliance.cli.pair:pair",
    "keys": "appliance.cli.keys:keys",
    "tls": "appliance.cli.tls:tls",
    "scrub": "appliance.cli.scrub:scrub",
    "discover": "appliance.cli.discover:discover",
    "identify": "appliance.cli.identify:identify",
    "doctor": "appliance.cli.doctor:doctor",
    "status": "appliance.cli.status:status",
    "support-bundle": "appliance.cli.support_bundle:support_bundle",
    "config": "appliance.cli.status:config",
    "update": "appliance.cli.update:update",
    "firstboot": "appliance.cli.firstboot:firstboot",
}
ALIASES = {"ls": "list"}
OF_THIS_MACHINE = ("serve", "config", "update", "firstboot")  # the verbs that ask no service


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from importlib import metadata

    from appliance.cli.address import find_address, find_trusted
    from appliance.cli.client import Client, ClientError

    mine = metadata.version("hearth")
    try:
        trusted = find_trusted(None, os.environ)
        answer = Client(find_address(None, os.environ), trusted=trusted).get("/api/version")
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
    verbs=VERBS,
    aliases=ALIASES,
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
@click.option("--box", metavar="NAME", help="Ask the box of this name on the local network")
@click.pass_context
def hearth(context: click.Context, box: str | None) -> None:
    """Run language models on this box for everyone on the local network.

    The service is found at HEARTH_HOST, else OLLAMA_HOST, else http://127.0.0.1:11434; `hearth
    discover` lists others.
    """
    if box is not None:
        if context.invoked_subcommand in OF_THIS_MACHINE:
            raise click.UsageError(f"--box is not for `{context.invoked_subcommand}`")
        context.meta[BOX] = box


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 wrong usage."""
    return run_command(hearth, "hearth", arguments)
