"""From a Modelfile to a create request: what is a file, what is a name, what is refused."""

import pytest

from appliance.cli.modelfile_plan import plan_create
from appliance.errors import BadRequestError, UnsupportedError
from appliance.library.modelfile import parse, read_recipe


def plan(text, folder):
    return plan_create(read_recipe(parse(text)), folder)


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    return path


def test_from_a_name_that_is_no_file_goes_to_the_service(tmp_path):
    made = plan("FROM llama3:8b\n", tmp_path)
    assert (made.body, made.files) == ({"from": "llama3:8b"}, [])


@pytest.mark.parametrize("text", ["model.gguf", "./model.gguf", "../{folder}/model.gguf"])
def test_from_a_file_is_relative_to_the_modelfile(gguf, text):
    made = plan(f"FROM {text.format(folder=gguf.parent.name)}\n", gguf.parent)
    assert made.body == {}
    assert [(f.path.resolve(), f.field, f.key) for f in made.files] == [
        (gguf.resolve(), "files", "model.gguf")
    ]


def test_home_folder_is_expanded(gguf, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HOME", str(gguf.parent))
    made = plan("FROM ~/model.gguf\n", tmp_path_factory.mktemp("other"))
    assert made.files[0].path == gguf


def test_everything_else_becomes_fields(gguf):
    made = plan(
        "FROM model.gguf\nADAPTER ./model.gguf\nSYSTEM be brief\nTEMPLATE {{ .Prompt }}\n"
        "PARAMETER temperature 0.5\nPARAMETER stop A\nPARAMETER stop B\nLICENSE MIT\nLICENSE GPL\n"
        "MESSAGE user hi\nMESSAGE assistant ho: hum\nREQUIRES 0.1.0\n",
        gguf.parent,
    )
    assert made.body == {
        "system": "be brief",
        "template": "{{ .Prompt }}",
        "parameters": {"temperature": 0.5, "stop": ["A", "B"]},
        "license": ["MIT", "GPL"],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ho: hum"},
        ],
        "requires": "0.1.0",
    }
    assert [file.field for file in made.files] == ["files", "adapters"]


def test_two_files_of_one_name_get_two_keys(gguf):
    other = gguf.parent / "vision"
    other.mkdir()
    (other / "model.gguf").write_bytes(b"GGUF")
    made = plan("FROM model.gguf\nFROM vision/model.gguf\n", gguf.parent)
    assert [file.key for file in made.files] == ["model.gguf", "1-model.gguf"]


def test_folder_gives_its_gguf_files(gguf):
    (gguf.parent / "config.json").write_text("{}")
    made = plan("FROM .\n", gguf.parent)
    assert [file.key for file in made.files] == ["model.gguf"]


def test_link_out_of_a_folder_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"GGUF")
    folder = tmp_path / "download"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(secret)
    with pytest.raises(BadRequestError, match=r"insecure path: .*model\.gguf leads to .*secret"):
        plan("FROM download\n", tmp_path)


def test_link_inside_a_folder_is_fine(gguf):
    (gguf.parent / "again.gguf").symlink_to(gguf)
    assert len(plan("FROM .\n", gguf.parent).files) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "FROM ./missing.gguf\n": "there is no file .*missing.gguf",
        "FROM missing.gguf\n": "there is no file",
        "FROM x\nADAPTER lora\n": "there is no file .*lora",
        "FROM model.safetensors\n": "not a GGUF file: it begins with b'\\\\x08",
        "FROM empty\n": "no GGUF file in",
    }.items(),
)
def test_bad_files_are_refused_before_anything_is_sent(tmp_path, text, message):
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequestError, match=message):
        plan(text, tmp_path)


def test_draft_is_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedError, match="DRAFT"):
        plan("FROM x\nDRAFT y\n", tmp_path)
