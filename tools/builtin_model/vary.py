"""Seeded variations of a written question, as hurried people would type it.

Knows wordings and slips of English; nothing of topics or tokens. A variation never changes what
is asked: only words that mean the same here are exchanged, and only small words are dropped.
"""

import re
from random import Random

_SAME = (
    (
        "how do i",
        "how can i",
        "how to",
        "how would i",
        "how do you",
        "how does one",
        "how should i",
    ),
    ("what is", "what's", "whats", "what exactly is"),
    ("what are", "which are", "what're"),
    ("can i", "may i", "could i", "am i able to", "is it possible to"),
    ("does it", "will it", "would it"),
    ("do i need", "do i have to have", "is it necessary to have"),
    ("show", "display", "see"),
    ("delete", "remove", "erase"),
    ("change", "adjust", "modify", "alter"),
    ("explain", "describe"),
    ("computer", "pc", "laptop"),
    ("phone", "smartphone", "mobile"),
    ("box", "device", "machine", "appliance"),
    ("need", "require"),
    ("fast", "quick"),
    ("big", "large"),
    ("happens", "occurs"),
    ("purpose", "point"),
    ("mean", "stand for"),
    ("wrong", "broken"),
    ("possible", "feasible"),
    ("find", "locate"),
    ("answer", "reply", "response"),
    ("which", "what"),
    ("many", "several"),
    ("command", "verb", "subcommand"),
)
_BEFORE = (
    "please", "hey", "hi", "hello", "ok", "okay", "so", "well", "and", "also", "quick question:",
    "tell me", "can you tell me", "could you tell me", "please tell me", "i want to know",
    "i would like to know", "do you know", "i wonder", "explain", "one more thing:", "question:",
    "sorry,", "excuse me,", "just curious,", "i have a question:", "help:", "help me:",
)  # fmt: skip
_AFTER = (
    "please", "thanks", "here", "on this box", "on the box", "on hearth", "with hearth",
    "in hearth", "exactly", "then", "for me", "again", "by the way", "thank you", "now",
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
    if random.random() < 0.4:
        text = _exchange(text, random)
    if random.random() < 0.25:
        text = _drop_small_words(text, random)
    if random.random() < 0.25:
        text = f"{random.choice(_BEFORE)} {text}"
    if random.random() < 0.12:
        text = f"{text.rstrip('?.! ')} {random.choice(_AFTER)}"
    if random.random() < 0.2:
        text = _slip(text, random)
    return _dress(text, random)


def _exchange(text: str, random: Random) -> str:
    lowered = text.lower()
    for group in _SAME:
        found = next((word for word in group if re.search(rf"\b{re.escape(word)}\b", lowered)), "")
        if found and random.random() < 0.6:
            other = random.choice(group)
            lowered = re.sub(rf"\b{re.escape(found)}\b", other, lowered, count=1)
    return lowered


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
