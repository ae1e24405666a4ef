"""A byte-level BPE tokenizer in the form that llama.cpp calls "gpt2" with the "gpt-2" splitter.

Trains merges, encodes and decodes; special tokens are added by name after the merges. Knows
nothing of files or models. The split rule is the one of llama.cpp's `unicode.cpp` for
LLAMA_VOCAB_PRE_TYPE_GPT2; `tests/integration/test_builtin_model.py` compares the two.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import pairwise

_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class ByteBPE:
    """Token ids: 256 bytes, then one per merge in rank order, then the special tokens."""

    def __init__(self, merges: list[tuple[str, str]], special: list[str]) -> None:
        self.merges = merges
        self.special = special
        self.tokens = [*byte_symbols().values(), *(a + b for a, b in merges), *special]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._word_ids = lru_cache(maxsize=100_000)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; the names of special tokens in it are text like any other."""
        return [token for word in split(text) for token in self._word_ids(word)]

    def special_id(self, name: str) -> int:
        """Id of a special token; raises KeyError for an unknown name."""
        return self._ids[name]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are spelled out, broken UTF-8 becomes U+FFFD."""
        symbols = {symbol: byte for byte, symbol in byte_symbols().items()}
        parts: list[bytes] = []
        for index in ids:
            token = self.tokens[index]
            is_special = index >= len(self.tokens) - len(self.special)
            parts.append(token.encode() if is_special else bytes(symbols[c] for c in token))
        return b"".join(parts).decode("utf-8", errors="replace")

    def _encode_word(self, word: str) -> list[int]:
        symbols = byte_symbols()
        parts = [symbols[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, sys.maxsize))
            if best not in self._ranks:
                break
            parts = _merged(parts, best)
        return [self._ids[part] for part in parts]


def train(texts: Iterable[str], vocab_size: int, special: list[str]) -> ByteBPE:
    """Merge the most frequent neighbours until `vocab_size` tokens; ties fall alphabetically."""
    symbols = byte_symbols()
    counts = Counter(word for text in texts for word in split(text))
    words = [([symbols[byte] for byte in word.encode()], n) for word, n in counts.items()]
    merges: list[tuple[str, str]] = []
    while len(merges) < vocab_size - len(symbols) - len(special):
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, n in words:
            for pair in pairwise(parts):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [(_merged(parts, best), n) for parts, n in words]
    return ByteBPE(merges, special)


def split(text: str) -> list[str]:
    """The pieces that merges never cross: contractions, words, numbers, signs, white space."""
    return _pattern().findall(text)


@cache
def byte_symbols() -> dict[int, str]:
    """One printable character per byte, as GPT-2 chose them: itself, else U+0100 and onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(0x100 + index) for index, byte in enumerate(hidden)})
    return table


@cache
def _pattern() -> re.Pattern[str]:
    letter, number = _category_class("L"), _category_class("N")
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+"
        f"| ?[^{_SPACE}{letter}{number}]+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
    )


def _category_class(initial: str) -> str:
    """A character class body of all code points whose Unicode category starts with `initial`."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] != initial:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(parts):
        if index + 1 < len(parts) and (parts[index], parts[index + 1]) == pair:
            merged.append(parts[index] + parts[index + 1])
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return merged
