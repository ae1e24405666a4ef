"""What a publisher asks to be built: `bundle.toml`, or a Modelfile with the same words as options.

    name = "acme/assistant"
    version = "1.2.0"
    licenses = "Apache-2.0"            # SPDX expression
    notes = "Answers shorter."
    card = "CARD.md"
    smoke = "smoke.json"               # or [[smoke-tests]] tables in this file

    [variants.q4_k_m]                  # the first one is what stock Ollama clients get
    modelfile = "Modelfile"
    rank = 10
    [variants.q8_0]
    modelfile = "Modelfile.q8_0"
    rank = 20
    requires.accel = "cuda>=8.7"       # what is not said of requires is computed
    requires.ram-mib = 9000

Paths are relative to the file. Knows no models: `build.py` reads what the paths name.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from appliance.bundles.release import Requires
from appliance.errors import BadRequestError, ModelNameError
from appliance.library.names import DEFAULT_HOST, ModelName

MAX_FILE_BYTES = 1 << 20

_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}/[a-z0-9][a-z0-9_.-]{0,79}")
_VERSION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
MOVING_TAGS = ("latest", "stable")


class RequiresTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """Hard requirements; None: computed from the model."""

    arch: str = "any"
    accel: str = "cpu"
    ram_mib: int | None = None
    vram_mib: int | None = None


class VariantTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """One variant. `context`, in tokens, and `quant` are the model's where nothing is said."""

    modelfile: str
    rank: int = 0
    engine: str = ""
    context: int = 0
    quant: str = ""
    requires: RequiresTable = msgspec.field(default_factory=RequiresTable)


class BundleTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """The whole of bundle.toml. An option of the command line goes before what the file says."""

    name: str = ""
    version: str = ""
    licenses: str = ""
    notes: str = ""
    min_hearth: str = ""
    min_ollama: str = ""
    card: str = ""
    smoke: str = ""
    smoke_tests: list[dict[str, Any]] = []
    min_tokens_per_s: float = 0.0
    variants: dict[str, VariantTable] = {}


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """What to build, checked. Relative paths in `table` start from `folder`."""

    repository: str  # namespace/model, lower case
    version: str
    table: BundleTable
    folder: Path
    variants: Mapping[str, VariantTable] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def reference(self) -> str:
        """`acme/assistant:1.2.0`."""
        return f"{self.repository}:{self.version}"

    def path(self, text: str) -> Path:
        return self.folder / text


def read_bundle_file(path: Path) -> BundleTable:
    """`bundle.toml`; raises BadRequestError naming what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadRequestError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadRequestError(f"{path} has {len(data)} bytes, {MAX_FILE_BYTES} are allowed")
    try:
        return msgspec.convert(tomllib.loads(data.decode()), BundleTable)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(
            f"{path} cannot be used: {error}", hint="tools/bundles/README.md has an example"
        ) from error


def check_request(table: BundleTable, folder: Path) -> BundleRequest:
    """Raises BadRequestError for a name, version or set of variants that cannot be released."""
    repository = check_repository(table.name)
    if not _VERSION.fullmatch(table.version) or table.version in MOVING_TAGS:
        raise BadRequestError(
            f"{table.version[:80]!r} is not a version",
            hint="lower-case letters, digits, '.', '_' and '-'; not latest or stable, which move",
        )
    if not table.variants:
        raise BadRequestError("no variant is described", hint="give a Modelfile with -f")
    names = [name.lower() for name in table.variants]
    if len(set(names)) < len(names):
        raise BadRequestError("two variants have the same name", hint="case does not tell apart")
    for name, variant in table.variants.items():
        _check_variant(name, variant)
    return BundleRequest(
        repository, table.version, table, folder, MappingProxyType(dict(table.variants))
    )


def check_repository(name: str) -> str:
    """`name` if it is namespace/model in lower case; raises ModelNameError."""
    if not _REPOSITORY.fullmatch(name):
        raise ModelNameError(
            f"{name[:100]!r} is not the name of a bundle",
            hint="write namespace/model in lower case, without host and tag: acme/assistant",
        )
    ModelName.parse(f"{DEFAULT_HOST}/{name}:latest")
    return name


def parse_reference(text: str) -> tuple[str, str]:
    """`acme/assistant:1.2.0` as repository and tag; raises ModelNameError."""
    repository, colon, tag = text.rpartition(":")
    if not colon or not _VERSION.fullmatch(tag):
        raise ModelNameError(
            f"{text[:100]!r} does not name a release", hint="write namespace/model:version"
        )
    return check_repository(repository), tag


def _check_variant(name: str, variant: VariantTable) -> None:
    wants = variant.requires
    for what, number in (
        ("rank", variant.rank),
        ("context", variant.context),
        ("requires.ram-mib", wants.ram_mib or 0),
        ("requires.vram-mib", wants.vram_mib or 0),
    ):
        if not 0 <= number < 10**9:
            raise BadRequestError(f"variant {name}: {what} is {number}; it must be 0 or more")
    if name and not _VERSION.fullmatch(name.lower()):
        raise BadRequestError(
            f"a variant is called {name[:80]!r}", hint="use letters, digits, '.', '_' and '-'"
        )
    Requires(arch=wants.arch, accelerator=wants.accel).check()
