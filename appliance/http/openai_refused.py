"""Fields of OpenAI's chat/completions and completions that this release does not honour.

One table for each route; what is in it is refused by name unless it has its default.
"""

from collections.abc import Mapping
from typing import Any

from appliance.http.errors import RefusedFieldError

# field -> values besides null that ask for nothing and therefore pass
REFUSED: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "priority": (0,),  # vLLM's; who may go first is not for the client to say
    "cache_salt": ("",),  # vLLM's
}


REFUSED_IN_CHAT = REFUSED | {"echo": (False,), "suffix": ("",)}
REFUSED_IN_COMPLETIONS = REFUSED | {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "reasoning_effort": ("none",),
    "reasoning": ({}, {"effort": "none"}),
    "response_format": ({"type": "text"},),
}
_INSTEAD = {"functions": "send 'tools'", "function_call": "send 'tool_choice'"}


def refuse_fields(fields: Mapping[str, Any], refused: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise FieldError for a field of `refused` that asks for something."""
    for name, harmless in refused.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            instead = _INSTEAD.get(name, "leave it out")
            raise RefusedFieldError(name, f"'{name}' is not supported in this release; {instead}")
