"""Ollama's bodies about stored and loaded models: parsed here, and answered in the same shapes.

Source: Ollama API, /api/tags, /api/ps, /api/show, /api/create, /api/copy, /api/delete. What is
derived from files is read here too, so these functions run in a thread.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from appliance.errors import BadRequestError, UnsupportedError
from appliance.http.fields import check_count
from appliance.library.create import CreateRequest
from appliance.library.names import ModelName
from appliance.library.show import model_info, modelfile_text, parameters_text, tensor_list
from appliance.library.stored import StoredModel
from appliance.models.loaded import LoadedModel

# What Ollama shows for models that are kept for ever: a date centuries ahead.
_FOREVER = timedelta(days=292 * 365)
MAX_FILES = 1024


class NameBody(msgspec.Struct, kw_only=True):
    """DELETE /api/delete; `name` is the older key, which ollama-js still sends."""

    model: str = ""
    name: str = ""

    @property
    def typed(self) -> str:
        return self.model or self.name


class ShowBody(NameBody, kw_only=True):
    """POST /api/show."""

    system: str = ""  # shown instead of the model's own
    verbose: bool = False


class CopyBody(msgspec.Struct, kw_only=True):
    """POST /api/copy."""

    source: str = ""
    destination: str = ""


class CreateBody(NameBody, kw_only=True):
    """POST /api/create."""

    from_: str = msgspec.field(name="from", default="")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    draft_files: dict[str, str] = {}
    template: str = ""
    license: str | list[str] = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    quantize: str = ""
    quantization: str = ""  # the older key
    draft_quantize: str = ""
    remote_host: str = ""
    info: dict[str, Any] = {}
    stream: bool = True

    def to_create(self, max_messages: int) -> CreateRequest:
        """Raises ModelNameError and, for parts that this release lacks, UnsupportedError."""
        for field in ("draft_files", "draft_quantize", "remote_host"):
            if getattr(self, field):
                raise UnsupportedError(f"'{field}' is not supported in this release")
        check_count("messages", len(self.messages), max_messages)
        check_count("files", len(self.files or {}) + len(self.adapters or {}), MAX_FILES)
        return CreateRequest(
            name=ModelName.parse(self.typed),
            from_=self.from_,
            files=self.files,
            adapters=self.adapters,
            template=self.template,
            system=self.system,
            license=self.license,
            parameters=self.parameters,
            messages=self.messages,
            renderer=self.renderer,
            parser=self.parser,
            requires=self.requires,
            quantize=self.quantize or self.quantization,
            info=self.info,
        )


def tag_entry(stored: StoredModel, trust: str) -> dict[str, Any]:
    """One model of /api/tags; `trust` is our own field: who vouches for it."""
    return {
        "name": stored.name.short,
        "model": stored.name.short,
        "modified_at": stored.modified_at.isoformat(),
        "size": stored.size,
        "digest": stored.digest,
        "details": stored.details,
        "trust": trust,
    }


def ps_entry(loaded: LoadedModel) -> dict[str, Any]:
    """One model of /api/ps."""
    return {
        "name": loaded.name.short,
        "model": loaded.name.short,
        "size": loaded.size_bytes,
        "digest": loaded.stored.digest,
        "details": loaded.stored.details,
        "expires_at": expiry(loaded.expires_at),
        "size_vram": loaded.size_vram_bytes,
        "context_length": loaded.context_length,
    }


def status_entry(loaded: LoadedModel) -> dict[str, Any]:
    """One model of our own /hearth/v1/status."""
    return {
        "name": loaded.name.short,
        "engine": loaded.engine,
        "slots": loaded.slots,
        "running": loaded.running,
        "waiting": loaded.waiting,
        "context_length": loaded.context_length,
        "size": loaded.size_bytes,
        "expires_at": expiry(loaded.expires_at),
    }


def expiry(at: datetime | None) -> str:
    """`expires_at` with the local offset; for ever is a date centuries ahead."""
    return (datetime.now().astimezone() + _FOREVER if at is None else at.astimezone()).isoformat()


def show_answer(stored: StoredModel, body: ShowBody, trust: str) -> dict[str, Any]:
    """/api/show, and our own field `trust`. Reads the model's layers and header."""
    header = stored.complete_header() if body.verbose else stored.header()
    eye = stored.eye_header()
    answer = {
        "license": "\n".join(stored.licenses),
        "modelfile": modelfile_text(stored),
        "parameters": parameters_text(stored),
        "template": stored.chat_template().text,
        "system": body.system or stored.system,
        "renderer": stored.renderer,
        "parser": stored.parser,
        "requires": stored.requires,
        "messages": [{"role": role, "content": text} for role, text in stored.messages],
    }
    return {key: value for key, value in answer.items() if value} | {
        "modelfile": answer["modelfile"],
        "template": answer["template"],
        "details": stored.details,
        "model_info": model_info(header, verbose=body.verbose),
        **({"projector_info": model_info(eye, verbose=False)} if eye else {}),
        "capabilities": stored.capabilities(),
        "modified_at": stored.modified_at.isoformat(),
        "trust": trust,
        **({"tensors": tensor_list(header)} if body.verbose else {}),
    }


def parse_name(text: str, what: str) -> ModelName:
    """A name, or Ollama's `<what> "x" is invalid`."""
    try:
        return ModelName.parse(text)
    except BadRequestError as error:
        raise BadRequestError(f'{what} "{text[:400]}" is invalid', hint=error.hint) from error
