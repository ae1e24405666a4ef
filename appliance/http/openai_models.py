"""One installed model as /v1/models shows it.

OpenAI's four fields, vLLM's `root`, `parent` and `max_model_len` (vllm/entrypoints/openai/models),
and under `hearth` what else is known. Reads headers from the disk, so it runs in a thread.
"""

from typing import Any

from appliance.chat.options import merge
from appliance.errors import ApplianceError
from appliance.library.stored import StoredModel
from appliance.models.manager import Models
from engine.errors import EngineError


class Entries:
    """Makes entries that agree with what is loaded just now; make it on the event loop."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._loaded = {model.name: model for model in models.loaded()}

    def entry(self, stored: StoredModel) -> dict[str, Any]:
        """One model. A file that cannot be read leaves null what is only known from it, since a
        damaged model must not hide the others."""
        engine, context_length = self._served_as(stored)
        return {
            "id": stored.name.short,
            "object": "model",
            "created": int(stored.modified_at.timestamp()),
            "owned_by": stored.name.namespace,
            "root": stored.name.short,
            "parent": None,
            "max_model_len": context_length,
            "hearth": self._facts(stored) | {"engine": engine, "size": stored.size},
        }

    def _served_as(self, stored: StoredModel) -> tuple[str | None, int | None]:
        loaded = self._loaded.get(stored.name)
        if loaded is not None:
            return loaded.engine, loaded.context_length
        try:
            options = merge({}, stored.parameters, {})
            return self._models.served_as(stored, options.values)
        except (ApplianceError, EngineError):
            return None, None

    def _facts(self, stored: StoredModel) -> dict[str, Any]:
        """What the config says, and what only the weights' header does."""
        details = stored.details
        facts: dict[str, Any] = {
            "digest": stored.digest,
            "format": details["format"],
            "family": details["family"],
            "families": details["families"],
            "parameter_size": details["parameter_size"],
            "quantization": details["quantization_level"],
            "loaded": stored.name in self._loaded,
            "parameter_count": None,
            "context_length": None,
            "embedding_length": None,
            "capabilities": None,
        }
        try:
            header = stored.header()
            known = {
                "parameter_count": header.parameter_count,
                "context_length": header.context_length or None,
                "embedding_length": header.embedding_length or None,
                "capabilities": stored.capabilities(),
            }
        except (ApplianceError, EngineError):
            return facts
        return facts | known
