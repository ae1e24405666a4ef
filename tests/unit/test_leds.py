"""Which LED is ours, and what is written to it, in trees that look like sysfs."""

import asyncio

import pytest

from appliance import leds
from appliance.config import load_settings
from appliance.errors import ConfigError
from appliance.leds import Led, Leds, Show
from tests.fakes import boards
from tests.fakes.waiting import until

TRIGGERS = "none kbd-scrolllock [mmc0] timer heartbeat default-on\n"


def led(root, name="ACT", blink=True):
    """An LED; `blink`: the files of the trigger timer are there and ours."""
    folder = f"sys/class/leds/{name}"
    files = {"trigger": TRIGGERS, "brightness": "0\n", "max_brightness": "255\n"}
    if blink:
        files |= {"delay_on": "500\n", "delay_off": "500\n"}
    boards.write(root, {f"{folder}/{file}": text for file, text in files.items()})
    return root / folder


def shows(folder):
    names = ("trigger", "delay_on", "delay_off")
    return tuple((folder / name).read_text().strip() for name in names)


@pytest.mark.parametrize(
    ("names", "setting", "found"),
    [
        (["ACT", "PWR", "mmc0::"], "auto", "ACT"),
        (["led0", "led1"], "auto", "led0"),
        (["input3::capslock", "phy0-led", "enp1s0-0::lan"], "auto", None),
        (["platform::power"], "auto", "platform::power"),
        (["ACT", "PWR"], "PWR", "PWR"),
        (["ACT"], "off", None),
        (["ACT"], "PWR", None),
        ([], "auto", None),
    ],
)
def test_the_boards_own_led_is_found(tmp_path, names, setting, found):
    for name in names:
        led(tmp_path, name)
    chosen = Led.find(setting, tmp_path)
    assert (chosen and chosen.name) == found


async def run(tmp_path):
    """An LED's owner that runs, and its task."""
    shown = Leds("auto", tmp_path)
    await shown.open()
    return shown, asyncio.create_task(shown.run_forever())


async def end(task):
    task.cancel()
    await asyncio.wait([task])


async def test_the_strongest_state_is_shown_and_the_led_is_left_as_it_was(tmp_path):
    folder = led(tmp_path)
    shown = Leds("auto", tmp_path)
    await shown.open()
    assert shows(folder) == ("timer", "1000", "1000")
    task = asyncio.create_task(shown.run_forever())
    await until(lambda: shows(folder)[0] == "default-on")
    assert (folder / "brightness").read_text() == "255"
    shown.set(Show.WORKING, True)
    await until(lambda: shows(folder)[0] == "heartbeat")
    shown.set(Show.ATTENTION, True)
    await until(lambda: shows(folder) == ("timer", "200", "200"))
    shown.identify(0.05)
    await until(lambda: shows(folder) == ("timer", "60", "60"))
    await until(lambda: shows(folder) == ("timer", "200", "200"))
    shown.set(Show.ATTENTION, False)
    await until(lambda: shows(folder)[0] == "heartbeat")
    await end(task)
    assert shows(folder)[0] == "mmc0"


async def test_the_blink_is_set_when_its_files_become_ours(tmp_path):
    folder = led(tmp_path, blink=False)
    shown, task = await run(tmp_path)
    await until(lambda: (folder / "trigger").read_text() == "default-on")
    shown.set(Show.ATTENTION, True)
    await until(lambda: (folder / "trigger").read_text() == "timer")
    assert not (folder / "delay_on").exists()  # it made none itself
    boards.write(folder, {"delay_on": "500", "delay_off": "500"})
    await until(lambda: shows(folder) == ("timer", "200", "200"))
    await end(task)


async def test_without_an_led_nothing_happens_and_nothing_is_said(tmp_path, caplog):
    shown, task = await run(tmp_path)
    shown.set(Show.ATTENTION, True)
    shown.identify(1)
    await asyncio.wait_for(task, 5)
    assert shown.name == ""
    assert not caplog.records
    assert not list(tmp_path.iterdir())


async def test_an_led_that_is_taken_away_is_no_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(leds, "RIGHTS_S", 0.1)
    folder = led(tmp_path)
    shown, task = await run(tmp_path)
    await until(lambda: shows(folder)[0] == "default-on")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    shown.set(Show.ATTENTION, True)
    await asyncio.sleep(0.2)
    assert not task.done()
    await end(task)


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".."])
def test_a_name_is_no_path(name):
    with pytest.raises(ConfigError, match="'auto', 'off' or the name"):
        load_settings({"led": name}, {}, None)
