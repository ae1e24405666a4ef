"""Verbs about channels: channel follow, list, unfollow, check, pause, resume."""

import click

from appliance.cli.client import Client, ClientError, Json
from appliance.cli.follow import follow as follow_lines
from appliance.cli.progress import Progress
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, connects, print_json

ROUTES = "/hearth/v1/channels"


@click.group("channel")
def channel() -> None:
    """Follow what a publisher wants boxes to run"""


@channel.command("follow")
@click.argument("channel")
@connects
def follow(client: Client, channel: str) -> None:
    """Follow a channel: its releases are installed as they come

    CHANNEL is REPOSITORY/CHANNEL, like acme/stable, or an address of it below an enrolled
    repository's.
    """
    body = client.post(f"{ROUTES}/follow", {"channel": channel}, patient=True)
    click.echo(f"following {body['channel']}, generation {body['generation']}")


@channel.command("list")
@answers_json
@connects
def list_channels(client: Client, as_json: bool) -> None:
    """List the channels that are followed, and how far each bundle is"""
    body = client.get(ROUTES)
    if as_json:
        print_json(body)
        return
    click.echo(channels_table(body), nl=False)
    for problem in body["problems"]:
        click.echo(f"Warning: {problem}", err=True)


@channel.command("unfollow")
@click.argument("channel")
@connects
def unfollow(client: Client, channel: str) -> None:
    """Stop following a channel; what it installed stays"""
    client.post(f"{ROUTES}/unfollow", {"channel": channel})
    click.echo(f"no longer following {channel}")


@channel.command("check")
@click.argument("channel")
@click.option("--now", "at_once", is_flag=True, help="Install outside the window too")
@connects
def check(client: Client, channel: str, at_once: bool) -> None:
    """Ask a channel now and install what it names"""
    body: Json = {"channel": channel, "at_once": at_once}
    with Progress() as progress:
        follow_lines(client, f"{ROUTES}/check", body, progress)
    shown = client.get(ROUTES)
    click.echo(channels_table(shown), nl=False)
    states = [bundle["state"] for each in shown["channels"] for bundle in each["bundles"]]
    if "failed" in states:
        raise ClientError("a release was refused; what was active serves on")


@channel.command("pause")
@click.argument("channel")
@connects
def pause(client: Client, channel: str) -> None:
    """Let a channel change nothing until it is resumed"""
    client.post(f"{ROUTES}/pause", {"channel": channel})
    click.echo(f"{channel} is paused")


@channel.command("resume")
@click.argument("channel")
@connects
def resume(client: Client, channel: str) -> None:
    """Go on with a channel that was paused"""
    client.post(f"{ROUTES}/resume", {"channel": channel})
    click.echo(f"{channel} goes on")


def channels_table(body: Json) -> str:
    """The table of an answer of /hearth/v1/channels: a line for each bundle."""
    rows = [row for each in body["channels"] for row in _rows(each)]
    return render_table(rows, ("CHANNEL", "GENERATION", "BUNDLE", "VERSION", "STATE"))


def _rows(entry: Json) -> list[list[str]]:
    words = [word for word in ("paused", "held") if entry[word]]
    head = [entry["channel"], str(entry["generation"] or "-")]
    state = ", ".join([*words, *([entry["trouble"]] if entry["trouble"] else [])])
    if not entry["bundles"]:
        return [[*head, "-", "-", state or "not asked yet"]]
    return [
        [
            *(head if index == 0 else ["", ""]),
            bundle["bundle"],
            bundle["version"],
            ", ".join(filter(None, [*words, bundle["state"], bundle["reason"]])),
        ]
        for index, bundle in enumerate(entry["bundles"])
    ]
