"""A text to be filled in, for models whose vocabulary has tokens for that and whose template has
no place for a suffix.

The order is prefix, suffix, middle, as llama.cpp's server has it by default (tools/server,
format_prompt_infill). What does not fit is cut where it matters least: at the beginning of the
prefix and at the end of the suffix.
"""

from collections.abc import Sequence

from appliance.chat.events import Completion
from appliance.chat.prompt import Prompt
from appliance.errors import UnsupportedError
from engine.process.client import EngineClient

ANSWER_SHARE = 4  # one part in so many of the context is left for what is filled in
SUFFIX_SHARE = 4  # of what is read, one part in so many may be suffix when all is too much


async def infill_prompt(
    work: Completion, client: EngineClient, full_name: str, *, truncate: bool
) -> Prompt:
    """The prompt as tokens; raises UnsupportedError in Ollama's words for a model without them."""
    marks = client.info.infill
    if not marks:
        raise UnsupportedError(f"{full_name} does not support insert")
    before, after = await client.tokenize(
        [work.prompt, work.suffix], add_special=False, parse_special=False
    )
    (front,) = await client.tokenize([""], add_special=True)
    if truncate:
        context = client.info.context_length
        room = context - context // ANSWER_SHARE - len(marks) - len(front)
        before, after = fit(before, after, max(room, 0))
    opening, closing, middle = marks
    tokens = [*front, opening, *before, closing, *after, middle]
    text = (await client.detokenize(tokens)).decode(errors="replace")
    return Prompt(text, tokens)


def fit(before: Sequence[int], after: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """At most `room` tokens of both: the last of the prefix, the first of the suffix."""
    kept_after = min(len(after), max(room // SUFFIX_SHARE, room - len(before)))
    kept_before = min(len(before), room - kept_after)
    return list(before[len(before) - kept_before :]), list(after[:kept_after])
