"""What the verbs share: the `--host` and `--json` options and the shape of their results."""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from appliance.cli.address import find_address
from appliance.cli.client import Client, Json

BOX = "hearth.box"  # where `hearth --box NAME` leaves the name for the verb, in Context.meta

F = TypeVar("F", bound=Callable[..., Any])


def connects(verb: F) -> F:
    """Give a verb `--host` and pass it a `client` for that address."""

    def open_client(context: click.Context, _option: click.Parameter, host: str | None) -> Client:
        box = context.meta.get(BOX)
        if box is None:
            return Client(find_address(host, os.environ))
        if host is not None:
            raise click.UsageError("--box and --host both say where to connect; give one of them")
        from appliance.cli.find import find_box

        return Client(find_box(box))

    return click.option(
        "--host",
        "client",
        metavar="ADDRESS",
        callback=open_client,
        help="Connect to this address instead of HEARTH_HOST or OLLAMA_HOST",
    )(verb)


def answers_json(verb: F) -> F:
    """Give a reading verb `--json` as its parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON")(verb)


def print_json(body: Json) -> None:
    """Print the API's own body."""
    click.echo(json.dumps(body, ensure_ascii=False, indent=2))
