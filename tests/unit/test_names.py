"""Model names: the table of Ollama's own tests, and properties that must hold for any text."""

import string
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ModelNameError
from appliance.library.names import ModelName

FULL = [
    "_why/_the/_lucky:_stiff",
    "h/n/m:t",
    "h/nn/mm:t",
    "host/namespace/model:tag",
    "host:https/namespace/model:tag",
    f"{'h' * 80}/{'n' * 80}/{'m' * 80}:{'t' * 80}",
    f"{'h' * 350}/n/m:t",
]
INVALID = [
    "",
    "mm:",
    "/nn/mm",
    "//",
    "//mm",
    "hh//",
    "//mm:@",
    "00@",
    "@",
    "^",
    "m@d",
    "host/name:space/model:tag",
    "-m",
    "m:-t",
    "-n/m",
    "-h/n/m",
    "h/n.s/m:t",
    "../../etc/passwd",
    "..",
    ".",
    "a/..",
    "a/../b",
    "./m",
    ".hidden",
    "m:..",
    "m\0",
    "m\n",
    "m ",
    "mödel",
    "a/b/c/d:e",
    "https://m",
    "m" * 81,
    "m:" + "t" * 81,
    "h" * 351 + "/n/m:t",
    "x" * 300,
]


@pytest.mark.parametrize("text", FULL)
def test_full_names_parse_to_themselves(text):
    name = ModelName.parse(text)
    assert name.full == text
    assert ModelName.from_path(name.path) == name


@pytest.mark.parametrize("text", INVALID)
def test_what_is_not_a_name_is_refused(text):
    with pytest.raises(ModelNameError, match=r"^invalid model name$"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("llama3", "registry.ollama.ai/library/llama3:latest", "llama3:latest"),
        ("llama3:8b", "registry.ollama.ai/library/llama3:8b", "llama3:8b"),
        ("me/x", "registry.ollama.ai/me/x:latest", "me/x:latest"),
        ("hf.co/u/r:Q4", "hf.co/u/r:Q4", "hf.co/u/r:Q4"),
        ("https://box.local:5000/n/m", "box.local:5000/n/m:latest", "box.local:5000/n/m:latest"),
        ("Registry.Ollama.AI/Library/m", "Registry.Ollama.AI/Library/m:latest", "m:latest"),
        ("other/library/m:t", "other/library/m:t", "other/library/m:t"),
    ],
)
def test_defaults_are_filled_in_and_left_out(text, full, short):
    name = ModelName.parse(text)
    assert (name.full, name.short, str(name)) == (full, short, short)


def test_names_are_equal_in_any_case_and_keep_theirs():
    upper, lower = ModelName.parse("Me/Model:Q4_K"), ModelName.parse("me/model:q4_k")
    assert upper == lower
    assert len({upper, lower}) == 1
    assert upper.path == PurePosixPath("registry.ollama.ai/Me/Model/Q4_K")
    assert ModelName.parse("a") < ModelName.parse("B")


@pytest.mark.parametrize("path", ["a/b/c", "a/b/c/d/e", "/a/b/c", "a/../c/d", "a/b/./.x", ""])
def test_other_paths_are_no_names(path):
    with pytest.raises(ModelNameError):
        ModelName.from_path(PurePosixPath(path))


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=string.printable + "\0äé😀", max_size=120))
def test_any_text_is_refused_or_a_safe_path(text):
    try:
        name = ModelName.parse(text)
    except ModelNameError:
        return
    assert len(name.path.parts) == 4
    assert not name.path.is_absolute()
    assert not {"", ".", ".."} & set(name.path.parts)
    assert ModelName.parse(name.short) == name
    assert ModelName.parse(name.full) == name
