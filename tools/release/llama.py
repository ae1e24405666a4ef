"""The wheel of llama-cpp-python: compiled for every processor of the architecture, or for this one;
for another architecture by Debian's cross compiler, for its oldest processor.

`-march=native`, which pip's own build uses, ends with "illegal instruction" on another box. The
portable build has one library per level of instructions (GGML_CPU_ALL_VARIANTS), and llama.cpp
loads the best that the processor runs (engine/llama/native.py asks it to). Both builds need
libgomp, which a minimal Debian lacks, so it travels in the wheel.
"""

import argparse
import base64
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tools.release import machines
from tools.release.errors import ReleaseError
from tools.release.pip import Pip

_LIBRARIES = "llama_cpp/lib"
_PORTABLE = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    f"-DCMAKE_INSTALL_BINDIR={_LIBRARIES}",  # where llama.cpp installs libraries that it loads late
    f"-DCMAKE_INSTALL_LIBDIR={_LIBRARIES}",
    "-DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
)
_FOREIGN = ("-DGGML_NATIVE=OFF", "-DGGML_CPU_ARM_ARCH=armv8-a")
_TOOLCHAINS = Path(__file__).parent
_GOMP = "libgomp.so.1"


def describe(options: argparse.Namespace) -> str:
    """What will be done, for the person who waits."""
    if options.llama:
        return f"from {options.llama}"
    if options.native:
        return "for this processor (minutes, unless pip has it in its cache)"
    if options.arch != machines.architecture():
        return f"for the oldest {options.arch} (minutes, unless it is in the cache)"
    return "for every processor (minutes, unless it is in the cache)"


def wheel(options: argparse.Namespace, requirement: str, scratch: Path, pip: Pip) -> Path:
    """The wheel that the options ask for, complete; raises ReleaseError."""
    out = scratch / "llama"
    if options.llama:
        if not options.llama.is_file():
            raise ReleaseError(f"{options.llama} is not there")
        made = options.llama
    elif options.native:
        pip.run("wheel", "--no-deps", "-w", out, requirement)
        (made,) = out.glob("llama_cpp_python-*.whl")
    elif options.arch == machines.architecture():
        made = _kept(requirement, _PORTABLE, out, pip)
    else:
        made = _crossed(requirement, options.arch, out, pip)
    return _completed(made, scratch, _compiler(options.arch))


def is_portable(made: Path) -> bool:
    """Whether the wheel has a library for each level of instructions."""
    with zipfile.ZipFile(made) as archive:
        return any("/libggml-cpu-" in name for name in archive.namelist())


def newest_glibc(made: Path) -> str:
    """The newest version of glibc that the compiled code asks for, like 2.34."""
    with zipfile.ZipFile(made) as archive:
        found = {
            int(minor)
            for name in archive.namelist()
            if ".so" in name
            for minor in re.findall(rb"GLIBC_2\.(\d+)", archive.read(name))
        }
    return f"2.{max(found, default=17)}"


def _crossed(requirement: str, arch: str, out: Path, pip: Pip) -> Path:
    machine = machines.machine_of(arch)
    toolchain = _TOOLCHAINS / f"cross-{machine}.cmake"
    if not toolchain.exists():
        raise ReleaseError(f"wheels for {arch} are made on {arch}: run this there")
    if shutil.which(_compiler(arch)) is None:
        raise ReleaseError(f"no cross compiler: sudo apt-get install g++-{machine}-linux-gnu")
    flags = (*_FOREIGN, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
    return _kept(requirement, flags, out, pip, {"_PYTHON_HOST_PLATFORM": f"linux-{machine}"})


def _compiler(arch: str) -> str:
    is_own = arch == machines.architecture()
    return "cc" if is_own else f"{machines.machine_of(arch)}-linux-gnu-g++"


def _kept(
    requirement: str,
    flags: tuple[str, ...],
    out: Path,
    pip: Pip,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Built once for a version and a set of flags, kept in the user's cache."""
    # Wherever this tree lies, it is the same wheel.
    wanted = " ".join((requirement, *flags)).replace(f"{_TOOLCHAINS}/", "").encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth/wheels"
    kept = cache / hashlib.sha256(wanted).hexdigest()[:16]
    if not kept.is_dir():
        environ = {**os.environ, **more, "CMAKE_ARGS": " ".join(flags)}
        pip.run("wheel", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python",
                "-w", out, requirement, environ=environ)  # fmt: skip
        cache.mkdir(parents=True, exist_ok=True)
        half = cache / f"{kept.name}.{os.getpid()}"
        shutil.copytree(out, half)
        half.rename(kept)
    (made,) = kept.glob("llama_cpp_python-*.whl")
    return made


def _completed(made: Path, scratch: Path, compiler: str) -> Path:
    """The same wheel with libgomp, and without the second copies and headers that pip's build
    leaves beside the package."""
    done = scratch / made.name
    gomp = Path(_gomp(compiler)).read_bytes()
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(done, "w", zipfile.ZIP_DEFLATED) as new:
        record = []
        for info in old.infolist():
            if not re.match(r"llama_cpp/(?!include/)|[^/]+\.dist-info/", info.filename):
                continue
            if info.filename.endswith(("/RECORD", f"/{_GOMP}")) or info.is_dir():
                continue
            data = old.read(info)
            new.writestr(info, data, zipfile.ZIP_DEFLATED)
            record.append(_record_line(info.filename, data))
            if info.filename.endswith("/METADATA"):
                home = info.filename.partition("/")[0]
        name = f"{_LIBRARIES}/{_GOMP}"
        new.writestr(zipfile.ZipInfo(name), gomp, zipfile.ZIP_DEFLATED)
        record += [_record_line(name, gomp), f"{home}/RECORD,,"]
        new.writestr(zipfile.ZipInfo(f"{home}/RECORD"), "\n".join([*record, ""]))
    return done


def _record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def _gomp(compiler: str) -> str:
    """The compiler's OpenMP library; raises ReleaseError."""
    try:
        asked = subprocess.run(
            [compiler, f"-print-file-name={_GOMP}"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        asked = ""
    if not Path(asked).is_file():
        raise ReleaseError("a C compiler is missing: sudo apt-get install build-essential cmake")
    return asked
