"""One answer in the engine: one sequence, or two where something is forced behind thinking.

Text is assembled here (whole characters, stop strings), parsed and told as events. The first of two
sequences runs free until the model has thought, or has used up its budget; the second has the
thinking in its prompt, closed in the model's stead if need be, and the constraint (Ollama does the
same, reference: structured outputs). What the first computed stays in the engine's prefix cache.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from appliance.chat.events import (
    CallArguments,
    CallDone,
    Completion,
    Done,
    Echoed,
    Event,
    JobRequest,
    Started,
    Text,
    Thinking,
)
from appliance.chat.options import Options
from appliance.chat.parse.base import Parsed, Parser
from appliance.chat.plan import Plan
from appliance.chat.prompt import Prompt
from appliance.models.resident import Lease
from engine.api import Constraint, FinishReason, GenerateRequest, SequenceStep, TokenLogprob, Usage
from engine.errors import EngineError
from engine.text import TextAssembler

HELD, HELD_BEFORE_STOP = 3, 1  # steps that a worker may hold back; the second with stop strings


@dataclass(slots=True)
class Run:
    """See the module's text. Call `events`, then `done`."""

    request: JobRequest
    options: Options
    prompt: Prompt
    lease: Lease
    began: int  # monotonic ns
    plan: Plan
    output: list[int] = field(default_factory=list)
    reason: FinishReason = FinishReason.STOP
    stop_sequence: str = ""  # that ended the text
    _parser: Parser = field(init=False)
    _usages: list[Usage] = field(default_factory=list)  # of the sequences that ended
    _given: int = 0  # tokens of the prompt of the sequence that runs; 0: none runs
    _is_started: bool = False
    _has_failed: bool = False
    _told: int = 0  # tokens of the output that an event has brought
    _calls: int = 0
    _thinking_tokens: int = 0
    _pending: list[Event] = field(default_factory=list)  # to be told when it has started
    _seen: list[str] = field(default_factory=list)  # what was parsed in the first of two sequences
    _next: str | None = None  # what follows `_seen` in the prompt of the second, once it shall run

    def __post_init__(self) -> None:
        self._parser = self.plan.parser()

    @property
    def computed_tokens(self) -> int:
        """What it cost: all but what the cache held; the whole prompt if the client left early,
        since leaving must not be cheaper than staying."""
        done = sum(u.prompt_tokens - u.cached_tokens + u.output_tokens for u in self._usages)
        running = len(self.output) - sum(u.output_tokens for u in self._usages)
        if not self._given or (self._has_failed and running <= 0):
            return done
        return done + self._given + max(running, 0)

    async def events(self) -> AsyncGenerator[Event, None]:
        plan = self.plan
        tokens = self.prompt.tokens
        if not plan.thinks_first:
            tokens = await self._behind_prompt(plan.closing + plan.prefix)
            self._pending = self._tell(self._parser.feed(plan.prefix), [])
        constraint = None if plan.thinks_first else plan.constraint
        async with aclosing(self._sequence(tokens, constraint, is_first=plan.thinks_first)) as some:
            async for event in some:
                yield event
        if self._next is not None:
            following, self._next = self._next, None
            for event in self._tell(self._parser.feed(following), []):
                yield event
            tokens = await self._behind_prompt("".join(self._seen) + following)
            async with aclosing(self._sequence(tokens, plan.constraint, is_first=False)) as some:
                async for event in some:
                    yield event
        for event in self._tell(self._parser.finish(), []):
            yield event

    async def _behind_prompt(self, text: str) -> list[int]:
        """The prompt's tokens and those of `text`."""
        (more,) = await self.lease.client.tokenize([text], add_special=False) if text else ([],)
        return [*self.prompt.tokens, *more]

    async def _sequence(
        self, tokens: list[int], constraint: Constraint | None, *, is_first: bool
    ) -> AsyncGenerator[Event, None]:
        """Run one sequence; `is_first`: until another has to follow."""
        room = 0 if self.request.prompt_only else self.options.max_tokens
        if room > 0:
            room -= len(self.output)
            if room <= 0:
                self.reason = FinishReason.LENGTH
                return
        assembler = TextAssembler(self.options.stop)
        arrivals = self.lease.client.generate(
            self._engine_request(tokens, constraint, room),
            is_over=lambda: assembler.stopped_by is not None or self._next is not None,
        )
        self._given = len(tokens)
        last: SequenceStep | None = None
        async with aclosing(arrivals):
            try:
                async for steps in arrivals:
                    if not self._is_started:
                        self._is_started = True
                        for event in (self._started(), *await self._echo(steps), *self._pending):
                            yield event
                    last = steps[-1]
                    for event in self._read(steps, assembler, is_first=is_first):
                        yield event
            except EngineError:
                self._has_failed = True
                raise
        if last is None or last.usage is None or last.finish is None:
            raise EngineError("the engine ended a request without saying what it cost")
        self._usages.append(last.usage)
        self._given = 0
        self.stop_sequence = assembler.stopped_by or ""
        self.reason = FinishReason.STOP if assembler.stopped_by is not None else last.finish
        if is_first and self._next is None and last.finish is FinishReason.STOP:
            self._force_after_end(assembler)

    def _engine_request(
        self, tokens: list[int], constraint: Constraint | None, room: int
    ) -> GenerateRequest:
        return GenerateRequest(
            id=0,
            prompt=tokens,
            add_special=False,
            sampling=self.options.sampling(self.request.logit_bias),
            max_tokens=room,
            constraint=constraint,
            logprobs=self.request.logprobs,
            prompt_logprobs=self.request.logprobs if self.request.echo else None,
            truncate=self.request.truncate,
            shift=self.request.shift,
            num_keep=self.options.num_keep,
            priority=self.lease.priority,
            cache_salt=self.request.share.salt,
            held_steps=self._held_steps(),
            special=self.plan.special,
            images=list(self.prompt.images),
        )

    async def _echo(self, first: list[SequenceStep]) -> list[Event]:
        """The prompt, told once at the beginning. One of token ids has its text from the engine."""
        if not self.request.echo:
            return []
        text, work = self.prompt.text, self.request.work
        if isinstance(work, Completion):
            text = work.prompt
            if work.context:
                data = await self.lease.client.detokenize(self.prompt.tokens)
                text = data.decode(errors="replace")
        return [Echoed(text, tuple(entry for step in first for entry in step.prompt_logprobs))]

    def _read(
        self, steps: list[SequenceStep], assembler: TextAssembler, *, is_first: bool
    ) -> list[Event]:
        """What these steps tell; counts their tokens."""
        found: list[Parsed] = []
        logprobs: list[TokenLogprob] = []
        for step in steps:
            if assembler.stopped_by is not None or self._next is not None:
                break  # decoded before the engine heard of it
            self.output += step.token_ids
            if self._parser.is_thinking:
                self._thinking_tokens += len(step.token_ids)
            text = assembler.feed(step.data)
            if step.finish is not None:
                text += assembler.finish()
            found += self._think(text) if is_first else self._parser.feed(text)
            logprobs += step.logprobs
        return self._tell(found, logprobs)

    # -- the first of two sequences ---------------------------------------------------------

    def _think(self, text: str) -> list[Parsed]:
        """Parse text of the first sequence, as far as the end of the thinking; decides there
        whether and how a second follows."""
        plan, found = self.plan, list[Parsed]()
        if plan.constraint is None and not self._parser.is_thinking and self._parser.is_answering:
            return self._parser.feed(text)  # it kept its budget; nothing else is forced
        for one in text:
            was_thinking = self._parser.is_thinking
            parsed = self._parser.feed(one)
            self._seen.append(one)
            if plan.constraint is not None:
                if was_thinking and not self._parser.is_thinking:
                    self._force(plan.family.after_thinking() if plan.family else "")
                    return found + [event for event in parsed if isinstance(event, Thinking)]
                if self._parser.is_answering:  # it did not think: what it said is forgotten
                    self._begin_again()
                    return found
            found += parsed
        if self._parser.is_thinking and self._is_spent and plan.family is not None:
            self._force(plan.family.close_thinking())
        return found

    @property
    def _is_spent(self) -> bool:
        return self.plan.budget is not None and self._thinking_tokens >= self.plan.budget

    def _force(self, behind: str) -> None:
        """A second sequence follows, with `behind` and the plan's prefix after the thinking."""
        self._next = behind + self.plan.prefix

    def _begin_again(self) -> None:
        self._seen = []
        self._parser = self.plan.parser()
        self._next = self.plan.prefix

    def _force_after_end(self, assembler: TextAssembler) -> None:
        """The model ended its turn without an answer, but one was asked for in a form."""
        if assembler.stopped_by is not None or self.plan.constraint is None:
            return
        if self._parser.is_thinking and self.plan.family is not None:
            self._force(self.plan.family.close_thinking())
        elif not self._parser.is_answering:
            self._begin_again()

    # -- events -----------------------------------------------------------------------------

    def _tell(self, parsed: list[Parsed], logprobs: list[TokenLogprob]) -> list[Event]:
        """The events of what was parsed, joined; the first that shows text brings the tokens."""
        events: list[Event] = []
        for event in parsed:
            if isinstance(event, Thinking) and self.plan.hides_thinking:
                continue
            self._calls += isinstance(event, CallDone)
            joined = _joined(events[-1], event) if events else None
            if joined is None:
                events.append(event)
            else:
                events[-1] = joined
        at = next((i for i, e in enumerate(events) if isinstance(e, Text | Thinking)), None)
        if at is None and logprobs:
            events.insert(0, Text(""))
            at = 0
        if at is not None:
            carrier = events[at]
            assert isinstance(carrier, Text | Thinking)
            told, self._told = self._told, len(self.output)
            events[at] = replace(carrier, logprobs=tuple(logprobs), tokens=self._told - told)
        return events

    def _held_steps(self) -> int:
        """Engines with many slots send many tokens per frame anyway. A stop string is seen only
        when it arrives, and has to free the engine within two steps."""
        if self.lease.client.info.slots > 1:
            return 0
        return HELD_BEFORE_STOP if self.options.stop or self.plan.thinks_first else HELD

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
        """The last event; call when `events` has ended. The prompt's figures are those of the
        first sequence, times are added up."""
        work, first = self.request.work, self._usages[0]
        has_context = isinstance(work, Completion) and not work.raw
        return Done(
            reason=str(self.reason),
            total_ns=time.monotonic_ns() - self.began,
            load_ns=self.lease.load_ns,
            queue_ns=self.lease.queue_ns,
            queue_position=self.lease.queue_position,
            prompt_tokens=first.prompt_tokens,
            cached_tokens=first.cached_tokens,
            truncated_tokens=first.truncated_tokens,
            truncated_messages=self.prompt.dropped_messages,
            prompt_ns=sum(usage.prompt_ns for usage in self._usages),
            output_tokens=len(self.output),
            decode_ns=sum(usage.decode_ns for usage in self._usages),
            # of images only the text around them: the client has them, and may send them again
            context=(*(t for t in self.prompt.tokens if t >= 0), *self.output)
            if has_context
            else (),
            tool_calls=self._calls,
            thinking_tokens=self._thinking_tokens,
            stop_sequence=self.stop_sequence,
        )


def _joined(last: Event, event: Parsed) -> Event | None:
    """Both as one, where that loses nothing."""
    if isinstance(last, Text) and isinstance(event, Text):
        return Text(last.text + event.text)
    if isinstance(last, Thinking) and isinstance(event, Thinking):
        return Thinking(last.text + event.text)
    if not (isinstance(last, CallArguments) and isinstance(event, CallArguments)):
        return None
    return CallArguments(last.index, last.text + event.text) if last.index == event.index else None
