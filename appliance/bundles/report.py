"""What a box writes onto a medium after an import: what it has, so that its owner can see it.

`reports/<box>-<n>.json`, one more for each import. Not signed: a box has no key of its own yet, so
the reader must trust whoever carried the medium.
"""

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from appliance.bundles.channel_state import Followed
from appliance.bundles.layout import Layout
from appliance.bundles.release import canonical_json
from appliance.bundles.state import BundleState
from appliance.trust.repositories import Repositories

FORMAT = "hearth.report.v1"

_FOLDER = "reports"
_REPORT = re.compile(r"(.+)-(\d{1,9})\.json")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one model, or channel, of the import: `code` of the error, empty if none."""

    model: str
    code: str = ""
    message: str = ""


def write_report(
    layout: Layout,
    repositories: Repositories,
    states: Sequence[BundleState],
    channels: Sequence[Followed],
    results: Sequence[Result],
) -> str:
    """Returns the report's name; raises LibraryError on a medium that cannot be written."""
    box = box_name()
    number = _next_number(layout, box)
    body = {
        "format": FORMAT,
        "signed": False,
        "box": box,
        "number": number,
        "time": datetime.fromtimestamp(int(time.time()), UTC).isoformat().replace("+00:00", "Z"),
        "hearth": metadata.version("hearth"),
        "repositories": {
            found.name: _trust(repositories, found.name) for found in repositories.all()
        },
        "bundles": [_bundle(state) for state in states],
        "channels": [_channel(followed) for followed in channels],
        "import": [
            {"model": result.model, "code": result.code, "message": result.message}
            for result in results
        ],
    }
    name = f"{_FOLDER}/{box}-{number}.json"
    layout.files.write(name, canonical_json(body))
    return name


def box_name() -> str:
    """This machine's host name in letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:60] or "box"


def _next_number(layout: Layout, box: str) -> int:
    found = [_REPORT.fullmatch(name) for name in layout.files.names(_FOLDER)]
    return max((int(match[2]) for match in found if match and match[1] == box), default=0) + 1


def _trust(repositories: Repositories, name: str) -> dict[str, Any]:
    trusted = repositories.store(name).read()
    return {
        "fingerprint": repositories.fingerprint(name),
        "versions": dict(trusted.versions),
        "issued_s": trusted.issued_s,
    }


def _bundle(state: BundleState) -> dict[str, Any]:
    active = state.active
    return {
        "model": state.name,
        "repository": state.repository,
        "state": state.phase,
        "version": active.version if active else "",
        "variant": active.variant if active else "",
        "index": active.index if active else "",
        "failure": state.failure.reason if state.failure else "",
    }


def _channel(followed: Followed) -> dict[str, Any]:
    document = followed.document
    return {
        "channel": followed.key,
        "generation": document.generation if document else 0,
        "bundles": [
            {"bundle": bundle, "version": each.version, "state": each.state, "reason": each.reason}
            for bundle, each in sorted(followed.outcomes.items())
        ],
    }
