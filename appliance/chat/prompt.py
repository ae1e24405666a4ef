"""From a conversation to the prompt: the model's own messages, its template, and what must fit.

The order of templates is Ollama's: a Modelfile's TEMPLATE, then the GGUF's own Jinja template, then
none at all. Knows nothing of engines; the length of a prompt is measured by a function it is given.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from appliance.chat.events import Completion, Message
from appliance.chat.render.jinja import render_chat
from appliance.errors import BadRequestError, UnsupportedError
from appliance.library.stored import StoredModel

Measure = Callable[[str], Awaitable[list[int]]]

_NO_TEMPLATE = "{{ .Prompt }}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    text: str
    tokens: list[int]
    dropped_messages: int = 0


@dataclass(frozen=True, slots=True)
class Template:
    """The template that a model's conversations are rendered with; empty `jinja` means none."""

    jinja: str
    bos_token: str = ""
    eos_token: str = ""

    async def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text. Without a template the contents follow each other as they are."""
        if not self.jinja:
            return "".join(m.content for m in messages if m.role != "system")
        return await asyncio.to_thread(
            render_chat,
            self.jinja,
            messages,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
        )


def choose_template(go_template: str, jinja: str, owner: str) -> str:
    """The Jinja template to use, or empty for none. `owner` brought the Go template.

    Raises UnsupportedError for a Go template, which is stored and shown but not yet rendered.
    """
    if not go_template.strip():
        return jinja
    if "".join(go_template.split()) == "".join(_NO_TEMPLATE.split()):
        return ""
    raise UnsupportedError(
        f"{owner} has a template in Go syntax, which this release stores and shows but does not"
        " render yet; leave TEMPLATE out to use the GGUF's own chat template, or"
        ' send "raw": true with a finished prompt'
    )


def conversation(stored: StoredModel, messages: Sequence[Message]) -> list[Message]:
    """The request's messages behind the Modelfile's SYSTEM and MESSAGEs (Ollama API, /api/chat).

    A request that begins with a system message of its own replaces the Modelfile's SYSTEM.
    """
    own = [Message(role, content) for role, content in stored.messages]
    whole = [*own, *messages]
    if stored.system and messages[0].role != "system":
        whole.insert(0, Message("system", stored.system))
    return whole


def single_turn(stored: StoredModel, work: Completion) -> list[Message]:
    """The messages of a prompt outside a conversation (Ollama API, /api/generate)."""
    system = work.system or stored.system
    messages = [Message("system", system)] if system else []
    if not work.context:
        messages += [Message(role, content) for role, content in stored.messages]
    return [*messages, Message("user", work.prompt)]


async def fit_conversation(
    template: Template, messages: Sequence[Message], measure: Measure, limit: int
) -> Prompt:
    """Render, dropping the oldest messages until at most `limit` tokens remain.

    System messages and the last message always stay; if they alone are too long, the engine cuts
    the text. A template may refuse a shortened conversation (roles must alternate): then one more
    message goes.
    """
    droppable = [i for i, m in enumerate(messages[:-1]) if m.role != "system"]

    async def attempt(count: int) -> Prompt:
        gone = set(droppable[:count])
        text = await template.render([m for i, m in enumerate(messages) if i not in gone])
        return Prompt(text, await measure(text), count)

    whole = await attempt(0)
    if len(whole.tokens) < limit or not droppable:
        return whole
    low, high = 1, len(droppable)
    while low < high:
        middle = (low + high) // 2
        if await _fits(attempt, middle, limit):
            high = middle
        else:
            low = middle + 1
    for count in range(low, len(droppable)):
        if await _fits(attempt, count, limit):
            return await attempt(count)
    return await attempt(len(droppable))


async def _fits(attempt: Callable[[int], Awaitable[Prompt]], count: int, limit: int) -> bool:
    try:
        return len((await attempt(count)).tokens) < limit
    except BadRequestError:
        return False
