"""`bundle enrolment`: the file by which a site makes new boxes its own, `site-root.json`.

It lies beside `hearth.toml` on the boot partition when a box first starts. What it says, and how a
box judges it: appliance/trust/enrolment.py. Each officer of the root signs in turn, on any machine
that the file is carried to.
"""

import datetime
import time
from pathlib import Path

import click
import msgspec
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root

from appliance.access.caller import KeyFacts, Scope
from appliance.access.keys import generate
from appliance.errors import ConfigError
from appliance.library.blobs import atomic_write
from appliance.trust.enrolment import (
    MAX_FILE_BYTES,
    AdminKey,
    Enrolment,
    Paper,
    Signature,
    read_enrolment,
    read_paper,
)
from appliance.trust.errors import TrustError
from appliance.trust.policy import DAY_S
from appliance.trust.repositories import Candidate, Repository
from tools.bundles.keys import load_signer
from tools.bundles.passphrase import Passphrases
from tools.bundles.published import newest_root
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import utc_now

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW = click.Path(dir_okay=False, path_type=Path)


@click.group("enrolment")
def enrolment() -> None:
    """Make the file by which new boxes become your site's own"""


@enrolment.command("new")
@click.argument("output", type=NEW)
@click.option("--repo", type=FOLDER, envvar="BUNDLE_REPO", required=True, help="Use this root")
@click.option("--name", required=True, help="Call the repository so on the boxes")
@click.option("--names", multiple=True, required=True, help="Let it own this pattern: 'home/*'")
@click.option("--url", default="", help="Let boxes look for news at this address of its metadata")
@click.option("--content", multiple=True, help="Let boxes get releases from this address")
@click.option("--freshness-days", type=click.IntRange(0), default=14, show_default=True,
              help="Let them refuse new installs when its word is older; 0 for any")  # fmt: skip
@click.option("--days", type=click.IntRange(1), default=30, show_default=True,
              help="Make the file good for so long")  # fmt: skip
@click.option("--admin-key", type=NEW, help="Make a key that manages all these boxes, and put it"
              " into this file")  # fmt: skip
def new(
    output: Path,
    repo: Path,
    name: str,
    names: tuple[str, ...],
    url: str,
    content: tuple[str, ...],
    freshness_days: int,
    days: int,
    admin_key: Path | None,
) -> None:
    """Write OUTPUT, for the officers to sign

    Without --admin-key the boxes are owned, and can be managed from themselves alone.
    """
    for path in (output, admin_key):
        if path and path.exists():
            raise ConfigError(f"{path} is there already", hint="choose another name")
    repository = Repository(name, names, url, freshness_days * DAY_S, is_site=True, content=content)
    repository.check()
    repository.patterns()
    root = newest_root(RepositoryFolder(repo / "metadata").files())
    expires = utc_now() + datetime.timedelta(days=days)
    made = _admin_key(name, admin_key) if admin_key else None
    said = msgspec.to_builtins(Enrolment(repository, expires, made))
    paper = Paper(root.to_dict(), said)
    atomic_write(output, _encode(paper))
    _show(*read_paper(_encode(paper)))
    click.echo(f"to sign: bundle enrolment sign {output} KEY")


@enrolment.command("sign")
@click.argument("file", type=FILE)
@click.argument("key", type=FILE)
@click.option("--yes", is_flag=True, help="Skip the question")
@click.pass_obj
def sign(passphrases: Passphrases, file: Path, key: Path, yes: bool) -> None:
    """Add an officer's signature to FILE, after showing in words what it says"""
    paper, said, candidate = _read(file)
    _show(paper, said, candidate)
    if not yes:
        click.confirm("Sign this?", abort=True, err=True)
    signed = add_signature(paper, load_signer(key, passphrases))
    atomic_write(file, _encode(signed))
    try:
        read_enrolment(_encode(signed), int(time.time()))
    except TrustError as error:
        click.echo(f"not good yet: {error}")
    else:
        click.echo("signed by enough; put it as site-root.json on the boot partition of new boxes")


def add_signature(paper: Paper, signer: Signer) -> Paper:
    """The file with one more signature; raises ConfigError for a key that has no say."""
    root = Metadata[Root].from_bytes(paper.root_bytes).signed
    keyid = signer.public_key.keyid
    if keyid not in root.roles[Root.type].keyids:
        raise ConfigError(
            "this key is not one of those that may sign the root",
            hint="`bundle repo status` shows them; nothing was signed",
        )
    payload = encode_canonical(paper.signed)
    assert payload is not None  # only with an output function
    others = [each for each in paper.signatures if each.keyid != keyid]
    mine = Signature(keyid, signer.sign(payload.encode()).signature)
    return Paper(paper.root, paper.signed, [*others, mine])


def _read(file: Path) -> tuple[Paper, Enrolment, Candidate]:
    with file.open("rb") as opened:
        return read_paper(opened.read(MAX_FILE_BYTES + 1))


def _admin_key(name: str, path: Path) -> AdminKey:
    """A new key, whose token goes into the file at `path` alone."""
    key, token = generate(KeyFacts("", name, frozenset({Scope.ADMIN})), time.time())
    atomic_write(path, f"{token}\n".encode(), mode=0o600)
    return AdminKey(key.facts.id, key.secret_hash.hex())


def _show(paper: Paper, said: Enrolment, candidate: Candidate) -> None:
    repository, key = said.repository, said.admin_key
    click.echo(f"new boxes become those of {repository.name}, until {said.expires:%Y-%m-%d %H:%M}")
    click.echo(f"  it signs {' '.join(repository.names)}; fingerprint: {candidate.fingerprint}")
    for address in (repository.metadata_url, *repository.content):
        click.echo(f"  from {address or 'sticks alone'}")
    click.echo(f"  managed by the key {key.id}" if key else "  managed from the boxes alone")
    click.echo(f"  {len(paper.signatures)} of {candidate.threshold} signatures")


def _encode(paper: Paper) -> bytes:
    return msgspec.json.format(msgspec.json.encode(paper)) + b"\n"
