"""`bundle repo`: the TUF repository that boxes trust, from the first root to the daily refresh."""

from dataclasses import dataclass
from pathlib import Path

import click

from appliance.cli.verb import answers_json, print_json
from tools.bundles import changes, report
from tools.bundles.keys import Use, load_public, load_signer
from tools.bundles.passphrase import Passphrases
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import ROOT, TARGETS
from tools.bundles.signing import add_signature, find_draft, folder_of, waiting

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every verb works with."""

    folder: RepositoryFolder
    passphrases: Passphrases

    def drafted(self, paths: list[Path]) -> None:
        """Show what was drafted, and what to do with it."""
        for path in paths:
            report.show_draft(self.folder, *find_draft(self.folder, path))
            click.echo(f"  to sign: bundle repo sign {path} KEY")


@click.group("repo")
@click.option(
    "--at",
    type=FOLDER,
    envvar="BUNDLE_REPO",
    default=Path(),
    help="Work on this folder, tuf/<name> of a published layout",
)
@click.pass_context
def repo(context: click.Context, at: Path) -> None:
    """Make and keep the repository of signatures that boxes trust"""
    context.obj = Desk(RepositoryFolder(at / "metadata"), context.obj)


@repo.command("init")
@click.option("--root-threshold", type=int, required=True, help="Require so many officers' keys")
@click.option("--officer", multiple=True, type=FILE, required=True, help="Let this key sign root")
@click.option("--online", type=FILE, required=True, help="Let this key sign snapshot and timestamp")
@click.option(
    "--targets-officer", multiple=True, type=FILE, help="Let this key sign targets instead"
)
@click.option("--targets-threshold", type=int, default=0, help="Require so many keys for targets")
@click.pass_obj
def init(
    desk: Desk,
    root_threshold: int,
    officer: tuple[Path, ...],
    online: Path,
    targets_officer: tuple[Path, ...],
    targets_threshold: int,
) -> None:
    """Draft the first root and targets, for the officers to sign"""
    paths = changes.initialise(
        desk.folder,
        [load_public(path, Use.OFFICER) for path in officer],
        root_threshold,
        load_public(online, Use.ONLINE),
        [load_public(path, Use.OFFICER) for path in targets_officer],
        targets_threshold,
    )
    desk.drafted(paths)
    report.show_fingerprint(desk.folder)


@repo.command("sign")
@click.argument("file", type=FILE)
@click.argument("key", type=FILE)
@click.option("--yes", is_flag=True, help="Skip the question")
@click.pass_obj
def sign(desk: Desk, file: Path, key: Path, yes: bool) -> None:
    """Add one signature to a draft, after showing in words what it says

    FILE lies in the draft folder of a repository; KEY is a secret key. Each officer signs in turn,
    on any machine that the folder is carried to.
    """
    folder = folder_of(file)
    role, draft = find_draft(folder, file)
    report.show_draft(folder, role, draft)
    if not yes:
        click.confirm("Sign this?", abort=True, err=True)
    signed = add_signature(folder, waiting(folder, role, draft), load_signer(key, desk.passphrases))
    report.show_signatures(folder, role, signed)


@repo.command("delegate")
@click.argument("publisher")
@click.argument("patterns", nargs=-1, required=True)
@click.argument("key", type=FILE)
@click.option("--key", "more", multiple=True, type=FILE, help="Let this key sign too")
@click.option("--threshold", type=int, default=1, show_default=True, help="Require so many keys")
@click.pass_obj
def delegate(
    desk: Desk,
    publisher: str,
    patterns: tuple[str, ...],
    key: Path,
    more: tuple[Path, ...],
    threshold: int,
) -> None:
    """Draft that a publisher may list names, such as 'acme/*/*'

    KEY is the publisher's public key. The officers sign targets, the publisher its first version.
    """
    keys = [load_public(path, Use.PUBLISHER) for path in (key, *more)]
    desk.drafted(changes.add_publisher(desk.folder, publisher, patterns, keys, threshold))


@repo.command("offboard")
@click.argument("publisher")
@click.pass_obj
def offboard(desk: Desk, publisher: str) -> None:
    """Draft that a publisher lists no names any more; old clients stay able to follow"""
    desk.drafted(changes.offboard(desk.folder, publisher))


@repo.group("rotate")
def rotate() -> None:
    """Draft other keys for officers, a publisher, or online"""


@rotate.command("officer")
@click.argument("name", required=False)
@click.option("--root", type=FILE, help="Let this key sign root instead")
@click.option("--targets", type=FILE, help="Let this key sign targets instead")
@click.option("--root-threshold", type=int, help="Require so many keys for root from now on")
@click.option("--targets-threshold", type=int, help="Require so many keys for targets from now on")
@click.pass_obj
def rotate_officer(
    desk: Desk,
    name: str | None,
    root: Path | None,
    targets: Path | None,
    root_threshold: int | None,
    targets_threshold: int | None,
) -> None:
    """Draft a root in which an officer has other keys, is gone, or is new

    NAME is who leaves or gets other keys; without it, keys are only added. With a NAME and no keys
    the officer is gone.
    """
    given = {ROOT: root, TARGETS: targets}
    thresholds = {ROOT: root_threshold, TARGETS: targets_threshold}
    if name is None and not any(given.values()) and not any(thresholds.values()):
        raise click.UsageError("give an officer's NAME, or a new key, or a new threshold")
    paths = changes.rotate_officers(
        desk.folder,
        name,
        {role: load_public(path, Use.OFFICER) for role, path in given.items() if path},
        {role: number for role, number in thresholds.items() if number is not None},
    )
    desk.drafted(paths)


@rotate.command("online")
@click.argument("key", type=FILE)
@click.pass_obj
def rotate_online(desk: Desk, key: Path) -> None:
    """Draft a root with another online key

    Once it is signed, publish with the new key, and `--former OLDKEY` if the old one is still at
    hand. If it was stolen, add `--recover`.
    """
    desk.drafted(changes.rotate_online(desk.folder, load_public(key, Use.ONLINE)))


@rotate.command("publisher")
@click.argument("publisher")
@click.argument("keys", nargs=-1, required=True, type=FILE)
@click.option("--threshold", type=int, default=1, show_default=True, help="Require so many keys")
@click.pass_obj
def rotate_publisher(desk: Desk, publisher: str, keys: tuple[Path, ...], threshold: int) -> None:
    """Draft other keys for a publisher; it signs its releases again with them"""
    loaded = [load_public(path, Use.PUBLISHER) for path in keys]
    desk.drafted(changes.rotate_publisher(desk.folder, publisher, loaded, threshold))


@repo.command("renew")
@click.argument("role")
@click.pass_obj
def renew(desk: Desk, role: str) -> None:
    """Draft a role's next version with a new expiry: root, targets or a publisher"""
    desk.drafted(changes.renew(desk.folder, role))


