"""The model that ships with Hearth, so that a fresh box answers without a network.

It is created in the library once, at the first start; when someone removes it, it stays removed.
"""

import logging
import tempfile
from functools import cache
from importlib import resources
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
MARKER = "builtin-model"  # file in the state folder: the built-in model was offered once
FOLDER = resources.files("appliance") / "builtin"


def install_once(library: Library, state: Path) -> None:
    """Create `hearth:latest` from the package unless that was done before.

    A failure (a full disk, say) is logged and tried again at the next start: the service can live
    without this model.
    """
    marker = state / MARKER
    if marker.exists():
        return
    try:
        if not library.has(NAME):
            _create(library)
        atomic_write(marker, b"installed\n")
    except (ApplianceError, OSError) as error:
        log.warning("built-in model not installed: %s", error)


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
