"""The verb show, and Ollama's layout of what is known about one model."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from appliance.cli.client import Client, Json
from appliance.cli.plan import plan_screen
from appliance.cli.table import render_table
from appliance.cli.units import count_words
from appliance.cli.verb import answers_json, connects, print_json

PARTS = {
    "license": "Show its license",
    "modelfile": "Show its Modelfile",
    "parameters": "Show its parameters",
    "system": "Show its system message",
    "template": "Show its prompt template",
}
_SHOWN_ITEMS = 3  # of a list in the metadata

Rows = list[list[str]]


def _one_part(verb: Callable[..., None]) -> Callable[..., None]:
    for part, text in reversed(PARTS.items()):
        verb = click.option(f"--{part}", is_flag=True, help=text)(verb)
    return verb


@click.command("show")
@click.argument("name")
@_one_part
@click.option("-v", "--verbose", is_flag=True, help="Show metadata and tensors too")
@click.option("--why", is_flag=True, help="Show which engine would run it, why, and what it needs")
@answers_json
@connects
def show(client: Client, name: str, verbose: bool, why: bool, as_json: bool, **parts: bool) -> None:
    """Show what a model is made of"""
    chosen = [part for part in PARTS if parts[part]]
    if len(chosen) > 1:
        *names, last = [f"'--{part}'" for part in PARTS]
        raise click.UsageError(f"only one of {', '.join(names)}, or {last} can be specified")
    if chosen and (verbose or as_json):
        raise click.UsageError(f"--{chosen[0]} goes with neither --verbose nor --json")
    if why:
        if chosen or verbose:
            raise click.UsageError("--why goes with --json alone")
        plan = client.get(f"/hearth/v1/plan?{urlencode({'model': name})}")
        print_json(plan) if as_json else click.echo(plan_screen(plan), nl=False)
        return
    body = client.post("/api/show", {"model": name, "verbose": verbose})
    if as_json:
        print_json(body)
    elif chosen:
        _print_part(body, chosen[0])
    else:
        click.echo(model_sections(body, verbose=verbose), nl=False)


def _print_part(body: Json, part: str) -> None:
    text = body.get(part) or ""
    # Redirected to a file, a system message or a template is exact to the byte.
    is_exact = part in ("system", "template") and not sys.stdout.isatty()
    click.echo(text, nl=not is_exact)


def model_sections(body: Json, *, verbose: bool = False) -> str:
    """The sections of an answer of /api/show, as Ollama's `show` prints them."""
    sections = [("Model", _model_rows(body))]
    if capabilities := body.get("capabilities"):
        sections.append(("Capabilities", [["", name] for name in capabilities]))
    if projector := body.get("projector_info"):
        sections.append(("Projector", _projector_rows(projector)))
    if parameters := (body.get("parameters") or "").strip():
        rows = [["", *line.split(maxsplit=1)] for line in parameters.splitlines()]
        sections.append(("Parameters", rows))
    if verbose:
        info = body.get("model_info") or {}
        sections.append(("Metadata", [["", key, _value(info[key])] for key in sorted(info)]))
        sections.append(("Tensors", [_tensor_row(tensor) for tensor in body.get("tensors") or []]))
    sections += [(title, _first_lines(body.get(title.lower()))) for title in ("System", "License")]
    return "".join(f"  {title}\n{render_table(rows)}\n" for title, rows in sections if rows)


def _model_rows(body: Json) -> Rows:
    details = body.get("details") or {}
    info = body.get("model_info") or {}
    architecture = info.get("general.architecture") or details.get("family") or ""
    parameters = details.get("parameter_size") or _count(info.get("general.parameter_count"))
    facts = [
        ("architecture", architecture),
        ("parameters", parameters),
        ("context length", _value(info.get(f"{architecture}.context_length"))),
        ("embedding length", _value(info.get(f"{architecture}.embedding_length"))),
        ("quantization", details.get("quantization_level") or ""),
        ("requires", body.get("requires") or ""),
        ("trust", body.get("trust") or ""),
    ]
    return [["", name, text] for name, text in facts if text]


def _projector_rows(info: Json) -> Rows:
    architecture = info.get("general.architecture") or ""
    facts = [
        ("architecture", architecture),
        ("parameters", _count(info.get("general.parameter_count"))),
        ("embedding length", _value(info.get(f"{architecture}.vision.embedding_length"))),
        ("dimensions", _value(info.get(f"{architecture}.vision.projection_dim"))),
    ]
    return [["", name, text] for name, text in facts if text]


def _tensor_row(tensor: Json) -> list[str]:
    return ["", tensor["name"], tensor["type"], f"[{' '.join(map(str, tensor['shape']))}]"]


def _first_lines(text: str | None) -> Rows:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    shown = [*lines[:2], "..."] if len(lines) > 2 else lines
    return [["", line] for line in shown]


def _count(value: Any) -> str:
    return "" if value is None else count_words(int(value))


def _value(value: Any) -> str:
    """Metadata as text; None is empty, long lists are cut with the number of items left out."""
    if value is None:
        return ""
    if isinstance(value, list):
        return _list_text(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


def _list_text(items: Sequence[Any]) -> str:
    shown = ", ".join(_value(item) for item in items[:_SHOWN_ITEMS])
    more = len(items) - _SHOWN_ITEMS
    return f"[{shown}, ...+{more} more]" if more > 0 else f"[{shown}]"
