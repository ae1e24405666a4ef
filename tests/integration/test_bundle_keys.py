"""Key files: encrypted, private, never replaced; passphrases never on the command line."""

import json
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from tools.bundles import pkcs8
from tools.bundles.errors import KeyFileError
from tools.bundles.keys import Use, fingerprint, load_public, load_signer
from tools.bundles.main import main
from tools.bundles.passphrase import Passphrases

TOOL = Path(__file__).parents[2] / "tools/bundle"
GOOD = "correct horse battery staple"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUNDLE_PASSPHRASE", GOOD)


def made(*arguments):
    assert main(["keys", "new", *arguments]) == 0


def passphrases(text=GOOD):
    return Passphrases({"BUNDLE_PASSPHRASE": text})


def test_a_new_key_is_private_encrypted_and_read_by_openssl(capsys):
    made("--officer", "alice")
    key = Path("alice.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    command = ["openssl", "pkey", "-in", "alice.key", "-passin", "env:BUNDLE_PASSPHRASE", "-pubout"]
    assert subprocess.run(command, capture_output=True, check=True).stdout
    parsed = subprocess.run(["openssl", "asn1parse", "-in", key], capture_output=True, text=True)
    rounds = re.search(r"INTEGER\s+:([0-9A-F]+)", parsed.stdout)[1]
    assert int(rounds, 16) == pkcs8.ROUNDS == 600_000
    printed = re.search(r"fingerprint of alice: ((?:\d{5} ){7}\d{5})", capsys.readouterr().out)[1]
    assert printed == fingerprint(load_public(Path("alice.pub")))


def test_both_halves_belong_together():
    made("--publisher", "acme", "--name", "acme-2", "--folder", "deep/er")
    signer = load_signer(Path("deep/er/acme-2.key"), passphrases())
    public = load_public(Path("deep/er/acme-2.pub"), Use.PUBLISHER)
    assert signer.public_key.keyid == public.keyid
    assert public.unrecognized_fields == {"x-owner": "acme", "x-use": "publisher"}
    public.verify_signature(signer.sign(b"x"), b"x")


@pytest.mark.parametrize("text", ["wrong wrong wrong", "x", GOOD + " ", GOOD.upper()])
def test_a_wrong_passphrase_is_refused(text):
    made("--online")
    with pytest.raises(KeyFileError, match=r"online\.key: the passphrase is wrong"):
        load_signer(Path("online.key"), passphrases(text))


def test_a_key_is_never_replaced(capsys):
    made("--online")
    before = Path("online.key").read_bytes()
    assert main(["keys", "new", "--online"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert Path("online.key").read_bytes() == before


def test_a_short_passphrase_makes_no_key(monkeypatch, capsys):
    monkeypatch.setenv("BUNDLE_PASSPHRASE", "elevenchars")
    assert main(["keys", "new", "--online"]) == 1
    assert "11 characters is too short" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--online", "--officer", "alice"],
        ["--online", "--passphrase", "x"],
        ["--passphrase=x"],
        ["--officer"],
    ],
)
def test_wrong_usage_makes_no_key(arguments, capsys):
    assert main(["keys", "new", *arguments]) == 2
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["../alice", "Alice", "a b", "", "root", "-x"])
def test_a_name_that_is_no_plain_file_name_is_refused(name, capsys):
    assert main(["keys", "new", f"--officer={name}"]) != 0
    assert not list(Path().iterdir())


def damaged_public(change):
    made("--online")
    body = json.loads(Path("online.pub").read_text())
    change(body)
    Path("online.pub").write_text(json.dumps(body))
    return Path("online.pub")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(keyid="0" * 64),
        lambda body: body["keyval"].update(public="00" * 32),
        lambda body: body["keyval"].update(public="zz"),
        lambda body: body["keyval"].update(more="x"),
        lambda body: body.update(keytype="rsa"),
        lambda body: body.pop("keyval"),
        lambda body: body.pop("keyid"),
        lambda body: body.clear(),
    ],
)
def test_a_damaged_public_half_is_refused(change):
    with pytest.raises(KeyFileError, match=r"online\.pub"):
        load_public(damaged_public(change))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff" * 10, b"x" * 9000])
def test_what_is_no_key_is_refused(data):
    Path("x.pub").write_bytes(data)
    Path("x.key").write_bytes(data)
    with pytest.raises(KeyFileError):
        load_public(Path("x.pub"))
    with pytest.raises(KeyFileError, match="not an encrypted private key"):
        load_signer(Path("x.key"), passphrases())


def test_a_key_of_another_use_and_the_wrong_half_are_refused():
    made("--online")
    with pytest.raises(KeyFileError, match="'online', not 'officer'"):
        load_public(Path("online.pub"), Use.OFFICER)
    with pytest.raises(KeyFileError, match="public half"):
        load_signer(Path("online.pub"), passphrases())


