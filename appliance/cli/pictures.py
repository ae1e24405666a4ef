"""Images that a person names by their paths in a message to a model."""

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_IMAGE_BYTES = 100_000_000  # Ollama's limit
_ENDING = r"\.(?:jpe?g|png|gif|bmp|webp)"
# In quotes, or bare from a place on: "/", "./", "../", "~/". Blanks of a bare path are escaped.
_PATH = re.compile(
    rf"(?P<quote>['\"])(?P<quoted>[^'\"\n]+{_ENDING})(?P=quote)"
    rf"|(?<!\S)(?P<bare>(?:\.{{0,2}}|~)/(?:\\.|[^\s\\])*?{_ENDING})(?!\w)",
    re.IGNORECASE,
)
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")


@dataclass(frozen=True, slots=True)
class Pictured:
    """A message for a model: its text, without the paths whose files go along."""

    text: str
    images: tuple[str, ...] = ()  # base64

    def fields(self) -> dict[str, list[str]]:
        """The field of the Ollama API, if there are images."""
        return {"images": list(self.images)} if self.images else {}


def find_pictures(text: str, model: str, *, sees: bool, say: Callable[[str], None]) -> Pictured:
    """The message with the images that it names. `say` is told what went along and what did not.

    A path of no file is text. So is every path when the model cannot see (`sees` false).
    """
    images = []
    for found in list(_PATH.finditer(text)):
        written = found["quoted"] or re.sub(r"\\(.)", r"\1", found["bare"])
        path = Path(written).expanduser()
        if not path.is_file():
            continue
        if not sees:
            say(f"{model} cannot see images: the path '{written}' is sent as text")
            continue
        try:
            images.append(_read(path))
        except (OSError, ValueError) as error:
            say(f"Couldn't add image '{written}': {error}")
            continue
        say(f"Added image '{written}'")
        text = text.replace(found[0], "", 1)
    return Pictured(text.strip() if images else text, tuple(images))


def _read(path: Path) -> str:
    """Base64; raises OSError, or ValueError for what is no image that models take."""
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise ValueError(f"it is larger than {MAX_IMAGE_BYTES // 1_000_000} MB")
    data = path.read_bytes()
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        raise ValueError("it is WebP, which boxes cannot decode; convert it to PNG or JPEG")
    if not data.startswith(_STARTS):
        raise ValueError("it is not a PNG, JPEG, GIF or BMP file")
    return b64encode(data).decode()
