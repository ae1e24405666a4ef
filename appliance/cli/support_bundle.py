"""The verb support-bundle: one file for whoever helps, with nothing in it that is secret."""

from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.cli.client import Client
from appliance.cli.verb import connects


@click.command("support-bundle")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write instead of hearth-support-DATE.tar.gz",
)
@connects
def support_bundle(client: Client, output: Path | None) -> None:
    """Write a file for support, without prompts, keys or passwords

    It holds versions, settings, conditions, the state of the board and the service, the list of
    models and recent log lines. Look into it before you pass it on.
    """
    data = client.download("/hearth/v1/support")
    path = output or Path(f"hearth-support-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    click.echo(str(path))
