"""A TUF repository in memory that can be told to lie; signs real metadata with real keys.

Written out as a folder (a stick, a mirror) or served over HTTP on loopback. Roles are plain
python-tuf objects, so an attack is a changed attribute and a `publish`.
"""

import asyncio
import datetime
import threading
from contextlib import contextmanager
from urllib.parse import quote, unquote

from aiohttp import web
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

DAY = datetime.timedelta(days=1)
TOP = ("timestamp", "snapshot", "targets")


def days(count):
    """A moment so many days from now, to the second as metadata has it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + count * DAY


class TufRepository:
    """Files by name in `files`; `publish` signs and adds new ones, old versions stay."""

    def __init__(self, hashes=True):
        self.hashes = hashes
        self.signers = {}
        self.files = {}
        self.blobs = {}
        self.root = Root(consistent_snapshot=True, expires=days(1000))
        self.timestamp = Timestamp(expires=days(100))
        self.snapshot = Snapshot(expires=days(100))
        self.roles = {"targets": Targets(expires=days(300))}
        for role in ("root", *TOP):
            self.set_keys(role, 1, 1)
        self.publish_root()
        self.publish("targets")

    @property
    def targets(self):
        return self.roles["targets"]

    # keys

    def set_keys(self, role, count, threshold):
        """Give a role new keys in the root; takes effect with `publish_root`."""
        self.signers[role] = [CryptoSigner.generate_ed25519() for _ in range(count)]
        if role in self.root.roles:
            self.root.roles[role].keyids.clear()
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold

    def sign(self, role, signed, signers=None):
        metadata = Metadata(signed)
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    # publishing

    def publish_root(self, signers=None, name=None):
        """Sign the root as its own keys (or `signers`) do, and make it the newest."""
        data = self.sign("root", self.root, signers)
        self.files[f"{name or self.root.version}.root.json"] = data
        return data

    def next_root(self, *roles, signers=None):
        """Rotate the keys of `roles`; the new root is signed by the old and the new root keys."""
        old = list(self.signers["root"])
        for role in roles:
            self.set_keys(role, len(self.signers[role]), self.root.roles[role].threshold)
        self.root.version += 1
        both = {id(s): s for s in old + self.signers["root"]}.values()
        return self.publish_root(list(both) if signers is None else signers)

    def publish(self, *roles):
        """Bump and sign the roles, and the snapshot and timestamp above them."""
        for role in roles or ("targets",):
            if role in self.roles:
                self.bump(role)
        if roles != ("timestamp",):
            self.bump_snapshot()
        self.bump_timestamp()

    def bump(self, role):
        signed = self.roles[role]
        if f"{signed.version}.{quote(role, '')}.json" in self.files:
            signed.version += 1
        self.put(role)

    def put(self, role):
        """Sign a targets role as it is, and let the snapshot (unpublished) name it."""
        signed = self.roles[role]
        data = self.sign(role, signed)
        self.files[f"{signed.version}.{quote(role, '')}.json"] = data
        self.snapshot.meta[f"{role}.json"] = self.meta(signed.version, data)

    def bump_snapshot(self):
        if f"{self.snapshot.version}.snapshot.json" in self.files:
            self.snapshot.version += 1
        self.put_snapshot()

    def put_snapshot(self):
        data = self.sign("snapshot", self.snapshot)
        self.files[f"{self.snapshot.version}.snapshot.json"] = data
        self.timestamp.snapshot_meta = self.meta(self.snapshot.version, data)

    def bump_timestamp(self):
        if "timestamp.json" in self.files:
            self.timestamp.version += 1
        self.put_timestamp()

    def put_timestamp(self):
        self.files["timestamp.json"] = self.sign("timestamp", self.timestamp)

    def meta(self, version, data):
        return MetaFile.from_data(version, data, ["sha256"]) if self.hashes else MetaFile(version)

    # content

    def add(self, name, data, role="targets"):
        """List a target; takes effect with `publish`."""
        target = TargetFile.from_data(name, data, ["sha256"])
        self.roles[role].targets[name] = target
        folder, slash, base = name.rpartition("/")
        self.blobs[f"{folder}{slash}{target.hashes['sha256']}.{base}"] = data
        return target

    def delegate(self, role, paths, parent="targets", terminating=False, count=1, threshold=1):
        """Delegate names that match `paths` to a new role, or to one that there is already."""
        above = self.roles[parent]
        if above.delegations is None:
            above.delegations = Delegations(keys={}, roles={})
        above.delegations.roles[role] = DelegatedRole(role, [], threshold, terminating, paths)
        if role not in self.roles:
            self.signers[role] = [CryptoSigner.generate_ed25519() for _ in range(count)]
            self.roles[role] = Targets(expires=days(300))
        for signer in self.signers[role]:
            above.add_key(signer.public_key, role)

    def issue(self, moment):
        """State when the next timestamp was issued; takes effect with `publish`."""
        text = moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.timestamp.unrecognized_fields["x-issued"] = text

    # forms

    def write_to(self, folder):
        """Put all files into an empty or older folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder

    def saved(self):
        """A copy of the files as they are now: what an attacker may replay."""
        return dict(self.files)


class TufServer:
    """Serves a repository over HTTP; `answers` overrides single files by name."""

    def __init__(self, repository):
        self.repository = repository
        self.answers = {}
        self.requests = []

    def app(self):
        app = web.Application()
        app.router.add_get("/metadata/{name:.+}", self._metadata)
        app.router.add_get("/targets/{name:.+}", self._target)
        return app

    async def _metadata(self, request):
        # the raw path: a role's name may hold an encoded slash
        name = request.rel_url.raw_path.removeprefix("/metadata/")
        self.requests.append(name)
        if answer := self.answers.get(name):
            return await answer(request)
        files = {quote(unquote(key), "%"): data for key, data in self.repository.files.items()}
        data = files.get(quote(unquote(name), "%"))
        return web.Response(body=data) if data is not None else web.Response(status=404)

    async def _target(self, request):
        name = request.match_info["name"]
        self.requests.append(name)
        data = self.repository.blobs.get(name)
        return web.Response(body=data) if data is not None else web.Response(status=404)


@contextmanager
def serving(repository):
    """A TufServer in a thread of its own, for clients that block; `url` ends in a slash."""
    server = TufServer(repository)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tuf-server")
    thread.start()

    def call(step):
        return asyncio.run_coroutine_threadsafe(step, loop).result(30)

    runner = web.AppRunner(server.app(), handler_cancellation=True, shutdown_timeout=0.1)
    call(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    call(site.start())
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/"
    try:
        yield server
    finally:
        call(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def tree(folder):
    """Every file below a folder with its bytes: two equal trees are the same state."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
