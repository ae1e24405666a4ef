"""What a publisher wants boxes to run, on a medium: `desired/<repository>/<channel>.json`.

The bytes are a channel's document. They count only when the repository's metadata on the same
medium lists them, so a file that was put there by anybody else, or belongs to another state of the
repository, is refused. A publisher's own folder has them by digest among its blobs, which will do.
Blocking; errors as of `Layout`.
"""

from collections.abc import Iterable

from appliance.bundles.channel_document import MAX_DOCUMENT_BYTES
from appliance.bundles.channel_state import split_key
from appliance.bundles.layout import Layout
from appliance.errors import BadRequestError, RegistryNotFoundError
from appliance.library.manifest import Digest
from appliance.trust.errors import TrustCode, TrustError

FOLDER = "desired"

_SUFFIX = ".json"


def target_of_channel(key: str) -> str:
    """The TUF target of `acme/stable`."""
    return f"channels/{split_key(key)[1]}.json"


def channels_on(layout: Layout) -> list[str]:
    """The channels that the medium has a file of, as `acme/stable`; strange names are left out."""
    return list(_keys(layout))


def _keys(layout: Layout) -> Iterable[str]:
    for repository in layout.repositories():
        for name in layout.files.names(f"{FOLDER}/{repository}"):
            key = f"{repository}/{name.removesuffix(_SUFFIX)}"
            if name.endswith(_SUFFIX) and _is_key(key):
                yield key


def put_desired(layout: Layout, key: str, data: bytes) -> None:
    """Have the document on the medium, durably; before the metadata that lists it."""
    layout.files.write(_path(key), data)


def read_desired(layout: Layout, key: str, digest: Digest) -> bytes | None:
    """The document that is signed as `digest`; None if the medium has nothing of the channel.

    Raises TrustError (digest) for other bytes, RegistryError for what is too large or no file.
    """
    try:
        data = layout.files.read(_path(key), MAX_DOCUMENT_BYTES)
    except RegistryNotFoundError:
        if not layout.has(digest):
            return None
        data = layout.read(digest, MAX_DOCUMENT_BYTES)
    if Digest.of(data) != digest:
        raise TrustError.of(
            TrustCode.DIGEST,
            f"what the medium says of the channel {key} is not what was signed",
            hint="copy the medium again; nothing was changed",
        )
    return data


def _path(key: str) -> str:
    repository, channel = split_key(key)
    return f"{FOLDER}/{repository}/{channel}{_SUFFIX}"


def _is_key(key: str) -> bool:
    try:
        split_key(key)
    except BadRequestError:
        return False
    return True
