"""Verbs about the box itself: status, config, config check."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.cli.client import Client, Json
from appliance.cli.table import render_table
from appliance.cli.units import size_words, span_words, until_words
from appliance.cli.verb import answers_json, connects, print_json

DISCOVERY_WORDS = {
    "on": "on",
    "off": "off",
    "loopback": "nothing is announced: the service listens for this machine alone",
    "blocked": "blocked",
}


@click.command("status")
@answers_json
@connects
def status(client: Client, as_json: bool) -> None:
    """Show the state of the service on one screen"""
    body = client.get("/hearth/v1/status")
    if as_json:
        print_json(body)
    else:
        click.echo(status_screen(body, str(client.address), datetime.now(UTC)), nl=False)


def status_screen(body: Json, address: str, now: datetime) -> str:
    """The screen for an answer of /hearth/v1/status."""
    memory = body["memory"]
    facts = [
        ["", "address", address],
        ["", "state", body["state"]],
        ["", "uptime", span_words(body["uptime_s"])],
        ["", "engine", body["engine"]],
        [
            "",
            "memory",
            f"{size_words(memory['available'])} free of {size_words(memory['total'])}",
        ],
        *_access_rows(body.get("access")),
        *_discovery_rows(body.get("discovery")),
        *_trust_rows(body.get("trust")),
        *_self_test_rows(body.get("self_test"), now),
        *_update_rows(body.get("update")),
    ]
    parts = [f"hearth {body['version']}\n{render_table(facts)}"]
    if body["models"]:
        header = ("MODEL", "ENGINE", "SIZE", "CONTEXT", "RUNNING", "WAITING", "UNTIL")
        parts.append(render_table([_model_row(model, now) for model in body["models"]], header))
    else:
        parts.append("No model is loaded.\n")
    late = [channel for channel in body.get("channels", ()) if channel["trouble"]]
    if late:
        told = "".join(f"  {channel['channel']}: {channel['trouble']}\n" for channel in late)
        parts.append(f"Channels\n{told}")
    if found := [each for each in body.get("conditions", ()) if _is_shown(each)]:
        told = "".join(f"  {each['severity']}: {_words_of(each)}\n" for each in found)
        parts.append(f"Conditions (`hearth doctor` tells the cures)\n{told}")
    if body["problems"]:
        parts.append("Problems\n" + "".join(f"  {problem}\n" for problem in body["problems"]))
    return "\n".join(parts)


def _access_rows(access: Json | None) -> list[list[str]]:
    """Whether the box has an owner, and what the network may do."""
    if access is None:
        return []
    owner = "owned" if access["claimed"] else "no owner yet (`hearth pair`)"
    lan = {"open": "guests may chat", "keys": "keys only", "off": "closed"}
    return [["", "access", f"{owner}; network: {lan.get(access['lan'], access['lan'])}"]]


def _discovery_rows(discovery: Json | None) -> list[list[str]]:
    """Under which name it is announced and where, or why not."""
    if discovery is None:
        return []
    rows = [["", "discovery", discovery["problem"] or DISCOVERY_WORDS[discovery["state"]]]]
    if discovery["name"] and not discovery["problem"]:
        rows[0][2] = f"{discovery['name']}, {discovery['host']}"
        rows += [["", "", address] for address in discovery["addresses"]]
    return rows


def _is_shown(condition: Json) -> bool:
    """What is wrong; and of notes how far a stick is, since somebody waits to pull it out."""
    code: str = condition["code"]
    return condition["severity"] != "note" or code.startswith("stick-")


def _words_of(condition: Json) -> str:
    """Guests are told the title alone."""
    text = condition.get("text", "")
    return f"{condition['title']}: {text}" if text else str(condition["title"])


def _trust_rows(trust: Json | None) -> list[list[str]]:
    """The mode, and each repository that has been silent for long."""
    if trust is None:
        return []
    late = [each for each in trust["repositories"] if each["freshness"] in {"aging", "stale"}]
    told = [["", "", f"{each['name']} is {each['freshness']}"] for each in late]
    return [["", "trust", trust["mode"]], *told]


def _self_test_rows(last: Json | None, now: datetime) -> list[list[str]]:
    if last is None:
        return []
    verdict = "passed" if last["passed"] else "failed (`hearth doctor` says what)"
    ago_s = max(0.0, now.timestamp() - last["at"])
    return [["", "self-test", f"{verdict}, {span_words(ago_s)} ago"]]


def _update_rows(update: Json | None) -> list[list[str]]:
    """The last update of Hearth itself; why it failed is among the conditions."""
    if update is None:
        return []
    words = {
        "serves": "serves",
        "returned": "came back",
        "failed": "failed",
        "refused": "was refused",
    }
    moment = datetime.fromisoformat(update["at"])
    before = f", before: {update['from']}" if update["from"] else ""
    told = f"{update['to']} {words[update['result']]} ({moment:%Y-%m-%d %H:%M}{before})"
    return [["", "update", told]]


def _model_row(model: Json, now: datetime) -> list[str]:
    return [
        model["name"],
        model["engine"],
        size_words(model["size"]),
        str(model["context_length"]),
        f"{model['running']} of {model['slots']}",
        str(model["waiting"]),
        until_words(datetime.fromisoformat(model["expires_at"]), now),
    ]


@click.group("config", invoke_without_command=True)
@answers_json
@click.pass_context
def config(context: click.Context, as_json: bool) -> None:
    """Show every setting with its value and where it comes from

    These are the settings that `hearth serve` would use if it were started from here.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json is not for `config check`")
        return
    from appliance.config import SETTINGS, load_settings

    settings = load_settings({}, os.environ, None)
    for warning in settings.warnings:
        click.echo(f"Warning: {warning}", err=True)
    found = {"state": settings.state, "models": settings.models_dir}  # when left empty
    rows = [
        {
            "name": setting.name,
            "value": settings.texts[setting.name] or str(found.get(setting.name, "")),
            "origin": settings.origins[setting.name],
            "environment": setting.env,
            "help": setting.help,
        }
        for setting in SETTINGS
    ]
    if as_json:
        print_json({"settings": rows})
        return
    table = [[row["name"], row["value"], row["origin"]] for row in rows]
    click.echo(render_table(table, ("SETTING", "VALUE", "ORIGIN")), nl=False)


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a settings file without starting anything"""
    from appliance.config import load_settings
    from appliance.models.choice import wishes_of

    wishes_of(load_settings({}, {}, file))
    click.echo(f"{file} is valid")
