"""Where images stand among the texts of a body, in each dialect's way.

A place is the number of characters of the content before the image. Images without one stand in
front of the text.
"""

import re
from collections.abc import Iterable

_MARK = "[img]"
_NUMBERED = re.compile(r"\[img-(\d{1,9})\]")

Placed = tuple[str, tuple[int, ...]]  # the content, and the place of each image


def places_by_mark(content: str, count: int) -> Placed:
    """Ollama's way in a conversation: each image takes the next `[img]`; those that are left over
    stand in front (server/prompt.go, chatPrompt). Without images the content stays as it is."""
    first, *others = content.split(_MARK, count) if count else [content]
    places = []
    for other in others:
        places.append(len(first))
        first += other
    return first, (*places, *[0] * (count - len(places))) if places else ()


def places_by_number(prompt: str, count: int) -> Placed:
    """Ollama's way in raw prompts: `[img-1]` is the place of the second image. A number that is
    out of range, or comes again, is text."""
    places: dict[int, int] = {}
    text, done = "", 0
    for found in _NUMBERED.finditer(prompt):
        number = int(found[1])
        if number < count and number not in places:
            text += prompt[done : found.start()]
            done = found.end()
            places[number] = len(text)
    whole = text + prompt[done:]
    return whole, tuple(places.get(number, 0) for number in range(count)) if places else ()


class Parts:
    """Content that is collected part by part: texts with a joint between them, images where they
    are. Beside an image there is no joint (llama.cpp does the same)."""

    def __init__(self, joint: str) -> None:
        self._joint = joint
        self._is_behind_text = False
        self.content = ""
        self.images: tuple[bytes, ...] = ()
        self._places: list[int] = []

    def add_text(self, text: str) -> None:
        self.content += (self._joint if self._is_behind_text else "") + text
        self._is_behind_text = True

    def add_image(self, image: bytes) -> None:
        self.images += (image,)
        self._places.append(len(self.content))
        self._is_behind_text = False

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(self._places) if any(self._places) else ()

    @property
    def has_any(self) -> bool:
        return bool(self.content or self.images or self._is_behind_text)


def joined_content(contents: Iterable[tuple[str, int, tuple[int, ...]]], joint: str) -> Placed:
    """Contents with how many images each has, and their places, as one content; empty texts add
    no joint."""
    whole, places = "", list[int]()
    for content, count, own in contents:
        if whole and content:
            whole += joint
        places += [len(whole) + place for place in (*own, *[0] * (count - len(own)))]
        whole += content
    return whole, tuple(places) if any(places) else ()
