"""The `hearth` command as people run it: a real process against the real service."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.gguf_builder import tiny_embedding_gguf, tiny_llama_gguf
from tests.fakes.scripted import NAME, create_actor, says
from tests.integration.cli_process import TIMEOUT_S, Command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hearth(service):
    return Command(service.url)


@pytest.fixture
def folder(tmp_path, tiny_gguf):
    (tmp_path / "model.gguf").symlink_to(tiny_gguf)
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM Be brief.\n")
    return tmp_path


@pytest.fixture(scope="module")
def model(service, tiny_gguf):
    """A model that no test changes or removes."""
    service.create("mine", tiny_gguf, system="Be brief.")
    return "mine"


def loaded(service):
    return [entry["name"] for entry in service.call("GET", "/api/ps")[1]["models"]]


# -- create --------------------------------------------------------------------------------------


def test_create_uploads_once_and_reports_on_stderr(hearth, folder):
    tiny_llama_gguf(folder / "new.gguf", seed=7)
    (folder / "Modelfile").write_text("FROM new.gguf\n")
    first = hearth("create", "uploaded", "-f", folder / "Modelfile")
    second = hearth("create", "uploaded", "-f", folder / "Modelfile")
    assert first.stdout == second.stdout == ""
    assert [line.split()[0] for line in first.stderr.splitlines()[:2]] == ["hashing", "copying"]
    assert "copying" not in second.stderr
    assert second.stderr.splitlines()[-1] == "success"
    hearth("rm", "uploaded")


def test_create_reads_the_modelfile_from_the_current_folder_and_from_stdin(hearth, folder, model):
    hearth("create", f"{model}:here", cwd=folder, PYTHONPATH=str(ROOT))
    hearth("create", f"{model}:piped", "-f", "-", stdin=f"FROM {model}\nSYSTEM Be long.\n")
    assert hearth("show", f"{model}:here", "--system").stdout == "Be brief."
    assert hearth("show", f"{model}:piped", "--system").stdout == "Be long."
    hearth("rm", f"{model}:here", f"{model}:piped")


def test_create_names_the_bad_line(hearth, folder):
    (folder / "Modelfile").write_text("FROM ./model.gguf\nNONSENSE x\n")
    assert "(line 2): command must be one of" in hearth.fails(
        1, "create", "bad", "-f", folder / "Modelfile"
    )


def test_create_without_modelfile_says_which_option_names_one(hearth, tmp_path):
    error = hearth.fails(1, "create", "x", "-f", tmp_path / "none")
    assert "there is no" in error
    assert "-f FILE" in error


def test_create_warns_of_parameters_without_effect(hearth, folder):
    (folder / "Modelfile").write_text("FROM ./model.gguf\nPARAMETER mirostat 1\n")
    done = hearth("create", "warned", "-f", folder / "Modelfile")
    assert "parameter mirostat is deprecated" in done.stderr
    hearth("rm", "warned")


# -- models --------------------------------------------------------------------------------------


def test_list_shows_the_model_and_filters_in_any_case(hearth, model):
    header, *rows = hearth("list", model.upper()).stdout.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert [row.split()[0] for row in rows] == [f"{model}:latest"]
    assert rows[0].rstrip().endswith(" ago")
    assert hearth("ls", "no-such-prefix").stdout == "NAME    ID    SIZE    MODIFIED    \n"


def test_json_is_the_apis_own_body(hearth, service, model):
    hearth("run", model, "hi")
    for verb, path in (("list", "/api/tags"), ("ps", "/api/ps")):
        names = [entry["name"] for entry in json.loads(hearth(verb, "--json").stdout)["models"]]
        assert names == [entry["name"] for entry in service.call("GET", path)[1]["models"]]
    shown = json.loads(hearth("show", model, "--json").stdout)
    assert shown == service.call("POST", "/api/show", {"model": model})[1]


def test_show_has_sections_and_single_parts(hearth, model):
    sections = hearth("show", model).stdout
    assert sections.startswith("  Model\n    architecture        llama")
    assert "\n  System\n    Be brief.    \n" in sections
    assert "blk.0.attn_q.weight" in hearth("show", model, "-v").stdout
    assert f"FROM {model}" in hearth("show", model, "--modelfile").stdout
    error = hearth.fails(2, "show", model, "--system", "--license")
    assert "only one of '--license', '--modelfile', '--parameters', '--system', or" in error


def test_modelfile_of_a_model_makes_the_model_again(hearth, model):
    text = hearth("show", model, "--modelfile").stdout
    hearth("create", f"{model}:again", "-f", "-", stdin=text)
    assert hearth("show", f"{model}:again", "--system").stdout == "Be brief."
    hearth("rm", f"{model}:again")


def test_copy_and_remove(hearth, service, model):
    assert hearth("cp", model, f"{model}:two").stdout == f"copied '{model}' to '{model}:two'\n"
    hearth("run", f"{model}:two", "hi")
    assert hearth("rm", f"{model}:two").stdout == f"deleted '{model}:two'\n"
    assert f"{model}:two" not in hearth("list").stdout
    assert f"{model}:two" not in loaded(service)
    assert "not found" in hearth.fails(1, "rm", f"{model}:two")
    assert "not found" in hearth.fails(1, "cp", f"{model}:two", "other")


def test_stop_takes_the_model_out_of_memory(hearth, service, model):
    hearth("run", model, "hi")
    assert f"{model}:latest" in loaded(service)
    row = hearth("ps", model).stdout.splitlines()[1]
    assert "100% CPU" in row
    assert row.rstrip().endswith("from now")
    assert hearth("stop", model).stdout == ""
    assert hearth.fails(1, "stop", "nobody") == 'Error: couldn\'t find model "nobody" to stop\n'


# -- run -----------------------------------------------------------------------------------------


def test_run_answers_on_stdout_without_wrapping(hearth, model):
    question = "word " * 100
    done = hearth("run", model, question.strip())
    assert question.strip() in done.stdout
    assert done.stdout.endswith("\n\n")
    assert done.stderr == ""


def test_run_puts_piped_text_before_the_prompt(hearth, model):
    assert (
        "from the pipe and the prompt"
        in hearth("run", model, "and", "the", "prompt", stdin="from the pipe").stdout
    )


def test_run_prints_timings_on_stderr(hearth, model):
    done = hearth("run", model, "hi", "--verbose")
    assert "total duration:" in done.stderr
    assert "eval rate:" in done.stderr
    assert "duration" not in done.stdout


def test_run_without_prompt_only_loads(hearth, service, model):
    assert hearth("run", model).stdout == ""
    assert f"{model}:latest" in loaded(service)


@pytest.mark.parametrize("shape", ["json", '{"type": "object"}', "file"])
def test_run_formats_json(hearth, model, tmp_path, shape):
    if shape == "file":
        (tmp_path / "schema.json").write_text('{"type": "object"}')
        shape = tmp_path / "schema.json"
    assert isinstance(json.loads(hearth("run", model, "--format", shape, "hi").stdout), dict)


def test_run_keeps_the_model_as_long_as_asked(hearth, service, model):
    hearth("run", model, "--keepalive", "-1", "hi")
    assert "Forever" in hearth("ps", model).stdout
    assert "a duration like '5m'" in hearth.fails(2, "run", model, "--keepalive", "soon", "hi")


def test_run_passes_the_wish_to_think_to_the_service(hearth, model):
    assert "does not support thinking" in hearth.fails(1, "run", "--think", model, "hi")
    hearth("run", "--think=false", model, "hi")
    assert "Invalid value for '--think'" in hearth.fails(2, "run", "--think=hard", model, "hi")


def test_run_shows_what_the_model_thinks(hearth, service, tiny_gguf):
    create_actor(service, tiny_gguf)
    asked = says("<think>\nHm, well.\n</think>\n\nBlue.")
    framed = "Thinking...\nHm, well.\n...done thinking.\n\nBlue.\n\n"
    assert hearth("run", "--think=high", NAME, asked).stdout == framed
    assert hearth("run", NAME, asked).stdout == framed
    assert hearth("run", "--hidethinking", NAME, asked).stdout == "Blue.\n\n"


def test_run_says_when_a_model_cannot_see(hearth, model, tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    done = hearth("run", model, f"rename {picture}")
    assert f"{model} cannot see images: the path '{picture}' is sent as text" in done.stderr
    assert f"rename {picture}" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "/no/such/file"], "neither 'json' nor a schema nor a file"),
        (["--format", "[1]"], "neither 'json' nor a schema nor a file"),
        (["--format", "{bad"], "not a JSON schema"),
        (["--dimensions", "3"], "--dimensions is for embedding models"),
        (["--nonsense"], "No such option"),
    ],
)
def test_run_refuses_what_it_cannot_honour(hearth, model, options, message):
    assert message in hearth.fails(2, "run", model, *options, "hi")


def test_run_of_an_unknown_model_says_where_to_look(hearth):
    error = hearth.fails(1, "run", "nobody", "hi")
    assert "not found" in error
    assert "hearth list" in error


def test_run_of_an_embedding_model_prints_the_vector(hearth, tmp_path):
    tiny_embedding_gguf(tmp_path / "e.gguf")
    hearth("create", "vectors", "-f", "-", stdin=f"FROM {tmp_path / 'e.gguf'}\n")
    vector = json.loads(hearth("run", "vectors", "a text").stdout)
    assert all(isinstance(number, float) for number in vector)
    short = json.loads(hearth("run", "vectors", "--dimensions", "4", "a text").stdout)
    assert len(short) == 4 < len(vector)
    assert "needs a text" in hearth.fails(2, "run", "vectors")
    assert "--think is not for embedding" in hearth.fails(2, "run", "--think", "vectors", "x")
    hearth("rm", "vectors")


def test_interrupted_run_ends_quietly(hearth, model):
    with hearth.start("run", model, "[[forever]] [[slow 20]]") as process:
        assert process.stdout.read(9)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert b"Traceback" not in error


def test_reader_that_leaves_early_is_no_crash(hearth, model):
    with hearth.start("run", model, "[[forever]] [[slow 5]]") as process:
        process.stdout.read(9)
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in error


# -- the service, or none ------------------------------------------------------------------------


def test_status_fits_one_screen(hearth, service, model):
    hearth("run", model, "hi")
    screen = hearth("status").stdout
    assert service.url in screen
    assert f"{model}:latest" in screen
    assert json.loads(hearth("status", "--json").stdout).keys() == (
        service.call("GET", "/hearth/v1/status")[1].keys()
    )


def test_version_is_the_services(hearth, service):
    version = service.call("GET", "/api/version")[1]["hearth"]
    assert f"hearth version is {version}\n" in hearth("--version").stdout


@pytest.fixture
def dead_address():
    """An address on which nothing listens: held by a socket that does not accept."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments", [["list"], ["ps"], ["status"], ["run", "m", "hi"], ["show", "m"], ["stop", "m"]]
)
def test_dead_service_yields_the_sentence_that_starts_it(dead_address, arguments):
    error = Command(dead_address).fails(1, *arguments)
    assert error.startswith(f"Error: hearth is not running at http://{dead_address}; start it with")
    assert error.count("\n") == 1


