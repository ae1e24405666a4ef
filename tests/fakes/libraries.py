"""A library on disk with real tiny models in it, made through the public functions."""

from pathlib import Path
from typing import Any

from appliance.library.create import CreateRequest, create
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from tests.fakes.gguf_builder import tiny_llama_gguf


def add_file(library: Library, path: Path) -> Digest:
    """Upload the file at `path`, as a client does before it creates."""
    return library.blobs.put_file(path)[0]


def add_model(library: Library, folder: Path, name: str = "tiny", **request: Any) -> list[str]:
    """Create `name` from a tiny llama model; returns the status lines."""
    gguf = folder / "tiny.gguf"
    if not gguf.exists():
        tiny_llama_gguf(gguf)
    digest = str(add_file(library, gguf))
    return run_create(library, name, files={"tiny.gguf": digest}, **request)


def run_create(library: Library, name: str, **request: Any) -> list[str]:
    """Drive `create` to its end; returns the status lines."""
    wish = CreateRequest(name=ModelName.parse(name), **request)
    return [progress.status for progress in create(library, wish)]
