"""From a Modelfile's recipe to the request of /api/create and the files to upload first.

Decides what is a file and what is a model's name; looks at the disk, changes and sends nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path

from appliance.cli.client import Json
from appliance.errors import BadRequestError, UnsupportedError
from appliance.library.modelfile import Recipe

GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to upload; its digest goes to `body[field][key]`."""

    path: Path
    field: str
    key: str


@dataclass(slots=True)
class CreatePlan:
    """`body` lacks only the model's name and the digests of `files`."""

    body: Json = field(default_factory=dict)
    files: list[LocalFile] = field(default_factory=list)


def plan_create(recipe: Recipe, folder: Path) -> CreatePlan:
    """Translate `recipe`; paths in it are relative to `folder`.

    Raises BadRequestError if a file is missing, leaves its folder or is no GGUF file.
    """
    if recipe.drafts:
        raise UnsupportedError("DRAFT models are not supported; remove the DRAFT line")
    texts = {
        "template": recipe.template,
        "system": recipe.system,
        "renderer": recipe.renderer,
        "parser": recipe.parser,
        "requires": recipe.requires,
        "license": recipe.licenses,
        "parameters": recipe.parameters,
        "messages": [{"role": role, "content": text} for role, text in recipe.messages],
    }
    plan = CreatePlan({name: value for name, value in texts.items() if value})
    for base in recipe.bases:
        _add_base(plan, base, folder)
    for adapter in recipe.adapters:
        _add_files(plan, "adapters", adapter, folder)
    return plan


def _add_base(plan: CreatePlan, text: str, folder: Path) -> None:
    if resolve(text, folder).exists() or _looks_like_path(text):
        _add_files(plan, "files", text, folder)
    else:
        plan.body["from"] = text


def _add_files(plan: CreatePlan, target: str, text: str, folder: Path) -> None:
    for path in gguf_files(resolve(text, folder)):
        key = path.name
        if any(file.field == target and file.key == key for file in plan.files):
            key = f"{len(plan.files)}-{key}"
        plan.files.append(LocalFile(path, target, key))


def resolve(text: str, folder: Path) -> Path:
    """The path that an instruction names: `~` is the home folder, others are below `folder`."""
    path = Path(text)
    try:
        return folder / path.expanduser()
    except RuntimeError as error:
        raise BadRequestError(f"{text}: there is no such home folder") from error


def gguf_files(path: Path) -> list[Path]:
    """The GGUF file at `path`, or those of the folder at `path`.

    A link inside a folder may not lead out of it: a downloaded folder could name any file of this
    machine, which would then be uploaded.
    """
    if not path.exists():
        raise BadRequestError(f"there is no file {path}")
    if not path.is_dir():
        return [_checked(path)]
    found = sorted(path.glob("*.gguf")) or sorted(path.glob("*.bin"))
    root = path.resolve()
    for file in found:
        if not file.resolve().is_relative_to(root):
            raise BadRequestError(f"insecure path: {file} leads to {file.resolve()}")
    if not found:
        raise BadRequestError(
            f"no GGUF file in {path}", hint="convert the model to GGUF first, then name that file"
        )
    return [_checked(file) for file in found]


def _checked(path: Path) -> Path:
    with path.open("rb") as file:
        magic = file.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise BadRequestError(
            f"{path} is not a GGUF file: it begins with {magic!r}", hint="convert it to GGUF first"
        )
    return path


def _looks_like_path(text: str) -> bool:
    return text.startswith(("./", "../", "/", "~")) or text.lower().endswith(".gguf")
