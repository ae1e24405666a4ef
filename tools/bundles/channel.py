"""`bundle channel`: which versions the boxes that follow a channel run, and when they may change.

A channel is a small signed document, `channels/<name>.json`, whose generation only counts upwards.
Like a release it is drafted here, and seen by boxes after `bundle repo publish` and `bundle
publish`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import msgspec
from msgspec.structs import replace
from securesystemslib.signer import Signer

from appliance.bundles.channel_document import MAX_DOCUMENT_BYTES, ChannelDocument
from appliance.bundles.layout import Layout
from appliance.cli.verb import answers_json, print_json
from appliance.errors import ConfigError
from appliance.library.manifest import Digest
from tools.bundles.keys import load_signer
from tools.bundles.passphrase import Passphrases
from tools.bundles.places import layout_root
from tools.bundles.publish import FOLDER, find_repository
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import check_publisher
from tools.bundles.sign import FILE, lists_of, owner_of

_NEW = ChannelDocument(generation=1, bundles={})


@click.command("channel")
@click.argument("layout", type=FOLDER)
@click.argument("name")
@click.option("--set", "wanted", multiple=True, help="Let followers run NAME=VERSION of a bundle")
@click.option("--drop", multiple=True, help="Say nothing more about this bundle")
@click.option("--window", help="Let them change in this time of day, 02:00-05:00; '' for any time")
@click.option("--down-kbps", type=click.IntRange(0), help="Limit each box to this; 0 for any speed")
@click.option("--hold/--go", default=None, help="Let all followers wait, or go on")
@click.option("--repo", type=FOLDER, envvar="BUNDLE_REPO", help="List it in this repository")
@click.option("--key", "keys", multiple=True, required=True, type=FILE, help="Sign with this key")
@answers_json
@click.pass_obj
def channel(
    passphrases: Passphrases,
    layout: Path,
    name: str,
    wanted: tuple[str, ...],
    drop: tuple[str, ...],
    window: str | None,
    down_kbps: int | None,
    hold: bool | None,
    repo: Path | None,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Say what followers of the channel NAME run, with the next generation"""
    source = Layout(layout_root(layout))
    repository = RepositoryFolder(find_repository(source, repo) / "metadata")
    signers = [load_signer(path, passphrases) for path in keys]
    versions = dict(_pair(text) for text in wanted)
    fields = {"window": window, "down_kbps": down_kbps, "hold": hold}
    said = {key: value for key, value in fields.items() if value is not None}
    document = say(source, repository, name, signers, versions, drop, said)
    if as_json:
        print_json(msgspec.to_builtins(document))
        return
    click.echo(f"channel {name}, generation {document.generation}:")
    for bundle, version in document.bundles.items():
        click.echo(f"  {bundle} {version}")
    click.echo("next: bundle repo publish ONLINE-KEY, then bundle publish", err=True)


def say(
    layout: Layout,
    repository: RepositoryFolder,
    name: str,
    signers: Sequence[Signer],
    versions: Mapping[str, str],
    drop: Sequence[str] = (),
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> ChannelDocument:
    """The channel's next generation, drafted: what it said before, changed by what is given.

    Raises ConfigError for a version that nobody signed, or a bundle that it does not have, and
    TrustError for a document that no box would accept.
    """
    check_publisher(name)
    path = f"channels/{name}.json"
    role = owner_of(repository, path)
    before = _last(layout, repository, role, path)
    if unknown := set(drop) - set(before.bundles if before else ()):
        raise ConfigError(f"the channel {name} does not have {sorted(unknown)[0]}")
    for bundle, version in versions.items():
        _require_signed(repository, f"{bundle}/{version}")
    kept = {b: v for b, v in (before or _NEW).bundles.items() if b not in drop}
    generation = before.generation + 1 if before else 1
    document = replace(
        before or _NEW, generation=generation, bundles={**kept, **versions}, **fields
    )
    data = msgspec.json.encode(document)
    ChannelDocument.parse(data)
    layout.put_bytes(data)
    repository.add_target(role, path, data, signers)
    return document


def _pair(text: str) -> tuple[str, str]:
    bundle, equals, version = text.partition("=")
    if not (bundle and equals and version):
        raise click.BadParameter(f"{text!r} is not NAME=VERSION, like acme/assistant=1.2.0")
    return bundle, version


def _last(
    layout: Layout, repository: RepositoryFolder, role: str, path: str
) -> ChannelDocument | None:
    """What the channel said last, drafted or published."""
    for targets in lists_of(repository, role):
        if target := targets.targets.get(path):
            digest = Digest(target.hashes["sha256"])
            return ChannelDocument.parse(layout.read(digest, MAX_DOCUMENT_BYTES))
    return None


def _require_signed(repository: RepositoryFolder, path: str) -> None:
    """A version that is not there would keep every follower waiting."""
    role = owner_of(repository, path)
    if not any(path in targets.targets for targets in lists_of(repository, role)):
        raise ConfigError(f"nobody signed {path} yet", hint="`bundle sign` it first")
