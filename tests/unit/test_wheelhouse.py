"""tools/wheelhouse: which Pythons it is for, which interpreters it takes; what is unpacked."""

import subprocess
from pathlib import Path

import pytest

from tools.release import main, wheels
from tools.release.errors import ReleaseError

CHECKS = Path(__file__).parents[2] / "tools/install/checks.sh"


def options(*words):
    return main.parse(words)


def archive(folder, name):
    path = folder / name
    path.write_bytes(b"")
    return path


def test_by_default_it_is_for_the_pythons_of_all_distributions_natively_for_ours():
    assert main.pythons_of(options()) == ["3.11", "3.12", "3.13"]
    assert main.pythons_of(options("--native")) == [wheels.running()]
    assert main.pythons_of(options("--python", "3.13")) == ["3.13"]


def test_an_interpreter_says_which_python(tmp_path):
    name = "cpython-3.12.7+20241016-x86_64-unknown-linux-gnu-install_only.tar.gz"
    found = options("--arch", "amd64", "--interpreter", str(archive(tmp_path, name)))
    assert main.pythons_of(found) == ["3.12"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("python.tar.gz", "is not an interpreter: fetch cpython-3"),
        ("cpython-3.12.7+1-x86_64-apple-darwin-install_only.tar.gz", "is not an interpreter"),
        ("cpython-3.12.7+1-aarch64-unknown-linux-gnu-install_only.tar.gz", "is not for x86_64"),
        ("cpython-3.10.4+1-x86_64-unknown-linux-gnu-install_only.tar.gz", "Hearth needs 3.11"),
    ],
)
def test_another_archive_is_refused(tmp_path, name, why):
    with pytest.raises(ReleaseError, match=why):
        wheels.python_of(archive(tmp_path, name), "x86_64")
    with pytest.raises(ReleaseError, match="is not an interpreter"):
        wheels.python_of(tmp_path / "cpython-3.12.7-x86_64-linux-gnu.tar.gz", "x86_64")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--python", "3.13.1"], "no Python like 3.13"),
        (["--python", "3.13", "--interpreter", "x"], "leave --python out"),
    ],
)
def test_wrong_words_are_a_usage_error(words, why, capsys):
    with pytest.raises(SystemExit, match="2"):
        options(*words)
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(("python", "kibibytes"), [("/usr/bin/python3.13", 20), ("python3.11", 16)])
def test_room_is_asked_for_the_wheels_of_one_python(tmp_path, python, kibibytes):
    for name, count in {
        "a-1-cp311-cp311-linux_x86_64.whl": 4096,
        "a-1-cp313-cp313-linux_x86_64.whl": 8192,
        "b-1-cp311-abi3-linux_x86_64.whl": 4096,
        "c-1-py3-none-any.whl": 8192,
    }.items():
        (tmp_path / name).write_bytes(b"x" * count)
    script = f'. "{CHECKS}"; wheelhouse=$1 python=$2; kibibytes_to_unpack'
    command = ["bash", "-euc", script, "bash", tmp_path, python]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == kibibytes
