"""Images among the texts of one request: marks that templates carry, and the tokens in their place.

A template sees text. Each image is a mark in it, with a random part that no client can guess, so
that nobody writes one. What lies between marks is tokenised piece by piece, as llama.cpp's
multimodal library does it. Pixels are a worker's affair: here only headers are read.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from appliance.chat.events import Completion, Message
from appliance.errors import BadRequestError, UnsupportedError
from engine.errors import EngineRequestError
from engine.pictures import read_size

Tokenize = Callable[[list[str], bool], Awaitable[list[list[int]]]]
"""Texts, and whether the model's first token goes in front of each."""


def images_of(work: tuple[Message, ...] | Completion | None) -> list[bytes]:
    """All images of a request, in order."""
    if isinstance(work, Completion):
        return list(work.images)
    return [image for message in work or () for image in message.images]


def sizes_of(images: Sequence[bytes]) -> list[tuple[int, int]]:
    """Width and height of each in pixels, read off their headers; blocks for milliseconds.

    Raises BadRequestError for what is no image that could be decoded, and for one too large.
    """
    sizes = []
    for number, image in enumerate(images):
        try:
            size = read_size(image)
        except EngineRequestError as error:
            raise BadRequestError(f"image {number} of the request: {error}") from error
        sizes.append((size.width, size.height))
    return sizes


@dataclass(frozen=True, slots=True)
class Pictures:
    """The images of one request, with the tokens that each takes."""

    images: Sequence[bytes] = ()
    counts: Sequence[int] = ()
    _nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    def marked(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with marks in their contents; images are numbered through all of them."""
        found, number = [], 0
        for message in messages:
            text = self._with_marks(
                message.content, message.image_places, len(message.images), number
            )
            found.append(replace(message, content=text, image_places=()))
            number += len(message.images)
        return found

    def marked_prompt(self, work: Completion) -> str:
        """A prompt without a template, with marks."""
        return self._with_marks(work.prompt, work.image_places, len(work.images), 0)

    def shown(self, text: str) -> str:
        """Rendered text for people: marks as Ollama writes them, [img-0]."""
        return self._pattern.sub(r"[img-\1]", text) if self.images else text

    def check_all_in(self, text: str, wanted: int) -> None:
        """Raise UnsupportedError unless the last `wanted` images are in a rendered text."""
        held = {int(number) for number in self._pattern.findall(text)} if wanted else set()
        total = len(self.images)
        if lost := set(range(total - wanted, total)) - held:
            raise UnsupportedError(
                f"the model's template has no place for image {min(lost)} of the request;"
                " send it with a user message"
            )

    async def tokens_of(self, text: str, tokenize: Tokenize, *, add_special: bool) -> list[int]:
        """The prompt's tokens; image i as -1 - i, once for each token that it takes."""
        if not self.images:
            return (await tokenize([text], add_special))[0]
        pieces = self._pattern.split(text)  # texts and, at odd places, numbers
        tokens = (await tokenize([pieces[0]], add_special))[0] if pieces[0] or add_special else []
        later = await tokenize([piece for piece in pieces[2::2] if piece], False)
        following = iter(later)
        for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            tokens = tokens + [-1 - int(number)] * self.counts[int(number)]
            if piece:
                tokens += next(following)
        return tokens

    @property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"\[img-{self._nonce}-(\d+)\]")

    def _with_marks(self, text: str, places: Sequence[int], count: int, first: int) -> str:
        """`text` with the marks of `count` images from number `first` on."""
        if not count:
            return text
        at = [*places, *[0] * (count - len(places))]
        pieces, done = [], 0
        for place, number in sorted(zip(at, range(first, first + count), strict=True)):
            pieces += [text[done:place], f"[img-{self._nonce}-{number}]"]
            done = place
        return "".join([*pieces, text[done:]])
