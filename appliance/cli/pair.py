"""The verb pair: what a person needs to bring a phone or an app to this box."""

import sys

import click

from appliance.cli.client import Client, Json
from appliance.cli.inert import inert
from appliance.cli.verb import answers_json, connects, print_json

LOOPBACK_ONLY = (
    "This box listens to itself alone. Start it with HEARTH_HOST=0.0.0.0 (the setting host) to be\n"
    "found on the network.\n"
)


@click.command("pair")
@click.option("--no-qr", "without_qr", is_flag=True, help="Print no QR code")
@answers_json
@connects
def pair(client: Client, without_qr: bool, as_json: bool) -> None:
    """Show the addresses of this box, and the code that claims it if it is new"""
    body = client.get("/hearth/v1/pair")
    if as_json:
        print_json(body)
        return
    click.echo(pair_screen(body), nl=False)
    target = body["claim_url"] or (body["urls"] or [None])[0]
    if target and not without_qr:
        click.echo(qr_code(target, ascii_only=not _speaks_unicode()), nl=False)


def pair_screen(body: Json) -> str:
    """The text for an answer of /hearth/v1/pair."""
    if not body["urls"]:
        return LOOPBACK_ONLY + _claim_text(body)
    lines = "".join(f"  {inert(url)}\n" for url in body["urls"])
    return f"Open one of these on the phone, or give it to the app:\n{lines}{_claim_text(body)}"


def qr_code(text: str, *, ascii_only: bool = False) -> str:
    """`text` as a QR code of characters, two modules high each, dark on light."""
    import segno

    matrix = [list(row) for row in segno.make(text, error="l", micro=False).matrix_iter(border=2)]
    if ascii_only:
        return "".join("".join("##" if dark else "  " for dark in row) + "\n" for row in matrix)
    if len(matrix) % 2:
        matrix.append([0] * len(matrix[0]))
    pairs = zip(matrix[::2], matrix[1::2], strict=True)
    # light modules are drawn, so that the code is right on the usual dark terminal
    glyph = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    return "".join(
        "".join(glyph[bool(a), bool(b)] for a, b in zip(top, bottom, strict=True)) + "\n"
        for top, bottom in pairs
    )


def _claim_text(body: Json) -> str:
    if body["claimed"]:
        return "The box has an owner; make keys for others with `hearth keys create NAME`.\n"
    if body["code"]:
        return f"The box has no owner yet. Its claim code, good for one use: {body['code']}\n"
    return "The box has no owner, and no claim code could be kept: see `hearth doctor`.\n"


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
