"""Verbs about who may sign models for this box: trust list, show, add, remove, codes.

They work on the state folder itself and need no service: who may write there is its administrator.
A running service sees the change at its next pull, create or copy.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.client import Json
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, print_json
from appliance.errors import RegistryNotFoundError

if TYPE_CHECKING:
    from appliance.trust.repositories import Candidate, Repositories, Repository

DAY_S = 86_400
_FETCH_TIMEOUT_S = 20
_FIRST_ROOT = "1.root.json"


@click.group("trust")
def trust() -> None:
    """Say which repositories may sign models for this box"""


@trust.command("list")
@answers_json
def list_repositories(as_json: bool) -> None:
    """List the enrolled repositories and the names that they own"""
    repositories = _repositories()
    rows = [_summary(repositories, repository) for repository in repositories.all()]
    if as_json:
        print_json({"repositories": rows})
        return
    table = [[row["name"], " ".join(row["names"]), row["fingerprint"]] for row in rows]
    click.echo(render_table(table, ("NAME", "OWNS", "FINGERPRINT")), nl=False)


@trust.command("show")
@click.argument("name")
@answers_json
def show(name: str, as_json: bool) -> None:
    """Show a repository's root, what it has proven so far, and the clock"""
    repositories = _repositories()
    body = _summary(repositories, repositories.get(name))
    trusted = repositories.store(name).read()
    body |= {
        "versions": dict(trusted.versions),
        "expires": {role: _moment(when_s) for role, when_s in trusted.expires_s.items()},
        "issued": _moment(trusted.issued_s) if trusted.issued_s else None,
        "freshness": str(repositories.freshness(name)),
        "clock": {"state": trusted.clock.state, "now": _moment(trusted.clock.now_s)},
    }
    if as_json:
        print_json(body)
        return
    click.echo(render_table(_facts(body)), nl=False)
    if trusted.clock.cure:
        click.echo(trusted.clock.cure)


@trust.command("add")
@click.argument("name")
@click.argument("source")
@click.option(
    "--names", multiple=True, required=True, help="Let it own this pattern, like 'acme/*'"
)
@click.option("--fingerprint", help="Enrol without asking if the root has this fingerprint")
@click.option("--site", "is_site", is_flag=True, help="Make it the site's own: signed models only")
@click.option(
    "--content",
    multiple=True,
    metavar="ADDRESS",
    help="Get releases from this address: https://host/path or registry+https://host",
)
@click.option(
    "--freshness-days",
    type=click.IntRange(min=0),
    default=14,
    show_default=True,
    help="Refuse new installs when its newest word is older; 0 for a site without network",
)
def add(
    name: str,
    source: str,
    names: tuple[str, ...],
    fingerprint: str | None,
    is_site: bool,
    content: tuple[str, ...],
    freshness_days: int,
) -> None:
    """Enrol a repository after you compared its fingerprint

    SOURCE is the repository's http or https address, a stick or folder that holds it, or a
    root.json file. An address that holds /tuf/ lies in a published folder, and releases are had
    from there too.
    """
    from appliance.trust.repositories import Repository, read_root

    is_url = source.startswith(("http://", "https://"))
    repository = Repository(
        name,
        names,
        metadata_url=source if is_url else "",
        freshness_s=freshness_days * DAY_S,
        is_site=is_site,
        content=content,
    )
    candidate = read_root(_fetch(source) if is_url else _read(Path(source), name))
    confirmed = fingerprint or _confirmed(repository, candidate)
    _repositories().enrol(repository, candidate.root, confirmed)
    click.echo(f"{name} may now sign {' '.join(names)}")
    if is_site:
        click.echo(
            "Unless trust_mode says otherwise, this box now takes and serves signed models only;"
            " unsigned ones stay on the disk."
        )


@trust.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Skip the question")
def remove(name: str, yes: bool) -> None:
    """Forget a repository, its root and how new it was"""
    repositories = _repositories()
    if not yes:
        click.confirm(f"Forget {name}? Its models stay, but get no more updates", abort=True)
    repositories.remove(name)
    click.echo(f"{name} is no longer trusted")


