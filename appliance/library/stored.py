"""One installed model: its manifest and config, and the texts in its layers, read when asked.

A snapshot: it stays as it was when the model is replaced, but its layers may then be gone
(LibraryError). What it can do is read off its template and its GGUF header.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import LibraryError
from appliance.library import capabilities
from appliance.library.manifest import (
    ADAPTER_TYPE,
    LICENSE_TYPE,
    MAX_MANIFEST_BYTES,
    MESSAGES_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    PROJECTOR_TYPE,
    PROMPT_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Digest,
    Manifest,
    ModelConfig,
)
from appliance.library.names import ModelName
from appliance.templates.choice import ChatTemplate, Sources, choose_template
from engine.gguf import LIMITS, Header, read_header

if TYPE_CHECKING:
    from appliance.library.library import Library

_MAX_TEXT_BYTES = 4 << 20


@dataclass(frozen=True)
class StoredModel:
    """A model as its manifest describes it."""

    name: ModelName
    digest: str  # 64 hex digits: the sha256 of the manifest file
    size: int  # bytes of config and layers
    modified_at: datetime  # local time with offset
    manifest: Manifest
    config: ModelConfig
    _library: "Library" = field(repr=False, compare=False)

    # -- texts ------------------------------------------------------------------------------

    @property
    def template(self) -> str:
        """The Modelfile's Go template, or empty; a Jinja template is in the GGUF header."""
        return self._last_text(TEMPLATE_TYPE, PROMPT_TYPE)

    def chat_template(self, requested: str = "") -> ChatTemplate:
        """What renders conversations, of all that the model and the request have; raises as
        `header` does."""
        header = self.header()
        sources = Sources(
            renderer=self.renderer,
            parser=self.parser,
            template=self.template,
            jinja=str(header.chat_template or ""),
            architecture=header.architecture,
            go_template=self._library.go_template,
        )
        return choose_template(sources, requested)

    @property
    def system(self) -> str:
        return self._last_text(SYSTEM_TYPE)

    @property
    def licenses(self) -> list[str]:
        return self._texts(LICENSE_TYPE)

    @property
    def parameters(self) -> dict[str, Any]:
        """As stored: also names that are unknown or retired today."""
        found = self._last_json(PARAMS_TYPE)
        return found if isinstance(found, dict) else {}

    @property
    def messages(self) -> list[tuple[str, str]]:
        """(role, content) of the Modelfile's MESSAGE instructions."""
        found = self._last_json(MESSAGES_TYPE)
        items = found if isinstance(found, list) else []
        return [
            (str(item.get("role", "")), str(item.get("content", "")))
            for item in items
            if isinstance(item, dict)
        ]

    # -- files ------------------------------------------------------------------------------

    @property
    def model_digest(self) -> Digest:
        """The weights; raises LibraryError for a model without any (a remote one)."""
        layers = self.manifest.of_type(MODEL_TYPE)
        if not layers:
            raise LibraryError(f"model '{self.name.short}' has no weights that could be loaded")
        if len(layers) > 1:
            raise LibraryError(f"model '{self.name.short}' is split in {len(layers)} files")
        return layers[0].digest

    @property
    def model_path(self) -> Path:
        return self._library.blobs.path(self.model_digest)

    @property
    def adapter_paths(self) -> tuple[Path, ...]:
        return self._paths(ADAPTER_TYPE)

    @property
    def projector_paths(self) -> tuple[Path, ...]:
        return self._paths(PROJECTOR_TYPE)

    @property
    def eye(self) -> Digest | None:
        """The projector with an image encoder, if there is one; raises as `header` does."""
        digests = (layer.digest for layer in self.manifest.of_type(PROJECTOR_TYPE))
        return next((digest for digest in digests if self._library.header(digest).is_eye), None)

    @property
    def eye_path(self) -> Path | None:
        digest = self.eye
        return self._library.blobs.path(digest) if digest else None

    def eye_header(self) -> Header | None:
        """Of the projector with an image encoder; raises as `header` does."""
        digest = self.eye
        return self._library.header(digest) if digest else None

    def header(self) -> Header:
        """The weights' GGUF header, validated; raises LibraryError or ModelFormatError, and what
        the library's guard raises for a model that must not be read."""
        self._library.require_readable(self)
        return self._library.header(self.model_digest)

    def complete_header(self) -> Header:
        """The header with all arrays, also the vocabulary; read anew, for the few who need it.
        Raises as `header` does."""
        self._library.require_readable(self)
        return read_header(self.model_path, replace(LIMITS, kept_items=LIMITS.array_items))

    # -- for lists --------------------------------------------------------------------------

    @property
    def renderer(self) -> str:
        return self.config.renderer

    @property
    def parser(self) -> str:
        return self.config.parser

    @property
    def requires(self) -> str:
        return self.config.requires

    @property
    def details(self) -> dict[str, Any]:
        """Ollama API, `details` of /api/tags, /api/ps and /api/show."""
        config = self.config
        return {
            "parent_model": "",
            "format": config.model_format,
            "family": config.model_family,
            "families": list(config.model_families) or None,
            "parameter_size": config.model_type,
            "quantization_level": config.file_type,
        }

    def capabilities(self) -> list[str]:
        """Ollama's words for what the model can do; raises as `header` does."""
        header = self.header()
        return capabilities.of_model(
            header,
            template=self.chat_template(),
            parser=self.parser,
            sees=self.eye is not None,
            declared=self.config.capabilities,
        )

    # -- inside -----------------------------------------------------------------------------

    def _texts(self, *media_types: str) -> list[str]:
        blobs = self._library.blobs
        layers = self.manifest.of_type(*media_types)
        return [
            blobs.read(layer.digest, _MAX_TEXT_BYTES).decode(errors="replace") for layer in layers
        ]

    def _last_text(self, *media_types: str) -> str:
        texts = self._texts(*media_types)
        return texts[-1] if texts else ""

    def _last_json(self, media_type: str) -> object:
        text = self._last_text(media_type)
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LibraryError(
                f"a layer of model '{self.name.short}' is not JSON",
                hint="delete the model and get it again",
            ) from error

    def _paths(self, media_type: str) -> tuple[Path, ...]:
        layers = self.manifest.of_type(media_type)
        return tuple(self._library.blobs.path(layer.digest) for layer in layers)


def read_stored(library: "Library", name: ModelName, path: Path) -> StoredModel:
    """The model whose manifest is at `path`; raises FileNotFoundError or LibraryError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
            modified_s = path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise LibraryError(f"the manifest cannot be read: {error.strerror}") from error
    manifest = Manifest.parse(data)
    config = library.blobs.read(manifest.config.digest, _MAX_TEXT_BYTES)
    return StoredModel(
        name=name,
        digest=Digest.of(data).hex,
        size=manifest.size,
        modified_at=datetime.fromtimestamp(modified_s, UTC).astimezone(),
        manifest=manifest,
        config=ModelConfig.parse(config),
        _library=library,
    )
