"""The record of the last update: what the installer's shell writes, Python reads."""

import subprocess
from pathlib import Path

import pytest

from appliance import last_update
from appliance.last_update import LastUpdate, Result

SWITCH = Path(__file__).parents[2] / "tools/install/switch.sh"


def shell_records(home, *words):
    script = f'. "{SWITCH}"; opt="$1"; shift; record "$@"'
    subprocess.run(["bash", "-euc", script, "bash", str(home), *words], check=True)


def test_what_the_installer_records_is_read(tmp_path):
    shell_records(tmp_path, "returned", "0.10.0", "0.9.0", "it ended 3 times:\nkey=value")
    found = last_update.read(tmp_path)
    assert found == LastUpdate(
        found.at_s, "0.9.0", "0.10.0", Result.RETURNED, "it ended 3 times: key=value"
    )
    assert found.at_s > 1_600_000_000
    shell_records(tmp_path, "serves", "0.11.0", "")
    found = last_update.read(tmp_path)
    assert (found.old, found.new, found.result, found.reason) == ("", "0.11.0", "serves", "")
    assert [path.name for path in tmp_path.iterdir()] == [last_update.NAME]


def test_what_python_records_is_read(tmp_path):
    record = LastUpdate(0, "0.9.0", "x.tar", Result.REFUSED, "a\nb " + "c" * 2000)
    last_update.write(tmp_path, record)
    found = last_update.read(tmp_path)
    assert found.reason.startswith("a b ccc")
    assert len(found.reason) == last_update.MAX_REASON
    assert (found.at_s, found.new, found.result) == (0, "x.tar", Result.REFUSED)


@pytest.mark.parametrize(
    "text", ["", "at=x", "at=1\nfrom=a\nto=b\nresult=what\nreason=\n", "\0" * 100_000]
)
def test_a_damaged_record_is_none(tmp_path, text):
    (tmp_path / last_update.NAME).write_text(text)
    assert last_update.read(tmp_path) is None


def test_only_an_installed_release_has_a_home(tmp_path):
    assert last_update.home_of_releases(str(tmp_path / "releases/1.0")) == tmp_path.resolve()
    assert last_update.home_of_releases(str(tmp_path / "tree/.venv")) is None
    assert last_update.read(None) is None
    assert last_update.read(tmp_path) is None
