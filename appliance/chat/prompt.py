"""From a conversation to the prompt: the model's own messages, its template, and what must fit.

Which template it is, and how it is filled, is in `render/`. Knows nothing of engines; the length of
a prompt is measured by a function it is given.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from appliance.chat.events import Completion, Message, Tool
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.template import render
from appliance.errors import BadRequestError
from appliance.library.stored import StoredModel
from appliance.templates.choice import ChatTemplate

Measure = Callable[[str], Awaitable[list[int]]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    text: str
    tokens: list[int]
    dropped_messages: int = 0
    images: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A model's template with what each rendering of one request has in common.

    think         None: as the model does, which is on where the template can think (Ollama API)
    opens_answer  the prompt ends with the opening of the assistant's turn
    """

    chosen: ChatTemplate
    bos_token: str = ""
    eos_token: str = ""
    tools: Sequence[Tool] = ()
    think: bool | str | None = None
    opens_answer: bool = True

    async def render(self, messages: Sequence[Message], suffix: str = "") -> str:
        """The prompt's text; raises as `render.template.render` does."""
        return await asyncio.to_thread(self._render, messages, suffix)

    def _render(self, messages: Sequence[Message], suffix: str) -> str:
        given = RenderInput(
            messages,
            tools=self.tools,
            think=self._think(),
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            add_generation_prompt=self.opens_answer,
            suffix=suffix,
        )
        return render(self.chosen, given)

    def _think(self) -> bool | str | None:
        if self.think is not None:
            return self.think
        from appliance.templates.facts import abilities_of  # heavy: only when one renders

        chosen = self.chosen
        return abilities_of(chosen.text, is_go=chosen.is_go).thinking or None


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
    places = work.image_places
    return [*messages, Message("user", work.prompt, images=work.images, image_places=places)]


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
