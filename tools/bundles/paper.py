"""A secret key on paper: 24 words, each checking itself, all of them checking each other.

A word is consonant, vowel, consonant, vowel, consonant, and stands for 12 bits; its last consonant
is a check letter, so that one wrong letter, or two swapped ones, are found in the word where they
are. 256 bits are the seed of the ed25519 key, the other 32 a checksum over all. The words come from
the rule below and from no list; whoever has this page can write the decoder anew:

    consonants  b d f g h j k l m n p r s t v z   are 0 to 15, bits of a number in GF(16) modulo
                                                  x^4 + x + 1
    vowels      a e i o                           are 0 to 3
    12 bits     first consonant 4, first vowel 2, second consonant 4, second vowel 2
    check       c1 + x*c2 + x^2*v1 + x^3*v2
    checksum    the first 32 bits of SHA-256 of "hearth paper key" and the seed
"""

import hashlib
import re

from tools.bundles.errors import KeyFileError

WORDS = 24
SEED_BYTES = 32

_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aeio"
_BITS = 12
_CHECK_BYTES = WORDS * _BITS // 8 - SEED_BYTES
_LABEL = b"hearth paper key"
_PER_LINE = 4
_POLYNOMIAL = 0b10011
_WORD = re.compile(rf"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]")
_NUMBERED = re.compile(r"\b([0-9]{1,2})\.\s+([A-Za-z]+)")


def words_of(seed: bytes) -> list[str]:
    """The 24 words of a seed of 32 bytes."""
    number = int.from_bytes(seed + _checksum(seed))
    shifts = range((WORDS - 1) * _BITS, -1, -_BITS)
    return [_word((number >> shift) & ((1 << _BITS) - 1)) for shift in shifts]


def seed_of(words: list[str]) -> bytes:
    """The seed of 24 words; raises KeyFileError that says which word is wrong."""
    if len(words) != WORDS:
        raise KeyFileError(f"there are {len(words)} words, a key has {WORDS}")
    number = 0
    for position, word in enumerate(words, start=1):
        value = _value(word.lower())
        if value is None:
            raise KeyFileError(
                f"word {position}, {word[:20]!r}, is mistyped", hint="compare it with the paper"
            )
        number = number << _BITS | value
    data = number.to_bytes(WORDS * _BITS // 8)
    seed, checksum = data[:SEED_BYTES], data[SEED_BYTES:]
    if checksum != _checksum(seed):
        raise KeyFileError(
            "the words do not belong together in this order",
            hint="each is a word, but one was left out, doubled, swapped or from another paper",
        )
    return seed


def page(seed: bytes) -> str:
    """The words as they are printed: numbered, four in a line."""
    numbered = [f"{number:>2}. {word}" for number, word in enumerate(words_of(seed), start=1)]
    starts = range(0, WORDS, _PER_LINE)
    return "\n".join("    " + "   ".join(numbered[i : i + _PER_LINE]) for i in starts)


def read_page(text: str) -> list[str]:
    """The words of a printed page in the order of their numbers, or bare words in theirs."""
    numbered = {int(number): word for number, word in _NUMBERED.findall(text)}
    return [numbered[number] for number in sorted(numbered)] if numbered else text.split()


def _checksum(seed: bytes) -> bytes:
    return hashlib.sha256(_LABEL + seed).digest()[:_CHECK_BYTES]


def _word(value: int) -> str:
    c1, v1, c2, v2 = value >> 8, value >> 6 & 3, value >> 2 & 15, value & 3
    check = c1 ^ _times_x(c2, 1) ^ _times_x(v1, 2) ^ _times_x(v2, 3)
    return f"{_CONSONANTS[c1]}{_VOWELS[v1]}{_CONSONANTS[c2]}{_VOWELS[v2]}{_CONSONANTS[check]}"


def _value(word: str) -> int | None:
    if not _WORD.fullmatch(word):
        return None
    c1, c2 = _CONSONANTS.index(word[0]), _CONSONANTS.index(word[2])
    v1, v2 = _VOWELS.index(word[1]), _VOWELS.index(word[3])
    value = c1 << 8 | v1 << 6 | c2 << 2 | v2
    return value if _word(value) == word else None


def _times_x(value: int, times: int) -> int:
    """Multiply by x so often, in GF(16)."""
    for _ in range(times):
        value <<= 1
        if value & 0b10000:
            value ^= _POLYNOMIAL
    return value
