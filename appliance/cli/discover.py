"""The verb discover: boxes and other model servers on the local network."""

import click

from appliance.cli.client import Client, ClientError, Json, ServiceDownError
from appliance.cli.find import LOOK_S
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, connects, print_json

HEADER = ("NAME", "ADDRESS", "KIND", "VERSION", "CAPS", "STATE")


@click.command("discover")
@answers_json
@connects
def discover(client: Client, as_json: bool) -> None:
    """List boxes and other model servers on the local network

    Asks the service for what it has heard. Without one, or where it does not look around, this
    command does so itself for two seconds.
    """
    try:
        body = client.get("/hearth/v1/neighbours")
    except ServiceDownError:
        body = _look_around()
    else:
        if body["discovery"]["state"] != "on":
            body = _look_around()
    if as_json:
        print_json(body)
    elif body["neighbours"]:
        click.echo(render_table([_row(each) for each in body["neighbours"]], HEADER), nl=False)
    else:
        click.echo("Nothing else was found on the local network.")


def _look_around() -> Json:
    import asyncio  # no verb that needs no event loop pays for it

    from appliance.discovery.browse import look_around
    from appliance.discovery.discovery import DiscoveryStatus, Word
    from appliance.http.neighbours import answer

    try:
        rows = asyncio.run(look_around(LOOK_S))
    except OSError as error:
        raise ClientError(
            f"cannot look around on the network: {error.strerror or error}"
        ) from error
    return answer(DiscoveryStatus(Word.OFF), rows)


def _row(each: Json) -> list[str]:
    address = (each["url"] or each["host"]).removeprefix("http://")
    alive = {True: "alive", False: "silent", None: "unknown"}[each["is_alive"]]
    state = f"{alive}, {each['state']}" if each["state"] else alive
    caps = ",".join(each["caps"]) or "-"
    return [each["name"], address, each["kind"], each["version"] or "-", caps, state]
