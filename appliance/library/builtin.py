"""The model that ships with Hearth, so that a fresh box answers without a network.

It is created in the library once, at the first start; when someone removes it, it stays removed,
and when someone changes it, it stays as it is. `MARKER` notes which package made what.
"""

import logging
import tempfile
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.library.blobs import atomic_write
from appliance.library.create import CreateRequest, create
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.modelfile import parse, read_recipe
from appliance.library.names import ModelName

log = logging.getLogger("hearth.library")

NAME = ModelName.parse("hearth")
MARKER = "builtin-model"  # file in the state folder: "<version> <digest of the manifest>"
FOLDER = resources.files("appliance") / "builtin"


def install_once(library: Library, state: Path) -> None:
    """Create `hearth:latest` from the package unless that was done before, and renew it after an
    update of the package while it is still as the older package made it.

    The older one would be nobody's: where only signed models serve, no repository vouches for it. A
    failure (a full disk, say) is logged and tried again at the next start: the service can live
    without this model.
    """
    marker = state / MARKER
    ours = metadata.version("hearth")
    try:
        noted = marker.read_text().split()
    except OSError:
        noted = []
    if noted[:1] == [ours]:
        return
    try:
        here = _digest_here(library)
        is_ours = here in noted if noted else not here  # theirs is left alone, also if it is none
        if is_ours:
            _create(library)
            here = _digest_here(library)
        atomic_write(marker, f"{ours} {here if is_ours else '-'}\n".encode())
    except (ApplianceError, OSError) as error:
        log.warning("built-in model not installed: %s", error)


def _digest_here(library: Library) -> str:
    """Of the manifest that lies under the name; empty without one."""
    return str(Digest.of(library.read_manifest(NAME))) if library.has(NAME) else ""


@cache
def manifest_digest() -> Digest:
    """Of the manifest that this package makes, wherever and whenever it does. Blocking: it is made
    anew in a scratch folder, where nothing that lies in a state folder can have a say."""
    with tempfile.TemporaryDirectory(prefix="hearth-builtin-") as folder:
        library = Library(Path(folder))
        _create(library)
        return Digest.of(library.read_manifest(NAME))


def _create(library: Library) -> None:
    recipe = read_recipe(parse((FOLDER / "Modelfile").read_bytes()))
    file = Path(recipe.bases[0]).name
    with resources.as_file(FOLDER / file) as path:
        digest, _ = library.blobs.put_file(path)
    request = CreateRequest(
        name=NAME,
        files={file: str(digest)},
        template=recipe.template,
        system=recipe.system,
        license=recipe.licenses,
        parameters=recipe.parameters,
        messages=[{"role": role, "content": content} for role, content in recipe.messages],
    )
    for progress in create(library, request):
        log.debug("built-in model: %s", progress.status)
