"""An engine without a model: it says the prompt back, one word per step, and never forgets to end.

It ships, so that every part of the service can be tried and tested in milliseconds. Tokens are
words with their leading blanks; a token's id is its number in a vocabulary that grows as it reads.
Directives at the start of a prompt make it act like a slow, large or broken model:

    [[forever]]      generate without end, until max_tokens, the context's limit or an abort
    [[prefill N]]    spend N polls of one millisecond each on the prompt before the first token
    [[slow N]]       wait N milliseconds before each token
    [[crash]]        kill the process after three tokens, as a bad GGUF would
    [[bytes HEX]]    say these bytes, one per token

Under a constraint it says JSON: the least that a schema wants, else `{"echo": true}`.
"""

import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from engine.api import (
    Constraint,
    EngineInfo,
    FinishReason,
    GenerateRequest,
    LoadSpec,
    Poll,
    Pooling,
    SequenceStep,
    TokenLogprob,
    Usage,
)
from engine.errors import ContextLengthError, unseeing

SLOTS = 8
EMBEDDING_LENGTH = 16

_TOKEN = re.compile(rb"\s*[^\s]+|\s+$")
_DIRECTIVE = re.compile(rb"\[\[(forever|crash|prefill|slow|bytes)(?: ([0-9a-fA-F]+))?\]\]")
_JSON_ANSWER = b'{"echo": true}'


class EchoEngine:
    """See the module's text."""

    def __init__(self, spec: LoadSpec, poll: Poll) -> None:
        self._poll = poll
        self._vocabulary: list[bytes] = []
        self._ids: dict[bytes, int] = {}
        self._running: dict[int, _Sequence] = {}
        self._served = 0
        self.info = EngineInfo(
            engine="echo",
            context_length=spec.context_length,
            slots=SLOTS,
            embedding_length=EMBEDDING_LENGTH,
            max_embed_tokens=spec.context_length,
            scoring="cosine",
            description="echo: says the prompt back",
        )

    def add(self, request: GenerateRequest) -> None:
        if request.images:
            raise unseeing("echo")
        tokens = self._tokens(request.prompt)
        limit = self.info.context_length - 1
        dropped = max(0, len(tokens) - limit)
        is_whole = request.prompt_logprobs is not None or not request.truncate
        if dropped and is_whole:
            raise ContextLengthError(
                f"prompt has {len(tokens)} tokens, the context is {self.info.context_length};"
                " shorten it or load with a larger num_ctx"
            )
        keep = len(tokens) if request.num_keep < 0 else min(request.num_keep, limit)
        if dropped:
            tokens = tokens[:keep] + tokens[keep + dropped :]
        self._running[request.id] = _Sequence(request, tokens, dropped)

    def abort(self, request_id: int) -> None:
        if (sequence := self._running.get(request_id)) is not None:
            sequence.is_aborted = True

    def has_work(self) -> bool:
        return bool(self._running)

    def step(self) -> list[SequenceStep]:
        steps = [self._advance(sequence) for sequence in list(self._running.values())]
        for step in steps:
            if step.finish is not None:
                del self._running[step.id]
                self._served += 1
        return steps

    def embed(
        self, inputs: Sequence[str | list[int]], *, pooling: Pooling, truncate: bool
    ) -> tuple[list[list[float]], int]:
        counts = [len(self._tokens(text)) for text in inputs]
        limit = self.info.max_embed_tokens
        if not truncate and max(counts, default=0) > limit:
            raise ContextLengthError("the input length exceeds the context length")
        vectors = [_vector(b"".join(self._tokens(text))) for text in inputs]
        return vectors, sum(min(count, limit) for count in counts)

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int,
        truncate: bool,
    ) -> tuple[list[float], int]:
        most = max_document_tokens or None
        cut = [b"".join(self._tokens(text)[:most]).decode(errors="replace") for text in documents]
        vectors, tokens = self.embed([*queries, *cut], pooling=Pooling.MODEL, truncate=truncate)
        asked, found = vectors[: len(queries)], vectors[len(queries) :]
        if len(asked) == 1:
            asked *= len(found)
        return [_cosine(*pair) for pair in zip(asked, found, strict=True)], tokens

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return [self._id(token) for token in _TOKEN.findall(text.encode())]

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        known = range(len(self._vocabulary))
        return b"".join(self._vocabulary[i] for i in token_ids if i in known)

    def look(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        raise unseeing("echo")

    def stats(self) -> dict[str, Any]:
        return {"running": len(self._running), "served": self._served}

    def close(self) -> None:
        self._running.clear()

    def _tokens(self, prompt: str | list[int]) -> list[bytes]:
        text = prompt.encode() if isinstance(prompt, str) else self.detokenize(prompt)
        return _TOKEN.findall(text)

    def _id(self, token: bytes) -> int:
        if token not in self._ids:
            self._ids[token] = len(self._vocabulary)
            self._vocabulary.append(token)
        return self._ids[token]

    def _advance(self, sequence: "_Sequence") -> SequenceStep:
        request = sequence.request
        while sequence.prefill_polls > 0 and not sequence.is_aborted:
            sequence.prefill_polls -= 1
            time.sleep(0.001)
            self._poll()
        sequence.start_decode()
        step = self._next(sequence)
        if request.prompt_logprobs is None or sequence.has_told:
            return step
        sequence.has_told = True
        return msgspec.structs.replace(step, prompt_logprobs=self._prompt_logprobs(sequence))

    def _next(self, sequence: "_Sequence") -> SequenceStep:
        request = sequence.request
        if sequence.is_aborted:
            return sequence.end(FinishReason.ABORT)
        if sequence.output_tokens == request.max_tokens:
            return sequence.end(FinishReason.LENGTH)
        if sequence.is_full(self.info.context_length) and not request.shift:
            return sequence.end(FinishReason.LENGTH)
        token = next(sequence.answer, None)
        if token is None:
            return sequence.end(FinishReason.STOP)
        time.sleep(sequence.slow_s)
        if sequence.crashes and sequence.output_tokens == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        sequence.output_tokens += 1
        token_id = self._id(token)
        logprobs = []
        if request.logprobs is not None:
            logprobs = [_logprob(token_id, token, request.logprobs)]
        return SequenceStep(id=request.id, token_ids=[token_id], data=token, logprobs=logprobs)

    def _prompt_logprobs(self, sequence: "_Sequence") -> list[TokenLogprob]:
        top = sequence.request.prompt_logprobs or 0
        found = [_logprob(self._id(token), token, top) for token in sequence.prompt]
        if found:
            found[0] = TokenLogprob(found[0].token_id, found[0].piece, math.nan)
        return found


class _Sequence:
    """One request and how far it has come."""

    def __init__(self, request: GenerateRequest, prompt: list[bytes], dropped: int) -> None:
        self.request = request
        self.prompt = prompt
        self.has_told = False  # of the prompt's log-probabilities
        self.prompt_tokens = len(prompt)
        self.dropped = dropped
        self.output_tokens = 0
        self.is_aborted = False
        text = b"".join(prompt)
        found = dict(_DIRECTIVE.findall(text))
        self.prefill_polls = int(found.get(b"prefill", b"0"))
        self.slow_s = int(found.get(b"slow", b"0")) / 1000
        self.crashes = b"crash" in found
        self.answer = self._answer(prompt, found)
        self._started_ns = time.monotonic_ns()
        self._decode_started_ns = 0

    def _answer(self, prompt: list[bytes], found: dict[bytes, bytes]) -> Iterator[bytes]:
        if self.request.constraint is not None:
            yield _json_answer(self.request.constraint)
        elif b"bytes" in found:
            yield from (bytes([byte]) for byte in bytes.fromhex(found[b"bytes"].decode()))
        elif b"forever" in found or self.crashes:
            while True:
                yield b" on"
        else:
            yield from prompt

    def start_decode(self) -> None:
        if not self._decode_started_ns:
            self._decode_started_ns = time.monotonic_ns()

    def is_full(self, context_length: int) -> bool:
        return self.prompt_tokens + self.output_tokens >= context_length

    def end(self, reason: FinishReason) -> SequenceStep:
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=0,
            output_tokens=self.output_tokens,
            prompt_ns=self._decode_started_ns - self._started_ns,
            decode_ns=time.monotonic_ns() - self._decode_started_ns,
            truncated_tokens=self.dropped,
        )
        return SequenceStep(id=self.request.id, finish=reason, usage=usage)


