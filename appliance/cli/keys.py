"""Verbs about keys: keys create, list, revoke."""

from datetime import UTC, datetime

import click

from appliance.cli.client import Client, Json
from appliance.cli.inert import inert
from appliance.cli.table import render_table
from appliance.cli.units import moment_words
from appliance.cli.verb import answers_json, connects, print_json

ROUTE = "/hearth/v1/keys"


@click.group("keys")
def keys() -> None:
    """Make and revoke the keys that apps and people use"""


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("chat",),
    show_default=True,
    help="Allow this: chat, manage (also models) or admin (also keys); may be repeated",
)
@click.option("--model", "models", multiple=True, help="Allow this model alone; may be repeated")
@click.option("--rate", type=int, metavar="N", help="Allow so many requests a minute")
@click.option("--tokens", type=int, metavar="N", help="Allow so many tokens a day")
@answers_json
@connects
def create(
    client: Client,
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    rate: int | None,
    tokens: int | None,
    as_json: bool,
) -> None:
    """Make a key for NAME, like "Anna's phone", and print it this once"""
    body: Json = {"name": name, "scopes": list(scopes)}
    if models:
        body["models"] = list(models)
    if rate is not None:
        body["rate_per_minute"] = rate
    if tokens is not None:
        body["tokens_per_day"] = tokens
    answer = client.post(ROUTE, body)
    if as_json:
        print_json(answer)
        return
    key = answer["key"]
    click.echo(f"key {key['id']} for {inert(key['name'])}: {', '.join(key['scopes'])}", err=True)
    click.echo("It is shown this once; send it as `Authorization: Bearer …`:", err=True)
    click.echo(answer["secret"])


@keys.command("list")
@answers_json
@connects
def list_keys(client: Client, as_json: bool) -> None:
    """List the keys, and the guests of the last days, with what they used today"""
    body = client.get(ROUTE)
    if as_json:
        print_json(body)
    else:
        click.echo(keys_screen(body, datetime.now(UTC)), nl=False)


@keys.command("revoke")
@click.argument("key")
@connects
def revoke(client: Client, key: str) -> None:
    """Make a key worthless at once, by its ID"""
    from urllib.parse import quote

    client.delete(f"{ROUTE}/{quote(key, safe='')}")
    click.echo(f"key {key} is revoked")


def keys_screen(body: Json, now: datetime) -> str:
    """The tables of an answer of /hearth/v1/keys; guests only if there were some."""
    header = ("ID", "NAME", "SCOPES", "MODELS", "TOKENS TODAY", "LAST USED")
    screen = render_table([_row(key, now) for key in body["keys"]], header)
    if body["guests"]:
        of_guests = ("GUEST", "REQUESTS TODAY", "TOKENS TODAY", "LAST SEEN")
        screen += "\n" + render_table([_guest(guest, now) for guest in body["guests"]], of_guests)
    return screen


def _guest(guest: Json, now: datetime) -> list[str]:
    seen = moment_words(datetime.fromisoformat(guest["last_seen_at"]), now)
    return [guest["address"], str(guest["requests"]), str(guest["tokens"]), seen]


def _row(key: Json, now: datetime) -> list[str]:
    used, most = key["last_used_at"], key["tokens_per_day"]
    state = moment_words(datetime.fromisoformat(used), now) if used else "never"
    return [
        key["id"],
        inert(key["name"]),
        ",".join(key["scopes"]),
        "all" if key["models"] is None else ",".join(key["models"]),
        f"{key['tokens_today']} of {most}" if most else str(key["tokens_today"]),
        "revoked" if key["revoked_at"] else state,
    ]
