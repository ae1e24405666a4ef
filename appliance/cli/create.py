"""The verb create: a Modelfile and the files it names become a model.

The service never sees the Modelfile: this side reads it, hashes and uploads the files and sends
one request (Ollama API, /api/create).
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from appliance.cli.client import CHUNK_BYTES, Client, Json
from appliance.cli.follow import follow
from appliance.cli.modelfile_plan import LocalFile, plan_create
from appliance.cli.progress import Progress
from appliance.cli.verb import connects
from appliance.errors import BadRequestError
from appliance.library.modelfile import Recipe, parse, read_recipe


@click.command("create")
@click.argument("name")
@click.option(
    "-f", "--file", default="Modelfile", help="Read this Modelfile; - is the standard input"
)
@connects
def create(client: Client, name: str, file: str) -> None:
    """Create a model from a Modelfile"""
    recipe, folder = _read_recipe(file)
    for warning in recipe.warnings:
        click.echo(f"Warning: {warning}", err=True)
    plan = plan_create(recipe, folder)
    with Progress() as progress:
        body: Json = {"model": name} | plan.body
        for local in plan.files:
            digest = _upload(client, local, progress)
            body.setdefault(local.field, {})[local.key] = digest
        follow(client, "/api/create", body, progress)


def _read_recipe(file: str) -> tuple[Recipe, Path]:
    """The recipe, and the folder that its relative paths start from."""
    if file == "-":
        return read_recipe(parse(sys.stdin.buffer.read())), Path.cwd()
    path = Path(file)
    if not path.exists():
        raise BadRequestError(f"there is no {path}", hint="name a Modelfile with -f FILE")
    return read_recipe(parse(path.read_bytes())), path.resolve().parent


def _upload(client: Client, local: LocalFile, progress: Progress) -> str:
    """Send the file unless the service has its content already; returns the digest."""
    size = local.path.stat().st_size
    digest = hashlib.sha256()
    for chunk in _chunks(local.path, size, f"hashing {local.path.name}", progress):
        digest.update(chunk)
    name = f"sha256:{digest.hexdigest()}"
    if not client.exists(f"/api/blobs/{name}"):
        chunks = _chunks(local.path, size, f"copying file {name}", progress)
        client.upload(f"/api/blobs/{name}", chunks, size)
    return name


def _chunks(path: Path, size: int, label: str, progress: Progress) -> Iterator[bytes]:
    done = 0
    progress.count(label, done, size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            done += len(chunk)
            progress.count(label, done, size)
