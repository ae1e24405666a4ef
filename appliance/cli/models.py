"""Verbs about models as a whole: list, ps, cp, rm, stop."""

from datetime import UTC, datetime

import click

from appliance.cli.client import Client, ClientError, Json, ServiceDownError
from appliance.cli.table import render_table
from appliance.cli.units import moment_words, size_words, until_words
from appliance.cli.verb import answers_json, connects, print_json

ID_CHARS = 12


@click.command("list")
@click.argument("prefix", default="")
@click.option("--trust", is_flag=True, help="Show who vouches for each")
@answers_json
@connects
def list_models(client: Client, prefix: str, trust: bool, as_json: bool) -> None:
    """List the models on this box"""
    body = client.get("/api/tags")
    body["models"] = [
        model for model in body["models"] if model["name"].lower().startswith(prefix.lower())
    ]
    if as_json:
        print_json(body)
    else:
        click.echo(models_table(body, with_trust=trust), nl=False)


def models_table(body: Json, *, with_trust: bool = False) -> str:
    """The table of an answer of /api/tags."""
    now = datetime.now(UTC)
    rows = [
        [
            model["name"],
            model["digest"][:ID_CHARS],
            "-" if model.get("remote_model") else size_words(model["size"]),
            moment_words(datetime.fromisoformat(model["modified_at"]), now),
            *([model.get("trust", "")] if with_trust else []),
        ]
        for model in body["models"]
    ]
    header = ("NAME", "ID", "SIZE", "MODIFIED", *(["TRUST"] if with_trust else []))
    return render_table(rows, header)


@click.command("ps")
@click.argument("prefix", default="")
@answers_json
@connects
def ps(client: Client, prefix: str, as_json: bool) -> None:
    """List the models in memory"""
    body = client.get("/api/ps")
    body["models"] = [model for model in body["models"] if model["name"].startswith(prefix)]
    if as_json:
        print_json(body)
        return
    now = datetime.now(UTC)
    rows = [
        [
            model["name"],
            model["digest"][:ID_CHARS],
            size_words(model["size"]),
            processor_words(model["size"], model["size_vram"]),
            str(model.get("context_length", "")),
            until_words(datetime.fromisoformat(model["expires_at"]), now),
        ]
        for model in body["models"]
    ]
    header = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL")
    click.echo(render_table(rows, header), nl=False)


def processor_words(size: int, size_vram: int) -> str:
    """Where a model's `size` bytes are, of which `size_vram` are on a GPU."""
    if size_vram == 0:
        return "100% CPU"
    if size_vram == size:
        return "100% GPU"
    if size_vram > size:
        return "Unknown"
    cpu_percent = int((size - size_vram) / size * 100 + 0.5)
    return f"{cpu_percent}%/{100 - cpu_percent}% CPU/GPU"


@click.command("cp")
@click.argument("source")
@click.argument("destination")
@connects
def cp(client: Client, source: str, destination: str) -> None:
    """Give a model a second name"""
    client.post("/api/copy", {"source": source, "destination": destination})
    click.echo(f"copied '{source}' to '{destination}'")


@click.command("rm")
@click.argument("names", nargs=-1, required=True)
@connects
def rm(client: Client, names: tuple[str, ...]) -> None:
    """Remove models"""
    for name in names:
        try:
            unload(client, name)
        except ServiceDownError:
            raise
        except ClientError as error:
            if error.status != 404:  # a missing model is reported by the deletion itself
                click.echo(f"Warning: unable to stop model '{name}': {error}", err=True)
        client.delete("/api/delete", {"model": name})
        click.echo(f"deleted '{name}'")


@click.command("stop")
@click.argument("name")
@connects
def stop(client: Client, name: str) -> None:
    """Take a model out of memory"""
    try:
        unload(client, name)
    except ClientError as error:
        if error.status != 404:
            raise
        raise ClientError(f'couldn\'t find model "{name}" to stop', status=404) from error


def unload(client: Client, name: str) -> None:
    """Let go of a loaded model at once (Ollama API: an empty prompt and keep_alive 0)."""
    client.post("/api/generate", {"model": name, "keep_alive": 0}, patient=True)
