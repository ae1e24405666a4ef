"""`tools/wheelhouse`: everything that an installation of Hearth needs, in one folder with hashes.

Runs on a bare machine too (the installer calls it there), so it needs the standard library alone,
and pip.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.release import contents, llama, machines, seal, wheels
from tools.release.errors import ReleaseError
from tools.release.pip import Pip

ROOT = Path(__file__).resolve().parents[2]

_DESCRIPTION = """\
Make hearth-<version>-<arch>/: wheels of Hearth and of all it needs, with hashes, and the installer.
Run install.sh of that folder on any Debian or Ubuntu of the same architecture, without a network.
"""
_LLAMA = """\
By default llama.cpp is compiled for every processor of the architecture: one library per level of
instructions, of which a box loads the fastest that it can run. That takes 17 minutes of
processor time, once; the wheel is kept in ~/.cache/hearth/wheels.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; the exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        options = parse(arguments)
        with tempfile.TemporaryDirectory(prefix="hearth-wheelhouse-") as scratch:
            print(_make(options, Path(scratch)))
    except ReleaseError as error:
        print(f"wheelhouse: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="tools/wheelhouse", description=_DESCRIPTION, epilog=_LLAMA
    )
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR",
                        help="where the folder is made (default: dist)")  # fmt: skip
    parser.add_argument("--tar", action="store_true",
                        help="also write it as one file beside the folder")  # fmt: skip
    parser.add_argument("--arch", choices=machines.architectures(),
                        default=machines.architecture(),
                        help="of the machines that it is for (default: %(default)s)")  # fmt: skip
    llama_from = parser.add_mutually_exclusive_group()
    llama_from.add_argument("--native", action="store_true",
                            help="compile llama.cpp for this very processor only")  # fmt: skip
    llama_from.add_argument("--llama", type=Path, metavar="WHEEL",
                            help="take this wheel of llama-cpp-python")  # fmt: skip
    parser.add_argument("--python", action="append", metavar="3.X", dest="pythons", type=_python,
                        help="hold wheels for this Python; may be repeated (default:"
                        f" {' '.join(wheels.PYTHONS)}; with --native the one that runs this)"
                        )  # fmt: skip
    parser.add_argument("--interpreter", type=Path, metavar="FILE",
                        help="install this Python, a python-build-standalone archive"
                        " (install_only), and hold wheels for it alone: for systems whose own is"
                        " older than 3.11, like Ubuntu 22.04")  # fmt: skip
    parser.add_argument("--sign", type=Path, metavar="KEY",
                        help="sign with this Ed25519 private key (PEM), so that `hearth update`"
                        " takes it; make one: openssl genpkey -algorithm ed25519")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.native and options.arch != machines.architecture():
        parser.error(f"--native is for this machine, which is not {options.arch}")
    if options.interpreter and options.pythons:
        parser.error("--interpreter says which Python: leave --python out")
    return options


def _python(text: str) -> str:
    if not re.fullmatch(r"3\.\d{1,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no Python like 3.13")
    return text


def pythons_of(options: argparse.Namespace) -> list[str]:
    """Those that the wheels are for; raises ReleaseError."""
    if options.interpreter:
        machine = machines.machine_of(options.arch)
        return [wheels.python_of(options.interpreter, machine)]
    return options.pythons or ([wheels.running()] if options.native else [*wheels.PYTHONS])


def _make(options: argparse.Namespace, scratch: Path) -> Path:
    """Make everything under a scratch name and rename it; its path."""
    wanted = pythons_of(options)
    pip = Pip.find(scratch)
    project = contents.Project.read(ROOT)
    _say(f"building the wheel of hearth {project.version}")
    mine = wheels.build_hearth(ROOT, scratch, pip)
    _say("llama.cpp: " + llama.describe(options))
    engine = llama.wheel(options, project.llama, scratch, pip)
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"hearth-{project.version}-{options.arch}"
    machine = machines.machine_of(options.arch)
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=options.out))
    try:
        _say("collecting what they need")
        pythons = wheels.collect(building / "wheels", mine, engine, wanted, pip, machine)
        pip.fetch_itself(building / "bootstrap")
        if options.interpreter:
            wheels.add_interpreter(options.interpreter, building)
        contents.add_installer(ROOT, building)
        # Another machine's is always for the oldest processor, this one's only if it is portable.
        is_own = options.arch == machines.architecture()
        is_native = options.native or (is_own and not llama.is_portable(engine))
        contents.describe(building, project.version, pythons, is_native, engine, options.arch)
        seal.seal(building, options.sign)
        done = _replace(building, options.out / name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if options.tar:
        done = seal.tar(done, done.with_name(f"{name}.tar"))
    return done


def _replace(building: Path, target: Path) -> Path:
    building.chmod(0o755)
    if target.exists():
        shutil.rmtree(target)
    building.rename(target)
    return target


def _say(text: str) -> None:
    print(f"wheelhouse: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
