"""`bundle keys`: make keys, show them, and carry them over paper."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Key

from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, print_json
from tools.bundles import paper
from tools.bundles.errors import KeyFileError
from tools.bundles.keys import (
    Label,
    Use,
    create,
    fingerprint,
    load_public,
    load_secret,
    named,
    owner_of,
    use_of,
)
from tools.bundles.passphrase import Passphrases

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("keys")
def keys() -> None:
    """Make keys, show them, and keep them on paper"""


def labels_key(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say whose key it is, for what and in which files; passed on as `label`."""

    @click.option("--officer", help="Make it a key of this officer, for root or targets")
    @click.option("--online", is_flag=True, help="Make it the online key")
    @click.option("--publisher", help="Make it a key of this publisher, for its releases")
    @click.option("--name", help="Name the files so, where one owner has several keys")
    @click.option("--folder", type=FOLDER, default=Path(), help="Put the files there")
    @functools.wraps(command)
    def labelled(
        *args: Any,
        officer: str | None,
        online: bool,
        publisher: str | None,
        name: str | None,
        **kwargs: Any,
    ) -> None:
        command(*args, label=_label(officer, online, publisher, name), **kwargs)

    return labelled


@keys.command("new")
@labels_key
@click.pass_obj
def new(passphrases: Passphrases, folder: Path, label: Label) -> None:
    """Make an ed25519 key, its secret half encrypted with a passphrase"""
    _create(folder, label, Ed25519PrivateKey.generate(), passphrases)


@keys.command("show")
@click.argument("files", nargs=-1, required=True, type=FILE)
@answers_json
def show(files: tuple[Path, ...], as_json: bool) -> None:
    """Show whose keys these are, and their fingerprints

    FILES are public halves (.pub).
    """
    facts = [
        {"file": path.name, "owner": owner_of(key), "use": use_of(key), "fingerprint": text}
        for path in files
        for key in [load_public(path)]
        for text in [fingerprint(key)]
    ]
    if as_json:
        print_json({"keys": facts})
        return
    headers = ("FILE", "OWNER", "USE", "FINGERPRINT")
    click.echo(render_table([list(fact.values()) for fact in facts], headers), nl=False)


@keys.command("paper")
@click.argument("key", type=FILE)
@click.pass_obj
def paper_page(passphrases: Passphrases, key: Path) -> None:
    """Print a secret key as words, to be kept in a sealed envelope"""
    secret = load_secret(key, passphrases)
    public = load_public(key.with_suffix(".pub"))
    words = paper.page(secret.private_bytes_raw())
    if paper.seed_of(paper.read_page(words)) != secret.private_bytes_raw():
        raise KeyFileError("the words do not give the key back; do not use this page")
    click.echo(
        f"Hearth paper key: {key.stem}, {use_of(public)} {owner_of(public)}\n"
        f"Fingerprint: {fingerprint(public)}\n"
        "Whoever reads these words has the key. Print on a printer that keeps nothing.\n\n"
        f"{words}\n\n"
        "Get the key back with: bundle keys restore"
    )


@keys.command("restore")
@labels_key
@click.option(
    "--words", type=click.File("r"), default="-", help="Read the words from this file, else stdin"
)
@click.option("--expect", type=FILE, help="Refuse if this is not its public half")
@click.pass_obj
def restore(
    passphrases: Passphrases, folder: Path, words: TextIO, expect: Path | None, label: Label
) -> None:
    """Make a key again from its words on paper"""
    if words is sys.stdin and sys.stdin.isatty():
        click.echo("Type the 24 words, then Ctrl+D on a line of its own:", err=True)
    seed = paper.seed_of(paper.read_page(words.read()))
    secret = Ed25519PrivateKey.from_private_bytes(seed)
    if expect is not None:
        wanted = load_public(expect)
        if wanted.keyval["public"] != secret.public_key().public_bytes_raw().hex():
            raise KeyFileError(
                f"the words give another key than {named(wanted)}; nothing was written",
                hint="this paper belongs to another key",
            )
    _create(folder, label, secret, passphrases)


def _label(officer: str | None, online: bool, publisher: str | None, name: str | None) -> Label:
    owners = [
        (Use.OFFICER, officer),
        (Use.ONLINE, "online" if online else None),
        (Use.PUBLISHER, publisher),
    ]
    given = [(use, owner) for use, owner in owners if owner]
    if len(given) != 1:
        raise click.UsageError(
            "say what the key is for: --officer NAME, --online or --publisher NAME"
        )
    [(use, owner)] = given
    label = Label(owner, use, name or owner)
    label.check()
    return label


def _create(folder: Path, label: Label, secret: Ed25519PrivateKey, passphrases: Passphrases) -> Key:
    key = create(folder, label, secret, passphrases.new(label.name))
    click.echo(f"{folder / label.name}.key is secret, {label.name}.pub is for everyone")
    click.echo(f"fingerprint of {label.name}: {fingerprint(key)}")
    return key
