"""Making a prompt fit the context: pure arithmetic on token lists."""

from dataclasses import dataclass

from engine.api import GenerateRequest
from engine.errors import ContextLengthError, EngineRequestError

MAX_TOP = 20  # OpenAI API and Ollama API, top_logprobs


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that leaves room for at least one token of output."""

    tokens: list[int]
    truncated: int  # tokens dropped from the middle
    keep: int  # tokens at the front that a context shift must not drop


def check_logprobs(request: GenerateRequest) -> None:
    """Raise EngineRequestError for more alternatives of a token than an engine tells."""
    for asked in (request.logprobs, request.prompt_logprobs):
        if asked is not None and not 0 <= asked <= MAX_TOP:
            raise EngineRequestError(f"logprobs is {asked}; allowed are 0 to {MAX_TOP}")


def fit_prompt(
    tokens: list[int],
    *,
    context_length: int,
    trained_context: int,
    num_keep: int,
    max_tokens: int,
    truncate: bool,
) -> Fitted:
    """Cut a prompt that is too long, or say how long it may be.

    num_keep        tokens kept at the front, BOS counted; -1: all of them
    max_tokens      output that room is left for, at most half of what is not kept; -1: that half

    Raises ContextLengthError if it is too long and `truncate` is off.
    """
    keep = _bounded_keep(num_keep, len(tokens), context_length)
    if len(tokens) < context_length:
        return Fitted(tokens, 0, keep)
    if not truncate:
        raise ContextLengthError(_too_long(len(tokens), context_length, trained_context))
    free = context_length - keep
    room = free // 2 if max_tokens < 0 else min(max(max_tokens, 1), free // 2)
    newest = free - room
    return Fitted(tokens[:keep] + tokens[-newest:], len(tokens) - keep - newest, keep)


def _bounded_keep(num_keep: int, prompt_tokens: int, context_length: int) -> int:
    """At most half of the context, so that there is always something to drop."""
    wanted = prompt_tokens if num_keep < 0 else min(num_keep, prompt_tokens)
    return min(wanted, context_length // 2)


def _too_long(prompt_tokens: int, context_length: int, trained_context: int) -> str:
    seen = (  # the first words are what Ollama's clients look for
        "prompt is longer than the context length:"
        f" it has {prompt_tokens} tokens, the context is {context_length}"
    )
    if prompt_tokens < trained_context:
        return f"{seen}; shorten it, or load with num_ctx above {prompt_tokens}"
    if context_length < trained_context:
        return f"{seen} and the model was trained for {trained_context}; shorten it"
    return f"{seen}, which is all the model was trained for; shorten it"
