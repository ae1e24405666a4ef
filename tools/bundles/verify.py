"""`bundle verify`: everything in a layout or on a stick, judged as a box would judge it.

Starts from a root that the caller trusts, goes through the box's own trust store to every name that
is signed, and reads every byte below. What lies there unsigned is told too.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from appliance.bundles.desired import read_desired
from appliance.bundles.layout import Layout
from appliance.cli.verb import answers_json, print_json
from appliance.errors import LibraryError, RegistryError
from appliance.library.manifest import Digest, Layer
from appliance.trust.clock import ClockReading, read_clock
from appliance.trust.errors import TrustError
from appliance.trust.fetch import from_folder
from appliance.trust.statefolder import StateFolder
from appliance.trust.store import TrustStore
from tools.bundles.check import Finding
from tools.bundles.contents import ReleaseContents
from tools.bundles.copy import contents_at
from tools.bundles.errors import BrokenRepositoryError
from tools.bundles.metadata import Listed, listed, metadata_files
from tools.bundles.places import LayoutPlace, layout_root
from tools.bundles.publish import FOLDER
from tools.bundles.published import PublishedSet
from tools.bundles.report import finding_body, show_findings
from tools.bundles.sign import FILE


@click.command("verify")
@click.argument("layout", type=FOLDER)
@click.option("--root", type=FILE, required=True, help="Trust this root: N.root.json")
@click.option("--repo", "name", help="Judge by this repository of LAYOUT; else by the only one")
@answers_json
@click.pass_context
def verify(
    context: click.Context, layout: Path, root: Path, name: str | None, as_json: bool
) -> None:
    """Check all signatures and every byte of LAYOUT, a folder or a stick"""
    findings = verify_layout(Layout(layout_root(layout)), root.read_bytes(), name)
    if as_json:
        print_json({"findings": [finding_body(finding) for finding in findings]})
    elif not show_findings(findings):
        click.echo("all is well: everything is signed and whole")
    context.exit(1 if any(finding.is_fatal for finding in findings) else 0)


def verify_layout(
    layout: Layout,
    root: bytes,
    name: str | None = None,
    clock: Callable[[], ClockReading] = read_clock,
) -> list[Finding]:
    """All that is wrong; raises RegistryError for what is no layout at all."""
    layout.check()
    names = layout.repositories()
    if name is None and len(names) != 1:
        return [
            Finding(f"there are {len(names)} repositories of signatures", "say which with --repo")
        ]
    name = name or names[0]
    findings: list[Finding] = []
    signed = _signed(layout, name, root, clock, findings)
    known: dict[Digest, ReleaseContents] = {}
    for one in signed:
        findings += _check_target(layout, name, one, known)
    findings += _check_bytes(layout, known.values())
    findings += _unsigned(layout, signed)
    return findings


def _signed(
    layout: Layout,
    name: str,
    root: bytes,
    clock: Callable[[], ClockReading],
    findings: list[Finding],
) -> list[Listed]:
    """The names that a new box with this root would accept."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        store = TrustStore(StateFolder(Path(folder) / name), root, clock)
        source = from_folder(layout.metadata_folder(name))
        try:
            store.refresh(source)
            wanted = listed(PublishedSet(metadata_files(layout, name)))
        except (TrustError, BrokenRepositoryError, RegistryError) as error:
            findings.append(Finding(f"the signatures of {name}: {error}", error.hint))
            return []
        accepted = []
        for one in wanted:
            try:
                target = store.refresh(source, [one.path]).targets[one.path]
            except TrustError as error:
                findings.append(Finding(f"{one.path}: {error}", error.hint))
                continue
            assert target.sha256 == one.digest.hex  # the set was verified, and is what was read
            accepted.append(one)
    return accepted


def _check_target(
    layout: Layout, name: str, one: Listed, known: dict[Digest, ReleaseContents]
) -> Iterator[Finding]:
    """The bytes that a name stands for, and the documents below; fills `known`."""
    if one.is_revoked:
        yield Finding(f"{one.path} is revoked", is_fatal=False)
        return
    try:
        if one.channel:
            is_here = read_desired(layout, f"{name}/{one.channel}", one.digest) is not None
        else:
            is_here = layout.has(one.digest)
        if is_here and one.is_release:
            place = LayoutPlace(layout)
            known[one.digest] = asyncio.run(contents_at(place, one.reference, one.digest))
        elif is_here and not one.channel:
            layout.read(one.digest, one.length)
    except (RegistryError, LibraryError, TrustError) as error:
        yield Finding(f"{one.path}: {error}", error.hint)
        return
    if not is_here:
        yield Finding(
            f"{one.path} is signed, but not in this folder",
            "it may be elsewhere; copy it here if boxes should find it here",
            is_fatal=False,
        )


def _check_bytes(layout: Layout, releases: Iterable[ReleaseContents]) -> Iterator[Finding]:
    """Every blob once, however many releases share it."""
    seen: set[Digest] = set()
    for contents in releases:
        for blob in contents.blobs:
            if blob.digest not in seen:
                seen.add(blob.digest)
                yield from _check_blob(layout, blob, contents)


def _check_blob(layout: Layout, blob: Layer, contents: ReleaseContents) -> Iterator[Finding]:
    version = contents.release.version
    if not layout.has(blob.digest):
        is_adopted = bool(contents.adopted_from)
        where = f"; boxes have it with {contents.adopted_from}" if is_adopted else ""
        yield Finding(
            f"blob {blob.digest} of version {version} is missing{where}",
            "" if is_adopted else "copy the release here again",
            is_fatal=not is_adopted,
        )
        return
    try:
        size = sum(len(chunk) for chunk in layout.chunks(blob.digest))
        if size != blob.size:
            yield Finding(f"blob {blob.digest} has {size} bytes, its manifest says {blob.size}")
    except (RegistryError, LibraryError) as error:
        yield Finding(f"blob {blob.digest} of version {version}: {error}", error.hint)


def _unsigned(layout: Layout, signed: list[Listed]) -> Iterator[Finding]:
    """Names in index.json that no signature covers; boxes pass over them."""
    covered = {one.digest for one in signed}
    for entry in layout.entries():
        if entry.digest not in covered:
            yield Finding(
                f"{entry.ref} is not signed",
                "`bundle sign` and `bundle repo publish` it",
                is_fatal=False,
            )
