"""`bundle sign`: a release of a layout becomes a name in the publisher's part of a repository.

The version's name is signed once and for ever; `latest` and `stable` are further names for the
same bytes, and move. Signed means drafted: boxes see it after `bundle repo publish` and `bundle
publish`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from securesystemslib.signer import Signer
from tuf.api.metadata import Targets

from appliance.bundles.layout import Layout
from appliance.cli.verb import answers_json, print_json
from appliance.errors import BadRequestError, ConfigError, LibraryError, NotFoundError
from appliance.library.manifest import Digest
from tools.bundles.bundlefile import MOVING_TAGS, parse_reference
from tools.bundles.contents import ReleaseContents
from tools.bundles.copy import contents_at
from tools.bundles.keys import load_signer
from tools.bundles.passphrase import Passphrases
from tools.bundles.places import LayoutPlace, layout_root
from tools.bundles.publish import FOLDER, find_repository
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import delegated_roles

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Signed:
    """What was put on the publisher's list."""

    role: str
    paths: tuple[str, ...]
    digest: Digest


@click.command("sign")
@click.argument("layout", type=FOLDER)
@click.option("--release", "reference", required=True, help="Sign this release, NAME:VERSION")
@click.option(
    "--as", "tags", multiple=True, type=click.Choice(MOVING_TAGS), help="Move this name to it"
)
@click.option(
    "--repo",
    type=FOLDER,
    envvar="BUNDLE_REPO",
    help="List it in this repository, tuf/<name>; else the only one in LAYOUT",
)
@click.option(
    "--key", "keys", multiple=True, required=True, type=FILE, help="Sign with this publisher's key"
)
@answers_json
@click.pass_obj
def sign(
    passphrases: Passphrases,
    layout: Path,
    reference: str,
    tags: tuple[str, ...],
    repo: Path | None,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Sign a release of LAYOUT with the publisher's key, under its version and moving names"""
    source = Layout(layout_root(layout))
    repository = RepositoryFolder(find_repository(source, repo) / "metadata")
    signers = [load_signer(path, passphrases) for path in keys]
    signed = sign_release(source, reference, tags, repository, signers)
    if as_json:
        paths = list(signed.paths)
        print_json({"publisher": signed.role, "names": paths, "digest": str(signed.digest)})
        return
    for path in signed.paths:
        click.echo(f"{signed.role} signed {path} = {signed.digest}")
    click.echo("next: bundle repo publish ONLINE-KEY, then bundle publish", err=True)


def sign_release(
    layout: Layout,
    reference: str,
    tags: Sequence[str],
    repository: RepositoryFolder,
    signers: Sequence[Signer],
) -> Signed:
    """List the release; raises LibraryError unless it is complete, and ConfigError for a name that
    nobody delegated, or a version that was signed with other bytes before."""
    name, version = parse_reference(reference)
    contents = require_complete(layout, reference)
    if contents.release.version != version:
        raise BadRequestError(
            f"{reference} says inside that it is version {contents.release.version}",
            hint="build it again under its own version",
        )
    paths = [f"{name}/{tag}" for tag in (version, *tags)]
    role = owner_of(repository, paths[0])
    _require_unchanged(repository, role, paths[0], contents.digest)
    for path in paths:
        repository.add_target(role, path, contents.index, signers)
    for tag in tags:
        layout.set_release(f"{name}:{tag}", contents.digest, len(contents.index))
    return Signed(role, tuple(paths), contents.digest)


def require_complete(layout: Layout, reference: str) -> ReleaseContents:
    """The release with everything below it; raises LibraryError, NotFoundError, RegistryError."""
    layout.check()
    digest = layout.releases().get(reference)
    if digest is None:
        there = ", ".join(layout.releases()) or "none"
        raise NotFoundError(f"{layout.root} has no release {reference}", hint=f"there: {there}")
    contents = asyncio.run(contents_at(LayoutPlace(layout), reference, digest))
    for blob in contents.blobs:
        is_here = layout.has(blob.digest) and layout.size(blob.digest) == blob.size
        if not is_here and not contents.adopted_from:
            raise LibraryError(
                f"{reference} lacks blob {blob.digest}", hint="build it into this layout again"
            )
    return contents


def owner_of(repository: RepositoryFolder, path: str) -> str:
    """The publisher who may sign a name; raises ConfigError if nobody may."""
    targets = repository.targets()
    roles = delegated_roles(targets) if targets else {}
    for role, delegated in roles.items():
        if delegated.is_delegated_path(path):
            return role
    raise ConfigError(
        f"nobody may sign {path} in this repository",
        hint=f"let someone: `bundle repo delegate NAME '{_pattern_for(path)}' KEY.pub`",
    )


def lists_of(repository: RepositoryFolder, role: str) -> list[Targets]:
    """What a publisher lists: as drafted, if it is, then as published."""
    draft, published = repository.drafts().get(role), repository.published()
    metadata = [draft.metadata if draft else None, published.role(role) if published else None]
    return [found.signed for found in metadata if found and isinstance(found.signed, Targets)]


def _pattern_for(path: str) -> str:
    first, *rest = path.split("/")
    return "/".join([first, *("*" for _ in rest)])


def _require_unchanged(repository: RepositoryFolder, role: str, path: str, digest: Digest) -> None:
    """Boxes that have a version would never learn that it now means something else."""
    for targets in lists_of(repository, role):
        target = targets.targets.get(path)
        if target is not None and target.hashes.get("sha256") != digest.hex:
            raise ConfigError(
                f"{path} was signed before with another content", hint="give it a new version"
            )
