"""The verbs pull and push: models between this box and registries."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from appliance.cli.client import Client
from appliance.cli.follow import follow
from appliance.cli.progress import Progress
from appliance.cli.verb import connects

F = TypeVar("F", bound=Callable[..., Any])


def allows_insecure(verb: F) -> F:
    """Give a verb that reaches registries `--insecure` as its parameter `insecure`."""
    return click.option("--insecure", is_flag=True, help="Allow a registry over plain HTTP")(verb)


@click.command("pull")
@click.argument("name")
@click.option("--confirm", is_flag=True, help="Accept an unsigned model that is new or changed")
@allows_insecure
@click.option("--variant", default="", help="Take this variant of a signed release")
@click.option("--retry", is_flag=True, help="Try a signed release again that failed here")
@connects
def pull(
    client: Client, name: str, confirm: bool, insecure: bool, variant: str, retry: bool
) -> None:
    """Get a model from a registry, or update it

    A name that an enrolled repository owns is installed from what that repository signed.
    """
    pull_model(client, name, insecure=insecure, confirm=confirm, variant=variant, retry=retry)


@click.command("push")
@click.argument("name")
@allows_insecure
@connects
def push(client: Client, name: str, insecure: bool) -> None:
    """Send a model to the registry that its name means"""
    with Progress() as progress:
        follow(client, "/api/push", {"model": name, "insecure": insecure}, progress)


def pull_model(client: Client, name: str, *, insecure: bool, **wishes: Any) -> None:
    """Pull with progress on stderr; raises ClientError. Ctrl+C leaves a part to resume from.

    `wishes` are our own fields of /api/pull.
    """
    body = {"model": name, "insecure": insecure, **wishes}
    with Progress() as progress:
        follow(client, "/api/pull", body, progress)
