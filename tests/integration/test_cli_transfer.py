"""`hearth pull`, `push` and `run` of a model that is not here, against a real registry."""

import pytest

from tests.integration.cli_process import Command, Terminal


@pytest.fixture
def hearth(service):
    return Command(service.url)


@pytest.fixture(scope="module")
def name(docker_registry):
    return f"{docker_registry.address}/library/shared"


@pytest.fixture
def pushed(hearth, name):
    """The model lies in the registry and not on the box."""
    hearth("cp", "echo", name)
    done = hearth("push", name)
    hearth("rm", name)
    return done


def test_push_and_pull_report_on_stderr(hearth, pushed, name):
    done = hearth("pull", name)
    assert pushed.stdout == done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "pulling manifest"
    assert lines[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert sum(line.startswith("pulling ") for line in lines) > 2
    assert pushed.stderr.splitlines()[-2:] == ["pushing manifest", "success"]
    assert name in hearth("list").stdout
    hearth("rm", name)


@pytest.mark.usefixtures("pushed")
def test_a_terminal_shows_a_bar_per_blob(service, hearth, name):
    with Terminal(service.url, "pull", name) as terminal:
        terminal.expect("pulling manifest")
        assert "100% ▕" in terminal.expect("verifying sha256 digest")
        terminal.expect("success")
        assert terminal.exit_code() == 0
    hearth("rm", name)


@pytest.mark.usefixtures("pushed")
def test_run_gets_a_missing_model_first(hearth, name):
    done = hearth("run", name, "one two")
    assert "one two" in done.stdout
    assert "pulling manifest" in done.stderr
    assert "pulling" not in hearth("run", name, "one two").stderr
    hearth("rm", name)


def test_what_cannot_be_pulled_says_why(hearth, docker_registry):
    missing = f"{docker_registry.address}/library/missing"
    error = hearth.fails(1, "pull", missing)
    assert "Error: pull model manifest: file does not exist\nasked: http://127.0.0.1:" in error
    error = hearth.fails(1, "run", missing, "hi")
    assert "not found, and it cannot be pulled: pull model manifest: file does not exist" in error
    assert "couldn't retrieve manifest" in hearth.fails(1, "push", missing)


def test_plain_http_needs_a_word(hearth):
    assert "--insecure" not in hearth.fails(2, "pull")
    assert "insecure protocol http" in hearth.fails(1, "pull", "http://example.com/n/m")
    assert "127.0.0.2:1" in hearth.fails(1, "pull", "--insecure", "http://127.0.0.2:1/n/m")
