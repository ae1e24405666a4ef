"""The verb doctor: what is wrong with the box and what to do about it, with or without service."""

import os

import click

from appliance.cli.client import Client, Json, ServiceDownError
from appliance.cli.verb import answers_json, connects, print_json

MARKS = {"error": "ERROR", "warning": "WARNING", "note": "note"}


@click.command("doctor")
@click.option("--self-test", "is_test", is_flag=True, help="Try model, memory and store first")
@answers_json
@connects
@click.pass_context
def doctor(context: click.Context, client: Client, is_test: bool, as_json: bool) -> None:
    """Check the box and say how to cure what is wrong

    Without a running service this machine's own folders are looked at. The exit status is 1 if
    anything is wrong. The self-test runs by itself after an update and once a week.
    """
    if is_test:
        report = client.post("/hearth/v1/self-test", {}, patient=True)
        for check in report["checks"]:
            click.echo(f"{check['name']} {check['outcome']}: {check['text']}", err=True)
    try:
        body = client.get("/hearth/v1/doctor")
    except ServiceDownError as error:
        body = _without_service(error)
    if as_json:
        print_json(body)
    else:
        click.echo(screen(body), nl=False)
    context.exit(0 if body["healthy"] else 1)


def screen(body: Json) -> str:
    """Each condition in two or three lines, and a last line with the verdict."""
    lines = []
    for found in body["conditions"]:
        lines.append(f"{MARKS[found['severity']]:<8}{found['title']}: {found['text']}")
        if found["cure"]:
            lines.append(f"        {found['cure']}")
    lines.append("Nothing is wrong." if body["healthy"] else "Something is wrong.")
    return "\n".join([*lines, ""])


def _without_service(error: ServiceDownError) -> Json:
    """The same body, with the service as the first condition and the rest read from the disk."""
    from appliance.conditions import Condition, Severity
    from appliance.config import load_settings
    from appliance.health import examine
    from appliance.health_facts import read_facts
    from appliance.http.doctor import answer
    from appliance.library.library import Library
    from appliance.trust.repositories import Repositories

    down = Condition("service_down", "no service", error.message, Severity.ERROR, error.hint)
    environ = {k: v for k, v in os.environ.items() if k != "HEARTH_HOST"}  # here it is the client's
    settings = load_settings({}, environ, None)
    library = Library(settings.models_dir)
    facts = read_facts(settings, library, Repositories(settings.state / "trust"))
    return answer([down, *examine(facts)])
