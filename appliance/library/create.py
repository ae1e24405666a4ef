"""Make a model: from uploaded GGUF files or another model, with a Modelfile's texts on top.

Everything is checked before anything is written. The layers, their order and their bytes are
Ollama's (server/create.go), so the same request gives the same manifest, at any time and place.
Synchronous: the HTTP layer drives the generator in a thread. Status lines and error texts are
those of Ollama's /api/create.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from appliance.errors import BadRequestError, UnsupportedError
from appliance.library.library import Library
from appliance.library.manifest import (
    ADAPTER_TYPE,
    CONFIG_TYPE,
    LICENSE_TYPE,
    MESSAGES_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    PROJECTOR_TYPE,
    PROMPT_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Digest,
    Layer,
    Manifest,
    ModelConfig,
)
from appliance.library.names import ModelName
from appliance.library.parameters import PARAMETERS, RETIRED, parse_options
from appliance.templates.builtin import PARSERS, RENDERERS
from appliance.templates.gojson import go_json
from engine.errors import ModelFormatError
from engine.gguf import Header

_INFO_TEXTS = {
    "model_family": "model_family",
    "base_name": "base_name",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
_INFO_COUNTS = ("context_length", "embedding_length")
_GGUF_TYPES = (MODEL_TYPE, PROJECTOR_TYPE, ADAPTER_TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What /api/create asks for. `files` and `adapters` map relative paths to digests."""

    name: ModelName
    from_: str = ""
    files: Mapping[str, str] | None = None
    adapters: Mapping[str, str] | None = None
    template: str = ""
    system: str = ""
    license: str | Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()  # objects with role and content
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    quantize: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """One status line."""

    status: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A layer of the new model; `data` where it has yet to be stored."""

    layer: Layer
    data: bytes | None = None
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class _Base:
    """What the new model builds on."""

    parts: list[_Part]
    config: ModelConfig = field(default_factory=ModelConfig)
    parameters: Mapping[str, Any] = field(default_factory=dict)


def create(library: Library, request: CreateRequest) -> Iterator[Progress]:
    """Yield the status lines, `success` last; raises BadRequestError before anything is written.

    Also raises ModelNotFoundError for an unknown `from_` and DiskFullError; then, and when the
    generator is closed early, no new blob stays behind.
    """
    _check_request(request)
    if request.from_:
        base = _from_model(library, ModelName.parse(request.from_))
    else:
        base = yield from _from_files(library, request.files or {})
    parts = base.parts
    for path, digest in (request.adapters or {}).items():
        yield Progress("parsing GGUF")
        parts.append(_adapter(library, path, digest, parts))
    yield from (Progress(f"parameter {key} is deprecated") for key in _retired(request))
    config = _config(base.config, parts, request)
    parts = _with_texts(parts, base.parameters, request)
    yield from _store(library, request.name, parts, config)


# -- checks ----------------------------------------------------------------------------------


def _check_request(request: CreateRequest) -> None:
    if request.quantize:
        raise UnsupportedError(
            "quantize is not supported in this release",
            hint="quantize with llama.cpp's llama-quantize and create from the result",
        )
    for files in (request.files, request.adapters):
        for path, digest in (files or {}).items():
            _check_file(path, digest)
    if request.from_ and request.files:
        raise BadRequestError("'from' and 'files' cannot be combined")
    if not request.from_ and request.files is None:
        raise BadRequestError("neither 'from' or 'files' was specified")
    if not request.from_ and not request.files:
        raise BadRequestError("no files provided to convert")
    if request.adapters and len(request.adapters) > 1:
        raise BadRequestError("only one adapter is currently supported")
    _, unknown = parse_options(request.parameters)
    strange = [key for key in unknown if key not in RETIRED]
    if strange:
        raise BadRequestError(
            f"unknown parameter '{strange[0]}'", hint=f"known: {', '.join(PARAMETERS)}"
        )
    _check_info(request.info)
    for message in request.messages:
        _message(message)
    _check_template(request.template)
    _check_name("renderer", request.renderer, RENDERERS)
    _check_name("parser", request.parser, PARSERS)


def _check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Refused here; Ollama finds out when it builds a prompt, or never."""
    if name and name not in known:
        raise BadRequestError(
            f"unknown {what} '{name[:100]}'",
            hint=f"known: {', '.join(sorted(known))}; without one, the templates tell",
        )


