"""Reading a Modelfile as a recipe, and the parameters in it."""

import pytest

from appliance.errors import BadRequestError, ModelfileError
from appliance.library.modelfile import parse, read_recipe
from appliance.library.parameters import PARAMETERS, RETIRED, parse_options, parse_parameter


def recipe(text):
    return read_recipe(parse(text))


def test_every_instruction_finds_its_place():
    found = recipe(
        "FROM base\nFROM ./mmproj.gguf\nADAPTER ./a.gguf\nTEMPLATE {{ .Prompt }}\nSYSTEM be kind\n"
        "LICENSE MIT\nLICENSE BSD\nPARAMETER temperature 0.5\nPARAMETER top_k 1\n"
        "PARAMETER stop a\nPARAMETER stop b\nMESSAGE user hi: there\nMESSAGE assistant yes\n"
        "RENDERER r\nPARSER p\nREQUIRES v0.14.0\nDRAFT d\n"
    )
    assert found.bases == ["base", "./mmproj.gguf"]
    assert found.adapters == ["./a.gguf"]
    assert found.drafts == ["d"]
    assert (found.template, found.system) == ("{{ .Prompt }}", "be kind")
    assert found.licenses == ["MIT", "BSD"]
    assert found.parameters == {"temperature": 0.5, "top_k": 1, "stop": ["a", "b"]}
    assert found.messages == [("user", "hi: there"), ("assistant", "yes")]
    assert (found.renderer, found.parser, found.requires) == ("r", "p", "0.14.0")
    assert found.warnings == []


@pytest.mark.parametrize("name", ["numa", "num_gqa", "x"])
def test_unknown_parameters_are_refused(name):
    with pytest.raises(BadRequestError, match=rf"^unknown parameter '{name}'$"):
        recipe(f"FROM x\nPARAMETER {name} 1")


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_retired_parameters_are_skipped_with_a_warning(name):
    found = recipe(f"FROM x\nPARAMETER {name} 1")
    assert found.parameters == {}
    assert found.warnings == [f"parameter {name} is deprecated"]


def test_requires_is_a_version():
    with pytest.raises(ModelfileError, match="requires must be a valid semver"):
        recipe("FROM x\nREQUIRES soon")


@pytest.mark.parametrize(
    ("key", "texts", "value"),
    [
        ("num_ctx", ["4096"], 4096),
        ("seed", ["-1"], -1),
        ("temperature", ["0.7"], 0.7),
        ("temperature", ["1"], 1.0),
        ("temperature", ["0.123456789"], 0.12345679),  # what a float32 holds
        ("top_p", ["1e-3"], 0.001),
        ("use_mmap", ["true"], True),
        ("use_mmap", ["F"], False),
        ("stop", ["a", "b"], ["a", "b"]),
    ],
)
def test_parameter_values(key, texts, value):
    found = parse_parameter(key, texts)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("num_ctx", "4k"),
        ("num_ctx", "1.5"),
        ("num_ctx", "1_000"),
        ("num_ctx", ""),
        ("num_thread", str(2**63)),
        ("num_thread", "9" * 5000),
        ("temperature", "warm"),
        ("temperature", "nan"),
        ("temperature", "1e39"),
        ("use_mmap", "yes"),
    ],
)
def test_bad_parameter_values(key, text):
    with pytest.raises(BadRequestError, match=key):
        parse_parameter(key, [text])


def test_options_are_typed_and_unknown_ones_reported():
    values, unknown = parse_options(
        {
            "num_ctx": 2048.7,
            "temperature": 1,
            "stop": ["a"],
            "use_mmap": False,
            "seed": None,
            "mirostat": 1,
            "foo": {},
        }
    )
    assert values == {"num_ctx": 2048, "temperature": 1.0, "stop": ["a"], "use_mmap": False}
    assert unknown == ["mirostat", "foo"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"temperature": True}, 'option "temperature" must be of type float32'),
        ({"temperature": float("inf")}, 'option "temperature" must be of type float32'),
        ({"top_k": "3"}, 'option "top_k" must be of type integer'),
        ({"top_k": float("nan")}, 'option "top_k" must be of type integer'),
        ({"num_thread": 1e300}, "the value of 'num_thread' has more than 64 bits"),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_options_of_a_wrong_type(options, message):
    with pytest.raises(BadRequestError) as caught:
        parse_options(options)
    assert caught.value.message == message


def test_defaults_have_their_parameters_type():
    for parameter in PARAMETERS.values():
        if parameter.default is not None:
            values, _ = parse_options({parameter.name: parameter.default})
            assert values == {parameter.name: parameter.default}
