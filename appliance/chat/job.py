"""The one chat job behind every dialect: find the model, lease it, render, generate, tell events.

Text is assembled here (whole characters, stop strings), whatever the engine. Leaving the events
early aborts the sequence in the engine and frees its slot.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from appliance.chat import options as job_options
from appliance.chat.events import (
    Completion,
    Done,
    Embeddings,
    EmbedRequest,
    Event,
    JobRequest,
    Rendered,
    Started,
    Text,
)
from appliance.chat.options import Options
from appliance.chat.prompt import (
    Measure,
    Prompt,
    Template,
    choose_template,
    conversation,
    fit_conversation,
    single_turn,
)
from appliance.errors import UnsupportedError
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.manager import Models
from appliance.models.resident import Lease
from engine.api import FinishReason, GenerateRequest, SequenceStep, Usage
from engine.errors import EngineError
from engine.process.client import EngineClient
from engine.text import TextAssembler

_NOTHING = Text("")
HELD, HELD_BEFORE_STOP = 3, 1  # steps that a worker may hold back; the second with stop strings


class ChatService:
    """Runs jobs against the library and the models in memory."""

    def __init__(self, library: Library, models: Models) -> None:
        self._library = library
        self._models = models

    async def run(
        self, request: JobRequest, trial: StoredModel | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events of one answer: Started, Text…, Done; or only Rendered, or only Done.

        `trial` is a model that answers instead of the one that is installed under its name; it is
        loaded beside that one, in `trial_place`. Raises ApplianceError or EngineError, before the
        first event for everything that can be known by then.
        """
        began = time.monotonic_ns()
        stored = await self._find(request.model, trial)
        if request.work is None and request.keep_alive == 0:
            await self._models.unload(stored.name)
            yield Done(reason="unload", total_ns=time.monotonic_ns() - began)
            return
        own = await asyncio.to_thread(lambda: stored.parameters)
        options = job_options.merge(request.options, own, request.defaults)
        kind = "generate" if isinstance(request.work, Completion) else "chat"
        await self._check_can_generate(stored, request.model, kind)
        async with self._models.lease(
            stored,
            options.values,
            keep_alive=request.keep_alive,
            share=request.share.path,
            place=trial_place(trial.name) if trial is not None else None,
        ) as lease:
            request.share.purse.check()  # again: others of this share may have run meanwhile
            if request.work is None:
                total_ns = time.monotonic_ns() - began
                yield Done(reason="load", total_ns=total_ns, load_ns=lease.load_ns)
                return
            prompt = await self._prompt(request, stored, lease.client)
            if request.render_only:
                yield Rendered(prompt.text, len(prompt.tokens))
                return
            run = _Run(request, options, prompt, lease, began)
            try:
                async with aclosing(run.events()) as events:
                    async for event in events:
                        yield event
            finally:
                request.share.purse.charge(run.computed_tokens)
        yield run.done()  # the slot is free by now: a slow reader of the end delays nobody

    async def embed(self, request: EmbedRequest, trial: StoredModel | None = None) -> Embeddings:
        """Vectors for the inputs; `trial` and what is raised are as in `run`. No inputs only load
        the model."""
        began = time.monotonic_ns()
        stored = await self._find(request.model, trial)
        own = await asyncio.to_thread(lambda: stored.parameters)
        options = job_options.merge(request.options, own, {})
        inputs = [text if isinstance(text, str) else list(text) for text in request.inputs]
        vectors: list[list[float]] = []
        tokens = 0
        async with self._models.lease(
            stored,
            options.values,
            keep_alive=request.keep_alive,
            share=request.share.path,
            place=trial_place(trial.name) if trial is not None else None,
        ) as lease:
            request.share.purse.check()  # again: others of this share may have run meanwhile
            if inputs:
                vectors, tokens = await lease.client.embed(inputs, truncate=request.truncate)
                request.share.purse.charge(tokens)
        if request.dimensions is not None:
            vectors = [vector[: request.dimensions] for vector in vectors]
        if request.normalize or request.dimensions is not None:
            vectors = [_normalized(vector) for vector in vectors]
        return Embeddings(
            vectors=vectors,
            prompt_tokens=tokens,
            total_ns=time.monotonic_ns() - began,
            load_ns=lease.load_ns,
        )

    async def _find(self, typed: str, trial: StoredModel | None) -> StoredModel:
        if trial is not None:
            return trial
        return await asyncio.to_thread(self._library.get, ModelName.parse(typed))

    async def _check_can_generate(self, stored: StoredModel, typed: str, kind: str) -> None:
        header = await asyncio.to_thread(stored.header)
        if header.is_embedding:
            raise UnsupportedError(f'"{typed}" does not support {kind}')

    async def _prompt(
        self, request: JobRequest, stored: StoredModel, client: EngineClient
    ) -> Prompt:
        """What the model shall read, as text and tokens."""
        info = client.info

        async def measure(text: str) -> list[int]:
            has_bos = bool(info.bos_token) and text.startswith(info.bos_token)
            return (await client.tokenize([text], add_special=not has_bos))[0]

        work = request.work
        if isinstance(work, Completion) and work.raw:
            return Prompt(work.prompt, await _with_context(work, work.prompt, client, measure))
        header = await asyncio.to_thread(stored.header)
        go_template = work.template if isinstance(work, Completion) else None
        owner = "the request"
        if not go_template:
            go_template = await asyncio.to_thread(lambda: stored.template)
            owner = stored.name.short
        jinja = choose_template(go_template, str(header.chat_template or ""), owner)
        template = Template(jinja, info.bos_token, info.eos_token)
        if isinstance(work, Completion):
            text = await template.render(await asyncio.to_thread(single_turn, stored, work))
            return Prompt(text, await _with_context(work, text, client, measure))
        messages = await asyncio.to_thread(conversation, stored, work or ())
        limit = info.context_length if request.truncate else 2**63
        return await fit_conversation(template, messages, measure, limit)


