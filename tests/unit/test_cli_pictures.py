"""Paths of images in a message: which files go along, and what is said about those that do not."""

from base64 import b64decode

import pytest

from appliance.cli import pictures
from appliance.cli.pictures import find_pictures

PNG = b"\x89PNG\r\n\x1a\n rest"
JPEG = b"\xff\xd8\xff rest"
GIF = b"GIF89a rest"
WEBP = b"RIFF\x04\x00\x00\x00WEBP"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(text, *, sees=True):
    """(message, notes)"""
    notes = []
    return find_pictures(text, "m", sees=sees, say=notes.append), notes


def sent(message):
    return [b64decode(image) for image in message.images]


@pytest.mark.parametrize(
    ("name", "written", "data"),
    [
        ("cat.png", "./cat.png", PNG),
        ("cat.JPG", "./cat.JPG", JPEG),
        ("cat.jpeg", "'cat.jpeg'", JPEG),
        ("my cat.gif", '"./my cat.gif"', GIF),
        ("my cat.png", "./my\\ cat.png", PNG),
        ("cat.v2.png", "./cat.v2.png", PNG),
    ],
)
def test_a_file_that_is_named_goes_along(here, name, written, data):
    (here / name).write_bytes(data)
    message, notes = look(f"What is {written} showing?")
    assert message.text == "What is  showing?"
    assert sent(message) == [data]
    assert notes == [f"Added image '{name if written[0] == chr(39) else './' + name}'"]


def test_absolute_and_home_paths(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "a.png").write_bytes(PNG)
    (here / "b.jpg").write_bytes(JPEG)
    message, _ = look(f"compare {here}/a.png with ~/b.jpg, please")
    assert sent(message) == [PNG, JPEG]
    assert message.text == "compare  with , please"


@pytest.mark.parametrize(
    "text", ["see ./none.png", "cat.png", "http://x/cat.png", "and/or ./cat.pngs", "a / b", ""]
)
def test_what_names_no_file_is_text(here, text):
    (here / "cat.png").write_bytes(PNG)
    message, notes = look(text)
    assert (message.text, message.images, notes) == (text, (), [])


def test_a_model_that_cannot_see_gets_the_path_as_text(here):
    (here / "cat.png").write_bytes(PNG)
    message, notes = look("rename ./cat.png", sees=False)
    assert (message.text, message.fields()) == ("rename ./cat.png", {})
    assert notes == ["m cannot see images: the path './cat.png' is sent as text"]


def test_what_is_no_image_is_said(here, monkeypatch):
    (here / "cat.png").write_text("not really")
    message, notes = look("see ./cat.png")
    assert message.images == ()
    assert notes == ["Couldn't add image './cat.png': it is not a PNG, JPEG, GIF or BMP file"]
    (here / "cat.png").write_bytes(WEBP)
    assert "it is WebP, which boxes cannot decode" in look("see ./cat.png")[1][0]
    (here / "cat.png").write_bytes(PNG)
    monkeypatch.setattr(pictures, "MAX_IMAGE_BYTES", 3)
    assert "it is larger than" in look("see ./cat.png")[1][0]
