"""Models out of the box, onto a medium that other boxes can import.

A signed model takes along what proves it: the repository's metadata as this box trusts it, all
roots that it has seen. An unsigned one goes as a plain OCI layout, only when it was asked for so,
and no box will import it. Synchronous; leaving early leaves nothing that looks whole.

order   blobs → what followed channels say → metadata, the timestamp last → the name in index.json
"""

import json
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.bundles.bundles import Bundles
from appliance.bundles.channels import Channels
from appliance.bundles.desired import put_desired
from appliance.bundles.layout import TIMESTAMP, Layout, file_chunks
from appliance.bundles.medium import layout_for_export, ref_of
from appliance.bundles.release import EMPTY, MAX_INDEX_BYTES
from appliance.bundles.resolve import target_of
from appliance.bundles.state import Kept
from appliance.errors import (
    ActivationError,
    DownloadCorruptError,
    LibraryError,
    NotFoundError,
    RegistryError,
    RegistryNotFoundError,
)
from appliance.library.blobs import BlobStore
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.transfer.progress import Progress
from appliance.trust.errors import PolicyRefusedError, TrustCode, TrustError
from appliance.trust.repositories import Repositories
from appliance.trust.store import TrustStore

MAX_TIMESTAMP_BYTES = 16_384  # what python-tuf allows for one

_HISTORY = "root_history/"  # python-tuf's folder of all roots that it has verified


@dataclass(frozen=True, slots=True)
class Shipment:
    """One model that is to go: under which names, its blobs, and who signed it, if anybody.

    `head` is what the names mean: a release's index, or the manifest of an unsigned model.
    """

    refs: tuple[str, ...]
    head: bytes
    blobs: tuple[Digest, ...]
    repository: str = ""


