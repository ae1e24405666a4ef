"""The verbs import and export: models on sticks and in folders, without a network."""

import json
from pathlib import Path

import click

from appliance.cli.client import Client, ClientError, Json
from appliance.cli.follow import follow as follow_lines
from appliance.cli.inert import inert
from appliance.cli.progress import Progress
from appliance.cli.verb import connects

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("import")
@click.argument("path", type=_FOLDER)
@click.argument("names", nargs=-1)
@click.option("--retry", is_flag=True, help="Try releases again that failed on this box before")
@click.option("--follow", multiple=True, help="Follow this channel of the stick, acme/stable")
@click.option(
    "--hand-over",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="Hand PATH over to the service here, where it cannot see it itself",
)
@connects
def import_models(
    client: Client,
    path: Path,
    names: tuple[str, ...],
    retry: bool,
    follow: tuple[str, ...],
    hand_over: Path | None,
) -> None:
    """Install signed models from a stick or folder

    PATH is the stick, or a folder that a publisher made. Without NAMES everything on it comes in
    that the enrolled repositories (`hearth trust list`) have signed for this box, and bundles of a
    channel that the box follows in the version that the channel names there. A stick that was
    pulled out too early is gone on with. Unsigned models never come in this way.
    """
    if hand_over is not None:
        if names or retry or follow:
            raise click.UsageError("--hand-over takes all that is on PATH, without other options")
        _hand_over(path, hand_over)
        return
    body = {
        "path": str(path.resolve()),
        "models": list(names),
        "retry": retry,
        "follow": list(follow),
    }
    with Progress() as progress:
        follow_lines(client, "/hearth/v1/import", body, progress)


def _hand_over(path: Path, address: Path) -> None:
    """What `hearth-import@.service` does: a folder without models is left alone."""
    from appliance.bundles.medium import FOLDER
    from appliance.bundles.sticks import hand_over

    if not (path / FOLDER / "oci-layout").is_file():
        click.echo(f"{path} has no models for a box, and is left alone")
        return
    try:
        with hand_over(path, address) as there, there.makefile("rb") as lines:
            last: Json = {"error": "the service ended without a word"}
            for line in lines:
                last = json.loads(line)
                click.echo(inert(last.get("status") or last["error"]))
    except OSError as error:
        reason = f"cannot hand {path} over at {address}: {error.strerror}"
        raise ClientError(reason, hint="is hearth.service running?") from error
    if "error" in last:
        raise ClientError(last["error"], hint=last.get("hint", ""))


@click.command("export")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.argument("path", type=_FOLDER)
@click.option("--unsigned", is_flag=True, help="Copy also models that nobody signed")
@connects
def export_models(client: Client, names: tuple[str, ...], path: Path, unsigned: bool) -> None:
    """Copy signed models to a stick or folder for other boxes

    They are written into the folder `hearth` on it, with what proves them; what is there already
    stays. Unsigned models can be read by other programs, but no box imports them.
    """
    body = {"path": str(path.resolve()), "models": list(names), "unsigned": unsigned}
    with Progress() as progress:
        follow_lines(client, "/hearth/v1/export", body, progress)