def test_a_damaged_secret_half_is_refused():
    made("--online")
    lines = Path("online.key").read_text().splitlines()
    lines[2] = lines[2].swapcase()
    Path("online.key").write_text("\n".join(lines))
    with pytest.raises(KeyFileError, match="damaged"):
        load_signer(Path("online.key"), passphrases())


def test_another_kind_of_key_is_refused():
    command = "openssl genpkey -algorithm X25519 -aes256 -pass env:BUNDLE_PASSPHRASE -out x.key"
    subprocess.run(command.split(), check=True)
    with pytest.raises(KeyFileError, match="not an ed25519 key"):
        load_signer(Path("x.key"), passphrases())


# paper


def test_a_key_comes_back_from_paper(capsys):
    made("--officer", "alice")
    capsys.readouterr()
    assert main(["keys", "paper", "alice.key"]) == 0
    page = capsys.readouterr().out
    assert fingerprint(load_public(Path("alice.pub"))) in page
    Path("page").write_text(page)
    arguments = ["keys", "restore", "--officer", "alice", "--words", "page", "--folder", "drill"]
    assert main([*arguments, "--expect", "alice.pub"]) == 0
    assert Path("drill/alice.pub").read_bytes() == Path("alice.pub").read_bytes()
    old, new = (load_signer(Path(p), passphrases()) for p in ("alice.key", "drill/alice.key"))
    assert old.private_bytes == new.private_bytes
    assert stat.S_IMODE(Path("drill/alice.key").stat().st_mode) == 0o600


def test_the_paper_of_another_key_is_noticed(capsys):
    made("--officer", "alice")
    made("--officer", "bob")
    capsys.readouterr()
    main(["keys", "paper", "alice.key"])
    Path("page").write_text(capsys.readouterr().out)
    arguments = ["keys", "restore", "--officer", "bob", "--words", "page", "--folder", "drill"]
    assert main([*arguments, "--expect", "bob.pub"]) == 1
    assert "another key than key" in capsys.readouterr().err
    assert not Path("drill").exists()


# where passphrases come from


def run_tool(*arguments, **options):
    environ = {k: v for k, v in os.environ.items() if not k.startswith("BUNDLE_")}
    environ |= {"PYTHON": sys.executable, **options.pop("environ", {})}
    return subprocess.run([TOOL, *arguments], env=environ, capture_output=True, **options)


def test_a_key_may_have_a_variable_of_its_own():
    environ = {"BUNDLE_PASSPHRASE": "of all the others", "BUNDLE_PASSPHRASE_BOB_2": GOOD}
    chosen = Passphrases(environ)
    assert chosen.existing("bob-2") == GOOD
    assert chosen.new("alice") == "of all the others"


def test_a_descriptor_gives_the_passphrase():
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "wb") as file:
        file.write(f"{GOOD}\nmore\n".encode())
        file.flush()
        file.close()
        done = run_tool("--passphrase-fd", str(read), "keys", "new", "--online", pass_fds=[read])
    assert done.returncode == 0, done.stderr
    assert load_signer(Path("online.key"), passphrases())


def test_without_a_terminal_and_without_a_passphrase_nothing_is_made():
    done = run_tool("keys", "new", "--online", stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert b"there is no terminal to ask at" in done.stderr
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("second", "status"), [(GOOD, 0), ("something else", 1)])
def test_at_a_terminal_it_is_typed_twice_and_not_shown(second, status):
    environ = {k: v for k, v in os.environ.items() if not k.startswith("BUNDLE_")}
    main_side, tool_side = pty.openpty()
    command = [TOOL, "keys", "new", "--online"]
    with subprocess.Popen(
        command,
        stdin=tool_side,
        stdout=tool_side,
        stderr=tool_side,
        env={**environ, "PYTHON": sys.executable},
        start_new_session=True,
    ) as process:
        os.close(tool_side)
        shown = b""
        for question, answer in ((b"New passphrase", GOOD), (b"The same again", second)):
            while question not in shown:
                shown += os.read(main_side, 1024)
            os.write(main_side, f"{answer}\n".encode())
        while True:
            try:
                shown += os.read(main_side, 1024)
            except OSError:
                break
    os.close(main_side)
    assert process.returncode == status, shown
    assert GOOD.encode() not in shown
    assert Path("online.key").exists() == (status == 0)


def test_officers_with_publishers_keys_make_no_repository(capsys):
    made("--online")
    made("--publisher", "acme")
    capsys.readouterr()
    arguments = ["--root-threshold", "1", "--officer", "acme.pub", "--online", "online.pub"]
    assert main(["repo", "--at", "tuf/x", "init", *arguments]) == 1
    assert "'publisher', not 'officer'" in capsys.readouterr().err
    assert not Path("tuf").exists()


def test_a_key_name_is_checked_by_the_library_too():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tools.bundles.keys import Label, create

    with pytest.raises(ConfigError):
        create(Path(), Label("a", Use.ONLINE, "../b"), Ed25519PrivateKey.generate(), GOOD)
