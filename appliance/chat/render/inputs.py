"""What every kind of template is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance.chat.events import Message, Tool


def local_now() -> datetime:
    """The wall clock with the box's own offset."""
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class RenderInput:
    """One conversation to be rendered. Nothing of it is changed by rendering.

    think   None: as the template has it; True or False; or a level, which means True
    suffix  what follows the text that is wanted; the last message is what comes before it
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    think: bool | str | None = None
    bos_token: str = ""
    eos_token: str = ""
    add_generation_prompt: bool = True
    suffix: str = ""
    now: Callable[[], datetime] = local_now
