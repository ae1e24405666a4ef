"""The real service and an LED: a folder in the place of /sys/class, in a mount namespace."""

import json

import pytest

from tests.fakes import boards
from tests.fakes.loop_disk import require_root
from tests.fakes.waiting import wait_for
from tests.integration.cli_process import Command

FILES = ("trigger", "brightness", "max_brightness", "delay_on", "delay_off")


@pytest.fixture
def led(tmp_path):
    """An LED whose every trigger can be read back from a log, and the command that shows it."""
    require_root("unshare", "mount")
    classes = tmp_path / "class"
    folder = classes / "leds/ACT"
    boards.write(
        folder, {name: "[mmc0] none timer" if name == "trigger" else "1" for name in FILES}
    )
    script = f'mount --bind "{classes}" /sys/class && exec "$@"'
    return folder, ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh")


def shown(folder):
    trigger, on_ms = ((folder / name).read_text().strip() for name in ("trigger", "delay_on"))
    return f"{trigger} {on_ms}" if trigger == "timer" else trigger


def test_it_shows_what_the_service_does(led, start_service, tiny_gguf):
    folder, prefix = led
    box = start_service(prefix=prefix)
    wait_for(lambda: shown(folder) == "default-on")
    box.create("m", tiny_gguf)
    ask = {"model": "m", "prompt": "one two", "stream": False}
    assert box.call("POST", "/api/generate", ask)[0] == 200
    wait_for(lambda: shown(folder) == "heartbeat")
    wait_for(lambda: shown(folder) == "default-on")
    done = Command(box.url).run("identify", "--seconds", "2", "--json")
    assert json.loads(done.stdout) == {"led": "ACT", "seconds": 2}
    wait_for(lambda: shown(folder) == "timer 60")
    wait_for(lambda: shown(folder) == "default-on")
    bad = box.state / "models/manifests/registry.ollama.ai/library/bad/latest"
    bad.parent.mkdir()
    bad.write_text("{")  # a condition of severity error
    box.call("GET", "/hearth/v1/doctor")
    wait_for(lambda: shown(folder) == "timer 200")
    assert box.stop() == 0
    assert shown(folder) == "mmc0"


def test_without_an_led_identify_says_so(start_service):
    box = start_service(led="off")
    status, body = box.call("POST", "/hearth/v1/identify", {})
    assert (status, "no LED" in str(body)) == (400, True)
    done = Command(box.url).run("identify")
    assert done.returncode == 1
    assert "71-hearth-leds.rules" in done.stderr