def trial_place(name: ModelName) -> ModelName:
    """Where a model on trial is loaded; no name that anybody could ask for."""
    return replace(name, tag=f"{name.tag} (trial)")


@dataclass(slots=True)
class _Run:
    """One sequence in the engine, seen as events."""

    request: JobRequest
    options: Options
    prompt: Prompt
    lease: Lease
    began: int  # monotonic ns
    output: list[int] = field(default_factory=list)
    reason: FinishReason = FinishReason.STOP
    usage: Usage | None = None
    is_failed: bool = False
    stop_sequence: str = ""  # that ended the text
    _told: int = 0  # tokens of the output that an event has brought

    @property
    def computed_tokens(self) -> int:
        """What it cost: all but what the cache held; the whole prompt if the client left early,
        since leaving must not be cheaper than staying."""
        if (usage := self.usage) is not None:
            return usage.prompt_tokens - usage.cached_tokens + usage.output_tokens
        if self.is_failed and not self.output:
            return 0
        return len(self.prompt.tokens) + len(self.output)

    async def events(self) -> AsyncGenerator[Event, None]:
        assembler = TextAssembler(self.options.stop)
        engine_request = GenerateRequest(
            id=0,
            prompt=self.prompt.tokens,
            add_special=False,
            sampling=self.options.sampling(self.request.logit_bias),
            max_tokens=self.options.max_tokens,
            constraint=self.request.constraint,
            logprobs=self.request.logprobs,
            truncate=self.request.truncate,
            shift=self.request.shift,
            num_keep=self.options.num_keep,
            priority=self.lease.priority,
            cache_salt=self.request.share.salt,
            held_steps=self._held_steps(),
        )
        arrivals = self.lease.client.generate(
            engine_request, is_over=lambda: assembler.stopped_by is not None
        )
        last: SequenceStep | None = None
        async with aclosing(arrivals):
            try:
                async for steps in arrivals:
                    if last is None:
                        yield self._started()
                    last = steps[-1]
                    text = self._assemble(steps, assembler)
                    if text.text or text.logprobs:
                        yield text
            except EngineError:
                self.is_failed = True
                raise
        if last is None or last.usage is None or last.finish is None:
            raise EngineError("the engine ended a request without saying what it cost")
        self.usage = last.usage
        self.stop_sequence = assembler.stopped_by or ""
        self.reason = FinishReason.STOP if assembler.stopped_by is not None else last.finish

    def _assemble(self, steps: list[SequenceStep], assembler: TextAssembler) -> Text:
        """What of these steps may be shown; counts their tokens."""
        text, logprobs = "", []
        for step in steps:
            if assembler.stopped_by is not None:
                break  # decoded before the engine heard of the stop string
            self.output += step.token_ids
            text += assembler.feed(step.data)
            if step.finish is not None:
                text += assembler.finish()
            logprobs += step.logprobs
        if not text and not logprobs:
            return _NOTHING
        told, self._told = self._told, len(self.output)
        return Text(text, tuple(logprobs), self._told - told)

    def _held_steps(self) -> int:
        """Engines with many slots send many tokens per frame anyway. A stop string is seen only
        when it arrives, and has to free the engine within two steps."""
        if self.lease.client.info.slots > 1:
            return 0
        return HELD_BEFORE_STOP if self.options.stop else HELD

    def _started(self) -> Started:
        lease = self.lease
        return Started(
            queue_position=lease.queue_position,
            queue_ns=lease.queue_ns,
            load_ns=lease.load_ns,
            slots=lease.client.info.slots,
            prompt_tokens=len(self.prompt.tokens),
        )

    def done(self) -> Done:
        """The last event; call when `events` has ended."""
        usage, work = self.usage, self.request.work
        assert usage is not None
        has_context = isinstance(work, Completion) and not work.raw
        return Done(
            reason=str(self.reason),
            total_ns=time.monotonic_ns() - self.began,
            load_ns=self.lease.load_ns,
            queue_ns=self.lease.queue_ns,
            queue_position=self.lease.queue_position,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            truncated_tokens=usage.truncated_tokens,
            truncated_messages=self.prompt.dropped_messages,
            prompt_ns=usage.prompt_ns,
            output_tokens=len(self.output),
            decode_ns=usage.decode_ns,
            stop_sequence=self.stop_sequence,
            context=(*self.prompt.tokens, *self.output) if has_context else (),
        )


async def _with_context(
    work: Completion, text: str, client: EngineClient, measure: Measure
) -> list[int]:
    """The prompt's tokens behind those of an earlier exchange."""
    if not work.context:
        return await measure(text)
    later = await client.tokenize([text], add_special=False) if text else [[]]
    return [*work.context, *later[0]]


def _normalized(vector: list[float]) -> list[float]:
    """The vector at length 1; an all-zero one stays zero."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else vector
