"""`bundle repo` at the command line: statuses, JSON, questions, refusals in one sentence."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.publisher import NAME, founded
from tools.bundles import changes, pkcs8
from tools.bundles.main import main

TOOLS = Path(__file__).parents[2] / "tools"
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A founded shop whose keys lie as files in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUNDLE_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("BUNDLE_REPO", "site/tuf/shop")
    founded_shop = founded("site")
    for name, signer in founded_shop.keys.items():
        secret = signer._private_key  # noqa: SLF001 - the fixture's own key, as a file
        Path(f"{name}.key").write_bytes(pkcs8.encode(secret, PASSPHRASE))
    return founded_shop


def run(*arguments, typed=""):
    """(exit status, stdout, stderr) of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), typing(typed):
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def typing(text):
    before, sys.stdin = sys.stdin, io.StringIO(text)
    yield
    sys.stdin = before


def test_check_tells_and_its_status_is_for_scripts(shop):
    assert run("repo", "check") == (0, "all is well\n", "")
    changes.renew(shop.folder, "root")
    status, out, _ = run("repo", "check")
    assert (status, out.partition(",")[0]) == (0, "Warning: root version 2 is drafted")
    (shop.metadata / "1.acme.json").unlink()
    status, out, _ = run("repo", "check")
    assert (status, out.splitlines()[0]) == (1, "Error: 1.acme.json is missing")
    status, out, _ = run("repo", "check", "--json")
    assert status == 1
    assert json.loads(out)["findings"][0] == {
        "fatal": True,
        "text": "1.acme.json is missing",
        "cure": "bring it back from a copy",
    }


def test_status_shows_the_fingerprint_that_boxes_show(shop, tmp_path, monkeypatch):
    body = json.loads(run("repo", "status", "--json")[1])
    from appliance.trust.repositories import read_root

    assert body["fingerprint"] == read_root(shop.folder.files()["1.root.json"]).fingerprint
    assert body["publishers"]["acme"]["listed"] == 1
    assert body["root"]["roles"]["root"]["threshold"] == 2
    text = run("repo", "status")[1]
    assert f"fingerprint of the root: {body['fingerprint']}" in text
    assert "publisher acme: acme/*/*, 1 listed" in text
    monkeypatch.setenv("BUNDLE_REPO", "nowhere")
    assert "there is no repository here" in run("repo", "status")[1]
    assert not Path("nowhere").exists()


def test_signing_asks_after_showing(shop):
    changes.renew(shop.folder, "targets")
    draft = "site/tuf/shop/draft/2.targets.json"
    status, out, _ = run("repo", "sign", draft, "alice-targets.key", typed="n\n")
    assert status == 1
    assert "targets version 2, good until" in out
    assert shop.folder.drafts()["targets"].metadata.signatures == {}
    status, out, _ = run("repo", "sign", draft, "alice-targets.key", typed="y\n")
    assert status == 0
    assert out.splitlines()[-1] == "  by root 1: signed by alice; 1 more of: bob, carol"
    assert run("repo", "sign", "--yes", draft, "bob-targets.key")[0] == 0
    assert run("repo", "publish", "online.key")[1].startswith("published: 2.snapshot.json 2.targ")


def test_a_signature_of_no_use_is_refused(shop):
    changes.renew(shop.folder, "targets")
    draft = "site/tuf/shop/draft/2.targets.json"
    for key in ("alice.key", "online.key", "acme.key"):
        status, _, err = run("repo", "sign", "--yes", draft, key)
        assert status == 1
        assert "not one of those that may sign targets" in err
    assert shop.folder.drafts()["targets"].metadata.signatures == {}


def test_what_is_signed_lies_in_its_repository_and_is_its_next_version(shop):
    changes.renew(shop.folder, "targets")
    shutil.copy("site/tuf/shop/draft/2.targets.json", "2.targets.json")
    status, _, err = run("repo", "sign", "--yes", "2.targets.json", "alice-targets.key")
    assert status == 1
    assert "carry the whole folder" in err
    stale = "site/tuf/shop/draft/1.targets.json"
    shutil.copy("site/tuf/shop/metadata/1.targets.json", stale)
    status, _, err = run("repo", "sign", "--yes", stale, "alice-targets.key")
    assert (status, "not the next version" in err) == (1, True)


def test_a_root_is_not_signed_where_the_one_before_is_missing(shop):
    changes.renew(shop.folder, "root")
    shutil.copytree("site/tuf/shop/draft", "stick/shop/draft")
    status, _, err = run("repo", "sign", "--yes", "stick/shop/draft/2.root.json", "alice.key")
    assert status == 1
    assert "not the next version" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rotate", "officer"], "give an officer's NAME"),
        (["rotate", "officer", "mallory"], "no officer is called 'mallory'"),
        (["offboard", "lab"], "lab is not a publisher here"),
        (["renew", "timestamp"], "not a publisher here"),
        (["revoke", "acme", "acme/m/none", "acme.key"], "acme does not list"),
        (["publish", "acme.key"], "may not sign snapshot and timestamp"),
        (["publish", "online.key", "--recover"], "nothing to recover from"),
        (["publish", "nowhere.key"], "does not exist"),
        (["refresh", "alice.key"], "may not sign snapshot and timestamp"),
    ],
)
def test_refusals_are_one_sentence_and_change_nothing(shop, arguments, message):
    before = shop.folder.files()
    status, _, err = run("repo", *arguments)
    assert status in {1, 2}
    assert message in err
    assert "Traceback" not in err
    assert shop.folder.files() == before
    assert shop.folder.drafts() == {}


def test_a_revoked_release_is_counted(shop):
    assert run("repo", "revoke", "acme", NAME, "acme.key")[0] == 0
    assert run("repo", "publish", "online.key")[0] == 0
    body = json.loads(run("repo", "status", "--json")[1])
    assert body["publishers"]["acme"]["revoked"] == [NAME]


def test_a_second_writer_is_told_to_wait(shop):
    with shop.folder.locked():
        status, _, err = run("repo", "refresh", "online.key")
    assert (status, "another command is changing" in err) == (1, True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        """Nothing on the terminal of a test."""


@contextlib.contextmanager
def serving(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def tuf_client(*arguments):
    command = [TOOLS / "tuf_client", "--metadata-dir", "client", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_conformance_client_follows_what_the_tool_publishes(shop):
    """Over HTTP, from a plain web server, through a change of the online key."""
    assert tuf_client("init", shop.metadata / "1.root.json").returncode == 0
    blob = Path("site/acme/assistant")
    blob.mkdir(parents=True)
    acme = shop.folder.published().role("acme").signed
    (blob / f"{acme.targets[NAME].hashes['sha256']}.1.2.0").write_bytes(b"one")
    with serving("site") as url:
        metadata = ("--metadata-url", f"{url}/tuf/shop/metadata")
        assert tuf_client(*metadata, "refresh").returncode == 0
        wanted = ("--target-name", NAME, "--target-base-url", url, "--target-dir", ".")
        done = tuf_client(*metadata, *wanted, "download")
        assert done.returncode == 0, done.stderr
        changes.rotate_online(shop.folder, shop.add_key("online-2"))
        shop.sign("root", "alice", "carol")
        shop.publish("online-2")
        assert tuf_client(*metadata, "refresh").returncode == 0
    assert Path("acme%2Fassistant%2F1.2.0").read_bytes() == b"one"
    assert json.loads(Path("client/root.json").read_text())["signed"]["version"] == 2
