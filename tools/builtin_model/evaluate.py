"""Measures the shipped GGUF in llama.cpp: how many held-out questions get the right content.

Each held-out question is a fresh chat, answered greedily; an answer counts when it contains all
parts that the topic's `must` line asks for. Prints every miss and the figure, and exits with 1
below the bar. Knows nothing of training.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_cpp import Llama

from tools.builtin_model import SHIPPED
from tools.builtin_model.topics import Topic, load

BAR = 0.85
MAX_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Trial:
    """One held-out question, what came back, and whether it holds the right content."""

    topic: Topic
    question: str
    reply: str
    finished: bool

    @property
    def passed(self) -> bool:
        """An answer that has to be cut off is a miss as well."""
        return self.finished and self.topic.is_answered_by(self.reply)


def main() -> int:
    """Evaluate the file named on the command line; 0 when it reaches the bar."""
    options = _options()
    model = open_model(options.model, options.threads)
    trials = list(ask_all(model, load(), options.system))
    misses = [trial for trial in trials if not trial.passed]
    for trial in misses:
        print(f"[{trial.topic.name}] {trial.question}\n    {trial.reply}")
    for subject, count in sorted(Counter(t.topic.subject for t in misses).items()):
        print(f"{subject}: {count} missed")
    right = len(trials) - len(misses)
    print(f"{right} of {len(trials)} held-out questions answered: {right / len(trials):.1%}")
    return 0 if right >= BAR * len(trials) else 1


def open_model(path: Path, threads: int) -> Llama:
    """The GGUF in llama.cpp, with its own context length and chat template."""
    return Llama(str(path), n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False)


def ask_all(model: Llama, topics: list[Topic], system: str) -> Iterator[Trial]:
    """Every held-out question of `topics`, each in a chat of its own."""
    for topic in topics:
        for question in topic.held:
            reply, finished = ask(model, question, system)
            yield Trial(topic, question, reply, finished)


def ask(model: Llama, question: str, system: str = "") -> tuple[str, bool]:
    """The greedy answer, and whether the model ended it by itself."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    result = model.create_chat_completion(messages, temperature=0.0, max_tokens=MAX_TOKENS)
    choice = result["choices"][0]
    return choice["message"]["content"], choice["finish_reason"] == "stop"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the built-in model")
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--system", default="", help="ask with this system prompt")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