def test_version_without_service_is_the_commands_own(dead_address):
    done = Command(dead_address)("--version")
    assert done.stdout.startswith("hearth version is ")
    assert "could not connect" in done.stderr


def test_host_flag_wins_and_ollama_host_is_read(hearth, dead_address):
    assert Command(dead_address)("list", "--host", hearth.url).stdout.startswith("NAME")
    assert hearth("list", HEARTH_HOST="", OLLAMA_HOST=hearth.url).stdout.startswith("NAME")


# -- config --------------------------------------------------------------------------------------


def test_config_shows_values_with_origins(dead_address):
    command = Command(dead_address)
    rows = {
        line.split()[0]: line.split()[1:]
        for line in command("config", HEARTH_MAX_QUEUE="7").stdout.splitlines()
    }
    assert rows["SETTING"] == ["VALUE", "ORIGIN"]
    assert rows["max_queue"] == ["7", "environment", "HEARTH_MAX_QUEUE"]
    settings = json.loads(command("config", "--json").stdout)["settings"]
    origins = {setting["name"]: setting["origin"] for setting in settings}
    assert origins["host"] == "environment HEARTH_HOST"
    assert origins["max_queue"] == "default"


def test_config_check_accepts_and_refuses_a_file(dead_address, tmp_path):
    command = Command(dead_address)
    file = tmp_path / "hearth.toml"
    file.write_text('keep_alive = "10m"\n')
    assert command("config", "check", file).stdout == f"{file} is valid\n"
    file.write_text("max_queue = 0\n")
    assert "max_queue = '0'" in command.fails(1, "config", "check", file)
    file.write_text("nonsense = 1\n")
    assert "unknown setting 'nonsense'" in command.fails(1, "config", "check", file)
    assert "cannot read" in command.fails(1, "config", "check", tmp_path / "none.toml")


def test_serve_refuses_bad_settings_before_it_starts(dead_address):
    error = Command(dead_address).fails(1, "serve", "--max-queue", "many")
    assert "max_queue = 'many' (flag --max-queue)" in error


# -- the command itself --------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["nonsense"], ["list", "--nonsense"], ["cp", "one"]])
def test_wrong_usage_exits_2(dead_address, arguments):
    assert "Usage: hearth" in Command(dead_address).fails(2, *arguments)


def test_verbs_but_serve_bring_no_server_with_them():
    code = (
        "import sys, importlib\n"
        "from appliance.cli import main\n"
        "for verb, target in main.VERBS.items():\n"
        "    importlib.import_module(target.partition(':')[0])\n"
        "print(sorted({'aiohttp', 'asyncio', 'appliance.service'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
