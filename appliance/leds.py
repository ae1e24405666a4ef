"""The board's LED shows what the box does, for people who stand before it.

    blinks slowly    it starts
    on               it is ready
    heartbeat        it generates
    blinks fast      something is wrong that needs somebody: a condition of severity error
    flickers         somebody asked which box this is (`hearth identify`)

The kernel does the blinking (Documentation/leds/leds-class.rst): a state is written once, when it
changes, and nothing runs in between. A board without an LED, or one that we may not write, is no
problem and nothing is said of it. systemd/71-hearth-leds.rules gives the right to write.
"""

import asyncio
import contextlib
import logging
import os
from enum import StrEnum
from pathlib import Path

from appliance.device.files import text
from appliance.threads import to_end

log = logging.getLogger("hearth.leds")

# A Raspberry Pi's, on kernels of today and before 5.18; then what Jetsons and PCs call theirs
_NAMES = ("ACT", "led0", "pwr", "power")
_ENDINGS = (":power", ":pwr", ":status", ":identify")
SETTLE_S = 1.0  # a short pause between two answers does not end the heartbeat
RIGHTS_S = 2.0  # how long udev may take to give us the files of a trigger
_LOOK_S = 0.05


class Show(StrEnum):
    """What an LED shows, the strongest last."""

    BOOT = "boot"
    READY = "ready"
    WORKING = "working"
    ATTENTION = "attention"
    IDENTIFY = "identify"


# trigger, and for the trigger `timer` milliseconds on and off
_SHOWN: dict[Show, tuple[str, int, int]] = {
    Show.BOOT: ("timer", 1000, 1000),
    Show.READY: ("default-on", 0, 0),
    Show.WORKING: ("heartbeat", 0, 0),
    Show.ATTENTION: ("timer", 200, 200),
    Show.IDENTIFY: ("timer", 60, 60),
}


class Led:
    """One LED of the kernel's. Blocking."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._found = _active(text(folder / "trigger") or "")  # as it was before us

    @classmethod
    def find(cls, setting: str, root: Path = Path("/")) -> "Led | None":
        """The LED of that name, for `auto` the board's own; None without one that we may write."""
        folder = root / "sys/class/leds"
        if setting == "off":
            return None
        names = [setting] if setting != "auto" else _own(folder)
        for name in names:
            with contextlib.suppress(OSError), (folder / name / "trigger").open("r+b"):
                return cls(folder / name)
        return None

    def show(self, trigger: str, on_ms: int = 0, off_ms: int = 0) -> bool:
        """Whether the LED took it; one whose kernel lacks a trigger does without that state.

        The files of a blink appear with its trigger: `set_blink` sets them, once they are ours.
        """
        try:
            self._write("trigger", trigger)
            if trigger == "default-on":  # it lights by itself only where it was just registered
                most = text(self._folder / "max_brightness") or "1"
                self._write("brightness", most)
        except OSError as error:
            log.debug("led=%s trigger=%s: %s", self.name, trigger, error)
            return False
        return not on_ms or self.set_blink(on_ms, off_ms)

    def set_blink(self, on_ms: int, off_ms: int) -> bool:
        """Whether the kernel took these times."""
        try:
            self._write("delay_on", str(on_ms))
            self._write("delay_off", str(off_ms))
        except OSError:  # not ours yet
            return False
        return True

    def restore(self) -> None:
        """Let it do again what it did before us."""
        self.show(self._found or "none")

    def _write(self, name: str, value: str) -> None:
        """Raises OSError also where there is no such file: we make none."""
        opened = os.open(self._folder / name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        with os.fdopen(opened, "w") as file:
            file.write(value)


class Leds:
    """What is shown, from what is going on. Run `run_forever` as a task."""

    def __init__(self, setting: str, root: Path = Path("/")) -> None:
        self._setting = setting
        self._root = root
        self._led: Led | None = None
        self._on = {Show.BOOT}  # all states that hold; the strongest is shown
        self._changed = asyncio.Event()
        self._identifying: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Of the LED; empty without one."""
        return self._led.name if self._led else ""

    async def open(self) -> None:
        """Find the LED and blink for the start."""
        self._led = await asyncio.to_thread(Led.find, self._setting, self._root)
        if self._led is not None:
            await self._apply(Show.BOOT)

    def set(self, show: Show, on: bool) -> None:
        """A state begins to hold, or ends."""
        before = set(self._on)
        (self._on.add if on else self._on.discard)(show)
        if self._on != before:
            self._changed.set()

    def identify(self, seconds: float) -> None:
        """Flicker for so long; asking again begins anew."""
        if self._identifying is not None:
            self._identifying.cancel()
        self.set(Show.IDENTIFY, True)
        loop = asyncio.get_running_loop()
        self._identifying = loop.call_later(seconds, self.set, Show.IDENTIFY, False)

    async def run_forever(self) -> None:
        """Show each change; when cancelled, leave the LED as it was found."""
        if self._led is None:
            return
        self.set(Show.READY, True)
        shown = Show.BOOT
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                strongest = max(self._on, key=list(Show).index)
                if strongest is not shown:
                    shown = strongest
                    await self._apply(strongest)
        finally:
            await asyncio.shield(asyncio.to_thread(self._led.restore))

    async def _apply(self, show: Show) -> None:
        assert self._led is not None
        trigger, on_ms, off_ms = _SHOWN[show]
        if await to_end(self._led.show, trigger, on_ms, off_ms) or not on_ms:
            return
        for _ in range(round(RIGHTS_S / _LOOK_S)):
            await asyncio.sleep(_LOOK_S)
            if await to_end(self._led.set_blink, on_ms, off_ms):
                return


def _own(folder: Path) -> list[str]:
    """The LEDs that are the board's own, by name; never a keyboard's or a network card's."""
    names = sorted(path.name for path in folder.glob("*"))
    ours = [name for name in _NAMES if name in names]
    return ours + [name for name in names if name.endswith(_ENDINGS)]


def _active(triggers: str) -> str:
    """The one in brackets: `none [mmc0] timer`."""
    return next((word.strip("[]") for word in triggers.split() if word.startswith("[")), "")
