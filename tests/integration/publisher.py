"""A shop that publishes: three officers, an online key, a publisher; and boxes that follow it."""

import datetime
import time
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from appliance.trust.clock import ClockReading
from appliance.trust.errors import TrustError
from appliance.trust.fetch import FolderReader, Source
from appliance.trust.repositories import Repositories, Repository, read_root
from appliance.trust.statefolder import Disk
from tools.bundles import changes
from tools.bundles.repository import RepositoryFolder
from tools.bundles.signing import add_signature, waiting

OFFICERS = ("alice", "bob", "carol")
NAME = "acme/assistant/1.2.0"
DAY = datetime.timedelta(days=1)


def a_key(owner):
    """A key in memory that bears a name."""
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.unrecognized_fields["x-owner"] = owner
    return signer


class Shop:
    """`keys` by name; an officer has one for root, `alice`, and one for targets."""

    def __init__(self, folder, disk=None):
        self.folder = RepositoryFolder(Path(folder) / "tuf/shop/metadata", disk=disk)
        self.keys = {name: a_key(name) for name in (*OFFICERS, "online", "acme")}
        self.keys |= {f"{name}-targets": a_key(name) for name in OFFICERS}

    @property
    def metadata(self):
        return self.folder.metadata

    def public(self, *names):
        return [self.keys[name].public_key for name in names]

    def add_key(self, name):
        self.keys[name] = a_key(name.partition("-")[0])
        return self.keys[name].public_key

    def sign(self, role, *names):
        """Each signs the draft in turn, as on another machine."""
        for name in names:
            draft = self.folder.drafts()[role]
            add_signature(self.folder, waiting(self.folder, role, draft), self.keys[name])

    def publish(self, online="online", former=(), **options):
        formers = [self.keys[name] for name in former]
        return self.folder.publish(self.keys[online], former=formers, **options)

    def release(self, name=NAME, data=b"one", publisher="acme"):
        """List and publish one release."""
        self.folder.add_target(publisher, name, data, [self.keys[publisher]])
        return self.publish()


def founded(folder):
    """A shop with a first state published, one release in it."""
    shop = Shop(folder)
    targets_officers = shop.public(*(f"{name}-targets" for name in OFFICERS))
    changes.initialise(
        shop.folder, shop.public(*OFFICERS), 2, shop.keys["online"].public_key, targets_officers
    )
    changes.add_publisher(shop.folder, "acme", ["acme/*/*"], shop.public("acme"))
    shop.sign("root", "alice", "bob")
    shop.sign("targets", "bob-targets", "carol-targets")
    shop.sign("acme", "acme")
    shop.release()
    return shop


class Client:
    """A box that reads the shop's folder; all trust it has is below `folder`."""

    def __init__(self, folder, metadata):
        self.metadata = metadata
        self.clock = ClockReading(int(time.time()), is_synced=True)
        repositories = Repositories(folder, lambda: self.clock)
        root = (metadata / "1.root.json").read_bytes()
        names = ("acme/*", "lab/*")
        repositories.enrol(Repository("shop", names), root, read_root(root).fingerprint)
        self.store = repositories.store("shop")

    def refresh(self, *wanted):
        """Like over a network: what was verified before an error is kept."""
        source = Source(FolderReader(self.metadata), "folder:/", is_removable=False)
        return self.store.refresh(source, wanted)

    def refused(self, *wanted):
        with pytest.raises(TrustError) as caught:
            self.refresh(*wanted)
        return caught.value.code

    def versions(self):
        return dict(self.store.read().versions)


class PowerCut(BaseException):
    """The machine is off: nothing may catch this."""


class DyingDisk(Disk):
    """Works until so many renames have been made."""

    def __init__(self, renames):
        self.left = renames

    def rename(self, old, new):
        if self.left == 0:
            raise PowerCut
        self.left -= 1
        super().rename(old, new)


def tampered(path, change):
    """Change the signed part of a metadata file, without a signature for it."""
    metadata = Metadata.from_file(str(path))
    change(metadata.signed)
    metadata.to_file(str(path))
