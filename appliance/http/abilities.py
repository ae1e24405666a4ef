"""What a job asks of its model besides text, and the refusal when the model cannot do it."""

import asyncio
from dataclasses import replace

from aiohttp import web

from appliance.chat.events import Completion, JobRequest
from appliance.errors import ModelNameError, ModelNotFoundError, UnsupportedError
from appliance.http.access import require_model
from appliance.http.context import FIELDS, LIBRARY
from appliance.http.streams import unknown_model
from appliance.library.names import ModelName

# Abilities that a model may list and this release has no engine for.
LACKED = frozenset({"insert", "thinking", "tools", "vision"})


async def require_abilities(request: web.Request, job: JobRequest) -> None:
    """Raise UnsupportedError for the first ability that the model lacks, with Ollama's text; an
    unknown model comes first, as there."""
    wanted = abilities_of(job)
    if not wanted:
        return
    name, able = await _able(request, job.model)
    for ability in wanted:
        if ability not in able:
            raise UnsupportedError(refusal(ability, job.model, name))


async def thinking_where_able(request: web.Request, job: JobRequest) -> JobRequest:
    """`job`, without thinking for a model that has none.

    Coding agents ask every model to think as hard as they are set to, and do without.
    """
    if not job.think:
        return job
    _, able = await _able(request, job.model)
    return job if "thinking" in able else replace(job, think=None, thinking_budget=None)


async def _able(request: web.Request, typed: str) -> tuple[ModelName, frozenset[str]]:
    """The model's full name, and what it can do besides text."""
    request[FIELDS]["model"] = typed
    require_model(request, typed)
    try:
        name = ModelName.parse(typed)
        stored = await asyncio.to_thread(request.app[LIBRARY].get, name)
    except (ModelNameError, ModelNotFoundError) as error:
        raise unknown_model(typed) from error
    return stored.name, frozenset(await asyncio.to_thread(stored.capabilities)) - LACKED


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
