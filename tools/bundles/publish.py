"""`bundle publish`: what is signed, and all that it names, to where boxes look.

The set of signatures is checked first, as a new box and as one of the last states would see it, and
every release that it lists has to be complete, here or there. Blobs go first, the timestamp last:
killed at any moment, boxes go on reading the release before.
"""

import asyncio
from pathlib import Path

import click

from appliance.bundles.layout import Layout
from appliance.cli.verb import answers_json, print_json
from appliance.errors import LibraryError, RegistryError, RegistryNotFoundError
from appliance.threads import to_end
from tools.bundles.copy import Moved, by_release, contents_at, copy_release, report_of, told
from tools.bundles.errors import RepositoryRefusedError
from tools.bundles.in_registry import Say
from tools.bundles.metadata import Listed, listed
from tools.bundles.places import LayoutPlace, Place, layout_root, opening
from tools.bundles.published import PublishedSet
from tools.bundles.repository import RepositoryFolder

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("publish")
@click.argument("layout", type=FOLDER)
@click.argument("destination")
@click.option(
    "--repo",
    type=FOLDER,
    envvar="BUNDLE_REPO",
    help="Publish this repository, tuf/<name>; else the only one in LAYOUT",
)
@click.option("--stick", is_flag=True, help="Make the destination a stick: use its folder hearth")
@answers_json
def publish(layout: Path, destination: str, repo: Path | None, stick: bool, as_json: bool) -> None:
    """Copy signed releases to where boxes look for them

    LAYOUT holds them; DESTINATION is a folder, such as a web server's, a stick, or
    registry+https://host.
    """
    source = Layout(layout_root(layout))
    source.check()
    folder = find_repository(source, repo)
    repository = RepositoryFolder(folder / "metadata")
    with repository.locked():
        moved = asyncio.run(_publish(source, repository, folder.name, destination, stick))
    if as_json:
        print_json(report_of(moved))
    else:
        click.echo(told(moved))


def find_repository(layout: Layout, repo: Path | None) -> Path:
    """The folder `tuf/<name>`; raises RepositoryRefusedError where it has to be said."""
    if repo is not None:
        return repo.absolute()
    names = layout.repositories()
    if len(names) != 1:
        raise RepositoryRefusedError(
            f"{layout.root} has {len(names)} repositories: {', '.join(names) or 'none'}",
            hint="say which with --repo DIR, or make one with `bundle repo init`",
        )
    return layout.metadata_folder(names[0]).parent


async def _publish(
    layout: Layout, repository: RepositoryFolder, name: str, destination: str, stick: bool
) -> Moved:
    async with opening(destination, create=True, stick=stick, say=_say) as place:
        return await publish_to(LayoutPlace(layout), repository, name, place, _say)


async def publish_to(
    source: LayoutPlace, repository: RepositoryFolder, name: str, place: Place, say: Say
) -> Moved:
    """Raises RepositoryRefusedError before anything moves, if boxes could not follow."""
    published = await to_end(require_sound, repository)
    current = [one for one in listed(published) if not one.is_revoked]
    releases = [one for one in current if one.is_release]
    here = [one for one in releases if await to_end(source.layout.has, one.digest)]
    for one in releases:
        if one not in here:
            await _require_there(place, one)
    digests = {one.reference: one.digest for one in here}
    contents = {
        names[0]: await contents_at(source, names[0], digests[names[0]])
        for names in by_release(digests)
    }
    moved = Moved()
    for references in by_release(digests):
        await copy_release(source, place, references, contents[references[0]], moved, say)
    for one in current:
        if not one.is_release:
            await _copy_document(source, place, name, one)
    models = sorted({one.reference.rpartition(":")[0] for one in here})
    await place.put_metadata(name, await to_end(repository.files), models)
    return moved


def require_sound(repository: RepositoryFolder) -> PublishedSet:
    """What is published; raises RepositoryRefusedError for a set that boxes could not follow."""
    published = repository.published()
    if published is None:
        raise RepositoryRefusedError(
            "nothing is signed for boxes yet", hint="`bundle repo publish` makes the first state"
        )
    fatal = [finding for finding in repository.check() if finding.is_fatal]
    if fatal:
        raise RepositoryRefusedError(
            "; ".join(finding.text for finding in fatal), hint=fatal[0].cure
        )
    return published


async def _require_there(place: Place, one: Listed) -> None:
    """A release that is not in the layout must have been published before."""
    try:
        await contents_at(place, one.reference, one.digest)
    except (RegistryNotFoundError, LibraryError) as error:
        raise RepositoryRefusedError(
            f"{one.reference} is signed, but neither here nor at {place} ({error})",
            hint="bring its layout, or take it off the list",
        ) from error


async def _copy_document(source: LayoutPlace, place: Place, name: str, one: Listed) -> None:
    """A signed document that is no release, such as a channel: from here, or it is there."""
    try:
        data = await source.word(name, one)
    except RegistryNotFoundError:
        try:
            data = await place.word(name, one)
        except RegistryError as error:
            raise RepositoryRefusedError(
                f"{one.path} is signed, but neither here nor at {place}"
            ) from error
    await place.put_word(name, one, data)


def _say(text: str) -> None:
    click.echo(text, err=True)
