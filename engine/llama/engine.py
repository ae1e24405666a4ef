"""The llama engine: one sequence at a time through llama.cpp, at its native speed.

`load` is the EngineFactory. The order of a step is chosen for latency: the step that finishes the
prompt already returns the first token, every later step computes the token that the one before
returned and samples the next, and nothing is computed after the last one.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.api import (
    Engine,
    EngineInfo,
    FinishReason,
    GenerateRequest,
    LoadSpec,
    Poll,
    Pooling,
    Scoring,
    SequenceStep,
)
from engine.errors import EngineBusyError, EngineError, EngineRequestError, ModelFormatError
from engine.llama.embed import Embedder
from engine.llama.generation import Generation
from engine.llama.grammar import compile_constraint
from engine.llama.interruption import Interruption
from engine.llama.model import MAX_BATCH, LoadedModel
from engine.llama.native import lib
from engine.llama.pooled import PIECE_WITH_OUTPUTS
from engine.llama.rank import Ranker
from engine.llama.sampler import Sampler
from engine.llama.seen import Seen, no_eyes, see, with_keys
from engine.llama.session import PHYSICAL_BATCH, Session
from engine.llama.threads import board_threads
from engine.pictures import PictureSize
from engine.prompt import check_logprobs, fit_prompt

if TYPE_CHECKING:
    from engine.llama.eyes import Eyes

_COUNTERS = (
    "requests",
    "aborted",
    "failed",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "embed_tokens",
    "score_tokens",
)


def load(spec: LoadSpec, poll: Poll) -> Engine:
    """Open a GGUF file. Raises ModelFormatError, DeviceMemoryError or EngineRequestError."""
    started = time.monotonic_ns()
    model = LoadedModel(spec, board_threads(spec.threads))
    try:
        return LlamaEngine(model, poll, started)
    except EngineError:
        model.close()
        raise


class LlamaEngine:
    """One model, one generating sequence, and embeddings and scores on the side."""

    def __init__(self, model: LoadedModel, poll: Poll, started_ns: int) -> None:
        """Takes over `model` when it succeeds. Loading began at `started_ns`."""
        self._model = model
        self._vocab = model.vocab
        self._poll = poll
        self._running: Generation | None = None
        self._ended: list[SequenceStep] = []  # last steps of sequences that made room for another
        self._interruption = Interruption(poll, self._must_stop)
        self._context_length = model.context_length(model.spec.context_length)
        self._eyes: Eyes | None = None
        self._session: Session | None = None
        self._embedder: Embedder | None = None
        self._ranker: Ranker | None = None
        if model.spec.ranking:
            self._ranker = Ranker(model, poll, self._context_length)
        elif model.spec.embedding:
            self._embedder = Embedder(model, poll, self._context_length)
        else:
            if model.spec.projector_path:
                self._eyes = _open_eyes(model, self._interruption)
            self._session = self._open_session()
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._info = self._describe(time.monotonic_ns() - started_ns)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def add(self, request: GenerateRequest) -> None:
        """Accept a request; raises EngineError when it can never be served."""
        self._let_go()
        if self._running is not None:
            raise EngineBusyError("the llama engine runs one sequence at a time; wait for its end")
        session = self._session
        if session is None:
            raise EngineRequestError("the model is loaded for embeddings; load it for generation")
        check_logprobs(request)
        if request.constraint is not None and request.ignore_eos:
            raise EngineRequestError("ignore_eos and a constraint exclude each other; drop one")
        seen = see(self._eyes, request.images)
        prompt = fit_prompt(
            self._prompt_tokens(request, seen),
            context_length=self._context_length,
            trained_context=self._model.trained_context,
            num_keep=request.num_keep + (self._vocab.adds_bos and request.num_keep >= 0),
            max_tokens=request.max_tokens,
            # neither an image nor a prompt that is asked about can be cut
            truncate=request.truncate and not seen and request.prompt_logprobs is None,
        )
        if prompt.tokens[-1] < 0:
            raise EngineRequestError("the prompt ends with an image; text must follow it")
        if request.prompt_logprobs is not None and seen:
            raise EngineRequestError(
                "log-probabilities of a prompt with images are not told; leave out one of them"
            )
        if request.prompt_logprobs is not None and session.max_outputs == 1:
            session = self._widen_session(session)
        grammar = None
        if request.constraint is not None:
            grammar = compile_constraint(request.constraint, self._vocab, self._model.log)
        sampler = Sampler(
            request.sampling,
            self._vocab,
            window=self._context_length,
            prompt=[token for token in prompt.tokens if token >= 0],
            grammar=grammar,
        )
        images = {picture.key: picture.data for picture in seen}
        self._running = Generation(request, prompt, images, sampler, session, self._vocab)

    def abort(self, request_id: int) -> None:
        """End a request at its next step, or in the middle of its prompt; others are ignored."""
        running = self._running
        if running is not None and running.request.id == request_id:
            running.is_aborted = True

    def has_work(self) -> bool:
        return self._running is not None or bool(self._ended)

    def step(self) -> Sequence[SequenceStep]:
        """Compute a chunk of the prompt, or a token."""
        ended, self._ended = self._ended, []
        if (running := self._running) is None:
            return ended
        try:
            step = running.step()
        except EngineError as error:
            step = SequenceStep(id=running.request.id, error=(error.code, str(error)))
        if step is None:
            return ended
        if step.finish is not None or step.error is not None:
            self._retire(running, step)
        return [*ended, step]

    def embed(
        self, inputs: Sequence[str | list[int]], *, pooling: Pooling, truncate: bool
    ) -> tuple[list[list[float]], int]:
        """One vector per input; a model built for something else gets a context for it at the
        first call."""
        if self._embedder is None:
            self._embedder = Embedder(self._model, self._poll, self._context_length)
        vectors, tokens = self._embedder.embed(inputs, pooling, truncate=truncate)
        self._counters["embed_tokens"] += tokens
        return vectors, tokens

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int,
        truncate: bool,
    ) -> tuple[list[float], int]:
        """By the classifier of a reranker, else by the vectors of an embedding model."""
        if self._ranker is not None:
            run = self._ranker.score
        elif self._session is None and self._embedder is not None:
            run = self._embedder.cosines
        else:
            raise EngineRequestError(
                "the model generates text and cannot score; use a reranker or an embedding model"
            )
        scores, tokens = run(
            queries, documents, max_document_tokens=max_document_tokens, truncate=truncate
        )
        self._counters["score_tokens"] += tokens
        return scores, tokens

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`."""
        return self._vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that the tokens stand for, special tokens as their text."""
        return self._vocab.detokenize(token_ids)

    def look(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """How many tokens images of these sizes take; raises EngineRequestError without eyes."""
        if self._eyes is None:
            raise no_eyes()
        return [self._eyes.extent(PictureSize(*size)).tokens for size in sizes]

    def stats(self) -> dict[str, Any]:
        """Counters since loading, and the tokens that are in the KV cache now."""
        held = 0 if self._session is None else len(self._session.tokens)
        return {**self._counters, "kv_tokens": held, "context_length": self._context_length}

    def close(self) -> None:
        """Free everything; safe to call again."""
        self._ended = []
        if self._running is not None:
            self._running.close()
            self._running = None
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._eyes is not None:
            self._eyes.close()
            self._eyes = None
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None
        if self._ranker is not None:
            self._ranker.close()
            self._ranker = None
        self._model.close()

    def _widen_session(self, session: Session) -> Session:
        """A session that gives the logits of many tokens at once, instead of `session`, whose KV
        is lost. It stays: who asks for log-probabilities of a prompt asks for more of them."""
        session.close()
        self._session = None
        try:
            self._session = self._open_session(PIECE_WITH_OUTPUTS)
        except EngineError:
            self._session = self._open_session()
            raise
        return self._session

    def _open_session(self, max_outputs: int = 1) -> Session:
        """max_outputs  tokens whose logits a batch can give; with 150,000 tokens of vocabulary one
        for each of 512 would take 300 MB"""
        model = self._model
        batch = max(1, min(model.spec.batch_size, self._context_length, MAX_BATCH))
        context = model.open_context(
            n_ctx=self._context_length,
            n_batch=batch,
            n_ubatch=min(batch, PHYSICAL_BATCH),
            n_outputs_max=max_outputs,
        )
        if not lib.llama_get_memory(context.handle):
            context.close()
            raise ModelFormatError(
                "the model cannot generate text (it has no KV memory); load it for embeddings"
            )
        session = Session(
            context,
            vocab_size=self._vocab.size,
            context_length=self._context_length,
            batch_size=batch,
            max_outputs=max_outputs,
            interruption=self._interruption,
            log=model.log,
            eyes=self._eyes,
        )
        session.warm_up(max(self._vocab.bos, self._vocab.eos, 0))
        return session

    def _describe(self, load_ns: int) -> EngineInfo:
        model, vocab = self._model, self._vocab
        pooled = self._ranker or self._embedder
        owners = [owner for owner in (self._session, pooled and pooled.context) if owner]
        return EngineInfo(
            engine="llama",
            context_length=self._context_length,
            slots=1,
            vocab_size=vocab.size,
            embedding_length=model.embedding_length,
            max_embed_tokens=self._context_length,
            weight_bytes=model.weight_bytes + (self._eyes.file_bytes if self._eyes else 0),
            kv_bytes=sum(owner.kv_bytes for owner in owners),
            compute_bytes=sum(owner.compute_bytes for owner in owners)
            + (self._eyes.compute_bytes if self._eyes else 0),
            threads=model.threads,
            bos_token=vocab.text(vocab.bos),
            eos_token=vocab.text(vocab.eos),
            infill=vocab.infill,
            scoring=self._scoring(),
            sees=self._eyes is not None,
            load_ns=load_ns,
            description=model.description,
        )

    def _scoring(self) -> Scoring:
        if self._ranker is not None:
            return self._ranker.scoring
        return "cosine" if self._session is None else ""

    def _must_stop(self) -> bool:
        return self._running is not None and self._running.is_aborted

    def _prompt_tokens(self, request: GenerateRequest, seen: Sequence[Seen]) -> list[int]:
        vocab = self._vocab
        if isinstance(request.prompt, str):
            tokens = vocab.tokenize(
                request.prompt, add_special=request.add_special, parse_special=True
            )
        else:
            tokens = list(request.prompt)
            if seen:
                tokens = with_keys(tokens, seen)
            vocab.check([token for token in tokens if token >= 0] if seen else tokens)
            if request.add_special and vocab.adds_bos and tokens[:1] != [vocab.bos]:
                tokens.insert(0, vocab.bos)
        if not tokens and vocab.bos >= 0:
            tokens = [vocab.bos]
        if not tokens:
            raise EngineRequestError("the prompt is empty and the model has no token to start with")
        return tokens

    def _let_go(self) -> None:
        """End an aborted sequence now, so that the request behind it need not wait for a step."""
        running = self._running
        if running is not None and running.is_aborted and (step := running.step()) is not None:
            self._retire(running, step)
            self._ended.append(step)

    def _retire(self, running: Generation, step: SequenceStep) -> None:
        self._running = None
        running.close()
        counters = self._counters
        counters["requests"] += 1
        counters["aborted"] += step.finish is FinishReason.ABORT
        counters["failed"] += step.error is not None
        counters["prompt_tokens"] += running.prompt_tokens
        counters["cached_tokens"] += running.cached_tokens
        counters["output_tokens"] += running.output_tokens


def _open_eyes(model: LoadedModel, interruption: Interruption) -> "Eyes":
    from engine.llama.eyes import Eyes  # loads libmtmd, which most models do not need

    return Eyes(model, interruption)
