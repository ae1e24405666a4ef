"""Seeded variations of a written question, as hurried people would type it.

Knows wordings and slips of English; nothing of topics or tokens. A variation asks the same thing:
words are exchanged only within the groups of `wordings.txt`, and only small words are dropped.
"""

import re
from functools import cache
from pathlib import Path
from random import Random

_WORDINGS = Path(__file__).parent / "wordings.txt"
_BEFORE = (
    "please", "hey", "hi", "hello", "ok", "okay", "so", "well", "and", "also", "quick question:",
    "tell me", "can you tell me", "could you tell me", "please tell me", "i want to know",
    "i would like to know", "do you know", "i wonder", "explain", "one more thing:", "question:",
    "sorry,", "excuse me,", "just curious,", "i have a question:", "help:", "help me:",
    "my friend asks:", "i am a beginner:", "i have read the manual but", "for my own setup,",
    "in other words,", "honestly,", "in short,", "briefly:", "i am confused:", "any idea",
    "could someone explain", "as a newcomer i ask:", "we have hearth now;",
)  # fmt: skip
_AFTER = (
    "please", "thanks", "here", "on this box", "on the box", "on hearth", "with hearth",
    "in hearth", "exactly", "then", "for me", "again", "by the way", "thank you", "now", "at all",
    "in practice", "in general", "in my case", "today", "these days", "i wonder", "any idea",
    "with this thing", "in detail", "in a few words", "at home", "in our office",
)  # fmt: skip
_SMALL_WORDS = {
    "a", "an", "the", "is", "are", "do", "does", "i", "of", "to", "in", "on", "it", "my", "this",
    "that", "can", "for", "me", "you", "your", "at", "with", "be", "there", "what", "how",
}  # fmt: skip
_ENDS = ("?", "?", "?", "", "", "", ".", "??", " ?", "!", "...")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vary(question: str, random: Random) -> str:
    """One way to type `question`; the same state of `random` gives the same text."""
    text = question
    if random.random() < 0.45:
        text = _exchange(text, random)
    if random.random() < 0.2:
        text = _drop_small_words(text, random)
    if random.random() < 0.2:
        text = f"{random.choice(_BEFORE)} {text}"
    if random.random() < 0.15:
        text = f"{text.rstrip('?.! ')} {random.choice(_AFTER)}"
    if random.random() < 0.1:
        text = _slip(text, random)
    return _dress(text, random)


def _exchange(text: str, random: Random) -> str:
    """Each wording that belongs to a group is exchanged for another of it, every second time."""
    groups, pattern = _groups()

    def other(found: re.Match[str]) -> str:
        keep = random.random() < 0.5
        return found[0] if keep else random.choice(groups[found[0].lower()])

    return pattern.sub(other, text)


@cache
def _groups() -> tuple[dict[str, list[str]], re.Pattern[str]]:
    """The group of each wording, and what finds them all, longer ones first."""
    groups: dict[str, list[str]] = {}
    for line in _WORDINGS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            members = [member.strip() for member in line.split(",")]
            for member in members:
                groups.setdefault(member, members)
    found = sorted(groups, key=len, reverse=True)
    pattern = "|".join(re.escape(wording) for wording in found)
    return groups, re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


def _drop_small_words(text: str, random: Random) -> str:
    words = text.split()
    kept = [w for w in words if w.lower() not in _SMALL_WORDS or random.random() < 0.6]
    return " ".join(kept) if len(kept) > 1 else text


def _slip(text: str, random: Random) -> str:
    """One or two typing mistakes, only inside words of four letters or more."""
    words = text.split()
    long = [index for index, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for index in random.sample(long, min(len(long), random.choice((1, 1, 2)))):
        words[index] = _mistype(words[index], random)
    return " ".join(words)


def _mistype(word: str, random: Random) -> str:
    at = random.randrange(1, len(word) - 1)
    match random.randrange(4):
        case 0:
            return word[:at] + word[at + 1 :]
        case 1:
            return word[:at] + word[at] + word[at:]
        case 2:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case _:
            return word[:at] + random.choice(_LETTERS) + word[at + 1 :]


def _dress(text: str, random: Random) -> str:
    """Case, apostrophes and the sign at the end."""
    if random.random() < 0.85:
        text = text.rstrip("?.! ") + random.choice(_ENDS)
    chance = random.random()
    if chance < 0.4:
        text = text.lower()
    elif chance < 0.8:
        text = text[:1].upper() + text[1:]
    elif chance < 0.84:
        text = text.upper()
    if "'" in text and random.random() < 0.4:
        text = text.replace("'", random.choice(("", "\u2019")))
    return text
