"""The images of a request: how many tokens each takes, and what stands for it among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING

from engine.errors import EngineRequestError
from engine.pictures import read_size

if TYPE_CHECKING:
    from engine.llama.eyes import Eyes


@dataclass(frozen=True, slots=True)
class Seen:
    """An image of a request."""

    key: int  # negative: what stands for it among the tokens
    data: bytes
    tokens: int


def see(eyes: "Eyes | None", images: Sequence[bytes]) -> list[Seen]:
    """The images with what they take; raises EngineRequestError, also without eyes."""
    if not images:
        return []
    if eyes is None:
        raise no_eyes()
    seen = []
    for number, data in enumerate(images):
        try:
            tokens = eyes.extent(read_size(data)).tokens
        except EngineRequestError as error:
            raise EngineRequestError(f"image {number} of the request: {error}") from error
        # A hash, so that the cache never takes one image for another.
        key = -1 - int.from_bytes(sha256(data).digest())
        seen.append(Seen(key, data, tokens))
    return seen


def with_keys(tokens: Sequence[int], seen: Sequence[Seen]) -> list[int]:
    """The prompt with the keys of images in place of their numbers, -1 - i for image i."""
    keyed: list[int] = []
    for token, run in groupby(tokens):
        count = len(list(run))
        if token >= 0:
            keyed += [token] * count
            continue
        number = -1 - token
        if number >= len(seen) or count % seen[number].tokens:
            raise EngineRequestError(
                f"the prompt has {count} tokens for image {number}, which the request lacks or"
                " which takes another number of them"
            )
        keyed += [seen[number].key] * count
    return keyed


def no_eyes() -> EngineRequestError:
    """The error of a model without a projector."""
    return EngineRequestError("the model does not see images: it has no projector")
