"""Training sequences: topics become chats of one or more turns, as token ids and targets.

Knows the chat format (the twin of `CHAT_TEMPLATE`) and how often each thing is shown; nothing of
the network. Only answers are targets: the model learns to answer, not to ask.
"""

from dataclasses import dataclass
from random import Random

from tools.builtin_model.bpe import ByteBPE
from tools.builtin_model.topics import Topic, word_key
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
_TURNS = ((0.55, 1, 1), (0.3, 2, 4), (0.12, 5, 10), (0.03, 14, 22))  # share, fewest, most


@dataclass(frozen=True, slots=True)
class Example:
    """One chat: token ids and, shifted by one, what to predict after each (IGNORED = nothing)."""

    ids: list[int]
    targets: list[int]


class Conversations:
    """An endless, seeded source of batches of about `batch_tokens` tokens each."""

    def __init__(
        self, topics: list[Topic], bpe: ByteBPE, seed: int, batch_tokens: int, longest: int
    ) -> None:
        self._topics = topics
        self._weights = [min(len(topic.asked), 150) ** 0.5 for topic in topics]
        self._held = {word_key(question) for topic in topics for question in topic.held}
        self._bpe = bpe
        self._random = Random(seed)
        self._batch_tokens = batch_tokens
        self._longest = longest

    def batch(self) -> list[Example]:
        """Chats of similar length, so that padding wastes little."""
        shares = [share for share, _, _ in _TURNS]
        _, fewest, most = self._random.choices(_TURNS, shares)[0]
        examples: list[Example] = []
        while not examples or max(len(e.ids) for e in examples) * len(examples) < (
            self._batch_tokens
        ):
            examples.append(self._chat(self._random.randint(fewest, most)))
        return examples

    def question(self, topic: Topic) -> str:
        """A variation of one of the topic's trained questions, never a held-out one."""
        while True:
            question = vary(self._random.choice(topic.asked), self._random)
            if word_key(question) not in self._held:
                return question

    def _chat(self, turns: int) -> Example:
        ids: list[int] = []
        targets: list[int] = []
        if self._random.random() < 0.2:
            self._add(ids, targets, "system", self._random.choice(SYSTEM_PROMPTS))
        for topic in self._random.choices(self._topics, self._weights, k=turns):
            self._add(ids, targets, "user", self.question(topic))
            self._add(ids, targets, "assistant", topic.answer)
        length = min(len(ids) - 1, self._longest)
        return Example(ids[:length], targets[1 : length + 1])

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
