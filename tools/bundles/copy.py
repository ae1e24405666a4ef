"""`bundle copy`: releases and what is signed about them, between folders, sticks and registries.

Only what is missing moves, every digest is checked, and whatever is named is there before its name:
a copy that breaks off is taken up where it stopped, and until then shows nothing that is not whole.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from appliance.cli.verb import answers_json, print_json
from appliance.errors import LibraryError, NotFoundError, RegistryNotFoundError
from appliance.library.manifest import Digest
from tools.bundles.bundlefile import parse_reference
from tools.bundles.contents import ReleaseContents, read_contents
from tools.bundles.in_registry import RegistryPlace, Say
from tools.bundles.metadata import Files, listed
from tools.bundles.places import LayoutPlace, Place, opening
from tools.bundles.published import PublishedSet

_COMPLETE = "build the release again, or copy it from a complete place"
_WITH_BLOBS = "a registry takes no manifest without its blobs: adopt it with --with-blobs"


@dataclass(slots=True)
class Moved:
    """What a copy did, in bytes of blobs."""

    names: int = 0
    moved_bytes: int = 0
    kept_bytes: int = 0  # were there already
    absent_bytes: int = 0  # of adopted models: nowhere but on boxes


@click.command("copy")
@click.argument("source")
@click.argument("destination")
@click.option("--release", "references", multiple=True, help="Copy only this one, NAME:VERSION")
@click.option("--stick", is_flag=True, help="Make the destination a stick: use its folder hearth")
@answers_json
def copy(
    source: str, destination: str, references: tuple[str, ...], stick: bool, as_json: bool
) -> None:
    """Copy releases with their signatures from SOURCE to DESTINATION

    Each is a folder, a stick, or registry+https://host. From a registry, say which releases.
    """
    moved = asyncio.run(_copy(source, destination, references, stick=stick, say=_say))
    if as_json:
        print_json(report_of(moved))
    else:
        click.echo(told(moved))


async def _copy(
    source: str, destination: str, references: Sequence[str], *, stick: bool, say: Say
) -> Moved:
    async with (
        opening(source, say=say) as src,
        opening(destination, create=True, stick=stick, say=say) as dst,
    ):
        return await copy_releases(src, dst, references, say)


async def copy_releases(
    source: Place, destination: Place, references: Sequence[str] = (), say: Say = lambda _: None
) -> Moved:
    """All releases of a folder, or those named. What is signed comes last."""
    wanted = list(references)
    if not wanted and isinstance(source, LayoutPlace):
        wanted = list(source.layout.releases())
    if not wanted:
        raise NotFoundError(
            f"no release to copy from {source}", hint="name them with --release NAME:VERSION"
        )
    found = dict[str, Digest]()
    for reference in wanted:
        digest = await source.find(reference)
        if digest is None:
            raise NotFoundError(f"{source} has no release {reference[:200]!r}")
        found[reference] = digest
    moved, metadata = Moved(), dict[str, Files]()
    for references in by_release(found):
        contents = await contents_at(source, references[0], found[references[0]])
        await copy_release(source, destination, references, contents, moved, say)
        metadata |= await source.metadata(references[0])
    repositories = sorted({parse_reference(reference)[0] for reference in wanted})
    for name, files in metadata.items():
        await _copy_words(source, destination, name, files, say)
        await destination.put_metadata(name, files, repositories)
    return moved


async def _copy_words(source: Place, destination: Place, name: str, files: Files, say: Say) -> None:
    """What channels say and the like. A place may lack it: then boxes hear it elsewhere."""
    for one in listed(PublishedSet(files)):
        if one.is_release or one.is_revoked:
            continue
        try:
            data = await source.word(name, one)
        except RegistryNotFoundError:
            say(f"{source} has no bytes of {one.path}; it stays behind")
            continue
        await destination.put_word(name, one, data)


def by_release(digests: Mapping[str, Digest]) -> list[list[str]]:
    """Names of the same release of the same model together."""
    groups: dict[tuple[str, Digest], list[str]] = {}
    for reference, digest in digests.items():
        groups.setdefault((parse_reference(reference)[0], digest), []).append(reference)
    return list(groups.values())


async def contents_at(place: Place, reference: str, digest: Digest) -> ReleaseContents:
    """The documents of a release; raises LibraryError naming what is missing or wrong."""
    repository, _ = parse_reference(reference)
    return await read_contents(
        digest, lambda wanted, limit: place.document(repository, wanted, limit)
    )


async def copy_release(
    source: Place,
    destination: Place,
    references: Sequence[str],
    contents: ReleaseContents,
    moved: Moved,
    say: Say = lambda _: None,
) -> None:
    """Blobs, then manifests, then the index, then its names; adds to `moved`."""
    repository, _ = parse_reference(references[0])
    for blob in contents.blobs:
        if await destination.has_blob(repository, blob):
            moved.kept_bytes += blob.size
        elif await source.has_blob(repository, blob):
            async with source.reading(repository, blob) as read:
                await destination.put_blob(repository, blob, read)
            moved.moved_bytes += blob.size
        elif contents.adopted_from and not isinstance(destination, RegistryPlace):
            moved.absent_bytes += blob.size
        else:
            raise LibraryError(
                f"{references[0]} needs blob {blob.digest}, which is neither at {source} nor at "
                f"{destination}",
                hint=_WITH_BLOBS if contents.adopted_from else _COMPLETE,
            )
    for document in contents.documents:
        if not await destination.has_document(repository, document):
            await destination.put_document(repository, document)
    for reference in references:
        await destination.name(reference, contents)
        moved.names += 1
        say(f"{reference} is at {destination}")


def told(moved: Moved) -> str:
    text = (
        f"{moved.names} names of releases; {moved.moved_bytes} bytes of blobs moved, "
        f"{moved.kept_bytes} were there"
    )
    if moved.absent_bytes:
        text += f", {moved.absent_bytes} of adopted models stay where boxes have them"
    return text


def report_of(moved: Moved) -> dict[str, int]:
    return {
        "names": moved.names,
        "moved_bytes": moved.moved_bytes,
        "kept_bytes": moved.kept_bytes,
        "absent_bytes": moved.absent_bytes,
    }


def _say(text: str) -> None:
    click.echo(text, err=True)
