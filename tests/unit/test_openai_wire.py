"""OpenAI's bodies: from JSON to jobs, from events to JSON."""

import pytest

from appliance.access.shares import Share
from appliance.chat.events import Completion, Embeddings, Message, ToolCall, ToolChoice
from appliance.chat.plan import abilities_of
from appliance.errors import BadRequestError, RequestTooLargeError
from appliance.http import openai_answers as answers
from appliance.http import openai_wire as wire
from appliance.http.body import to_struct
from appliance.http.errors import FieldError
from appliance.http.openai_refused import REFUSED_IN_CHAT, REFUSED_IN_COMPLETIONS, refuse_fields
from engine.api import Constraint

ME = Share(path=("key:me", ""))

HELLO = [{"role": "user", "content": "hello"}]


def chat_jobs(**fields):
    fields = {"model": "m", "messages": HELLO, **fields}
    refuse_fields(fields, REFUSED_IN_CHAT)
    return to_struct(fields, wire.ChatRequest).to_jobs(ME, max_messages=10)


def completion_jobs(**fields):
    fields = {"model": "m", "prompt": "hello", **fields}
    refuse_fields(fields, REFUSED_IN_COMPLETIONS)
    return to_struct(fields, wire.CompletionRequest).to_jobs(ME)


def embed(**fields):
    return to_struct({"model": "m", **fields}, wire.EmbeddingsRequest).to_embed(ME)


def test_a_chat_becomes_one_job():
    (job,) = chat_jobs(
        max_completion_tokens=5,
        stop="END",
        temperature=0.2,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        logit_bias={"7": -100, "8": 1.5},
        options={"mirostat": 2, "top_k": 5},
        num_ctx=512,
        keep_alive="1m",
    )
    assert job.work == (Message("user", "hello"),)
    assert job.options == {
        "num_predict": 5,
        "stop": ["END"],
        "temperature": 0.2,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
        "top_k": 5,
        "num_ctx": 512,
    }
    assert job.logit_bias == {7: -100, 8: 1.5}
    assert job.keep_alive == 60
    assert job.defaults == {"temperature": 1.0, "top_p": 1.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [{}]},
        {"function_call": {"name": "f"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}},
        {"prediction": {"type": "content"}},
        {"web_search_options": {}},
        {"service_tier": "priority"},
        {"priority": -1},
        {"cache_salt": "mine"},
        {"store": True},
        {"verbosity": "low"},
        {"echo": True},
        {"suffix": "x"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_that_are_not_honoured_are_refused_by_name(fields):
    (name,) = fields
    with pytest.raises(FieldError, match=f"'{name}' is not supported") as caught:
        refuse_fields(fields, REFUSED_IN_CHAT)
    assert caught.value.field_name == name


@pytest.mark.parametrize("name", ["tools", "tool_choice", "reasoning_effort", "response_format"])
def test_completions_know_no_tools_and_no_thinking(name):
    with pytest.raises(FieldError, match=f"'{name}' is not supported"):
        completion_jobs(**{name: "required"})


def test_the_older_form_of_tools_names_the_newer():
    with pytest.raises(FieldError, match="send 'tools'"):
        chat_jobs(functions=[{"name": "f"}])


@pytest.mark.parametrize("table", [REFUSED_IN_CHAT, REFUSED_IN_COMPLETIONS])
def test_every_refused_field_passes_with_its_default(table):
    for name, harmless in table.items():
        for value in (None, *harmless):
            refuse_fields({name: value}, table)


def test_labels_without_influence_pass():
    chat_jobs(user="me", metadata={"a": "b"}, safety_identifier="x")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["text"]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "", "audio": {"id": "x"}}]}, "messages"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages"),
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"reasoning_effort": "deep"}, "reasoning_effort"),
        ({"reasoning": {"effort": "deep"}}, "reasoning_effort"),
        ({"reasoning": {"max_tokens": 0}}, "reasoning.max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_bad_fields_are_named(fields, field):
    with pytest.raises(FieldError) as caught:
        chat_jobs(**fields)
    assert caught.value.field_name == field


@pytest.mark.parametrize("fields", [{"temperature": "hot"}, {"messages": "hi"}, {"n": 1.5}])
def test_fields_of_wrong_types_are_refused(fields):
    with pytest.raises(BadRequestError, match="wrong type"):
        chat_jobs(**fields)


def test_too_many_messages_are_refused():
    with pytest.raises(RequestTooLargeError):
        chat_jobs(messages=HELLO * 11)


def test_content_parts_are_joined_and_developers_are_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (job,) = chat_jobs(messages=[{"role": "developer", "content": parts}])
    assert job.work == (Message("system", "a\nb"),)


def test_tools_calls_and_results():
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}
    jobs = chat_jobs(
        n=2,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "now"}},
        messages=[
            {"role": "user", "content": "time?"},
            {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "12:00"}]},
            {"role": "tool", "tool_call_id": "2", "name": "other", "content": None},
        ],
    )
    assert jobs[0] == jobs[1]
    assert jobs[0].work == (
        Message("user", "time?"),
        Message("assistant", "", "hm", (ToolCall("now", {"a": 1}, "1"),)),
        Message("tool", "12:00", tool_name="now", tool_call_id="1"),
        Message("tool", "", tool_name="other", tool_call_id="2"),
    )
    assert jobs[0].tool_choice == ToolChoice("named", "now")
    assert [tool.name for tool in jobs[0].tools] == ["now"]


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        ("none", False),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "high"),
        (None, None),
    ],
)
def test_efforts_are_levels_of_thinking(effort, think):
    assert chat_jobs(reasoning_effort=effort)[0].think == think
    assert chat_jobs(reasoning={"effort": effort})[0].think == think


