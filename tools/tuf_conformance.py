"""Speaks the client protocol of the tuf-conformance suite, on our trust store in network mode.

    tools/tuf_client --metadata-dir DIR init ROOT
    tools/tuf_client --metadata-dir DIR --metadata-url URL refresh
    tools/tuf_client --metadata-dir DIR --metadata-url URL --target-name N --target-base-url URL
                     --target-dir DIR download

Exit status 0 or 1. The trusted files appear in DIR under unversioned names after each command; the
store itself lies in DIR/.store. Protocol: CLIENT-CLI.md of theupdateframework/tuf-conformance.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import aiohttp
from tuf.api.exceptions import DownloadError, LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, TargetFile

from appliance.errors import ApplianceError
from appliance.library.blobs import atomic_write
from appliance.transfer.opener import Opener
from appliance.trust.errors import TrustCode, TrustError
from appliance.trust.fetch import Source, from_url
from appliance.trust.metadata import SignedTarget
from appliance.trust.repositories import read_root
from appliance.trust.statefolder import StateFolder
from appliance.trust.store import TrustStore


class Client:
    """One run: the trusted state below `folder`, shown to the suite in `folder` itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pin = folder / ".store" / "root.pin.json"

    def init(self, root: bytes) -> None:
        read_root(root)
        atomic_write(self._pin, root)
        (self._folder / "root.json").write_bytes(root)

    def refresh(self, source: Source, *wanted: str) -> dict[str, SignedTarget]:
        """What is listed under the wanted names; the folder shows the state even after an error."""
        if not self._pin.is_file():
            raise TrustError.of(TrustCode.SIGNATURE, "there is no trusted root; run init first")
        # released_s 0: the suite judges old repositories at their own time
        store = TrustStore(StateFolder(self._pin.parent), self._pin.read_bytes(), released_s=0)
        try:
            return dict(store.refresh(source, wanted).targets)
        finally:
            self._show(store.files())

    def download(self, source: Source, base_url: str, name: str, folder: Path) -> None:
        """Fetch a target, unless the folder already has these very bytes."""
        signed = self.refresh(source, name)[name]
        target = TargetFile(signed.length, dict(signed.hashes), name)
        path = folder / quote(name, "")
        if path.is_file() and _is(target, path.read_bytes()):
            return
        data = bytearray()
        for chunk in source.reader.chunks(f"{base_url.rstrip('/')}/{self._file_of(target)}"):
            data += chunk
            if len(data) > target.length:
                break
        if not _is(target, bytes(data)):
            raise TrustError.of(TrustCode.DIGEST, f"{name} is not what was signed")
        atomic_write(path, bytes(data))

    def _file_of(self, target: TargetFile) -> str:
        """Consistent snapshots put a digest before the file's name (TUF spec, 6.2)."""
        root = Metadata[Root].from_file(str(self._folder / "root.json")).signed
        return target.get_prefixed_paths()[0] if root.consistent_snapshot else target.path

    def _show(self, files: dict[str, bytes]) -> None:
        shown = {name: data for name, data in files.items() if "/" not in name}
        for path in self._folder.glob("*.json"):
            if shown and path.name not in shown:
                path.unlink()
        for name, data in shown.items():
            (self._folder / name).write_bytes(data)


def _is(target: TargetFile, data: bytes) -> bool:
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


async def _run(options: argparse.Namespace) -> None:
    client = Client(options.metadata_dir)
    async with aiohttp.ClientSession() as session:
        url, loop = _slashed(options.metadata_url), asyncio.get_running_loop()
        source = from_url(url, Opener(session), loop)
        if options.command == "refresh":
            await asyncio.to_thread(client.refresh, source)
        else:
            await asyncio.to_thread(
                client.download,
                source,
                options.target_base_url,
                options.target_name,
                options.target_dir,
            )


def _slashed(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tuf_client")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    options = parser.parse_args(arguments)
    if options.command != "init" and not options.metadata_url:
        parser.error(f"{options.command} needs --metadata-url")
    wanted = (options.target_name, options.target_base_url, options.target_dir)
    if options.command == "download" and None in wanted:
        parser.error("download needs --target-name, --target-base-url and --target-dir")
    return options


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 done, 1 refused or failed; exits with 2 for a wrong usage."""
    options = _options(arguments)
    try:
        if options.command == "init":
            Client(options.metadata_dir).init(options.root.read_bytes())
        else:
            asyncio.run(_run(options))
    except (ApplianceError, DownloadError, OSError) as error:
        print(f"{getattr(error, 'code', 'failed')}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