def _json_answer(constraint: Constraint) -> bytes:
    schema = json.loads(constraint.source) if constraint.kind == "schema" else {}
    least = _least(schema)
    return json.dumps(least).encode() if least else _JSON_ANSWER


def _least(schema: Any) -> Any:
    """The constants and required properties of a schema; other values are empty."""
    if not isinstance(schema, dict):
        return {}
    if "const" in schema:
        return schema["const"]
    if options := schema.get("enum"):
        return options[0]
    if options := schema.get("anyOf"):
        return _least(options[0])
    empty = {"string": "", "integer": 0, "number": 0, "boolean": True, "array": [], "null": None}
    if schema.get("type") in empty:
        return empty[schema["type"]]
    properties = schema.get("properties", {})
    return {name: _least(properties.get(name)) for name in schema.get("required", [])}


def _logprob(token_id: int, token: bytes, top: int) -> TokenLogprob:
    """As if each token were one of two that are equally likely."""
    logprob = -math.log(2)
    return TokenLogprob(token_id, token, logprob, [(token_id, token, logprob)] * min(top, 1))


def _cosine(one: list[float], other: list[float]) -> float:
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def _vector(data: bytes) -> list[float]:
    """A vector that depends on the bytes alone."""
    digest = blake2b(data, digest_size=EMBEDDING_LENGTH).digest()
    return [(byte - 127.5) / 127.5 for byte in digest]


def load(spec: LoadSpec, poll: Poll) -> EchoEngine:
    """EngineFactory of the echo engine; the model file is not opened."""
    return EchoEngine(spec, poll)
