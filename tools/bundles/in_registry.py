"""Releases in an OCI registry: acme/assistant:1.2.0 is in its repository `acme/assistant`.

    <digest>            every index and manifest, PUT as the very bytes that are signed
    1.2.0-<variant>     a variant, for stock clients, which know manifests only
    1.2.0, latest       the default variant, the first of the index
    1.2.0.bundle        the index itself
    tuf                 an untrusted copy of the signatures, for sites with nothing but a registry

Speaks through the box's own client, so tokens, redirects, retries and caps are the same.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from appliance.bundles.release import EMPTY, INDEX_TYPE
from appliance.errors import DownloadCorruptError, RegistryNotFoundError
from appliance.library.blobs import BlobStore
from appliance.library.manifest import (
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    OCI_MANIFEST_TYPE,
    Digest,
    Layer,
)
from appliance.threads import to_end
from appliance.transfer.contents import REGISTRY_SCHEME, Connect, NetworkContent
from appliance.transfer.progress import Progress
from appliance.transfer.push import Read, Upload, file_reader
from appliance.transfer.registry import Registry, read_capped
from appliance.transfer.sources import Source
from tools.bundles.bundlefile import MOVING_TAGS, parse_reference
from tools.bundles.contents import Document, ReleaseContents
from tools.bundles.metadata import (
    MAX_FILE_BYTES,
    TUF_TAG,
    Files,
    Listed,
    MetadataArtifact,
    current_files,
    require_newer,
)
from tools.bundles.network import PARTS

_ACCEPT = f"{INDEX_TYPE}, {MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"

Say = Callable[[str], None]


@dataclass(slots=True)
class RegistryPlace:
    """A registry at `base`. `spool` is where blobs from it wait until they are wholly here."""

    base: URL
    connect: Connect
    spool: Path
    say: Say = lambda _: None
    _sent: dict[Digest, str] = field(default_factory=dict)  # to which repository

    async def find(self, reference: str) -> Digest | None:
        repository, tag = parse_reference(reference)
        found = await self._tagged(repository, f"{tag}.bundle")
        return found.digest if found else None

    async def document(self, repository: str, digest: Digest, max_bytes: int) -> bytes:
        return await self._content().document(repository, digest, max_bytes)

    async def has_document(self, repository: str, document: Document) -> bool:
        registry = self._registry(repository)
        url = registry.source.url(f"manifests/{document.digest}")

        async def ask() -> bool:
            try:
                async with registry.request("HEAD", url, headers={"Accept": _ACCEPT}):
                    return True
            except RegistryNotFoundError:
                return False

        return await registry.patience.for_answers().insist(ask)

    async def put_document(self, repository: str, document: Document) -> None:
        await self.put_manifest(repository, str(document.digest), document)

    async def has_blob(self, repository: str, blob: Layer) -> bool:
        registry = self._registry(repository)
        return await registry.patience.insist(lambda: registry.has_blob(blob.digest))

    @contextlib.asynccontextmanager
    async def reading(self, repository: str, blob: Layer) -> AsyncIterator[Read]:
        """Fetched into the spool first, where a broken download goes on the next time."""
        store = BlobStore(self.spool)
        if not await to_end(store.has, blob.digest):
            await self._content().fetch(repository, blob.digest, blob.size, store, lambda _: None)
        yield file_reader(store.path(blob.digest))
        await to_end(store.remove, blob.digest)

    async def put_blob(self, repository: str, blob: Layer, read: Read) -> None:
        def ignore(_: Progress) -> None:
            """A line for each blob is enough."""

        sister = self._sent.get(blob.digest, "")
        await Upload(self._registry(repository), blob, read, ignore, mount_from=sister).run()
        self._sent.setdefault(blob.digest, repository)
        self.say(f"pushed {blob.digest} ({blob.size} bytes) to {self.base}/{repository}")

    async def name(self, reference: str, contents: ReleaseContents) -> None:
        """Tags: each variant and the default one for stock clients, `<tag>.bundle` for the index.

        The index comes last: `find` goes by it.
        """
        repository, tag = parse_reference(reference)
        variants = contents.variants
        tags = {tag: variants[0]}
        if tag not in MOVING_TAGS:
            names = (variant.name for variant in contents.release.variants)
            tags |= {
                f"{tag}-{name}": document for name, document in zip(names, variants, strict=True)
            }
        tags[f"{tag}.bundle"] = Document(INDEX_TYPE, contents.index)
        for name, document in tags.items():
            if await self._tagged(repository, name) != document:
                await self.put_manifest(repository, name, document)

    async def word(self, name: str, one: Listed) -> bytes:
        return await self._small_blob(_repository_of(one), one.digest)

    async def put_word(self, name: str, one: Listed, data: bytes) -> None:
        repository, blob = _repository_of(one), Layer("", one.digest, len(data))
        if not await self.has_blob(repository, blob):
            await self.put_blob(repository, blob, bytes_reader(data))

    async def metadata(self, reference: str) -> Mapping[str, Files]:
        """The convenience copy under the tag `tuf`: of one repository of signatures."""
        repository, _ = parse_reference(reference)
        found = await self._artifact(repository)
        return {} if found is None else {found.name: await self._files(repository, found)}

    async def put_metadata(self, name: str, files: Files, repositories: Sequence[str]) -> None:
        files = current_files(files)
        artifact = MetadataArtifact.of(name, files)
        for repository in repositories:
            theirs = await self._artifact(repository)
            if theirs == artifact:
                continue
            if theirs is not None and theirs.name == name:
                require_newer(await self._files(repository, theirs), files, str(self))
            for data in (*files.values(), EMPTY):
                blob = Layer("", Digest.of(data), len(data))
                if not await self.has_blob(repository, blob):
                    await self.put_blob(repository, blob, bytes_reader(data))
            document = Document(OCI_MANIFEST_TYPE, artifact.encode())
            await self.put_manifest(repository, TUF_TAG, document)

    async def _artifact(self, repository: str) -> MetadataArtifact | None:
        tagged = await self._tagged(repository, TUF_TAG)
        return MetadataArtifact.parse(tagged.data) if tagged else None

    async def _files(self, repository: str, artifact: MetadataArtifact) -> dict[str, bytes]:
        return {
            file: await self._small_blob(repository, digest)
            for file, (digest, _) in artifact.files.items()
        }

    async def _small_blob(self, repository: str, digest: Digest) -> bytes:
        registry = self._registry(repository)

        async def get() -> bytes:
            async with registry.request("GET", registry.source.blob_url(digest)) as answer:
                return await read_capped(answer, MAX_FILE_BYTES, registry.patience.stall_s)

        data = await registry.patience.for_answers().insist(get)
        if Digest.of(data) != digest:
            raise DownloadCorruptError(f"{self} sent {Digest.of(data)} as {digest}")
        return data

    async def put_manifest(self, repository: str, tag: str, document: Document) -> None:
        """PUT the bytes as they are, under a tag or digest: re-encoded ones are not signed."""
        registry = self._registry(repository)
        url = registry.source.url(f"manifests/{tag}")
        headers = {"Content-Type": document.media_type}

        async def put() -> None:
            async with registry.request("PUT", url, headers=headers, body=document.data):
                pass

        await registry.patience.insist(put)

    async def _tagged(self, repository: str, tag: str) -> Document | None:
        """What a tag means now."""
        registry = self._registry(repository)
        url = registry.source.url(f"manifests/{tag}")

        async def get() -> Document | None:
            try:
                async with registry.request("GET", url, headers={"Accept": _ACCEPT}) as answer:
                    stall_s = registry.patience.stall_s
                    data = await read_capped(answer, MAX_MANIFEST_BYTES, stall_s)
                    return Document(answer.content_type, data)
            except RegistryNotFoundError:
                return None

        return await registry.patience.for_answers().insist(get)

    def _registry(self, repository: str) -> Registry:
        return self.connect(Source(self.base, repository))

    def _content(self) -> NetworkContent:
        return NetworkContent(f"{REGISTRY_SCHEME}{self.base}", self.connect, PARTS)

    def __str__(self) -> str:
        return f"{REGISTRY_SCHEME}{self.base}"


def _repository_of(one: Listed) -> str:
    """Where boxes ask a registry for a document that is no release."""
    return "/".join(one.path.split("/")[:2])


def bytes_reader(data: bytes) -> Read:
    def read(first: int) -> Generator[bytes, None, None]:
        yield data[first:]

    return read
