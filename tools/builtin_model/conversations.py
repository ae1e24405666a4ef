"""Training sequences: topics become chats of one or more turns, as token ids and targets.

Knows the chat format (the twin of `CHAT_TEMPLATE`) and how often each thing is shown; nothing of
the network. Only answers are targets: the model learns to answer, not to ask.

Which answer to give is decided in its first few tokens, and only that is hard to learn. So most
last answers are cut behind the tokens that tell them from all others, which shows twice as many
questions in the same time; the rest of the chats carry whole answers and their ends.
"""

from dataclasses import dataclass
from itertools import takewhile
from random import Random

from tools.builtin_model.bpe import ByteBPE
from tools.builtin_model.topics import Topic, is_near, word_key
from tools.builtin_model.vary import vary

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, TURN_START, TURN_END]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] | trim)"
    " + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
IGNORED = -100  # torch's cross entropy skips this target

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Hearth, an AI box for the local network.",
    "You are the assistant of this box. Answer briefly.",
    "Answer in one or two sentences.",
    "You are a friendly assistant. Be concise and honest.",
    "Be brief.",
    "You answer questions about Hearth.",
    "You are a helpful, respectful and honest assistant.",
    "Today you help a person at home. Keep your answers short and clear.",
    "You are a chat bot for the family.",
    "Answer truthfully. If you do not know, say so.",
    "You are an expert for small computers and local AI.",
)
_TURNS = ((0.7, 1, 1), (0.2, 2, 4), (0.08, 5, 10), (0.02, 14, 22))  # share, fewest, most
_WHOLE_SHARE = 0.2  # of the chats: the last answer is not cut
_BEYOND_DECISION = 2  # tokens kept of a cut answer behind the one that decides


@dataclass(frozen=True, slots=True)
class Example:
    """One chat: token ids and, shifted by one, what to predict after each (IGNORED = nothing).

    `topics` numbers the topic of each answer, in order.
    """

    ids: list[int]
    targets: list[int]
    topics: list[int]


class Conversations:
    """An endless, seeded source of batches of about `batch_tokens` tokens each."""

    def __init__(
        self, topics: list[Topic], bpe: ByteBPE, seed: int, batch_tokens: int, longest: int
    ) -> None:
        self._topics = topics
        self._weights = [min(len(topic.lines), 12) ** 0.5 for topic in topics]
        # Lines with many choices hold the plainest questions; each alone is shown more rarely.
        self._line_weights = {t.name: [len(line) ** 0.5 for line in t.lines] for t in topics}
        self._held = {word_key(question) for topic in topics for question in topic.held}
        self._bpe = bpe
        self._random = Random(seed)
        self._batch_tokens = batch_tokens
        self._longest = longest
        self._numbers = {topic.name: number for number, topic in enumerate(topics)}
        self._decisive = decisive_lengths({t.name: bpe.encode(t.answer) for t in topics})

    def batch(self, with_turns: bool) -> list[Example]:
        """Chats of similar length, so that padding wastes little; without turns, of one question.

        Early batches should be without: picking the last question out of several is learnt
        quickly once answering one is.
        """
        shares = [share for share, _, _ in _TURNS]
        _, fewest, most = self._random.choices(_TURNS, shares)[0] if with_turns else _TURNS[0]
        examples: list[Example] = []
        while not examples or max(len(e.ids) for e in examples) * len(examples) < (
            self._batch_tokens
        ):
            examples.append(self._chat(self._random.randint(fewest, most)))
        return examples

    def question(self, topic: Topic) -> str:
        """A variation of one of the topic's trained questions, never nearly a held-out one."""
        while True:
            line = self._random.choices(topic.lines, self._line_weights[topic.name])[0]
            question = vary(self._random.choice(line), self._random)
            if word_key(question) in self._held:
                continue
            if not any(is_near(question, held) for held in topic.held):
                return question

    def _chat(self, turns: int) -> Example:
        ids: list[int] = []
        targets: list[int] = []
        if self._random.random() < 0.12:
            self._add(ids, targets, "system", self._random.choice(SYSTEM_PROMPTS))
        chosen = self._random.choices(self._topics, self._weights, k=turns)
        for topic in chosen:
            self._add(ids, targets, "user", self.question(topic))
            self._add(ids, targets, "assistant", topic.answer)
        length = len(ids)
        if self._random.random() >= _WHOLE_SHARE:
            rest = len(self._bpe.encode(chosen[-1].answer)) - self._decisive[chosen[-1].name]
            length -= max(rest - _BEYOND_DECISION, 0) + 2  # and the end mark and line feed
        length = min(length - 1, self._longest)
        numbers = [self._numbers[topic.name] for topic in chosen]
        return Example(ids[:length], targets[1 : length + 1], numbers)

    def _add(self, ids: list[int], targets: list[int], role: str, content: str) -> None:
        """Append one message; content and end of an assistant's message are the targets."""
        head = [self._bpe.special_id(TURN_START), *self._bpe.encode(f"{role}\n")]
        if role == "assistant":
            body = self._bpe.encode(content)
        else:
            head, body = head[:1], self._bpe.encode(f"{role}\n{content}")
        body.append(self._bpe.special_id(TURN_END))
        tail = self._bpe.encode("\n")
        ids += head + body + tail
        learned = body if role == "assistant" else [IGNORED] * len(body)
        targets += [IGNORED] * len(head) + learned + [IGNORED] * len(tail)


def decisive_lengths(answers: dict[str, list[int]]) -> dict[str, int]:
    """For each answer, how many of its first tokens tell it from all different answers."""
    return {
        name: 1 + max(_common(answer, other) for other in answers.values() if other != answer)
        for name, answer in answers.items()
    }


def _common(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
