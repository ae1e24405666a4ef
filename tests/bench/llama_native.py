"""llama.cpp's own tools, built once from the source package of llama-cpp-python.

The peers of the single-stream benchmark must be the same code as the engine's library, compiled
the same way: so the version is that of the installed llama-cpp-python, and CMake is configured as
its build configures it (Release, shared libraries, everything else at llama.cpp's defaults, which
includes GGML_NATIVE and OpenMP). Needs cmake, a C++ compiler and a package index; takes several
minutes the first time and nothing after that.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from shapes import default_folder

DISTRIBUTION = "llama-cpp-python"
TOOLS = ("llama-bench", "llama-server")
CONFIGURE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    # What follows only leaves out programs and dependencies that no measurement touches.
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


@dataclass(frozen=True, slots=True)
class NativeTools:
    bench: Path
    server: Path
    version: str  # of llama-cpp-python, whose source they are


def ensure(folder: Path, jobs: int = 2) -> NativeTools:
    """The tools built under `folder`, built first if they are missing.

    An interrupted build continues where it stopped. Raises SystemExit with the reason when
    something the build needs is missing, and CalledProcessError when a step fails.
    """
    version = importlib.metadata.version(DISTRIBUTION)
    home = folder / f"native-{version}"
    programs = [home / "build" / "bin" / tool for tool in TOOLS]
    if not all(program.exists() for program in programs):
        if shutil.which("cmake") is None:
            raise SystemExit("building llama-bench needs cmake and a C++ compiler; install them")
        _build(_source(home, version), home / "build", jobs)
    bench, server = programs
    return NativeTools(bench, server, version)


def _source(home: Path, version: str) -> Path:
    """The folder vendor/llama.cpp of the source package, downloaded and unpacked if missing."""
    source = home / "llama.cpp"
    if source.exists():
        return source
    home.mkdir(parents=True, exist_ok=True)
    download = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", DISTRIBUTION)
    subprocess.run((*download, "--dest", home, f"{DISTRIBUTION}=={version}"), check=True)
    archive = next(home.glob("llama_cpp_python-*.tar.gz"))
    root = archive.name.removesuffix(".tar.gz")
    unpacked = home / "unpacked"
    with tarfile.open(archive) as package:
        package.extractall(unpacked, members=_vendored(package, root), filter="data")
    (unpacked / root / "vendor" / "llama.cpp").rename(source)
    shutil.rmtree(unpacked)
    archive.unlink()
    return source


def _vendored(package: tarfile.TarFile, root: str) -> list[tarfile.TarInfo]:
    return [m for m in package.getmembers() if m.name.startswith(f"{root}/vendor/llama.cpp/")]


def _build(source: Path, build: Path, jobs: int) -> None:
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    subprocess.run(("cmake", *generator, "-S", source, "-B", build, *CONFIGURE), check=True)
    compile_tools = ("cmake", "--build", build, "--parallel", str(jobs), "--target", *TOOLS)
    subprocess.run(compile_tools, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build llama-bench and llama-server")
    parser.add_argument("--models", type=Path, default=default_folder())
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    tools = ensure(options.models, options.jobs)
    print(tools.bench, tools.server, sep="\n")


if __name__ == "__main__":
    main()
