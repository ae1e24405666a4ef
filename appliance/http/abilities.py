"""What a job asks of its model besides text, and the refusal when the model cannot do it."""

import asyncio

from aiohttp import web

from appliance.chat.events import Completion, JobRequest
from appliance.errors import ModelNameError, ModelNotFoundError, UnsupportedError
from appliance.http.access import require_model
from appliance.http.context import FIELDS, LIBRARY
from appliance.http.streams import unknown_model
from appliance.library.names import ModelName

# Abilities that a model may list and this release has no engine for.
LACKED = frozenset({"thinking", "tools", "vision"})


async def require_abilities(request: web.Request, job: JobRequest) -> None:
    """Raise UnsupportedError for the first ability that the model lacks, with Ollama's text; an
    unknown model comes first, as there."""
    wanted = abilities_of(job)
    if not wanted:
        return
    request[FIELDS]["model"] = job.model
    require_model(request, job.model)
    try:
        name = ModelName.parse(job.model)
        stored = await asyncio.to_thread(request.app[LIBRARY].get, name)
    except (ModelNameError, ModelNotFoundError) as error:
        raise unknown_model(job.model) from error
    able = frozenset(await asyncio.to_thread(stored.capabilities)) - LACKED
    for ability in wanted:
        if ability not in able:
            raise UnsupportedError(refusal(ability, job.model, stored.name))


def abilities_of(job: JobRequest) -> list[str]:
    """The abilities in Ollama's words that `job` needs, in the order of its checks."""
    if isinstance(job.work, Completion):
        inserts, has_images = bool(job.work.suffix), bool(job.work.images)
    else:
        inserts, has_images = False, any(message.images for message in job.work or ())
    wanted = {
        "insert": inserts,
        "tools": bool(job.tools) and job.tool_choice.kind != "none",
        "vision": has_images,
        "thinking": bool(job.think),
    }
    return [ability for ability, is_wanted in wanted.items() if is_wanted]


def refusal(ability: str, typed: str, name: ModelName) -> str:
    """Ollama's text for a model that lacks an ability; tools and insert name the model in full."""
    if ability in {"tools", "insert"}:
        return f"{name.full} does not support {ability}"
    return f'"{typed}" does not support {ability}'
