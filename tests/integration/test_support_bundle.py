"""The support file of a service that was fed secrets everywhere: useful, and none of them in it."""

import io
import json
import tarfile

import pytest

from tests.integration.cli_process import Command
from tests.integration.raw_http import send

SECRETS = {
    "prompt": "PLANTEDprompt1x",
    "system": "PLANTEDsystem2x",
    "template": "PLANTEDtemplate3x",
    "bearer": "PLANTEDbearer4x",
    "proxy": "PLANTEDproxy5x",
    "query": "PLANTEDquery7x",
    "key": "hearth_0a1b2c_PLANTEDkey8x",
    "answer": "PLANTEDanswer9x",
}


@pytest.fixture
def box(start_service, tiny_gguf, tmp_path):
    service = start_service(
        transfer_proxy=f"http://user:{SECRETS['proxy']}@127.0.0.1:1",
        log_level="debug",
    )
    template = "{{ .System }} {{ .Prompt }}" + SECRETS["template"]
    service.create("m", tiny_gguf, system=SECRETS["system"], template=template)
    headers = {"Authorization": f"Bearer {SECRETS['bearer']}"}
    for prompt in (SECRETS["prompt"], f"[[crash]] {SECRETS['answer']} a b c d"):
        body = {"model": "m", "prompt": prompt, "raw": True, "stream": False}
        service.call("POST", "/api/generate", body, headers)
    body = {"model": "m", "messages": [{"role": "user", "content": SECRETS["prompt"]}]}
    service.call("POST", "/v1/chat/completions", body, headers)
    service.call("POST", "/api/pull", {"model": "127.0.0.1:1/a/b", "stream": False})
    send(service, "GET", f"/api/tags?token={SECRETS['query']}")
    send(service, "GET", f"/no/{SECRETS['key']}")
    return service


def unpacked(path):
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as archive:
        return {
            member.name.removeprefix("hearth-support/"): archive.extractfile(member).read().decode()
            for member in archive.getmembers()
        }


def test_it_helps_and_tells_no_secrets(box, tmp_path):
    path = tmp_path / "out.tar.gz"
    done = Command(box.url).run("support-bundle", "-o", str(path))
    assert (done.returncode, done.stdout.strip()) == (0, str(path)), done.stderr
    files = unpacked(path)
    assert set(files) == {
        *("about.json", "settings.json", "status.json", "device.json", "models.json"),
        *("incidents.json", "log.txt"),
    }
    told = "\n".join(files.values())
    for what, secret in SECRETS.items():
        assert secret not in told, what
    assert "PLANTED" not in told
    private = (box.state / "id_ed25519").read_text() if (box.state / "id_ed25519").exists() else ""
    for line in private.splitlines():
        assert line not in told
    status = json.loads(files["status.json"])
    assert status["state"] == "ready"
    assert "worker_crashed" in {found["code"] for found in status["conditions"]}
    assert json.loads(files["about.json"])["hearth"] == status["version"]
    assert {model["name"] for model in json.loads(files["models.json"])} >= {"m:latest"}
    settings = {each["name"]: each for each in json.loads(files["settings.json"])}
    assert settings["transfer_proxy"]["value"] == "set"
    assert settings["engine"]["value"] == "echo"
    assert "request method=POST path=/api/generate status=200" in files["log.txt"]
    assert json.loads(files["incidents.json"])[0]["kind"] == "worker_crashed"


def test_the_log_in_it_is_bounded(box, tmp_path):
    for _ in range(500):
        send(box, "GET", "/" + "x" * 3000)
    path = tmp_path / "out.tar.gz"
    Command(box.url).run("support-bundle", "-o", str(path))
    lines = unpacked(path)["log.txt"].splitlines()
    assert len(lines) <= 400
    assert max(map(len, lines)) <= 520


def test_only_for_administrators(box):
    reply = send(box, "GET", "/hearth/v1/support", headers=[("X-Forwarded-For", "10.0.0.9")])
    assert reply.status == 401


def test_a_folder_that_cannot_be_written_is_said(box, tmp_path):
    done = Command(box.url).run("support-bundle", "-o", str(tmp_path / "no/such/file"))
    assert done.returncode == 1
    assert "cannot write" in done.stderr
