"""A Python that moves: an archive like those of python-build-standalone, from a root's own Python.

It lies below one folder, `python/`, and finds its library beside itself. Other than a real one it
takes its C libraries (OpenSSL, SQLite, …) from the system, as the roots of the tests have them.
"""

import platform
import shutil
import tarfile

TARGET = f"{platform.machine()}-unknown-linux-gnu-install_only.tar.gz"
_LEAVE = shutil.ignore_patterns("__pycache__", "test", "dist-packages")


def pack(root, version, folder):
    """The archive of the Python `version`, like 3.11, of the system in `root`; its path."""
    tree = folder / "python"
    (tree / "bin").mkdir(parents=True)
    shutil.copy2(root / f"usr/bin/python{version}", tree / "bin")
    shutil.copytree(root / f"usr/lib/python{version}", tree / f"lib/python{version}",
                    ignore=_LEAVE)  # fmt: skip
    archive = folder / f"cpython-{version}.0+1-{TARGET}"
    with tarfile.open(archive, "w:gz", compresslevel=1) as out:
        out.add(tree, "python")
    shutil.rmtree(tree)
    return archive


def take_away(box, *names):
    """Remove Pythons from the system of a box that was not booted yet."""
    for name in names:
        for path in box.root.glob(f"usr/bin/{name}*"):
            path.unlink()
        shutil.rmtree(box.root / f"usr/lib/{name}", ignore_errors=True)
