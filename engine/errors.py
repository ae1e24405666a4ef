"""What an engine may answer instead of tokens.

    EngineError                 the engine could not do what was asked
      ContextLengthError        the prompt does not fit the context
      EngineRequestError        something else in the request cannot be honoured (a grammar, …)
      EngineBusyError           the worker's own queue is full
      BackendUnavailableError   the engine's library is not installed here
      ModelFormatError          the model file is malformed or of a kind this engine cannot run
      DeviceMemoryError         the device has not enough memory for the model or its context
      EngineCrashedError        the worker process died
      EngineStoppedError        the worker process was ended on purpose

`code` is for programs and never changes; `str(error)` is for people. Exceptions do not log.
"""


class EngineError(Exception):
    """Base of all engine errors. `code` crosses the process border with the message."""

    code = "engine_error"


class ContextLengthError(EngineError):
    """The prompt is longer than the context and may not be truncated."""

    code = "context_length_exceeded"


class EngineRequestError(EngineError):
    """The request asks for something that this engine or model cannot honour."""

    code = "invalid_request"


class EngineBusyError(EngineError):
    """The worker has no room for another sequence."""

    code = "engine_busy"


class BackendUnavailableError(EngineError):
    """The engine's library is missing; the message names the extra to install."""

    code = "backend_unavailable"


class ModelFormatError(EngineError):
    """The model file is damaged, hostile, or of an architecture this engine does not know."""

    code = "model_format"


class DeviceMemoryError(EngineError):
    """Weights, context or compute buffers did not fit into memory."""

    code = "device_memory"


class EngineCrashedError(EngineError):
    """The worker process ended while a request was running, or before it became ready.

    `last_words` is the end of its stderr, for the log only: it may name paths of this machine.
    `is_killed` says that SIGKILL ended it, as the kernel does when memory runs out.
    """

    code = "engine_crashed"

    def __init__(self, message: str, *, last_words: str = "", is_killed: bool = False) -> None:
        super().__init__(message)
        self.last_words = last_words
        self.is_killed = is_killed


class EngineStoppedError(EngineError):
    """The worker process was ended on purpose: its model was unloaded, or the service stops."""

    code = "engine_stopped"


def unseeing(engine: str) -> EngineRequestError:
    """The answer of an engine without eyes to images."""
    return EngineRequestError(
        f"the {engine} engine does not see images; models with a projector see on the llama engine"
    )


def error_classes() -> dict[str, type[EngineError]]:
    """Every class of the tree by its code."""
    found: dict[str, type[EngineError]] = {EngineError.code: EngineError}
    pending = [EngineError]
    while pending:
        for cls in pending.pop().__subclasses__():
            found[cls.code] = cls
            pending.append(cls)
    return found


def error_from_code(code: str, message: str) -> EngineError:
    """Rebuild the error that a worker sent as (code, message)."""
    return error_classes().get(code, EngineError)(message)
