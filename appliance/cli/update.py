"""The verb update: another release of Hearth itself, for root; the installer does the change.

Layout of what is installed: tools/install.sh. The service cannot write there and has no part in
this but one: what it, or a person, puts into `updates` of the state folder is taken up by
`hearth-update.service`, which runs this verb with `--unattended`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from appliance import last_update
from appliance.cli.client import Json
from appliance.cli.table import render_table
from appliance.cli.verb import answers_json, print_json
from appliance.config import load_settings
from appliance.last_update import LastUpdate, Result
from appliance.releases import ReleaseError, is_newer, open_source, read_release

HOME = Path("/opt/hearth")
KEYS = Path("/etc/hearth/release.pub")
INBOX = "updates"  # in the state folder


@click.command("update")
@click.argument("place", required=False, metavar="[FOLDER|TAR|URL]")
@click.option("--check", "only_checks", is_flag=True, help="Verify it and tell, change nothing")
@click.option("--rollback", is_flag=True, help="Go back to the release before")
@click.option("--list", "lists", is_flag=True, help="List the installed releases")
@click.option(
    "--unattended", is_flag=True, help="Take what was put into the updates folder or is offered"
)
@answers_json
@click.pass_context
def update(
    context: click.Context,
    place: str | None,
    only_checks: bool,
    rollback: bool,
    lists: bool,
    unattended: bool,
    as_json: bool,
) -> None:
    """Install another release of Hearth itself, or go back

    Needs root. A release that does not answer within two minutes is taken back by itself. Without a
    place, the setting `update_from` says where to look.
    """
    if sum((place is not None, rollback, lists, unattended)) > 1:
        raise click.UsageError("give a place, --rollback, --list or --unattended, only one of them")
    if lists:
        _list(as_json)
        return
    _require_installed()
    if rollback:
        _require_root()
        context.exit(_run(HOME / "current/install.sh", "--rollback"))
    if unattended:
        _require_root()
        context.exit(_take_unattended())
    place = place or load_settings().update_from
    if not place:
        raise click.UsageError("say where the release is: a folder, a .tar or a web address")
    if only_checks:
        offer = _check(place)
        print_json(offer.as_json()) if as_json else click.echo(offer.words)
        return
    _require_root()
    context.exit(_take(place))


@dataclass(frozen=True, slots=True)
class Offer:
    """A verified release beside the one that runs."""

    version: str
    current: str

    @property
    def is_newer(self) -> bool:
        return is_newer(self.version, self.current)

    @property
    def words(self) -> str:
        verdict = "newer than" if self.is_newer else "not newer than"
        return f"{self.version} is {verdict} {self.current}, and its signature is good"

    def as_json(self) -> Json:
        return {"version": self.version, "current": self.current, "newer": self.is_newer}


def _check(place: str) -> Offer:
    with open_source(place) as source:
        return Offer(read_release(source, _keys()).version, _current_version())


def _take(place: str) -> int:
    """Verify, copy, and run the release's own installer; its exit status."""
    current = _current_version()
    stage = HOME / ".update"
    with open_source(place) as source, contextlib.ExitStack() as undo:
        release = read_release(source, _keys())
        if release.version == current:
            click.echo(f"Hearth {current} is installed already")
            return 0
        if not is_newer(release.version, current):
            raise ReleaseError(
                f"{release.version} is older than {current}, which is installed",
                hint="`hearth update --rollback` goes back to the release before.",
            )
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700)
        undo.callback(shutil.rmtree, stage, ignore_errors=True)
        click.echo(f"hearth: copy release {release.version}, which a trusted key has signed")
        release.copy_to(stage)
        failed = _run(stage / "install.sh", "--wheelhouse", str(stage))
        if not failed and (stage / "release.pub").is_file():
            _renew_keys(stage / "release.pub")
    return failed


def _take_unattended() -> int:
    """Each file of the inbox, then what `update_from` offers. What is refused is renamed, so that
    it wakes nobody again."""
    settings = load_settings()
    failed = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        # The folder is the service's own: every step goes through this one handle of it
        folder = os.open(settings.state / INBOX, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for name in sorted(n for n in os.listdir(folder) if n.endswith(".tar")):  # noqa: PTH208
                failed |= _take_brought(folder, name)
        finally:
            os.close(folder)
    if settings.update_from and _check(settings.update_from).is_newer:
        failed |= _take(settings.update_from)
    return failed


def _take_brought(folder: int, name: str) -> int:
    try:
        failed = _take(f"/proc/self/fd/{folder}/{name}")
    except (ReleaseError, OSError) as error:
        click.echo(f"Error: {name}: {error}", err=True)
        # Nobody watches: `hearth doctor` tells of it
        told = LastUpdate(int(time.time()), _current_version(), name, Result.REFUSED, str(error))
        last_update.write(HOME, told)
        failed = 1
    if failed:
        os.rename(name, f"{name}.refused", src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)
    return failed


def _list(as_json: bool) -> None:
    found = [
        {
            "release": folder.name,
            "version": _fact(folder, "version"),
            "current": folder == (HOME / "current").resolve(),
            "previous": folder == (HOME / "previous").resolve(),
        }
        for folder in sorted((HOME / "releases").glob("[!.]*"))
    ]
    if as_json:
        print_json({"releases": found})
        return
    marks = [["current" if r["current"] else "previous" if r["previous"] else ""] for r in found]
    rows = [[str(r["release"]), *mark] for r, mark in zip(found, marks, strict=True)]
    click.echo(render_table(rows, ("RELEASE", "STATE")), nl=False)


def _run(installer: Path, *arguments: str) -> int:
    sys.stdout.flush()
    return subprocess.run(["bash", str(installer), *arguments], check=False).returncode  # noqa: S603, S607 - verified, or installed already


def _renew_keys(offered: Path) -> None:
    """The keys that later releases need, as the release that has just proved itself says."""
    half = KEYS.with_suffix(".new")
    half.write_bytes(offered.read_bytes())
    half.chmod(0o644)
    half.replace(KEYS)


def _keys() -> bytes:
    try:
        return KEYS.read_bytes()
    except FileNotFoundError:
        raise ReleaseError(
            f"this box trusts no key for releases ({KEYS} is missing)",
            hint="Install a signed wheelhouse by hand once, or put the public key there.",
        ) from None


def _current_version() -> str:
    return _fact(HOME / "current", "version")


def _fact(folder: Path, name: str) -> str:
    lines = (folder / "RELEASE").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines).get(name, "")


def _require_installed() -> None:
    if not (HOME / "current/RELEASE").is_file():
        raise ReleaseError(
            "this Hearth was not installed by its installer, so it has no releases",
            hint="tools/install.sh installs it; in a source tree, pull and run `make run` again.",
        )


def _require_root() -> None:
    if os.geteuid() != 0:
        raise ReleaseError("this needs root", hint="sudo hearth update …")
