"""The verb scrub: read everything that is stored again, say what has rotted, repair it."""

import click

from appliance.cli.client import Client, Json
from appliance.cli.progress import Progress
from appliance.cli.units import size_words
from appliance.cli.verb import answers_json, connects, print_json

MEGABYTE = 1_000_000


@click.command("scrub")
@click.option(
    "--rate",
    "megabytes",
    type=click.IntRange(min=1),
    metavar="MB",
    help="Read at most this many megabytes per second",
)
@click.option(
    "--repair/--no-repair",
    default=None,
    help="Fetch good bytes, also of models made here; the default repairs models that were pulled",
)
@answers_json
@connects
@click.pass_context
def scrub(
    context: click.Context,
    client: Client,
    megabytes: int | None,
    repair: bool | None,
    as_json: bool,
) -> None:
    """Verify every stored model, byte by byte, and repair it

    A damaged part is taken out of use, its damaged chunks are fetched again if anybody has them,
    and then it is back. The exit status is 1 if something stays damaged.
    """
    found: dict[str, Json] = {}
    total = 0
    body = {"rate": (megabytes or 0) * MEGABYTE, "repair": repair}
    with Progress() as progress:
        for message in client.stream("/hearth/v1/scrub", body):
            if message["status"] == "checking":
                total = message["total"]
                progress.count("verifying", message["completed"], total)
            elif "digest" in message:
                outcome = message.pop("status")
                part = found.setdefault(message["digest"], {"repaired": False})
                part |= message | {"repaired": outcome == "repaired"}
    damage = list(found.values())
    if as_json:
        print_json({"total": total, "damaged": damage})
    else:
        click.echo(_verdict(damage, total), nl=False)
    context.exit(0 if all(part["repaired"] for part in damage) else 1)


def _verdict(damage: list[Json], total: int) -> str:
    if not damage:
        return f"{size_words(total)} verified, nothing is damaged\n"
    lines = [_line(part) for part in damage]
    if not all(part["repaired"] for part in damage):
        lines.append("`hearth pull` or `hearth create` these models again to replace what is bad.")
    return "\n".join([*lines, ""])


def _line(part: Json) -> str:
    what = f"{part['digest']}: {part['reason']}; needed by {', '.join(part['models']) or 'nothing'}"
    if part["repaired"]:
        source = f" from {part['source']}" if part["source"] else ""
        return f"{what}; repaired, {size_words(part['fetched'])} fetched{source}"
    return f"{what}; not repaired: {part['problem']}" if "problem" in part else what
