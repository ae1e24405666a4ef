"""Builds a release into a layout: the same request gives the same digests, on any machine.

Everything is made and checked before the layout is touched; its `index.json` names the release
last. What could differ between machines is left out: no time but SOURCE_DATE_EPOCH, no paths, no
names of parents.
"""

import datetime
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import msgspec

from appliance.bundles.layout import Layout
from appliance.bundles.release import INDEX_TYPE, Release, Variant
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, print_json
from appliance.errors import BadRequestError, LibraryError
from appliance.library.manifest import OCI_MANIFEST_TYPE, Digest, Layer
from tools.bundles.bases import Bases, LockFile
from tools.bundles.bundlefile import (
    BundleRequest,
    BundleTable,
    VariantTable,
    check_request,
    read_bundle_file,
)
from tools.bundles.extras import MadeExtras, make_extras
from tools.bundles.needs import describe
from tools.bundles.places import layout_root
from tools.bundles.workshop import Built, Workshop

UNNAMED = ""  # the only variant of a request that gave it no name: it is called by its quantization


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was built. `warnings` are for the publisher to read."""

    reference: str
    digest: Digest
    size: int
    release: Release
    warnings: tuple[str, ...] = ()


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

_LOCK = "bundle.lock"
_RANK_STEP = 10


@click.command("build")
@click.option(
    "-f",
    "--file",
    type=FILE,
    default=Path("Modelfile"),
    show_default=True,
    help="Build from this Modelfile or bundle.toml",
)
@click.option("--name", help="Name it so: namespace/model")
@click.option("--version", help="Give it this version; one version has one content, for ever")
@click.option(
    "--variant",
    "more",
    multiple=True,
    help="Add a variant NAME=MODELFILE, preferred to those before it where it fits",
)
@click.option("--smoke", type=FILE, help="Add these tests, which every box runs before it installs")
@click.option("--card", type=FILE, help="Add this model card, Markdown")
@click.option("--licenses", help="State the licences, as an SPDX expression")
@click.option("--notes", help="Say what is new, for people")
@click.option("--models", type=FOLDER, help="Look for FROM names in this models folder first")
@click.option("-o", "--output", type=FOLDER, required=True, help="Build into this layout")
@answers_json
def build_command(
    file: Path,
    more: tuple[str, ...],
    models: Path | None,
    output: Path,
    as_json: bool,
    **texts: str | Path | None,
) -> None:
    """Build a release: the manifests of its variants, their facts, and what goes with them

    The same input gives the same digests on any machine. The time is that of SOURCE_DATE_EPOCH, or
    left out.
    """
    table = _table(file, more, {key: text for key, text in texts.items() if text})
    folder = file.absolute().parent
    request = check_request(table, folder)
    created = created_from(os.environ)
    bases = Bases(LockFile(folder / _LOCK), models, say=_say)
    outcome = build(request, Layout.create(layout_root(output)), bases, created)
    for warning in outcome.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        print_json(body_of(outcome))
    else:
        click.echo(told(outcome), nl=False)


def build(request: BundleRequest, layout: Layout, bases: Bases, created: str = "") -> Outcome:
    """Make the release and put it into `layout`; `created` is RFC 3339 or empty.

    Raises BadRequestError or another ApplianceError, and then the layout names nothing new.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        workshop = Workshop(Path(folder), bases)
        made = [_make(name, table, request, workshop) for name, table in request.variants.items()]
        variants = [(variant, built.model) for variant, built in made]
        files = {digest: path for _, built in made for digest, path in built.files.items()}
        extras = make_extras(request, created, variants, files)
        release = _release(request, created, made, extras)
        index = release.encode()
        for digest, path in files.items():
            layout.put_file(path, digest)
        for _, built in made:
            layout.put_bytes(built.manifest)
        put_release(layout, request.reference, index, extras)
    warnings = dict.fromkeys(warning for _, built in made for warning in built.warnings)
    return Outcome(request.reference, Digest.of(index), len(index), release, tuple(warnings))