@pytest.mark.parametrize(
    "start", ["data:image/png;base64,", "data:;base64,", "DATA:image/JPEG;base64,"]
)
def test_images_come_as_data_urls(start):
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": f"{start}aGk=", "detail": "low"}},
        {"type": "text", "text": "this?"},
    ]
    (job,) = chat_jobs(messages=[{"role": "user", "content": parts}])
    assert job.work == (Message("user", "what isthis?", images=(b"hi",), image_places=(7,)),)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://x/y.png", "image URLs are not currently supported, please use base64"),
        ("data:image/tiff;base64,aGk=", "must be a data: URL in base64 of type image/jpeg"),
        ("data:image/png,aGk=", "must be a data: URL in base64"),
        ("data:image/png;base64,!", "is not base64"),
        (7, "without image_url.url"),
    ],
)
def test_images_that_are_none(url, text):
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(FieldError, match=text):
        chat_jobs(messages=[{"role": "user", "content": [part]}])


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_minus_one_means_no_limit(field):
    """As in Ollama, and in the examples of other local servers."""
    (job,) = chat_jobs(**{field: -1})
    assert job.options["num_predict"] == -1


def test_equal_limits_of_both_names_pass():
    (job,) = chat_jobs(max_tokens=3, max_completion_tokens=3)
    assert job.options["num_predict"] == 3


def test_response_formats():
    assert chat_jobs(response_format={"type": "text"})[0].constraint is None
    json_object = chat_jobs(response_format={"type": "json_object"})[0]
    assert json_object.constraint == Constraint(kind="json")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert chat_jobs(response_format=schema)[0].constraint == Constraint(
        kind="schema", source='{"type":"object"}'
    )


def test_choices_of_one_seed_differ():
    seeds = [job.options["seed"] for job in chat_jobs(n=3, seed=2**31 - 2)]
    assert seeds == [2**31 - 2, 2**31 - 1, 0]
    assert chat_jobs(seed=-1)[0].options["seed"] == 2**31 - 1  # a seed here, not "random"
    assert "seed" not in chat_jobs(n=2)[0].options


@pytest.mark.parametrize(
    ("prompt", "works"),
    [
        ("a", [Completion(prompt="a", raw=True)]),
        (["a", "b"], [Completion(prompt="a", raw=True), Completion(prompt="b", raw=True)]),
        ([1, 2], [Completion(prompt="", raw=True, context=(1, 2))]),
        ([[1], [2]], [Completion(prompt="", raw=True, context=(i,)) for i in (1, 2)]),
    ],
)
def test_prompts_of_completions(prompt, works):
    assert [job.work for job in completion_jobs(prompt=prompt)] == works


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], [True], [-1], [[2**31]], [{}]])
def test_bad_prompts(prompt):
    with pytest.raises(FieldError) as caught:
        completion_jobs(prompt=prompt)
    assert caught.value.field_name == "prompt"


