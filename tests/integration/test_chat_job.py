"""appliance/chat/job: jobs in this process, where a blocking call on the event loop is caught."""

import pytest

from appliance.chat.events import Completion, Done, EmbedRequest, JobRequest, Message, Text
from appliance.chat.job import ChatService
from appliance.config import load_settings
from appliance.library.library import Library
from appliance.models.manager import Models
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


async def test_vectors(chat):
    found = await chat.embed(EmbedRequest(model="tiny", inputs=("one", "two")))
    assert len(found.vectors) == 2
