"""The verbs import and export: models on sticks and in folders, without a network."""

from pathlib import Path

import click

from appliance.cli.client import Client
from appliance.cli.follow import follow
from appliance.cli.progress import Progress
from appliance.cli.verb import connects

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("import")
@click.argument("path", type=_FOLDER)
@click.argument("names", nargs=-1)
@click.option("--retry", is_flag=True, help="Try releases again that failed on this box before")
@connects
def import_models(client: Client, path: Path, names: tuple[str, ...], retry: bool) -> None:
    """Install signed models from a stick or folder

    PATH is the stick, or a folder that a publisher made. Without NAMES everything on it comes in
    that the enrolled repositories (`hearth trust list`) have signed for this box. A stick that was
    pulled out too early is gone on with. Unsigned models never come in this way.
    """
    body = {"path": str(path.resolve()), "models": list(names), "retry": retry}
    with Progress() as progress:
        follow(client, "/hearth/v1/import", body, progress)


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
        follow(client, "/hearth/v1/export", body, progress)