def test_completions_are_bounded():
    assert len(completion_jobs(prompt=["a"] * 16, n=8)) == 128
    with pytest.raises(RequestTooLargeError):
        completion_jobs(prompt=["a"] * 17, n=8)
    with pytest.raises(RequestTooLargeError):
        completion_jobs(prompt=["a"] * 65)


def test_a_suffix_goes_through_the_models_template():
    (job,) = completion_jobs(suffix="after")
    assert job.work == Completion(prompt="hello", suffix="after")
    assert abilities_of(job) == ["insert"]


def test_an_echo_asks_for_the_prompt_and_its_log_probabilities():
    jobs = completion_jobs(prompt=["a", "b"], n=2, echo=True, logprobs=1)
    assert [(job.echo, job.logprobs, job.prompt_only) for job in jobs] == [(True, 1, False)] * 4
    (job,) = completion_jobs(prompt=[1, 2], echo=True)
    assert job.echo
    assert not completion_jobs()[0].echo


def test_no_tokens_at_all_are_for_the_prompt_alone():
    (job,) = completion_jobs(max_tokens=0, echo=True, logprobs=0)
    assert job.prompt_only
    assert "num_predict" not in job.options
    assert not completion_jobs(max_tokens=1)[0].prompt_only


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"echo": True, "logprobs": 1, "suffix": "x"}, "echo"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"suffix": "x", "prompt": [[1], [2]]}, "prompt"),
    ],
)
def test_echo_and_suffix_have_bounds(fields, field):
    with pytest.raises(FieldError) as caught:
        completion_jobs(**fields)
    assert caught.value.field_name == field


def test_best_of_passes_only_when_it_changes_nothing():
    completion_jobs(best_of=1)
    completion_jobs(best_of=2, n=2)
    with pytest.raises(FieldError, match="'best_of' is not supported"):
        completion_jobs(best_of=3)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2]], ((1,), (2,)))],
)
def test_inputs_of_embeddings(given, inputs):
    assert embed(input=given).inputs == inputs


@pytest.mark.parametrize("given", [None, "", [], [""], [[]], 1, {}, ["a", 1]])
def test_bad_inputs_of_embeddings(given):
    with pytest.raises(FieldError, match="invalid input"):
        embed(input=given)


def test_encoding_formats():
    with pytest.raises(FieldError, match=r"Invalid value for 'encoding_format' = int8\. Supported"):
        embed(input="a", encoding_format="int8")
    found = Embeddings(vectors=[[1.0, -2.0]], prompt_tokens=3, total_ns=0, load_ns=0)
    assert answers.embeddings_answer(found, "m", as_base64=True)["data"] == [
        {"object": "embedding", "index": 0, "embedding": "AACAPwAAAMA="}
    ]


BEGUN = [*HELLO, {"role": "assistant", "content": "Well, "}]


def test_an_answer_that_has_begun():
    (job,) = chat_jobs(messages=BEGUN, continue_final_message=True)
    assert job.work == (Message("user", "hello"),)
    assert (job.begun, job.think) == ("Well, ", False)
    (plain,) = chat_jobs(messages=BEGUN, add_generation_prompt=True)
    assert (len(plain.work), plain.begun, plain.think) == (2, "", None)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"add_generation_prompt": True}, "add_generation_prompt", "cannot both be true"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "cannot be thought about"),
        ({"messages": HELLO}, "continue_final_message", "must be the assistant's"),
        ({"messages": BEGUN[1:]}, "messages", "must have a user message"),
        (
            {"messages": [*HELLO, BEGUN[1] | {"reasoning": "hm"}]},
            "continue_final_message",
            "hold text alone",
        ),
    ],
)
def test_what_cannot_be_gone_on_with(fields, field, words):
    with pytest.raises(FieldError, match=words) as caught:
        chat_jobs(**{"messages": BEGUN, "continue_final_message": True, **fields})
    assert caught.value.field_name == field