@repo.command("revoke")
@click.argument("publisher")
@click.argument("name")
@click.argument("key", type=FILE)
@click.pass_obj
def revoke(desk: Desk, publisher: str, name: str, key: Path) -> None:
    """Mark a release as one that must not run any more, signed by the publisher's key

    NAME is namespace/model/tag.
    """
    desk.folder.revoke(publisher, name, [load_signer(key, desk.passphrases)])
    click.echo(f"{name} is revoked once this is published")


@repo.command("publish")
@click.argument("online", type=FILE)
@click.option("--former", multiple=True, type=FILE, help="Sign with this old online key too")
@click.option("--recover", is_flag=True, help="Believe no snapshot: the old online key was stolen")
@click.pass_obj
def publish(desk: Desk, online: Path, former: tuple[Path, ...], recover: bool) -> None:
    """Make what is signed by enough keys the state that boxes find

    ONLINE is the online key. Nothing is written unless a new box, and one that stopped at any of
    the last states, could follow.
    """
    signer = load_signer(online, desk.passphrases)
    formers = [load_signer(path, desk.passphrases) for path in former]
    plan = desk.folder.publish(signer, former=formers, recover=recover)
    click.echo(f"published: {' '.join(plan.order)}")
    report.show_findings(desk.folder.check())


@repo.command("refresh")
@click.argument("online", type=FILE)
@click.pass_obj
def refresh(desk: Desk, online: Path) -> None:
    """Sign again that this is the newest state; run it every day

    ONLINE is the online key.
    """
    plan = desk.folder.refresh(load_signer(online, desk.passphrases))
    click.echo(f"refreshed: {' '.join(plan.order)}")


@repo.command("check")
@answers_json
@click.pass_context
def check(context: click.Context, as_json: bool) -> None:
    """Refuse a set that boxes could not follow; warn 30 days before anything expires"""
    findings = context.obj.folder.check()
    if as_json:
        print_json({"findings": [report.finding_body(finding) for finding in findings]})
    elif not report.show_findings(findings):
        click.echo("all is well")
    context.exit(1 if any(finding.is_fatal for finding in findings) else 0)


@repo.command("status")
@answers_json
@click.pass_obj
def status(desk: Desk, as_json: bool) -> None:
    """Show the root's fingerprint, who may sign what, what expires and what waits"""
    if as_json:
        print_json(report.status_body(desk.folder))
    else:
        report.show_status(desk.folder)
