"""Verbs about signed models: bundle list, show, why, check, rollback, pin, unpin."""

from urllib.parse import quote

import click

from appliance.cli.client import Client, Json
from appliance.cli.inert import inert
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, connects, print_json

ROUTES = "/hearth/v1/bundles"


@click.group("bundle")
def bundle() -> None:
    """Look at signed models, and return to the release before"""


@bundle.command("list")
@answers_json
@connects
def list_bundles(client: Client, as_json: bool) -> None:
    """List the signed models and the releases that serve"""
    body = client.get(ROUTES)
    if as_json:
        print_json(body)
        return
    rows = [
        [
            entry["model"],
            entry["version"] or "-",
            entry["variant"] or "-",
            entry["previous"] or "-",
            _word(entry),
            entry["repository"],
        ]
        for entry in body["bundles"]
    ]
    header = ("NAME", "VERSION", "VARIANT", "PREVIOUS", "STATE", "SIGNED BY")
    click.echo(render_table(rows, header), nl=False)
    for problem in body["problems"]:
        click.echo(f"Warning: {problem}", err=True)


@bundle.command("show")
@click.argument("name")
@answers_json
@connects
def show(client: Client, name: str, as_json: bool) -> None:
    """Show which releases of a signed model are here, and which are bad"""
    body = client.get(f"{ROUTES}/show?model={quote(name)}")
    if as_json:
        print_json(body)
        return
    click.echo(inert(bundle_screen(body)), nl=False)


@bundle.command("why")
@click.argument("name")
@answers_json
@connects
def why(client: Client, name: str, as_json: bool) -> None:
    """Explain why this variant was taken, and what failed last"""
    body = client.get(f"{ROUTES}/why?model={quote(name)}")
    if as_json:
        print_json(body)
        return
    click.echo(inert(why_screen(body)), nl=False)


@bundle.command("check")
@click.argument("name")
@answers_json
@connects
def check(client: Client, name: str, as_json: bool) -> None:
    """Ask whether the release that serves was taken back"""
    body = client.post(f"{ROUTES}/check", {"model": name}, patient=True)
    if as_json:
        print_json(body)
        return
    click.echo(f"{body['model']}: {body['revoked'] or 'nothing was taken back'}")


@bundle.command("rollback")
@click.argument("name")
@connects
def rollback(client: Client, name: str) -> None:
    """Return to the previous release at once, without a network"""
    body = client.post(f"{ROUTES}/rollback", {"model": name})
    click.echo(f"{body['model']} is release {body['version']} again")


@bundle.command("pin")
@click.argument("name")
@click.argument("version")
@connects
def pin(client: Client, name: str, version: str) -> None:
    """Keep a signed model at one version"""
    body = client.post(f"{ROUTES}/pin", {"model": name, "version": version})
    click.echo(f"{body['model']} stays at {version}")
    if body["version"] != version:
        click.echo(f"It serves {body['version']} now; `hearth pull {name}` gets {version}")


@bundle.command("unpin")
@click.argument("name")
@connects
def unpin(client: Client, name: str) -> None:
    """Let a signed model follow its name again"""
    body = client.post(f"{ROUTES}/unpin", {"model": name})
    click.echo(f"{body['model']} follows its name from the next pull on")


def bundle_screen(body: Json) -> str:
    """Facts, the releases that are kept, and the bad ones with their reasons."""
    facts = [
        ["", "state", _word(body)],
        ["", "signed by", body["repository"]],
        ["", "pinned", body["pinned"] or "no"],
    ]
    releases = [
        ["", kind, release["version"], release["variant"], release["index"][:19], _rate(release)]
        for kind in ("active", "previous", "staged")
        if (release := body[f"{kind}_release"])
    ]
    text = f"  {body['model']}\n{render_table(facts)}"
    if releases:
        text += f"\n  Releases\n{render_table(releases)}"
    bad = "".join(f"    {_told(failure)}\n" for failure in body["bad"])
    return text + (f"\n  Bad\n{bad}" if bad else "")


def why_screen(body: Json) -> str:
    """The reasons of the choice, one a line, then the last failure with all that is known."""
    reasons = "".join(f"    {reason}\n" for reason in body["reasons"])
    text = f"  Variant {body['variant'] or '-'} of {body['version'] or '-'}\n{reasons}"
    if (failure := body["failure"]) is None:
        return f"{text}\n  Nothing failed.\n"
    text += f"\n  Last failure\n    {_told(failure)}\n"
    if failure["prompt"]:
        text += f"    prompt: {failure['prompt']}\n"
    text += f"    speed: {_rate(failure)}\n"
    log = "".join(f"    {line}\n" for line in failure["log"].splitlines())
    return text + (f"\n  Last words of the worker\n{log}" if log else "")


def _word(entry: Json) -> str:
    """The state, and what an administrator should see first."""
    if entry["revoked"]:
        return f"taken back: {entry['revoked']}"
    return f"{entry['state']}, pinned" if entry["pinned"] else str(entry["state"])


def _told(failure: Json) -> str:
    variant = f" ({failure['variant']})" if failure["variant"] else ""
    return f"{failure['version']}{variant} at {failure['at']}: {failure['reason']}"


def _rate(body: Json) -> str:
    return f"{body['tokens_per_s']:.1f} tokens/s" if body["tokens_per_s"] else "-"