class Exporter:
    """Writes models of one library to media."""

    def __init__(
        self,
        library: Library,
        repositories: Repositories,
        bundles: Bundles,
        channels: Channels,
        own_folder: Path,
    ) -> None:
        self._library = library
        self._repositories = repositories
        self._bundles = bundles
        self._channels = channels
        self._own_folder = own_folder

    def export(
        self, names: Sequence[ModelName], path: Path, *, unsigned: bool
    ) -> Generator[Progress, None, None]:
        """Put the models on the medium at `path`, telling how it goes.

        `unsigned`: also those that nobody signed. Raises NotFoundError, PolicyRefusedError,
        TrustError, DiskFullError before anything is written, and LibraryError.
        """
        shipments = [self._shipment(name, unsigned=unsigned) for name in names]
        layout = layout_for_export(path, self._own_folder)
        signers = {shipment.repository for shipment in shipments} - {""}
        files = {name: self._metadata(layout, name) for name in sorted(signers)}
        digests = {digest for shipment in shipments for digest in shipment.blobs}
        with self._library.hold(digests):
            yield from _copy_all(layout, self._library.blobs, sorted(digests, key=str))
        for key, document in self._documents(signers):
            yield Progress(f"writing what the channel {key} says")
            put_desired(layout, key, document)
        for repository, data in files.items():
            yield Progress(f"writing what {repository} has signed")
            layout.put_metadata(repository, data)
        for shipment in shipments:
            _name(layout, shipment)
        yield Progress(f"{layout.root} has {', '.join(_told(shipments))}")
        yield Progress("success")

    # -- what goes --------------------------------------------------------------------------

    def _shipment(self, name: ModelName, *, unsigned: bool) -> Shipment:
        try:
            state = self._bundles.state(name)
        except NotFoundError:
            return self._unsigned(name, allowed=unsigned)
        if state.active is None:
            raise ActivationError(
                f"{name.short} has no active release to export",
                hint=f"`hearth bundle why {name.short}` tells why",
            )
        refs = self._listed_as(name, state.active, self._repositories.store(state.repository))
        blobs = tuple(Digest.parse(text) for text in state.active.blobs)
        index = self._library.blobs.read(Digest.parse(state.active.index), MAX_INDEX_BYTES)
        return Shipment(refs, index, blobs, state.repository)

    def _listed_as(self, name: ModelName, active: Kept, store: TrustStore) -> tuple[str, ...]:
        """The names under which the trusted metadata lists the release that is active."""
        targets = [target_of(name), active.target, target_of(name, active.version)]
        listed = store.read([target for target in dict.fromkeys(targets) if target]).targets
        index = active.index.removeprefix("sha256:")
        refs = [_ref(target) for target, found in listed.items() if found.sha256 == index]
        if not refs:
            raise TrustError.of(
                TrustCode.NOT_LISTED,
                f"the repository lists release {active.version} of {name.short} no longer",
                hint=f"update it first, with `hearth pull {name.short}` or a newer stick",
            )
        return tuple(refs)

    def _unsigned(self, name: ModelName, *, allowed: bool) -> Shipment:
        stored = self._library.get(name)
        if not allowed:
            raise PolicyRefusedError(
                f"nobody signed {stored.name.short}, so no box would import it from a medium",
                rule="unsigned_export",
                hint="sign it with `tools/bundle adopt`, or export it all the same, for other"
                " programs, with --unsigned",
            )
        manifest = self._library.read_manifest(stored.name)
        return Shipment((ref_of(name),), manifest, tuple(stored.manifest.digests))

    def _documents(self, repositories: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """What followed channels of these repositories say, as their metadata lists it now."""
        for followed in self._channels.followed():
            if followed.repository not in repositories or not followed.data:
                continue
            listed = self._repositories.store(followed.repository).read([followed.target]).targets
            signed = listed.get(followed.target)
            if signed is not None and f"sha256:{signed.sha256}" == followed.digest:
                yield followed.key, followed.data

    # -- what proves it ---------------------------------------------------------------------

    def _metadata(self, layout: Layout, repository: str) -> dict[str, bytes]:
        """The files as a repository publishes them; raises TrustError where newer ones lie."""
        files = self._repositories.store(repository).files()
        ours, theirs = _version(files[TIMESTAMP]), _version_on(layout, repository)
        if theirs > ours:
            raise TrustError.of(
                TrustCode.ROLLBACK,
                f"the medium has version {theirs} of what {repository} signed, this box {ours}",
                hint="import the medium here first, then export to it",
            )
        return _published(files)


def _name(layout: Layout, shipment: Shipment) -> None:
    head = layout.put_bytes(shipment.head)
    put = layout.set_release if shipment.repository else layout.set_model
    for ref in shipment.refs:
        put(ref, head, len(shipment.head))


def _copy_all(layout: Layout, store: BlobStore, digests: Sequence[Digest]) -> Iterator[Progress]:
    """What is not there, after a look at the room for it; what is there but damaged is replaced."""
    sizes = {digest: store.size(digest) for digest in digests}
    layout.require_space(sum(sizes[d] for d in digests if not layout.has(d)))
    layout.put_bytes(EMPTY)  # the config of artifacts, for other programs
    for digest, size in sizes.items():
        yield Progress.of_blob("writing", digest, size, 0)
        _drop_damaged(layout, digest)
        for written in layout.put_steps(digest, size, file_chunks(store.path(digest))):
            yield Progress.of_blob("writing", digest, size, written)


def _told(shipments: Iterable[Shipment]) -> list[str]:
    return sorted({ref for shipment in shipments for ref in shipment.refs})


def _drop_damaged(layout: Layout, digest: Digest) -> None:
    try:
        for _ in layout.chunks(digest):
            pass
    except DownloadCorruptError:
        layout.remove(digest)
    except RegistryNotFoundError:
        return


def _ref(target: str) -> str:
    model, _, tag = target.rpartition("/")
    return f"{model}:{tag}"


def _published(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """From the names of python-tuf's cache to those that a repository publishes (TUF, 6.1)."""
    newest = files["root.json"]
    published = {TIMESTAMP: files[TIMESTAMP], f"{_version(newest)}.root.json": newest}
    is_consistent = json.loads(newest)["signed"]["consistent_snapshot"]
    for name, data in files.items():
        if name.startswith(_HISTORY):
            published[name.removeprefix(_HISTORY)] = data
        elif name not in {"root.json", TIMESTAMP}:
            published[f"{_version(data)}.{name}" if is_consistent else name] = data
    return published


def _version(data: bytes) -> int:
    """Of verified metadata, or of a stranger's: 0 for what is none."""
    try:
        version = json.loads(data)["signed"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0


def _version_on(layout: Layout, repository: str) -> int:
    path = f"{layout.metadata_path(repository)}/{TIMESTAMP}"
    try:
        return _version(layout.files.read(path, MAX_TIMESTAMP_BYTES))
    except (RegistryError, LibraryError):
        return 0