def put_release(layout: Layout, reference: str, index: bytes, extras: MadeExtras) -> None:
    """Store what a release has beside its variants, and name it; the variants are there already."""
    for document in (*extras.documents, extras.manifest):
        layout.put_bytes(document)
    digest = layout.put_bytes(index, INDEX_TYPE)
    layout.set_release(reference, digest, len(index))


def created_from(environ: Mapping[str, str]) -> str:
    """RFC 3339 of SOURCE_DATE_EPOCH (reproducible-builds.org), or empty; never the clock."""
    text = environ.get("SOURCE_DATE_EPOCH", "").strip()
    if not text:
        return ""
    if not (text.isascii() and text.isdigit() and len(text) <= 11):
        raise BadRequestError(f"SOURCE_DATE_EPOCH is {text[:40]!r}, not seconds since 1970")
    moment = datetime.datetime.fromtimestamp(int(text), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _make(
    name: str, table: VariantTable, request: BundleRequest, workshop: Workshop
) -> tuple[Variant, Built]:
    built = workshop.build(request.path(table.modelfile))
    variant = describe(name or "default", table, built.model, built.manifest)
    if name == UNNAMED and variant.quant:
        variant = replace(variant, name=variant.quant.lower())
    return variant, built


def _release(
    request: BundleRequest,
    created: str,
    made: Sequence[tuple[Variant, Built]],
    extras: MadeExtras,
) -> Release:
    table, manifest = request.table, extras.manifest
    release = Release(
        version=request.version,
        variants=tuple(variant for variant, _ in made),
        extras=Layer(OCI_MANIFEST_TYPE, Digest.of(manifest), len(manifest)),
        created=created,
        licenses=table.licenses,
        notes=table.notes,
        modelfile=made[0][1].modelfile,
        min_hearth=table.min_hearth,
        min_ollama=table.min_ollama,
    )
    try:
        Release.parse(release.encode())
    except LibraryError as error:
        raise BadRequestError(str(error)) from error
    return release


def _table(file: Path, more: Sequence[str], options: Mapping[str, str | Path]) -> BundleTable:
    """What is asked for: the file's words, and over them those of the command line."""
    is_bundle = file.suffix == ".toml"
    table = read_bundle_file(file) if is_bundle else BundleTable()
    for name, text in options.items():
        setattr(table, name, str(text.absolute()) if isinstance(text, Path) else text)
    if options.get("smoke"):
        table.smoke_tests = []
    variants = dict(table.variants)
    if not is_bundle:
        variants[UNNAMED] = VariantTable(str(file.absolute()), rank=_RANK_STEP)
    for text in more:
        name, equals, path = text.partition("=")
        if not equals or not name or name in variants:
            raise BadRequestError(f"--variant {text[:100]}: write NAME=MODELFILE, each name once")
        rank = max((variant.rank for variant in variants.values()), default=0) + _RANK_STEP
        variants[name] = VariantTable(str(Path(path).absolute()), rank=rank)
    return msgspec.structs.replace(table, variants=variants)


def told(outcome: Outcome) -> str:
    """A table of the variants under the line that says what was built."""
    rows = [
        [
            variant.name,
            variant.quant,
            str(variant.rank),
            variant.requires.accelerator,
            str(variant.requires.ram_mib),
            str(variant.requires.vram_mib),
            str(variant.requires.disk_mib),
            str(variant.digest)[:19],
        ]
        for variant in outcome.release.variants
    ]
    headers = ("VARIANT", "QUANT", "RANK", "ACCEL", "RAM MIB", "VRAM MIB", "DISK MIB", "DIGEST")
    return f"{outcome.reference} = {outcome.digest}\n{render_table(rows, headers)}"


def body_of(outcome: Outcome) -> dict[str, object]:
    """The outcome as JSON."""
    variants = [variant.descriptor() for variant in outcome.release.variants]
    return {
        "release": outcome.reference,
        "digest": str(outcome.digest),
        "size": outcome.size,
        "variants": variants,
    }


def _say(text: str) -> None:
    click.echo(text, err=True)
