"""What the appliance may answer instead of doing what it was asked.

    ApplianceError              code, message, hint
      ConfigError               a setting is unknown or has a bad value
      BadRequestError           the caller's input is wrong
        ModelNameError          not a model name
        ModelfileError          a Modelfile cannot be parsed
        UnsupportedError        well-formed, but this model or release cannot do it
        DigestMismatchError     the bytes are not those of the digest
        RequestTooLargeError    body, nesting or count over a limit
      ModelNotFoundError        no such model in the library
      NotFoundError             no such route, blob or key
      UnauthorizedError         a key is needed, or the one that came is wrong
      ForbiddenError            the caller may not do this from where it is, or with its key
      RateLimitedError          too many tries or requests of one caller; try again later
        BudgetSpentError        the caller has used up its tokens for today
      ConflictError             it is done already, or something else is in its place
      LibraryError              the store is damaged or cannot be written
        DiskFullError           no space left
        ReadOnlyError           the disk takes no writes at all
      RegistryError             a registry refused, or sent what cannot be used
        RegistryUnreachableError  it did not answer, broke off or was busy; another try may do
        RegistryNotFoundError   it has no such model or blob
        DownloadCorruptError    it sent bytes that are not those of the digest
      ActivationError           a release is here, but did not prove itself; the old one serves on
      MemoryFitError            the model does not fit into this machine
      JobCancelledError         somebody ended the transfer that this caller follows
      OverloadedError           a queue is full or the service is stopping; try again later
      TemplateError             a chat template failed or went over its limits

`code` is for programs and never changes; `str(error)` says what was seen, what is allowed and what
to do. A class exists where a caller must act differently. Exceptions do not log: the boundary that
turns one into an answer does (http/errors.py).
"""


class ApplianceError(Exception):
    """Base of all errors of the control plane. `hint` is one sentence with the cure, or empty."""

    code = "internal_error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(ApplianceError):
    """A setting is unknown, or its value is of the wrong type or out of range."""

    code = "bad_config"


class BadRequestError(ApplianceError):
    """The caller's input is wrong; nothing was changed."""

    code = "bad_request"


class ModelNameError(BadRequestError):
    """The text is not a model name (reference grammar: library/names.py)."""

    code = "bad_model_name"


class ModelfileError(BadRequestError):
    """A Modelfile cannot be parsed; `line` counts from 1, 0 when it concerns the whole file."""

    code = "bad_modelfile"

    def __init__(self, message: str, *, line: int = 0, hint: str = "") -> None:
        super().__init__(f"(line {line}): {message}" if line else message, hint=hint)


class UnsupportedError(BadRequestError):
    """A known wish that this model or this release cannot fulfil; the message names it."""

    code = "unsupported"


class DigestMismatchError(BadRequestError):
    """Bytes were received that do not hash to the digest they were announced with."""

    code = "digest_mismatch"


class RequestTooLargeError(BadRequestError):
    """The body, its nesting or one of its lists is over a limit."""

    code = "request_too_large"


class ModelNotFoundError(ApplianceError):
    """No model of that name is installed."""

    code = "model_not_found"


class NotFoundError(ApplianceError):
    """No such route, blob or key."""

    code = "not_found"


class UnauthorizedError(ApplianceError):
    """A key is needed, or the one that came is wrong; the message says how to get one."""

    code = "unauthorized"


class ForbiddenError(ApplianceError):
    """The caller may not do this from where it is, or with its key; says what would be needed."""

    code = "forbidden"


class RateLimitedError(ApplianceError):
    """One caller asks or tries too often. After `retry_after_s` it may again."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class BudgetSpentError(RateLimitedError):
    """The tokens that this caller may use in a day are used up."""

    code = "budget_spent"


class ConflictError(ApplianceError):
    """What is asked for was done already, or something else is in its place."""

    code = "conflict"


class LibraryError(ApplianceError):
    """The store is damaged or cannot be read or written."""

    code = "library_error"


class DiskFullError(LibraryError):
    """The disk has no room; nothing was left behind."""

    code = "disk_full"


class ReadOnlyError(LibraryError):
    """The file system is read-only: the kernel made it so after an error, or it was mounted so."""

    code = "read_only"


class RegistryError(ApplianceError):
    """A registry refused, or answered with something that cannot be used."""

    code = "registry_error"


class RegistryUnreachableError(RegistryError):
    """No answer, a broken one, or "not now"; `retry_after_s` is the registry's own wish, or 0."""

    code = "registry_unreachable"

    def __init__(self, message: str, *, retry_after_s: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class RegistryNotFoundError(RegistryError):
    """The registry answers that it has no such model or blob."""

    code = "registry_not_found"


class DownloadCorruptError(RegistryError):
    """What the registry sent does not hash to the digest that names it; nothing was kept."""

    code = "download_corrupt"


class ActivationError(ApplianceError):
    """A signed release was not made active; what was active before still is."""

    code = "activation_failed"


class MemoryFitError(ApplianceError):
    """The model does not fit into this machine's memory; the message holds the arithmetic."""

    code = "does_not_fit"


class JobCancelledError(ApplianceError):
    """Somebody ended the work that others follow as well."""

    code = "cancelled"


class OverloadedError(ApplianceError):
    """Too much is waiting, or the service is stopping. `retry_after_s` is an honest guess."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class TemplateError(ApplianceError):
    """A chat template failed, or used more steps or output than it may."""

    code = "template_error"
