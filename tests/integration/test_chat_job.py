"""appliance/chat/job: jobs in this process, where a blocking call on the event loop is caught."""

from contextlib import aclosing
from dataclasses import replace

import pytest

from appliance.access.shares import Share
from appliance.chat.events import Completion, Done, EmbedRequest, JobRequest, Message, Text
from appliance.chat.job import ChatService
from appliance.config import load_settings
from appliance.errors import BudgetSpentError
from appliance.library.library import Library
from appliance.models.manager import Models
from engine.errors import ContextLengthError
from tests.fakes.libraries import add_model


@pytest.fixture
def settings(tmp_path):
    flags = {"engine": "echo", "state": str(tmp_path), "memory_reserve_mib": "0"}
    return load_settings(flags, {})


@pytest.fixture
def library(tmp_path):
    """One model whose Modelfile has something of everything that is kept in a file."""
    library = Library(tmp_path / "models")
    add_model(
        library,
        tmp_path,
        parameters={"stop": ["halt"]},
        system="Be brief.",
        messages=[{"role": "user", "content": "hello"}],
    )
    return library


@pytest.fixture
async def chat(settings, library):
    models = Models(settings)
    yield ChatService(library, models)
    await models.close()


@pytest.mark.parametrize(
    "work",
    [(Message("user", "go on until you halt here"),), Completion(prompt="until you halt here")],
    ids=["chat", "completion"],
)
async def test_answer_ends_at_the_models_own_stop_string(chat, work):
    events = [event async for event in chat.run(JobRequest(model="tiny", work=work))]
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert text.endswith("until you ")
    assert isinstance(events[-1], Done)


class Purse:
    """Pays for a job, and says how much."""

    def __init__(self):
        self.paid = []
        self.is_empty = False

    def check(self):
        if self.is_empty:
            raise BudgetSpentError("empty")

    def charge(self, tokens):
        self.paid.append(tokens)


@pytest.fixture
def purse():
    return Purse()


def job(purse, text="[[forever]]", **options):
    share = Share(path=("key:k", ""), purse=purse)
    work = Completion(prompt=text, raw=True)
    return JobRequest(model="tiny", work=work, share=share, options=options)


async def test_what_was_computed_is_paid(chat, purse):
    events = [event async for event in chat.run(job(purse, "one two three", num_predict=2))]
    done = events[-1]
    assert (done.prompt_tokens, done.output_tokens) == (3, 2)
    assert purse.paid == [5]
    embed = EmbedRequest(model="tiny", inputs=("one two", "three"), share=Share(purse=purse))
    await chat.embed(embed)
    assert purse.paid == [5, 3]


async def test_leaving_early_pays_for_the_prompt_and_what_was_seen(chat, purse):
    async with aclosing(chat.run(job(purse, "[[forever]] and on it goes"))) as events:
        seen = 0
        async for event in events:
            seen += isinstance(event, Text)
            if seen == 3:
                break
    (paid,) = purse.paid
    assert paid >= 5 + 3


async def test_who_was_refused_by_the_engine_pays_nothing(chat, purse):
    request = replace(job(purse, "word " * 100, num_ctx=8), truncate=False)
    with pytest.raises(ContextLengthError):
        await anext(chat.run(request))
    assert purse.paid == [0]


async def test_a_budget_that_was_spent_while_waiting_is_noticed(chat, purse):
    """Many requests come at once while there is something left; one slot serves them."""
    purse.is_empty = True
    with pytest.raises(BudgetSpentError):
        await anext(chat.run(job(purse)))
    assert purse.paid == []


async def test_vectors(chat):
    found = await chat.embed(EmbedRequest(model="tiny", inputs=("one", "two")))
    assert len(found.vectors) == 2
