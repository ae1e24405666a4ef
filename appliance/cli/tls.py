"""Verbs about HTTPS: tls, tls renew."""

import click

from appliance.cli.client import Client, Json
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, connects, print_json

ROUTE = "/hearth/v1/tls"


@click.group("tls", invoke_without_command=True)
@answers_json
@connects
@click.pass_context
def tls(context: click.Context, client: Client, as_json: bool) -> None:
    """Show the certificate of HTTPS, with the fingerprint that apps and people compare"""
    if context.invoked_subcommand is not None:
        context.obj = client  # `hearth tls --host … renew`
        return
    body = client.get(ROUTE)
    if as_json:
        print_json(body)
    else:
        click.echo(screen(body, client.address.host), nl=False)


@tls.command("renew")
@click.option(
    "--authority",
    is_flag=True,
    help="Make a new certificate authority too; each device must import it again",
)
@answers_json
@connects
def renew(client: Client, authority: bool, as_json: bool) -> None:
    """Make another certificate now, for the names and addresses of this moment"""
    body = client.post(f"{ROUTE}/renew", {"authority": authority})
    if as_json:
        print_json(body)
    else:
        click.echo(screen(body, client.address.host), nl=False)


def screen(body: Json, host: str) -> str:
    """The certificate's facts for people."""
    if not body["on"]:
        return 'HTTPS is off; set tls = "on" and restart the service.\n'
    if body["problem"]:
        return f"HTTPS does not work: {body['problem']['error']}\n{body['problem']['hint']}\n"
    shown = f"[{host}]" if ":" in host else host
    rows = [
        ["address", f"https://{shown}:{body['port']}"],
        ["names", ", ".join(body["names"])],
        ["valid", f"{body['not_before']} to {body['not_after']}"],
        ["fingerprint", f"{body['fingerprint']} (for HEARTH_FINGERPRINT)"],
        ["authority", f"{body['ca_fingerprint']} (compare it when a device imports it)"],
        ["certificate", f"{body['certificate']} is what a device imports"],
    ]
    return render_table([["", *row] for row in rows])
