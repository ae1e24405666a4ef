"""How many tokens a second come out of all models together, just now."""

from collections import deque

WINDOW_S = 4.0  # long enough to be steady, short enough to be "now"
SLICE_S = 0.25


class TokenMeter:
    """Counts tokens in slices of time and forgets the old ones. Times are time.monotonic()."""

    def __init__(self) -> None:
        self._slices: deque[tuple[int, int]] = deque()  # (slice of time, tokens)

    def add(self, tokens: int, now: float) -> None:
        """Some tokens came out of a model."""
        place = int(now / SLICE_S)
        if self._slices and self._slices[-1][0] == place:
            tokens += self._slices.pop()[1]
        self._slices.append((place, tokens))
        self._forget(place)

    def per_second(self, now: float) -> float:
        """Over the window, or since the first token where that was later."""
        place = int(now / SLICE_S)
        self._forget(place)
        if not self._slices:
            return 0.0
        seconds = (place - self._slices[0][0] + 1) * SLICE_S
        return sum(tokens for _, tokens in self._slices) / seconds

    def _forget(self, place: int) -> None:
        oldest = place - int(WINDOW_S / SLICE_S)
        while self._slices and self._slices[0][0] <= oldest:
            self._slices.popleft()
