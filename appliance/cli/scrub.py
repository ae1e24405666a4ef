"""The verb scrub: read everything that is stored again and say what has rotted."""

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
@answers_json
@connects
@click.pass_context
def scrub(context: click.Context, client: Client, megabytes: int | None, as_json: bool) -> None:
    """Verify every stored model, byte by byte

    A damaged part is taken out of use, and the models that need it are named. The exit status is
    then 1.
    """
    damage: list[Json] = []
    total = 0
    with Progress() as progress:
        for message in client.stream("/hearth/v1/scrub", {"rate": (megabytes or 0) * MEGABYTE}):
            if message["status"] == "checking":
                total = message["total"]
                progress.count("verifying", message["completed"], total)
            elif message["status"] == "damaged":
                damage.append(message)
    if as_json:
        print_json({"total": total, "damaged": damage})
    else:
        click.echo(_verdict(damage, total), nl=False)
    context.exit(1 if damage else 0)


def _verdict(damage: list[Json], total: int) -> str:
    if not damage:
        return f"{size_words(total)} verified, nothing is damaged\n"
    lines = [
        f"{part['digest']}: {part['reason']}; needed by {', '.join(part['models'])}"
        for part in damage
    ]
    return "\n".join(
        [*lines, "`hearth pull` or `hearth create` these models again to replace what is bad.", ""]
    )
