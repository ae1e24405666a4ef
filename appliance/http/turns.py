"""Messages of one role that follow each other, as one turn: many templates want alternate roles."""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, groupby

from appliance.chat.events import Message
from appliance.http.image_places import joined_content

JOINT = "\n"  # between texts of one turn


def joined(messages: Iterable[Message], roles: Collection[str]) -> list[Message]:
    """The messages, those of `roles` joined with their neighbours of the same role."""
    turns: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        if role in roles:
            turns.append(_one(list(group)))
        else:
            turns.extend(group)
    return turns


def _one(group: Sequence[Message]) -> Message:
    if len(group) == 1:
        return group[0]
    content, places = joined_content(
        [(message.content, len(message.images), message.image_places) for message in group], JOINT
    )
    return Message(
        group[0].role,
        content,
        thinking=JOINT.join(message.thinking for message in group if message.thinking),
        tool_calls=tuple(chain.from_iterable(message.tool_calls for message in group)),
        images=tuple(chain.from_iterable(message.images for message in group)),
        image_places=places,
    )
