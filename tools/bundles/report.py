"""What `bundle repo` prints: drafts in words, who has signed, what a repository is made of."""

from collections.abc import Sequence
from typing import Any

import click
from tuf.api.metadata import Key, Root, Targets

from appliance.trust.metadata import root_digest
from appliance.trust.repositories import fingerprint_of
from tools.bundles.check import Finding
from tools.bundles.keys import fingerprint, owner_of
from tools.bundles.plan import Draft
from tools.bundles.published import file_name
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import ROOT, delegated_roles, issued, utc_now
from tools.bundles.signing import waiting
from tools.bundles.words import describe, describe_signatures, is_revoked


def show_draft(folder: RepositoryFolder, role: str, draft: Draft) -> None:
    """What a draft says, and who has signed it."""
    wait = waiting(folder, role, draft)
    for line in describe(role, draft.metadata.signed, wait.before, utc_now()):
        click.echo(line)
    show_signatures(folder, role, draft)


def show_signatures(folder: RepositoryFolder, role: str, draft: Draft) -> None:
    wait = waiting(folder, role, draft)
    for line in describe_signatures(role, draft.metadata, wait.authorities):
        click.echo(f"  {line}")


def show_fingerprint(folder: RepositoryFolder) -> None:
    """What people compare when they enrol the repository on a box."""
    if text := root_fingerprint(folder):
        click.echo(f"fingerprint of the root: {text}")


def root_fingerprint(folder: RepositoryFolder) -> str:
    """Of the first root, which boxes are enrolled with; empty if there is none."""
    first = folder.files().get(file_name(ROOT, 1))
    if first is None:
        draft = folder.drafts().get(ROOT)
        first = draft.data if draft else None
    return fingerprint_of(root_digest(first)) if first else ""


def show_findings(findings: Sequence[Finding]) -> bool:
    """Print what was found; whether that was anything."""
    for finding in findings:
        mark = "Error" if finding.is_fatal else "Warning"
        click.echo(f"{mark}: {finding.text}" + (f"\n  {finding.cure}" if finding.cure else ""))
    return bool(findings)


def finding_body(finding: Finding) -> dict[str, Any]:
    return {"fatal": finding.is_fatal, "text": finding.text, "cure": finding.cure}


def status_body(folder: RepositoryFolder) -> dict[str, Any]:
    """Everything about a repository, for programs."""
    root, targets = folder.root(), folder.targets()
    published = folder.published()
    moment = issued(published.timestamp.signed) if published else None
    return {
        "fingerprint": root_fingerprint(folder),
        "issued": moment.isoformat() if moment else None,
        "root": _root_body(root) if root else None,
        "publishers": _publishers_body(folder, targets) if targets else {},
        "drafts": {role: _draft_body(folder, role, d) for role, d in folder.drafts().items()},
        "findings": [finding_body(finding) for finding in folder.check()],
    }


def show_status(folder: RepositoryFolder) -> None:
    body = status_body(folder)
    if body["root"] is None:
        click.echo("there is no repository here; `bundle repo init` makes one")
        return
    show_fingerprint(folder)
    click.echo(f"newest word: {body['issued'] or 'nothing is published yet'}")
    click.echo(f"root version {body['root']['version']}, until {body['root']['expires'][:10]}")
    for role, holder in body["root"]["roles"].items():
        click.echo(f"  {role}: threshold {holder['threshold']} of {len(holder['keys'])}")
        _show_keys(holder["keys"])
    for name, publisher in body["publishers"].items():
        click.echo(
            f"publisher {name}: {' '.join(publisher['names'])}, {publisher['listed']} listed, "
            f"until {(publisher['expires'] or 'it signs')[:10]}"
        )
        _show_keys(publisher["keys"])
    for role, draft in body["drafts"].items():
        click.echo(f"draft {draft['file']}")
        for line in draft["signatures"]:
            click.echo(f"  {role} {line}")
    show_findings([Finding(f["text"], f["cure"], f["fatal"]) for f in body["findings"]])


def _show_keys(keys: Sequence[dict[str, str]]) -> None:
    for key in keys:
        click.echo(f"    {key['fingerprint']}  {key['owner']}")


def _root_body(root: Root) -> dict[str, Any]:
    return {
        "version": root.version,
        "expires": root.expires.isoformat(),
        "roles": {
            role: {
                "threshold": holder.threshold,
                "keys": [_key_body(root.keys[keyid]) for keyid in holder.keyids],
            }
            for role, holder in root.roles.items()
        },
    }


def _publishers_body(folder: RepositoryFolder, targets: Targets) -> dict[str, Any]:
    published = folder.published()
    bodies = {}
    for role, delegated in delegated_roles(targets).items():
        metadata = published.role(role) if published else None
        listed = metadata.signed.targets if metadata else {}
        bodies[role] = {
            "names": delegated.paths,
            "threshold": delegated.threshold,
            "keys": [_key_body(targets.get_key(keyid)) for keyid in delegated.keyids],
            "expires": metadata.signed.expires.isoformat() if metadata else None,
            "listed": len(listed),
            "revoked": sorted(path for path, target in listed.items() if is_revoked(target)),
        }
    return bodies


def _draft_body(folder: RepositoryFolder, role: str, draft: Draft) -> dict[str, Any]:
    wait = waiting(folder, role, draft)
    return {
        "file": f"draft/{file_name(role, draft.version)}",
        "signatures": describe_signatures(role, draft.metadata, wait.authorities),
    }


def _key_body(key: Key) -> dict[str, str]:
    return {"owner": owner_of(key), "fingerprint": fingerprint(key)}
