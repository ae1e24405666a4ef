"""The one chat job behind every dialect: find the model, lease it, render, generate, tell events.

What happens between the prompt and the last event is known in `run.py`. Leaving the events early
aborts the sequence in the engine and frees its slot.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from appliance.access.shares import Share
from appliance.chat import options as job_options
from appliance.chat.events import (
    Completion,
    Done,
    Embeddings,
    EmbedRequest,
    Event,
    JobRequest,
    Rendered,
    ScoreRequest,
    Scores,
    Tokenized,
    TokenizeRequest,
)
from appliance.chat.infill import infill_prompt
from appliance.chat.parse.families import choose_family
from appliance.chat.parse.thinking import without_old_thinking
from appliance.chat.pictures import Pictures, images_of, sizes_of
from appliance.chat.plan import Plan, abilities_of, check_abilities, make_plan, offered_tools
from appliance.chat.prompt import (
    Prompt,
    Template,
    conversation,
    fit_conversation,
    single_turn,
)
from appliance.chat.render.template import has_insert
from appliance.chat.run import Run
from appliance.chat.scores import activated, require_scoring
from appliance.errors import UnsupportedError
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.manager import Models
from appliance.models.resident import Lease
from engine.process.client import EngineClient


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
        await self._check_can_generate(stored, request, kind)
        images = images_of(request.work)
        sizes = await asyncio.to_thread(sizes_of, images) if images else []
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
            pictures = await _look(request, images, sizes, lease.client)
            prompt, plan = await self._prompt(request, stored, lease.client, pictures)
            if request.render_only:
                count = len(prompt.tokens)
                if request.begun:
                    (more,) = await lease.client.tokenize([request.begun], add_special=False)
                    count += len(more)
                yield Rendered(pictures.shown(prompt.text) + request.begun, count)
                return
            run = Run(request, options, prompt, lease, began, plan)
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
        inputs = [text if isinstance(text, str) else list(text) for text in request.inputs]
        vectors: list[list[float]] = []
        tokens = 0
        place = trial_place(trial.name) if trial is not None else None
        async with self._lease(
            stored, request.options, request.keep_alive, request.share, place
        ) as lease:
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

    async def score(self, request: ScoreRequest, trial: StoredModel | None = None) -> Scores:
        """How well each document answers its query; `trial` and what is raised are as in `run`."""
        stored = await self._find(request.model, trial)
        header = await asyncio.to_thread(stored.header)
        require_scoring(header, request.model)
        place = trial_place(trial.name) if trial is not None else None
        async with self._lease(
            stored, request.options, request.keep_alive, request.share, place
        ) as lease:
            scores, tokens = await lease.client.score(
                request.queries,
                request.documents,
                max_document_tokens=request.max_document_tokens,
                truncate=request.truncate,
            )
            request.share.purse.charge(tokens)
        if request.is_activated:
            scores = activated(scores, lease.client.info.scoring)
        return Scores(values=scores, prompt_tokens=tokens)

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """The tokens of a text, or of a conversation as the model would read it. Raises as `run`
        does."""
        stored = await self._find(request.model, None)
        if isinstance(request.work, str):
            job = None
        else:
            job = JobRequest(
                model=request.model, work=request.work, tools=request.tools, truncate=False
            )
            await self._check_can_generate(stored, job, "chat")
        async with self._lease(stored, {}, None, request.share) as lease:
            client = lease.client
            text, tokens = str(request.work), None
            if job is not None:
                prompt, _ = await self._prompt(
                    job, stored, client, Pictures(), opens_answer=request.opens_answer
                )
                text, tokens = prompt.text, prompt.tokens
            if tokens is None or request.add_special is not None:
                add_special = request.add_special is not False
                (tokens,) = await client.tokenize([text], add_special=add_special)
            pieces = await client.pieces(tokens) if request.wants_pieces else []
        return Tokenized(tokens=tokens, pieces=pieces, context_length=client.info.context_length)

    async def detokenize(self, model: str, tokens: Sequence[int], share: Share) -> bytes:
        """The bytes that the tokens stand for. Raises as `run` does."""
        stored = await self._find(model, None)
        async with self._lease(stored, {}, None, share) as lease:
            return await lease.client.detokenize(tokens)

    @asynccontextmanager
    async def _lease(
        self,
        stored: StoredModel,
        options: Mapping[str, Any],
        keep_alive: float | None,
        share: Share,
        place: ModelName | None = None,
    ) -> AsyncGenerator[Lease, None]:
        """Hold the model for work that is no chat, with its own parameters."""
        own = await asyncio.to_thread(lambda: stored.parameters)
        merged = job_options.merge(options, own, {})
        async with self._models.lease(
            stored, merged.values, keep_alive=keep_alive, share=share.path, place=place
        ) as lease:
            share.purse.check()  # again: others of this share may have run meanwhile
            yield lease

    async def _find(self, typed: str, trial: StoredModel | None) -> StoredModel:
        if trial is not None:
            return trial
        return await asyncio.to_thread(self._library.get, ModelName.parse(typed))

    async def _check_can_generate(
        self, stored: StoredModel, request: JobRequest, kind: str
    ) -> None:
        header = await asyncio.to_thread(stored.header)
        if header.is_embedding:
            raise UnsupportedError(f'"{request.model}" does not support {kind}')
        if abilities_of(request):
            abilities = await asyncio.to_thread(stored.capabilities)
            if isinstance(request.work, Completion) and not request.work.template:
                abilities = [*abilities, "insert"]  # only its vocabulary can tell, see `infill.py`
            check_abilities(request, stored.name.full, abilities)

    async def _prompt(
        self,
        request: JobRequest,
        stored: StoredModel,
        client: EngineClient,
        pictures: Pictures,
        *,
        opens_answer: bool = True,
    ) -> tuple[Prompt, Plan]:
        """What the model shall read, as text and tokens, and how its answer comes about."""
        info, images = client.info, pictures.images

        async def tokenize(texts: list[str], add_special: bool) -> list[list[int]]:
            return await client.tokenize(texts, add_special=add_special)

        async def measure(text: str, *, is_later: bool = False) -> list[int]:
            has_bos = bool(info.bos_token) and text.startswith(info.bos_token)
            return await pictures.tokens_of(text, tokenize, add_special=not (has_bos or is_later))

        async def read(work: Completion, text: str) -> list[int]:
            """The prompt behind the tokens of an earlier exchange."""
            if not work.context:
                return await measure(text)
            return [*work.context, *(await measure(text, is_later=True) if text else [])]

        work = request.work
        if isinstance(work, Completion) and work.raw:
            text = pictures.marked_prompt(work)
            plan = Plan(constraint=request.constraint)
            return Prompt(text, await read(work, text), images=images), plan
        header = await asyncio.to_thread(stored.header)
        requested = work.template or "" if isinstance(work, Completion) else ""
        chosen = await asyncio.to_thread(stored.chat_template, requested)
        if chosen.problem:
            raise UnsupportedError(f"{stored.name.short} cannot be talked to: {chosen.problem}")
        family = await asyncio.to_thread(
            choose_family,
            chosen.text,
            is_go=chosen.is_go,
            architecture=header.architecture,
            parser=stored.parser,
        )
        tools = offered_tools(request)
        if not opens_answer and chosen.is_go:
            raise UnsupportedError(
                f"{stored.name.short} has a Go template, which always opens the assistant's turn",
                hint="leave out add_generation_prompt",
            )
        template = Template(
            chosen, info.bos_token, info.eos_token, tools, request.think, opens_answer
        )
        needs_marks = isinstance(work, Completion) and work.suffix and not work.images
        if isinstance(work, Completion) and needs_marks and not await has_insert(chosen):
            prompt = await infill_prompt(work, client, stored.name.full, truncate=request.truncate)
            return prompt, Plan(constraint=request.constraint)
        if isinstance(work, Completion):
            turns = await asyncio.to_thread(single_turn, stored, work)
            text = await template.render(pictures.marked(turns), work.suffix)
            pictures.check_all_in(text, len(images))
            prompt = Prompt(text, await read(work, text), images=images)
        else:
            messages = await asyncio.to_thread(conversation, stored, work or ())
            if chosen.is_go and family.thinking is not None:  # Jinja does it as it was trained
                messages = without_old_thinking(messages, family.thinking)
            limit = info.context_length if request.truncate else 2**63
            marked = pictures.marked(messages)
            prompt = await fit_conversation(template, marked, measure, limit)
            is_whole = prompt.dropped_messages == 0
            pictures.check_all_in(
                prompt.text, len(images) if is_whole else len(messages[-1].images)
            )
            prompt = replace(prompt, images=images)
        return prompt, await asyncio.to_thread(make_plan, request, family, prompt.text)


def trial_place(name: ModelName) -> ModelName:
    """Where a model on trial is loaded; no name that anybody could ask for."""
    return replace(name, tag=f"{name.tag} (trial)")


async def _look(
    request: JobRequest, images: list[bytes], sizes: list[tuple[int, int]], client: EngineClient
) -> Pictures:
    """The images with what each takes in the prompt; raises UnsupportedError without eyes."""
    if not images:
        return Pictures()
    if not client.info.sees:
        raise UnsupportedError(
            f'"{request.model}" does not support vision on the {client.info.engine} engine'
        )
    return Pictures(images, await client.look(sizes))


def _normalized(vector: list[float]) -> list[float]:
    """The vector at length 1; an all-zero one stays zero."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else vector
