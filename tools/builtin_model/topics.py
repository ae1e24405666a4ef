"""The written material of the built-in model: reads and checks the files in `data/`.

Knows the file format and what makes it sound; knows nothing of tokens, training or scoring runs.

A file holds topics, each a block of `key: value` lines after its name in brackets:

    [keep-alive]
    answer: An idle model stays in memory for its keep-alive time, five minutes by default.
    must: keep-alive; five minutes
    ask: how long does a model stay {in memory|loaded}
    held: when is an unused model dropped from memory

`answer` is what the model learns to say. `must` lists what a right answer contains, `;` between
parts that are all needed and ` / ` between wordings of which one is enough. `ask` lines are
trained on, `held` lines are only ever used to measure. `{a|b|}` stands for each of its
alternatives, so one line is several questions. Lines that start with `#` are remarks.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
MIN_ASKED = 8
MIN_HELD = 2
MAX_SHARED_WORDS = 2 / 3  # of all words of a held-out and a trained question of one topic

_HEADER = re.compile(r"\[([a-z0-9-]+)\]")
_CHOICE = re.compile(r"\{([^{}]*)\}")
_WORD = re.compile(r"[a-z0-9]+")


class DataError(ValueError):
    """A data file breaks the format or a rule of it; the message names file, topic and cure."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing the model can say, and the questions that call for it.

    `lines` has the trained questions as they were written: those of one line are much alike.
    """

    name: str
    subject: str
    answer: str
    must: tuple[tuple[str, ...], ...]
    lines: tuple[tuple[str, ...], ...]
    held: tuple[str, ...]

    @property
    def asked(self) -> tuple[str, ...]:
        """All trained questions, each once."""
        return tuple(dict.fromkeys(question for line in self.lines for question in line))

    def is_answered_by(self, text: str) -> bool:
        """Whether `text` contains every required part, in any of its wordings, in any case."""
        plain = " ".join(text.lower().split())
        return all(any(wording in plain for wording in part) for part in self.must)


def load(folder: Path = DATA) -> list[Topic]:
    """All topics in file order; raises DataError when any rule of the material is broken."""
    topics = [topic for path in sorted(folder.glob("*.txt")) for topic in _read(path)]
    check(topics)
    return topics


def check(topics: list[Topic]) -> None:
    """Raise DataError unless training questions, held-out ones and answers are kept apart.

    The rules: names are unique; every topic has enough questions of both kinds; its own answer
    passes its own test and no answer of another test passes it; no question leads to two answers;
    no held-out question has the words of a trained one, nor nearly those of one of its topic.
    """
    _check_names(topics)
    for topic in topics:
        _check_counts(topic)
        _check_must(topic, topics)
    _check_questions(topics)


def word_key(question: str) -> str:
    """The words of a question without case, punctuation or order: equal keys, equal wording."""
    return " ".join(sorted(_WORD.findall(question.lower())))


def is_near(first: str, second: str) -> bool:
    """Whether two questions share so many of their words that one gives the other away."""
    words, others = (set(_WORD.findall(question.lower())) for question in (first, second))
    return len(words & others) > MAX_SHARED_WORDS * len(words | others)


def expand(line: str) -> list[str]:
    """Every question that a line with `{a|b}` choices stands for, in a fixed order."""
    parts = [part.split("|") if is_choice else [part] for is_choice, part in _split_choices(line)]
    return [" ".join("".join(picks).split()) for picks in itertools.product(*parts)]


def _split_choices(line: str) -> Iterator[tuple[bool, str]]:
    for index, part in enumerate(_CHOICE.split(line)):
        yield index % 2 == 1, part


def _read(path: Path) -> Iterator[Topic]:
    block: list[tuple[str, str]] = []
    name = ""
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if header := _HEADER.fullmatch(line):
            if name:
                yield _topic(path, name, block)
            name, block = header[1], []
            continue
        key, colon, value = line.partition(":")
        if not colon or not name or key not in {"answer", "must", "ask", "held"}:
            raise DataError(
                f"{path.name}:{number}: {line[:40]!r} is no answer, must, ask or held line"
            )
        block.append((key, value.strip()))
    if name:
        yield _topic(path, name, block)


def _topic(path: Path, name: str, block: list[tuple[str, str]]) -> Topic:
    answers = [value for key, value in block if key == "answer"]
    musts = [value for key, value in block if key == "must"]
    if len(answers) != 1 or len(musts) != 1:
        raise DataError(f"{path.name}: [{name}] needs exactly one answer and one must line")
    return Topic(
        name=name,
        subject=path.stem,
        answer=answers[0],
        must=tuple(_wordings(part) for part in musts[0].split(";")),
        lines=tuple(tuple(expand(value)) for key, value in block if key == "ask"),
        held=tuple(question for key, value in block if key == "held" for question in expand(value)),
    )


def _wordings(part: str) -> tuple[str, ...]:
    return tuple(wording.strip().lower() for wording in part.split(" / "))


def _check_names(topics: list[Topic]) -> None:
    twice = [name for name, count in Counter(t.name for t in topics).items() if count > 1]
    if twice:
        raise DataError(f"topic names must be unique; used twice: {', '.join(twice)}")


def _check_counts(topic: Topic) -> None:
    if len(topic.asked) < MIN_ASKED or len(topic.held) < MIN_HELD:
        raise DataError(
            f"[{topic.name}] has {len(topic.asked)} trained and {len(topic.held)} held-out "
            f"questions; at least {MIN_ASKED} and {MIN_HELD} are needed"
        )


def _check_must(topic: Topic, topics: list[Topic]) -> None:
    if not topic.is_answered_by(topic.answer):
        raise DataError(f"[{topic.name}] its own answer misses a part of {topic.must}")
    for other in topics:
        if other.must != topic.must and topic.is_answered_by(other.answer):
            raise DataError(
                f"[{topic.name}] {topic.must} is also met by the answer of [{other.name}]; "
                "require more of it"
            )


def _check_questions(topics: list[Topic]) -> None:
    owner: dict[str, Topic] = {}
    for topic in topics:
        for question in topic.asked:
            first = owner.setdefault(word_key(question), topic)
            if first.must != topic.must:
                raise DataError(f"{question!r} asks for both [{first.name}] and [{topic.name}]")
    for topic in topics:
        for question in topic.held:
            if word_key(question) in owner:
                raise DataError(f"[{topic.name}] held-out {question!r} is also trained on")
            _check_distance(topic, question)


def _check_distance(topic: Topic, held: str) -> None:
    for question in topic.asked:
        if is_near(held, question):
            raise DataError(
                f"[{topic.name}] held-out {held!r} has nearly the words of the trained "
                f"{question!r}; word one of them otherwise"
            )
