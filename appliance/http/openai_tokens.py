"""Tokenize and detokenize, as vLLM's server has them: parse, run, write.

Source: vLLM's server (vllm/entrypoints/serve/tokenize/protocol.py). Here `model` is required, since
a box has several. A conversation gives the very tokens that an answer to it would begin with,
unless `add_special_tokens` says otherwise; `token_strs` are the tokens' own bytes as text, with
U+FFFD for what is no whole character.
"""

from typing import Any

import msgspec
from aiohttp import web

from appliance.access.shares import Share
from appliance.chat.events import Message, TokenizeRequest
from appliance.http.access import require_model
from appliance.http.body import read_object, to_struct
from appliance.http.context import CHAT, FIELDS, SETTINGS
from appliance.http.errors import FieldError
from appliance.http.fields import check_count, token_ids_of
from appliance.http.limits import share_of
from appliance.http.openai import json_response
from appliance.http.openai_messages import ChatMessage, messages_of
from appliance.http.openai_refused import refuse_fields
from appliance.http.streams import model_named
from appliance.http.tools_wire import tools_of

MAX_TOKENS = 1 << 18  # of one request to detokenize
REFUSED: dict[str, tuple[Any, ...]] = {
    "continue_final_message": (False,),
    "chat_template": ("",),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
}


class TokenizeBody(msgspec.Struct, kw_only=True):
    """POST /tokenize: of a prompt or of messages."""

    model: str = ""
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Any] = []
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    def to_request(self, share: Share, max_messages: int) -> TokenizeRequest:
        """Raises BadRequestError."""
        if not self.model:
            raise FieldError("model", "model is required")
        return TokenizeRequest(
            model=self.model,
            work=self._work(max_messages),
            tools=tools_of(self.tools),
            add_special=self.add_special_tokens,
            opens_answer=self.add_generation_prompt,
            wants_pieces=self.return_token_strs,
            share=share,
        )

    def _work(self, max_messages: int) -> str | tuple[Message, ...]:
        if (self.prompt is None) == (self.messages is None):
            raise FieldError("prompt", "send either 'prompt', a text, or 'messages'")
        if self.messages is None:
            return self.prompt or ""
        if not self.messages:
            raise FieldError("messages", "[] is too short - 'messages'")
        check_count("messages", len(self.messages), max_messages)
        found = messages_of(self.messages)
        if any(message.images for message in found):
            raise FieldError("messages", "images have no token ids; send the text alone")
        return found


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """POST /detokenize."""

    model: str = ""
    tokens: list[int] | None = None

    def token_ids(self) -> tuple[int, ...]:
        """Raises BadRequestError."""
        if not self.model:
            raise FieldError("model", "model is required")
        if self.tokens is None:
            raise FieldError("tokens", "tokens is required: a list of token ids")
        check_count("tokens", len(self.tokens), MAX_TOKENS)
        return token_ids_of("tokens", self.tokens)


async def tokenize(request: web.Request) -> web.StreamResponse:
    """POST /tokenize."""
    fields = await read_object(request)
    refuse_fields(fields, REFUSED)
    body = to_struct(fields, TokenizeBody)
    wanted = body.to_request(share_of(request), request.app[SETTINGS].max_messages)
    _name_model(request, body.model)
    with model_named(body.model):
        found = await request.app[CHAT].tokenize(wanted)
    strings = [piece.decode(errors="replace") for piece in found.pieces]
    return json_response(
        {
            "count": len(found.tokens),
            "max_model_len": found.context_length,
            "tokens": found.tokens,
            "token_strs": strings if body.return_token_strs else None,
        }
    )


async def detokenize(request: web.Request) -> web.StreamResponse:
    """POST /detokenize."""
    body = to_struct(await read_object(request), DetokenizeBody)
    tokens = body.token_ids()
    _name_model(request, body.model)
    with model_named(body.model):
        data = await request.app[CHAT].detokenize(body.model, tokens, share_of(request))
    return json_response({"prompt": data.decode(errors="replace")})


def _name_model(request: web.Request, typed: str) -> None:
    """For the log line; and the key must be for this model."""
    request[FIELDS]["model"] = typed
    require_model(request, typed)