@trust.command("codes")
@answers_json
def codes(as_json: bool) -> None:
    """Explain why something may be refused, and the cure"""
    from appliance.trust.errors import CURES

    if as_json:
        print_json({"codes": {code.value: cure for code, cure in CURES.items()}})
        return
    click.echo(render_table([[code, cure] for code, cure in CURES.items()], ("CODE", "CURE")))


def _repositories() -> Repositories:
    from appliance.config import load_settings
    from appliance.trust.repositories import Repositories

    # for a client HEARTH_HOST may be a URL, which `serve` could not listen on
    environ = {name: text for name, text in os.environ.items() if name != "HEARTH_HOST"}
    return Repositories(load_settings({}, environ, None).state / "trust")


def _summary(repositories: Repositories, repository: Repository) -> Json:
    return {
        "name": repository.name,
        "names": list(repository.names),
        "fingerprint": repositories.fingerprint(repository.name),
        "metadata_url": repository.metadata_url,
        "content": list(repository.addresses),
        "freshness_days": repository.freshness_s // DAY_S,
        "site": repository.is_site,
    }


def _facts(body: Json) -> list[list[str]]:
    roles = [
        ["", f"{role} version", f"{version}, expires {body['expires'][role]}"]
        for role, version in body["versions"].items()
    ]
    return [
        ["", "fingerprint", body["fingerprint"]],
        ["", "owns", " ".join(body["names"])],
        ["", "address", body["metadata_url"] or "none: by removable media"],
        ["", "releases", " ".join(body["content"]) or "none: by removable media"],
        ["", "newest word", f"{body['issued'] or 'it does not say'}, {_freshness(body)}"],
        ["", "clock", f"{body['clock']['state']}, {body['clock']['now']}"],
        *roles,
    ]


def _freshness(body: Json) -> str:
    """What its age means here."""
    days = body["freshness_days"]
    if not days:
        return "any age will do"
    word = body["freshness"]
    effect = "; no new installs until it speaks again" if word == "stale" else ""
    return f"{word} ({days} days allowed){effect}"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _read(path: Path, name: str) -> bytes:
    """A root from a file, or the first one of a folder: of metadata, of a published folder that
    has the repository's, or of a stick with one. Reading a stick is confined (bundles/)."""
    from appliance.bundles.confined import ConfinedFolder
    from appliance.bundles.medium import FOLDER
    from appliance.trust.repositories import MAX_ROOT_BYTES

    if not path.is_dir():
        with path.open("rb") as file:
            return file.read(MAX_ROOT_BYTES + 1)
    folder, below = ConfinedFolder(path.resolve()), f"tuf/{name}/metadata/"
    for place in ("", below, f"{FOLDER}/{below}"):
        if folder.has(f"{place}{_FIRST_ROOT}"):
            return folder.read(f"{place}{_FIRST_ROOT}", MAX_ROOT_BYTES)
    raise RegistryNotFoundError(
        f"{path} has no root of {name}: neither {_FIRST_ROOT} nor {below}{_FIRST_ROOT}",
        hint="NAME must be what the publisher calls the repository, as in the folder `tuf`",
    )


def _fetch(url: str) -> bytes:
    """The first root of a repository at an http or https address."""
    from urllib.request import urlopen

    from appliance.trust.repositories import MAX_ROOT_BYTES

    first = f"{url.rstrip('/')}/{_FIRST_ROOT}"
    with urlopen(first, timeout=_FETCH_TIMEOUT_S) as answer:  # noqa: S310 - http or https
        data: bytes = answer.read(MAX_ROOT_BYTES + 1)
    return data


def _confirmed(repository: Repository, candidate: Candidate) -> str:
    """Show what was found, and let a person prove that they looked at the publisher's print."""
    click.echo(
        f"{repository.name} would sign {' '.join(repository.names)} for this box.\n"
        f"Its root is version {candidate.version}, {candidate.threshold} of {candidate.keys} keys, "
        f"until {candidate.expires}.\n\n"
        f"    {candidate.masked}\n\n"
        "Compare with the fingerprint that the publisher printed; if it is the same so far, type "
        "its last five digits.",
        err=True,
    )
    typed: str = click.prompt("Last five digits", err=True)
    return candidate.masked.rstrip(".") + typed
