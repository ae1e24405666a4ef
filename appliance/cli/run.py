"""The verb run: ask a model once, or talk with it."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.answer import AnswerView, Look, stream_answer, timing_lines
from appliance.cli.client import Client, ClientError, Json
from appliance.cli.pictures import find_pictures
from appliance.cli.session import Session, Think, Wishes
from appliance.cli.transfer import allows_insecure, pull_model
from appliance.cli.verb import connects

THINK_WORDS = ("true", "false", "low", "medium", "high", "max")


def _parse_keepalive(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | float | None:
    """A duration like 5m or a number of seconds; negative means for ever."""
    if value is None:
        return None
    from appliance.values import parse_duration

    try:
        parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not {error}") from error
    try:
        return float(value)  # bare seconds travel as a number, durations as text
    except ValueError:
        return value


def _parse_format(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | Json | None:
    """The word json, a JSON schema, or a file that holds one."""
    if value is None or value == "json":
        return value
    text = value
    if not value.lstrip().startswith("{"):
        try:
            text = Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"neither 'json' nor a schema nor a file: {error}") from error
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not a JSON schema: {error}") from error
    if not isinstance(schema, dict):
        raise click.BadParameter("a JSON schema must be an object")
    return schema


class _RunCommand(click.Command):
    """Takes `--think` without a value, as Ollama does: only `--think=high` carries one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        spelled = ["--think=true" if arg == "--think" else arg for arg in args[:end]]
        return super().parse_args(ctx, spelled + args[end:])


@click.command("run", cls=_RunCommand)
@click.argument("name")
@click.argument("prompt", nargs=-1)
@click.option(
    "--keepalive",
    metavar="DURATION",
    callback=_parse_keepalive,
    help="Keep the model loaded this long, such as 5m",
)
@click.option("--verbose", is_flag=True, help="Show timings of each answer")
@allows_insecure
@click.option("--nowordwrap", is_flag=True, help="Leave long lines to the terminal")
@click.option(
    "--format",
    "format_",
    metavar="json|SCHEMA|FILE",
    callback=_parse_format,
    help="Answer in JSON, or by a JSON schema",
)
@click.option(
    "--think",
    type=click.Choice(THINK_WORDS),
    metavar="[=LEVEL]",
    help="Let the model think before it answers, such as --think=high; false turns it off",
)
@click.option("--hidethinking", is_flag=True, help="Hide what the model thinks")
@click.option("--truncate", type=bool, help="Cut an input that is too long (embedding models)")
@click.option("--dimensions", type=int, help="Cut the vector to this length (embedding models)")
@connects
def run(
    client: Client,
    name: str,
    prompt: tuple[str, ...],
    keepalive: str | float | None,
    verbose: bool,
    insecure: bool,
    nowordwrap: bool,
    format_: str | Json | None,
    think: str | None,
    hidethinking: bool,
    truncate: bool | None,
    dimensions: int | None,
) -> None:
    """Ask a model, or talk with it when there is no prompt; get it first if it is missing"""
    has_terminal = sys.stdin.isatty()
    text = " ".join([*([] if has_terminal else _piped_text()), *prompt])
    info = _describe(client, name, insecure=insecure)
    wishes = Wishes(format_, _think_value(think), keepalive)
    look = Look(word_wrap=not nowordwrap, hide_thinking=hidethinking)
    cuts = {"truncate": truncate, "dimensions": dimensions}
    given_cuts = {key: value for key, value in cuts.items() if value is not None}
    capabilities = info.get("capabilities") or []
    if "embedding" in capabilities and "completion" not in capabilities:
        _print_embedding(client, name, text, wishes, given_cuts)
        return
    if given_cuts:
        raise click.UsageError(f"--{next(iter(given_cuts))} is for embedding models")
    sees = "vision" in capabilities
    if has_terminal and not prompt:
        from appliance.cli.chat import converse

        preset = info.get("messages") or []
        session = Session(name, wishes, look, verbose=verbose, sees=sees, preset=preset)
        converse(client, session)
        return
    asked = find_pictures(text, name, sees=sees, say=lambda note: click.echo(note, err=True))
    body = {"model": name, "prompt": asked.text} | asked.fields() | wishes.fields()
    _answer_once(client, body, look, verbose=verbose)


def _piped_text() -> list[str]:
    text = sys.stdin.read()
    return [text] if text else []


def _describe(client: Client, name: str, *, insecure: bool) -> Json:
    """What is known about the model, which is pulled first if it is not here, as in Ollama."""
    try:
        return client.post("/api/show", {"model": name})
    except ClientError as error:
        if error.status != 404:
            raise
        missing = error
    try:
        pull_model(client, name, insecure=insecure)
    except ClientError as error:
        raise ClientError(
            f"{missing}, and it cannot be pulled: {error}",
            status=error.status,
            hint="`hearth list` shows the models on this box",
        ) from error
    return client.post("/api/show", {"model": name})


def _think_value(word: str | None) -> Think | None:
    return {"true": True, "false": False}.get(word, word) if word else None


def _print_embedding(
    client: Client, name: str, text: str, wishes: Wishes, cuts: dict[str, Any]
) -> None:
    if not text:
        raise click.UsageError(f'an embedding model needs a text: hearth run {name} "your text"')
    unfit = [key for key in ("format", "think") if getattr(wishes, key) is not None]
    if unfit:
        raise click.UsageError(f"--{unfit[0]} is not for embedding models")
    body = {"model": name, "input": text} | wishes.fields() | cuts
    answer = client.post("/api/embed", body, patient=True)
    click.echo(json.dumps(answer["embeddings"][0]))


def _answer_once(client: Client, body: Json, look: Look, *, verbose: bool) -> None:
    last = stream_answer(client, "/api/generate", body, AnswerView(look))
    if verbose:
        click.echo(timing_lines(last), err=True, nl=False)