def _check_template(template: str) -> None:
    """A template that could never run is refused here, in Ollama's words."""
    from appliance.templates.go.errors import GoParseError  # heavy: only when one is made
    from appliance.templates.go.program import compile_template

    try:
        compile_template(template)
    except GoParseError as error:
        raise BadRequestError(f"template error: {error}") from error


def _check_file(path: str, digest: str) -> None:
    pure = PurePosixPath(path)
    strange = set(path) & set("\\\0")
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or strange:
        raise BadRequestError("file path must be relative")
    Digest.parse(digest)
    if pure.suffix == ".safetensors":
        raise UnsupportedError(
            "safetensors models are not supported in this release",
            hint="convert the model with llama.cpp's convert_hf_to_gguf.py",
        )


def _check_info(info: Mapping[str, Any]) -> None:
    for key in _INFO_TEXTS:
        if not isinstance(info.get(key, ""), str):
            raise BadRequestError(f'info field "{key}" must be a string')
    for key in _INFO_COUNTS:
        count = info.get(key, 0)
        if isinstance(count, bool) or not isinstance(count, (int, float)):
            raise BadRequestError(f'info field "{key}" must be a number')
        if count < 0 or count != count // 1:
            raise BadRequestError(f'info field "{key}" must be a non-negative integer')
    words = info.get("capabilities", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadRequestError('info field "capabilities" must be an array of strings')


# -- what to build on ------------------------------------------------------------------------


def _from_model(library: Library, name: ModelName) -> _Base:
    """The parent's layers, each marked with where it came from."""
    parent = library.get(name)
    parts = []
    for layer in parent.manifest.layers:
        header = None
        if layer.media_type in _GGUF_TYPES:
            header = _checked_header(library, layer.digest, parent.name.short)
        parts.append(_Part(replace(layer, source=parent.name.short), header=header))
    _require_one_model(parts, f"'{parent.name.short}' holds")
    return _Base(parts, parent.config, parent.parameters)


def _from_files(library: Library, files: Mapping[str, str]) -> Generator[Progress, None, _Base]:
    parts = []
    for path, digest in sorted(files.items()):
        yield Progress("parsing GGUF")
        parts.append(_from_file(library, path, digest))
    _require_one_model(parts, "the files hold")
    return _Base(sorted(parts, key=lambda part: _GGUF_TYPES.index(part.layer.media_type)))


def _require_one_model(parts: Sequence[_Part], what: str) -> None:
    count = sum(part.layer.media_type == MODEL_TYPE for part in parts)
    if count != 1:
        raise BadRequestError(
            f"{what} {count} GGUF models; exactly one is needed",
            hint="a projector or an adapter may accompany it",
        )


def _from_file(library: Library, path: str, digest_text: str) -> _Part:
    """An uploaded GGUF. Its own path is not recorded, as it would differ between machines."""
    digest = Digest.parse(digest_text)
    if not library.blobs.has(digest):
        raise BadRequestError(
            f"blob {digest} of file '{path}' is not here", hint=f"POST it to /api/blobs/{digest}"
        )
    header = _checked_header(library, digest, path)
    media_type = MODEL_TYPE
    if header.is_adapter:
        media_type = ADAPTER_TYPE
    elif header.is_projector:
        media_type = PROJECTOR_TYPE
    return _Part(Layer(media_type, digest, library.blobs.size(digest)), header=header)


def _adapter(library: Library, path: str, digest: str, parts: Sequence[_Part]) -> _Part:
    part = _from_file(library, path, digest)
    if part.header is None or not part.header.is_adapter:
        raise BadRequestError(f"'{path}' is a model, not an adapter")
    base = next(p.header for p in parts if p.header and p.layer.media_type == MODEL_TYPE)
    if part.header.architecture != base.architecture:
        raise BadRequestError(
            f"adapter '{path}' is for {part.header.architecture}, the model is {base.architecture}"
        )
    return part


def _checked_header(library: Library, digest: Digest, what: str) -> Header:
    if library.blobs.head(digest, 4) != b"GGUF":
        raise BadRequestError("supplied file was not in GGUF format", hint=f"it is '{what}'")
    try:
        return library.header(digest)
    except ModelFormatError as error:
        raise BadRequestError(f"'{what}': {error}") from error


# -- what to put on top ----------------------------------------------------------------------


def _with_texts(
    parts: list[_Part], inherited: Mapping[str, Any], request: CreateRequest
) -> list[_Part]:
    """Ollama's order: template, system, licences, parameters, messages; what is replaced moves."""
    if request.template:
        parts = [
            *_without(parts, TEMPLATE_TYPE, PROMPT_TYPE),
            _text(TEMPLATE_TYPE, request.template),
        ]
    if request.system:
        parts = [*_without(parts, SYSTEM_TYPE), _text(SYSTEM_TYPE, request.system)]
    licenses = [request.license] if isinstance(request.license, str) else request.license
    parts = parts + [_text(LICENSE_TYPE, license) for license in licenses if license]
    new = {k: v for k, v in request.parameters.items() if v is not None and k not in RETIRED}
    parameters = {**inherited, **new}
    if parameters:
        data = go_json(parameters, sort_keys=True) + b"\n"
        parts = [*_without(parts, PARAMS_TYPE), _stored_as(PARAMS_TYPE, data)]
    if request.messages:
        messages = [_message(message) for message in request.messages]
        data = go_json(messages, sort_keys=False) + b"\n"
        parts = [*_without(parts, MESSAGES_TYPE), _stored_as(MESSAGES_TYPE, data)]
    return parts


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    role, content = message.get("role"), message.get("content", "")
    if not isinstance(role, str) or not isinstance(content, str):
        raise BadRequestError("a message needs a role and a content, both text")
    more = sorted(key for key in message.keys() - {"role", "content"} if message[key])
    if more:
        raise UnsupportedError(f"a model's message cannot have '{more[0]}', only role and content")
    return {"role": role.lower(), "content": content}


def _retired(request: CreateRequest) -> list[str]:
    return sorted(RETIRED & request.parameters.keys())


def _without(parts: Sequence[_Part], *media_types: str) -> list[_Part]:
    return [part for part in parts if part.layer.media_type not in media_types]


def _text(media_type: str, text: str) -> _Part:
    return _stored_as(media_type, text.encode(errors="replace"))


def _stored_as(media_type: str, data: bytes) -> _Part:
    return _Part(Layer(media_type, Digest.of(data), len(data)), data)


# -- config and store ------------------------------------------------------------------------


def _config(base: ModelConfig, parts: Sequence[_Part], request: CreateRequest) -> ModelConfig:
    header = next(p.header for p in parts if p.header and p.layer.media_type == MODEL_TYPE)
    # an adapter has its model's architecture and adds no family
    families = [p.header.architecture for p in parts if p.header and not p.header.is_adapter]
    config = replace(
        base,
        model_format=base.model_format or "gguf",
        model_family=base.model_family or header.architecture,
        model_families=tuple(dict.fromkeys([*base.model_families, *families])),
        model_type=base.model_type or human_number(header.parameter_count),
        file_type=base.file_type or header.quantization_level,
        renderer=request.renderer or base.renderer,
        parser=request.parser or base.parser,
        requires=request.requires or base.requires,
    )
    return _with_info(config, request.info)


def _with_info(config: ModelConfig, info: Mapping[str, Any]) -> ModelConfig:
    changes: dict[str, Any] = {
        name: info[key] for key, name in _INFO_TEXTS.items() if info.get(key)
    }
    changes |= {key: int(info[key]) for key in _INFO_COUNTS if info.get(key)}
    if "model_family" in changes:
        changes["model_families"] = (changes["model_family"],)
    if info.get("capabilities"):
        changes["capabilities"] = tuple(info["capabilities"])
    return replace(config, **changes)


def _store(
    library: Library, name: ModelName, parts: Sequence[_Part], config: ModelConfig
) -> Iterator[Progress]:
    layers = tuple(part.layer for part in parts)
    config_part = _stored_as(CONFIG_TYPE, config.for_layers(layers).encode())
    manifest = Manifest(config_part.layer, layers)
    new = [part.layer.digest for part in (*parts, config_part) if part.data is not None]
    with ExitStack() as undo:
        undo.callback(library.remove_unused, new)
        undo.enter_context(library.hold(manifest.digests))
        for part in (*parts, config_part):
            created = not library.blobs.has(part.layer.digest)
            if part.data is not None:
                library.blobs.put_bytes(part.data)
            if part is not config_part:
                verb = "creating new" if created else "using existing"
                yield Progress(f"{verb} layer {part.layer.digest}")
        yield Progress("writing manifest")
        library.write_manifest(name, manifest)
        # what the manifest names is in use now, so that undoing leaves it alone
    yield Progress("success")


def human_number(count: int) -> str:
    """Ollama's parameter size: 7.6B, 134.52M, 24K."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{digits if count % unit else 0}f}{letter}"
    return str(count)
