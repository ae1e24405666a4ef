"""`bundle adopt`: a public model that boxes already have becomes a signed release of one's own.

The manifest is taken byte for byte, so its digest is the one that boxes locked at their first pull:
they download an index and smoke tests, no weights. `--with-blobs` puts the blobs beside it too, for
boxes that lack them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import click
import msgspec

from appliance.bundles.layout import Layout
from appliance.bundles.release import Release
from appliance.cli.verb import answers_json, print_json
from appliance.errors import BadRequestError, ConfigError, ModelNotFoundError
from appliance.library.library import Library
from appliance.library.manifest import MANIFEST_TYPE, OCI_MANIFEST_TYPE, Digest, Layer
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.trust.locks import Locks
from tools.bundles.build import (
    FILE,
    FOLDER,
    UNNAMED,
    Outcome,
    body_of,
    created_from,
    put_release,
    told,
)
from tools.bundles.bundlefile import BundleRequest, BundleTable, VariantTable, check_request
from tools.bundles.contents import ADOPTED
from tools.bundles.extras import make_extras
from tools.bundles.needs import describe
from tools.bundles.places import layout_root

_LOCKS = "lock.json"


@dataclass(frozen=True, slots=True)
class Adopted:
    """An installed model, and its manifest's own bytes."""

    model: StoredModel
    manifest: bytes
    library: Library


@click.command("adopt")
@click.argument("model")
@click.option("--as", "name", required=True, help="Name it so: namespace/model")
@click.option("--version", required=True, help="Give it this version")
@click.option(
    "--models", type=FOLDER, required=True, help="Take it from this models folder of a box"
)
@click.option("--smoke", type=FILE, help="Add these tests, which every box runs before it installs")
@click.option("--card", type=FILE, help="Add this model card, Markdown")
@click.option("--licenses", help="State the licences, as an SPDX expression")
@click.option("--notes", help="Say what is new, for people")
@click.option("--ram-mib", type=click.IntRange(0), help="Require this; else it is computed")
@click.option("--accel", default="cpu", show_default=True, help="Require it, such as cuda>=8.7")
@click.option("--with-blobs", is_flag=True, help="Copy the weights too, for boxes that lack them")
@click.option("-o", "--output", type=FOLDER, required=True, help="Build into this layout")
@answers_json
def adopt(
    model: str,
    models: Path,
    ram_mib: int | None,
    accel: str,
    with_blobs: bool,
    output: Path,
    as_json: bool,
    **texts: str | Path | None,
) -> None:
    """Make a release of MODEL, which boxes have installed, to be signed as one's own

    Boxes that hold its blobs download nothing but the release's few documents.
    """
    adopted = find_adopted(models, model)
    table = BundleTable()
    for key, text in texts.items():
        if text:
            setattr(table, key, str(text.absolute()) if isinstance(text, Path) else text)
    variant = VariantTable("", rank=10)
    variant.requires = msgspec.structs.replace(variant.requires, accel=accel, ram_mib=ram_mib)
    request = check_request(msgspec.structs.replace(table, variants={UNNAMED: variant}), Path.cwd())
    layout = Layout.create(layout_root(output))
    outcome = adopt_model(
        adopted, request, layout, created=created_from(os.environ), with_blobs=with_blobs
    )
    if as_json:
        print_json(body_of(outcome))
    else:
        click.echo(told(outcome), nl=False)


def find_adopted(models: Path, text: str) -> Adopted:
    """The installed model; raises ModelNotFoundError, and ConfigError if it is not what the box
    beside the folder locked at its first pull."""
    library, name = Library(models), ModelName.parse(text)
    try:
        data = library.read_manifest(name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{name} is not in {models}", hint="give the models folder of a box that pulled it"
        ) from error
    lock = Locks(models.parent / _LOCKS).get(name)
    if lock is not None and Digest.parse(lock.digest) != Digest.of(data):
        raise ConfigError(
            f"{name} is {Digest.of(data)} there, but the box locked {lock.digest}",
            hint="find out who changed it before you sign it",
        )
    return Adopted(library.get(name), data, library)


def adopt_model(
    adopted: Adopted,
    request: BundleRequest,
    layout: Layout,
    *,
    created: str = "",
    with_blobs: bool = False,
) -> Outcome:
    """Put the release into `layout`; no blob of the model moves unless asked for."""
    model, manifest = adopted.model, adopted.manifest
    _require_docker_type(manifest, model.name)
    [(name, table)] = request.variants.items()
    variant = describe(name or "default", table, model, manifest)
    if name == UNNAMED:
        variant = replace(variant, name=variant.quant.lower() or "default")
    files = {digest: adopted.library.blobs.path(digest) for digest in model.manifest.digests}
    extras = make_extras(request, created, [(variant, model)], files)
    release = Release(
        version=request.version,
        variants=(variant,),
        extras=Layer(OCI_MANIFEST_TYPE, Digest.of(extras.manifest), len(extras.manifest)),
        created=created,
        licenses=request.table.licenses,
        notes=request.table.notes,
        more=_origin(model.name),
    )
    index = release.encode()
    if with_blobs:
        for digest, path in files.items():
            layout.put_file(path, digest)
    layout.put_bytes(manifest, MANIFEST_TYPE)
    put_release(layout, request.reference, index, extras)
    return Outcome(request.reference, Digest.of(index), len(index), release)


def _origin(name: ModelName) -> Mapping[str, str]:
    return MappingProxyType({ADOPTED: name.full})


def _require_docker_type(manifest: bytes, name: ModelName) -> None:
    """An index names variants by Ollama's type; a re-encoded one would not be what boxes locked."""
    kind = msgspec.json.decode(manifest, type=dict[str, object]).get("mediaType", MANIFEST_TYPE)
    if kind != MANIFEST_TYPE:
        raise BadRequestError(
            f"the manifest of {name} is of type {str(kind)[:80]!r}, not {MANIFEST_TYPE}",
            hint=f"build a bundle of one's own on it instead: FROM {name}",
        )
