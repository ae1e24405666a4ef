"""The vocabulary between the appliance and every engine: requests in, steps out.

Knows nothing of sockets, HTTP, model names or any backend. An engine is synchronous and
single-threaded: a worker process owns one and calls it in a loop (`engine/process/worker.py`).
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Literal, Protocol

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # an end-of-generation token, or a stop string found by the control plane
    LENGTH = "length"  # max_tokens or the context is used up
    ABORT = "abort"  # the client left


class Pooling(StrEnum):
    """How token vectors become one embedding; MODEL takes what the model's file says."""

    MODEL = "model"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"


Scoring = Literal["", "cosine", "logit", "probability"]
"""How an engine scores a document: not at all; by the cosine of two embeddings, -1 to 1; by a
classifier that reads both, whose output is any number, or a share of 1."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. The defaults are Ollama's (api/types.go, DefaultOptions)."""

    temperature: float = 0.8  # 0 or less: greedy
    top_k: int = 40  # 0 or less: off
    top_p: float = 0.9  # 1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    repeat_last_n: int = 64  # tokens that the penalties look back on; 0: off, -1: whole context
    repeat_penalty: float = 1.0  # 1: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None  # None: a fresh random seed
    logit_bias: dict[int, float] = {}  # token id -> added to its logit; -100 and less bans it


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What the generated text must look like, as source; each engine compiles it for itself."""

    kind: Literal["json", "schema", "grammar"]
    source: str = ""  # "schema": JSON text of the schema; "grammar": GBNF; "json": unused


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence to generate."""

    id: int  # unique within the worker's life, chosen by the client
    prompt: str | list[int]  # text is tokenised by the engine with its special tokens parsed
    add_special: bool = True  # put BOS in front if the model wants one and the text lacks it
    sampling: SamplingParams = SamplingParams()
    max_tokens: int = -1  # -1: until the model stops or a limit of the context is reached
    constraint: Constraint | None = None
    logprobs: int | None = None  # None: none; n: log-probability of the token and of the n best
    prompt_logprobs: int | None = None  # the same for the prompt's tokens, which then are all
    # computed: no cached KV is used, and a prompt that is too long cannot be cut
    truncate: bool = True  # cut a prompt that is too long, else ContextLengthError
    shift: bool = True  # drop old tokens and go on when the context is full, else finish "length"
    num_keep: int = 4  # tokens at the front that truncation and shift never drop; -1: whole prompt
    priority: int = 0  # larger goes first in engines that run several at once
    cache_salt: str = ""  # prompts share cached KV only where it is equal; "": with everybody
    ignore_eos: bool = False  # for benchmarks: go on past the end-of-generation token
    held_steps: int = 0  # quick steps that may wait in the worker, to be sent with the next one
    special: list[str] = []  # control tokens whose text belongs to the output; else they add none
    images: list[bytes] = []  # encoded files; image i stands in `prompt` as -1 - i, once per token


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token with its natural log-probability before sampling filters."""

    token_id: int
    piece: bytes
    logprob: float  # not a number: the first token of a prompt, which follows nothing
    top: list[tuple[int, bytes, float]] = []  # (token id, piece, logprob), best first


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished sequence cost. Durations are nanoseconds of the engine's own clock."""

    prompt_tokens: int
    cached_tokens: int  # prompt tokens whose KV was reused
    output_tokens: int
    prompt_ns: int  # prefill
    decode_ns: int  # first token to last
    truncated_tokens: int = 0  # prompt tokens dropped to fit the context


class SequenceStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one engine step did for one sequence."""

    id: int
    token_ids: list[int] = []
    data: bytes = b""  # the tokens' bytes, joined; may end inside a UTF-8 character
    logprobs: list[TokenLogprob] = []  # one per token id if asked for
    prompt_logprobs: list[TokenLogprob] = []  # in the first step, one per prompt token if asked for
    finish: FinishReason | None = None
    usage: Usage | None = None  # with `finish` only
    error: tuple[str, str] | None = None  # (code, message): the sequence failed, nothing follows


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded engine says about itself, once, in `Ready`."""

    engine: str  # "llama", "echo", …
    context_length: int  # tokens per sequence
    slots: int  # sequences that may be in the engine at once
    vocab_size: int = 0
    embedding_length: int = 0
    max_embed_tokens: int = 0  # longest input of `embed`, in tokens
    weight_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    threads: int = 0
    bos_token: str = ""  # text of the special tokens, for chat templates
    eos_token: str = ""
    infill: list[int] = []  # token ids that open prefix, suffix and middle; none: it has no such
    scoring: Scoring = ""  # what `score` gives
    sees: bool = False  # whether prompts may have images
    load_ns: int = 0
    description: str = ""  # one line for the log: architecture, type, back end


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a worker needs to build its engine. Paths, numbers and no names."""

    engine: Literal["llama", "onnx", "paged", "echo"]
    model_path: str = ""
    adapters: list[tuple[str, float]] = []  # (path of a LoRA GGUF, scale)
    projector_path: str = ""  # GGUF of an image encoder; "": the model does not see
    context_length: int = 4096
    batch_size: int = 512
    threads: int = 0  # 0: chosen for the board
    gpu_layers: int = -1  # -1: as many as fit
    main_gpu: int = 0
    use_mmap: bool | None = None  # None: chosen by the engine
    embedding: bool = False  # build for embeddings instead of generation
    ranking: bool = False  # build for scoring pairs: the file has a classifier for that
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    kv_bytes: int = 0  # most that a KV cache shared by streams may take; 0: what the device has
    flash_attention: bool | None = None  # None: chosen by the engine


class Engine(Protocol):
    """A loaded model. Synchronous, single-threaded, owned by one worker."""

    @property
    def info(self) -> EngineInfo: ...

    def add(self, request: GenerateRequest) -> None:
        """Accept a request; raises EngineError when it can never be served."""

    def abort(self, request_id: int) -> None:
        """Forget a request, also one that `step` is working on; unknown ids are ignored.

        May be called from inside `step` through the `poll` callback. The sequence is freed within
        two steps and ends with `FinishReason.ABORT`.
        """

    def step(self) -> Sequence[SequenceStep]:
        """Do one turn of work, while `has_work`. Never raises for one sequence's fault."""

    def has_work(self) -> bool:
        """Whether `step` has something to do; when not, the worker blocks on its socket."""

    def embed(
        self, inputs: Sequence[str | list[int]], *, pooling: Pooling, truncate: bool
    ) -> tuple[list[list[float]], int]:
        """One vector of `embedding_length` floats per input, not normalised, and the tokens read.

        Raises ContextLengthError if an input is too long and `truncate` is False.
        """

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int,
        truncate: bool,
    ) -> tuple[list[float], int]:
        """How well each document answers its query, as `EngineInfo.scoring` says, and the tokens
        read. Larger is better.

        queries              one for each document, or one for all
        max_document_tokens  what is longer is cut; 0: as much as the model reads

        Raises EngineRequestError if the model cannot score, ContextLengthError if a pair is longer
        than the model reads and `truncate` is False, or the query alone is.
        """

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`."""

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that the tokens stand for, special tokens as their text."""

    def look(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """How many tokens images of these widths and heights, in pixels, take in a prompt.

        Raises EngineRequestError if this engine or model does not see.
        """

    def stats(self) -> dict[str, Any]:
        """Counters and sizes for /metrics and the log; values are numbers or strings."""

    def close(self) -> None:
        """Free everything."""


Poll = Callable[[], None]
"""Engines call this inside long computations; it may call `abort` on them re-entrantly."""

EngineFactory = Callable[[LoadSpec, Poll], Engine]
"""Builds an engine; raises EngineError (ModelFormatError, DeviceMemoryError, …) when it cannot."""
