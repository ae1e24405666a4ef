"""The verbs import and export: models on sticks and in folders, without a network."""

from pathlib import Path

import click

from appliance.cli.client import Client
from appliance.cli.follow import follow as follow_lines
from appliance.cli.progress import Progress
from appliance.cli.verb import connects

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("import")
@click.argument("path", type=_FOLDER)
@click.argument("names", nargs=-1)
@click.option("--retry", is_flag=True, help="Try releases again that failed on this box before")
@click.option("--follow", multiple=True, help="Follow this channel of the stick, acme/stable")
@connects
def import_models(
    client: Client, path: Path, names: tuple[str, ...], retry: bool, follow: tuple[str, ...]
) -> None:
    """Install signed models from a stick or folder

    PATH is the stick, or a folder that a publisher made. Without NAMES everything on it comes in
    that the enrolled repositories (`hearth trust list`) have signed for this box, and bundles of a
    channel that the box follows in the version that the channel names there. A stick that was
    pulled out too early is gone on with. Unsigned models never come in this way.
    """
    body = {
        "path": str(path.resolve()),
        "models": list(names),
        "retry": retry,
        "follow": list(follow),
    }
    with Progress() as progress:
        follow_lines(client, "/hearth/v1/import", body, progress)


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
