"""http/choices.py: when the next choice begins, and how all end when one of them fails."""

import asyncio
from contextlib import aclosing

import pytest

from appliance.access.caller import Caller, Ring
from appliance.chat.events import Done, JobRequest, Started, Text
from appliance.http.choices import run_choices
from appliance.http.context import CALLER, CHAT, FIELDS, METER, METRICS
from appliance.http.meter import TokenMeter
from appliance.metrics import Metrics
from engine.errors import EngineError
from tests.fakes.waiting import until


class Chat:
    """Runs each job as the script of its model name says; notes what begins and ends."""

    def __init__(self, slots, scripts):
        self.slots = slots
        self.scripts = scripts
        self.notes = []

    async def run(self, job):
        self.notes.append(f"{job.model} begins")
        try:
            yield Started(queue_position=0, queue_ns=0, load_ns=0, slots=self.slots)
            for word in self.scripts[job.model]:
                await asyncio.sleep(0)
                if word == "fail":
                    raise EngineError(f"{job.model} failed")
                if word == "wait":
                    await asyncio.Event().wait()
                yield Text(word)
            yield Done(reason="stop", total_ns=0)
        finally:
            self.notes.append(f"{job.model} ends")


class Request(dict):
    def __init__(self, chat):
        super().__init__({FIELDS: {}, CALLER: Caller("", Ring.HERE)})
        self.app = {CHAT: chat, METRICS: Metrics(), METER: TokenMeter()}


def jobs_for(chat):
    return [JobRequest(model=name, work=()) for name in chat.scripts]


async def collect(chat):
    async with aclosing(run_choices(Request(chat), jobs_for(chat))) as events:
        return [(index, event) async for index, event in events]


def words(events):
    found = {}
    for index, event in events:
        if isinstance(event, Text):
            found.setdefault(index, []).append(event.text)
    return found


async def test_with_one_slot_each_choice_ends_before_the_next_begins():
    chat = Chat(1, {"a": ["one", "two"], "b": ["three"], "c": ["four"]})
    events = await collect(chat)
    assert [index for index, _ in events] == sorted(index for index, _ in events)
    assert chat.notes == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


async def test_with_more_slots_the_next_begins_at_the_first_token_of_the_one_before():
    chat = Chat(8, {"a": ["one"] * 50, "b": ["two"] * 50, "c": ["three"]})
    events = await collect(chat)
    assert words(events) == {0: ["one"] * 50, 1: ["two"] * 50, 2: ["three"]}
    assert chat.notes[:3] == ["a begins", "b begins", "c begins"]


async def test_a_client_that_reads_slowly_does_not_keep_the_other_choices_back():
    chat = Chat(8, {"a": ["one"] * 50, "b": ["wait"], "c": ["wait"]})
    async with aclosing(run_choices(Request(chat), jobs_for(chat))) as events:
        await anext(events)
        await until(lambda: "c begins" in chat.notes)


async def test_each_choice_keeps_the_order_of_its_events():
    chat = Chat(8, {"a": ["1", "2", "3"], "b": ["1", "2", "3"]})
    events = await collect(chat)
    for wanted in (0, 1):
        own = [event for index, event in events if index == wanted]
        assert isinstance(own[0], Started)
        assert [event.text for event in own[1:-1]] == ["1", "2", "3"]
        assert isinstance(own[-1], Done)


@pytest.mark.parametrize("slots", [1, 8])
async def test_the_first_failure_is_raised_and_ends_the_others(slots):
    chat = Chat(slots, {"a": ["one"], "b": ["fail"], "c": ["wait"]})
    with pytest.raises(EngineError, match="b failed"):
        await collect(chat)
    begun = [note for note in chat.notes if note.endswith("begins")]
    assert sorted(chat.notes) == sorted(begun + [note.replace("begins", "ends") for note in begun])


async def test_who_leaves_early_ends_all():
    chat = Chat(8, {"a": ["wait"], "b": ["wait"], "c": ["wait"]})
    async with aclosing(run_choices(Request(chat), jobs_for(chat))) as events:
        async for index, _ in events:
            if index == 2:
                break
    assert sorted(chat.notes) == sorted(f"{n} {w}" for n in "abc" for w in ("begins", "ends"))
