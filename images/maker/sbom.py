"""The parts list of an image, as CycloneDX 1.5 JSON: Debian, Python and the model."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote


def document(root: Path, name: str, version: str, epoch: int) -> str:
    """What is installed in the folder `root`; the same text for the same root."""
    components = sorted(
        [*_debian(root), *_python(root), *_models(root)], key=lambda each: each["bom-ref"]
    )
    return json.dumps({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).isoformat(),
            "component": {"type": "operating-system", "name": name, "version": version},
        },
        "components": components,
    }, indent=1)  # fmt: skip


def _debian(root: Path) -> Iterator[dict[str, Any]]:
    for record in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = HeaderParser().parsestr(record)
        if "installed" not in fields.get("Status", "").split():
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
        yield {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "supplier": {"name": fields["Maintainer"]},
        }  # fmt: skip


def _python(root: Path) -> Iterator[dict[str, Any]]:
    for file in (root / "opt/hearth/releases").glob("*/lib/**/*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(file.read_text(errors="replace"))
        name, version = fields["Name"], fields["Version"]
        purl = f"pkg:pypi/{quote(name.lower())}@{quote(version)}"
        component = {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        }  # fmt: skip
        licence = fields.get("License-Expression") or fields.get("License")
        if licence and len(licence) < 80:  # some write the whole text there
            component["licenses"] = [{"license": {"name": licence}}]
        yield component


def _models(root: Path) -> Iterator[dict[str, Any]]:
    for file in (root / "opt/hearth/releases").glob("*/lib/**/appliance/builtin/*.gguf"):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        yield {
            "type": "machine-learning-model", "bom-ref": f"model:{file.name}", "name": file.name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }  # fmt: skip
