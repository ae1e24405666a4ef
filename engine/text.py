"""From an engine's bytes to text that may be shown: whole UTF-8 characters, stop strings removed.

One `TextAssembler` per sequence, in the control plane, the same for every engine. Knows nothing of
tokens: it eats bytes in order and says what is safe to send.
"""

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Turns byte pieces into text, holding back what may yet become a stop string.

    A character split over pieces is held back until it is whole; bytes that are no UTF-8 become
    U+FFFD. Text is never sent and then found to belong to a stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = [s for s in stop if s]
        self._held = ""
        self.stopped_by: str | None = None  # the stop string that ended the text

    def feed(self, data: bytes) -> str:
        """Text that can be sent now. After a stop string was found: always empty."""
        if self.stopped_by is not None:
            return ""
        text = self._held + self._decoder.decode(data)
        if not self._stop:
            return text
        found = [(at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            # The one that is complete first, so that the cut into pieces makes no difference.
            at, self.stopped_by = min(found, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, s) for s in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What is still held back, once no more bytes can come."""
        if self.stopped_by is not None:
            return ""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
