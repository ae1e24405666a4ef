"""Would llama.cpp's multimodal library load this projector, or abort on it? From the header alone.

Knows the keys of image encoders (llama.cpp, tools/mtmd/clip.cpp); which kinds of projectors there
are is the library's affair.
"""

from engine.errors import ModelFormatError
from engine.gguf.header import Header

_MAX_SIDE = 16_384  # pixels
_MAX_PATCHES = 1 << 16  # of the image that the encoder is made for: memory is reserved for them
_RANGES = {  # keys below clip.vision, and what is allowed
    "image_size": (1, _MAX_SIDE),
    "patch_size": (1, 65_535),
    "embedding_length": (1, 1 << 16),
    "feed_forward_length": (0, 1 << 20),
    "block_count": (0, 512),
    "projection_dim": (0, 1 << 20),
    "attention.head_count": (0, 65_535),
}


def check_projector(header: Header) -> None:
    """Raise ModelFormatError with the reason; only image encoders of llama.cpp's are looked at."""
    if not header.is_eye:
        return
    if not (header.text("clip.projector_type") or header.text("clip.vision.projector_type")):
        raise ModelFormatError("the key 'clip.projector_type' is missing: convert it again")
    values = {name: _integer(header, name, *bounds) for name, bounds in _RANGES.items()}
    side, patch = values["image_size"], values["patch_size"]
    if patch > side or (side // patch) ** 2 > _MAX_PATCHES:
        raise ModelFormatError(
            f"images of {side} pixels in patches of {patch} are {(side // patch) ** 2} patches;"
            f" 1 to {_MAX_PATCHES} are allowed"
        )
    heads, width = values["attention.head_count"], values["embedding_length"]
    if values["block_count"] and (heads < 1 or width % heads):
        raise ModelFormatError(
            f"clip.vision.attention.head_count is {heads}; it must divide the width of {width}"
        )
    _check_colours(header)


def _integer(header: Header, name: str, low: int, high: int) -> int:
    key = f"clip.vision.{name}"
    value = header.metadata.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelFormatError(f"{key} is {value!r}; an integer from {low} to {high} is allowed")
    return value


def _check_colours(header: Header) -> None:
    """Mean and deviation of three colours; nothing may be divided by zero."""
    for name in ("image_mean", "image_std"):
        value = header.metadata.get(f"clip.vision.{name}")
        if value is None:
            continue
        if not isinstance(value, tuple) or len(value) < 3:
            raise ModelFormatError(f"clip.vision.{name} is not an array of three numbers")
        if name == "image_std" and not all(isinstance(v, float) and v > 0 for v in value):
            raise ModelFormatError("clip.vision.image_std must be greater than 0")
