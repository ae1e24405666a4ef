"""The verb identify: which of these boxes is it?"""

import click

from appliance.cli.client import Client
from appliance.cli.verb import answers_json, connects, print_json


@click.command("identify")
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=60,
    show_default=True,
    help="Flicker for so long",
)
@answers_json
@connects
def identify(client: Client, seconds: int, as_json: bool) -> None:
    """Let the LED of the box flicker, so that you find it among others"""
    body = client.post("/hearth/v1/identify", {"seconds": seconds})
    if as_json:
        print_json(body)
    else:
        click.echo(f"The LED {body['led']} flickers for {seconds} seconds.")
