"""What the verbs share: `--host`, `--key`, `--ca` and `--json`, and the shape of their results."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from appliance.cli.address import find_address, find_trusted
from appliance.cli.client import Client, Json

_KEY, _CA = "hearth.key", "hearth.ca"  # in the context's meta
BOX = "hearth.box"  # where `hearth --box NAME` leaves the name for the verb, in Context.meta

F = TypeVar("F", bound=Callable[..., Any])


def connects(verb: F) -> F:
    """Give a verb `--host`, `--key` and `--ca` and pass it a `client` for that address."""

    def open_client(context: click.Context, _option: click.Parameter, host: str | None) -> Client:
        key, trusted = (
            find_key(context, os.environ),
            find_trusted(context.meta.get(_CA), os.environ),
        )
        box = context.meta.get(BOX)
        if box is None:
            return Client(find_address(host, os.environ), key, trusted)
        if host is not None:
            raise click.UsageError("--box and --host both say where to connect; give one of them")
        from appliance.cli.find import find_box

        return Client(find_box(box), key)

    with_key = click.option(
        "--key",
        "access_key",  # a name that no verb gives its own parameters
        metavar="KEY",
        expose_value=False,
        is_eager=True,  # before the client is made, in any order of the options
        callback=_keep_key,
        help="Send this key instead of HEARTH_KEY",
    )(verb)
    with_ca = click.option(
        "--ca",
        metavar="FILE",
        expose_value=False,
        is_eager=True,
        callback=_keep_ca,
        help="Trust this certificate authority for https instead of HEARTH_CA",
    )(with_key)
    return click.option(
        "--host",
        "client",
        metavar="ADDRESS",
        callback=open_client,
        help="Connect to this address instead of HEARTH_HOST or OLLAMA_HOST",
    )(with_ca)


def find_key(context: click.Context, environ: Mapping[str, str]) -> str:
    """The key to send, from `--key` or HEARTH_KEY; empty if there is none. Raises UsageError."""
    key = (context.meta.get(_KEY) or environ.get("HEARTH_KEY") or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise click.UsageError("the key has characters that no key has; it looks like hearth_…_…")
    return str(key)


def _keep_key(context: click.Context, _option: click.Parameter, key: str | None) -> None:
    context.meta[_KEY] = key


def _keep_ca(context: click.Context, _option: click.Parameter, file: str | None) -> None:
    context.meta[_CA] = file


def answers_json(verb: F) -> F:
    """Give a reading verb `--json` as its parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON")(verb)


def print_json(body: Json) -> None:
    """Print the API's own body."""
    click.echo(json.dumps(body, ensure_ascii=False, indent=2))
