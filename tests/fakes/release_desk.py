"""A publisher's desk for tests: keys, a repository of signatures, and releases built into a layout.

Everything is real but the passphrases: keys live in memory.
"""

from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from appliance.bundles.layout import Layout
from tools.bundles import changes
from tools.bundles.bases import Bases, LockFile
from tools.bundles.build import build
from tools.bundles.bundlefile import BundleTable, VariantTable, check_request
from tools.bundles.places import LayoutPlace
from tools.bundles.publish import publish_to
from tools.bundles.repository import RepositoryFolder
from tools.bundles.sign import sign_release
from tools.bundles.signing import add_signature, waiting
from tools.bundles.verify import verify_layout

REPOSITORY = "acme"
SMOKE = [{"name": "speaks", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}]


@dataclass
class Desk:
    """`folder` holds everything; `layout` the releases, and `repo` what is signed about them."""

    folder: Path
    officer: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    online: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    publisher: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)

    def __post_init__(self):
        self.layout = Layout.create(self.folder / "layout")
        self.repo = RepositoryFolder(self.layout.metadata_folder(REPOSITORY))

    @property
    def root(self):
        """The first root, which boxes are enrolled with."""
        return (self.repo.metadata / "1.root.json").read_bytes()

    def open(self, *patterns):
        """Make the first state, in which the publisher may list `patterns`."""
        changes.initialise(self.repo, [self.officer.public_key], 1, self.online.public_key)
        changes.add_publisher(
            self.repo, "acme", patterns or ["acme/*/*"], [self.publisher.public_key], 1
        )
        for role in ("root", "targets"):
            wait = waiting(self.repo, role, self.repo.drafts()[role])
            add_signature(self.repo, wait, self.officer)
        return self

    def build(self, gguf, version="1.2.0", name="acme/assistant", system="", **table):
        """A release with one variant on the file `gguf`."""
        modelfile = self.folder / f"Modelfile-{version}"
        text = f"FROM {gguf}\nLICENSE Apache-2.0\n"
        modelfile.write_text(text + (f'SYSTEM """{system}"""\n' if system else ""))
        table = {"smoke_tests": SMOKE, "licenses": "Apache-2.0", **table}
        variants = {"small": VariantTable(str(modelfile), rank=10)}
        asked = BundleTable(name=name, version=version, variants=variants, **table)
        bases = Bases(LockFile(self.folder / "bundle.lock"), cache=self.folder / "cache")
        return build(check_request(asked, self.folder), self.layout, bases)

    def sign(self, reference="acme/assistant:1.2.0", *tags):
        """List a release and make it the newest state."""
        signed = sign_release(self.layout, reference, tags, self.repo, [self.publisher])
        self.repo.publish(self.online)
        return signed

    def release(self, gguf, version="1.2.0", *tags, **more):
        """Build, sign."""
        outcome = self.build(gguf, version, **more)
        self.sign(outcome.reference, *tags)
        return outcome


async def publish(desk, place):
    """Bring what the desk signed to a place."""
    return await publish_to(LayoutPlace(desk.layout), desk.repo, REPOSITORY, place, lambda _: None)


def fatal(layout, root):
    """What a box with this root would refuse in a folder."""
    return [finding for finding in verify_layout(layout, root) if finding.is_fatal]
