"""What lies beside the wheels: the installer, the units, the list of requirements, the facts."""

import hashlib
import shutil
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.release import llama
from tools.release.machines import architecture
from tools.release.wheels import name_and_version

FACTS = "RELEASE"  # lines of name=value, read by the installer and by `hearth update`


@dataclass(frozen=True, slots=True)
class Project:
    """What pyproject.toml says: Hearth's version, and which llama-cpp-python it is made for."""

    version: str
    llama: str

    @classmethod
    def read(cls, root: Path) -> "Project":
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        extra = project["optional-dependencies"]["llama"]
        (pinned,) = [line for line in extra if line.startswith("llama-cpp-python==")]
        return cls(project["version"], pinned)


def add_installer(root: Path, building: Path) -> None:
    """Copy install.sh, its parts and the units."""
    shutil.copy2(root / "tools/install.sh", building)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "tools/install", building / "install", ignore=ignore)
    shutil.copytree(root / "systemd", building / "systemd")


def describe(
    building: Path,
    version: str,
    pythons: Sequence[str],
    is_native: bool,
    engine: Path,
    arch: str | None = None,
) -> None:
    """Write requirements.txt and RELEASE; `arch` is this machine's unless given."""
    hashes = defaultdict(list)
    for wheel in sorted((building / "wheels").glob("*.whl")):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        hashes[name_and_version(wheel)].append(f"--hash=sha256:{digest}")
    lines = [
        " \\\n    ".join([f"{name}=={number}", *hashes[name, number]])
        for name, number in sorted(hashes)
    ]
    (building / "requirements.txt").write_text("\n".join([*lines, ""]))
    facts = {
        "version": version,
        "arch": arch or architecture(),
        "python": " ".join(pythons),
        "glibc": llama.newest_glibc(engine),
        "cpu": "native" if is_native else "any",
    }
    (building / FACTS).write_text("".join(f"{name}={text}\n" for name, text in facts.items()))
