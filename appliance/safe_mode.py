"""Safe mode: after three crashes within ten minutes the service starts without loading models.

The page, `hearth doctor` and all management work then, so that somebody can see what is wrong and
take the model away that brings the box down. It ends by itself after half an hour without a crash,
or with a restart by hand, which is no crash. A power cut is none either: crashes are counted within
one boot, by its own clock, so that a wrong time of day counts nothing twice. Where no service
manager restarts the service, whoever does it is there and wants it as it is: nothing is counted.
"""

import json
import logging
import time
from pathlib import Path

from appliance.library.blobs import atomic_write

log = logging.getLogger("hearth.safe_mode")

CRASHES = 3
WITHIN_S = 600.0
LASTS_S = 1800.0
FILE = "crashes.json"
PANIC = "panic.txt"  # the last error that ended the service
MAX_PANIC = 400  # characters
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def start(state: Path, *, ended_badly: bool) -> str:
    """Count the crash, if the last run ended by one. Returns why this run has to be in safe mode,
    or an empty text. Blocking."""
    boot, now = _BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
    crashes = [at for at in _crashes(state, boot) if now - at < WITHIN_S]
    if ended_badly and _is_of_this_boot(state, boot):
        crashes.append(now)
    _write(state, json.dumps({"boot": boot, "at": crashes}))
    if len(crashes) < CRASHES:
        return ""
    return f"it crashed {len(crashes)} times within {WITHIN_S / 60:.0f} minutes{_panic(state)}"


def note_panic(state: Path, error: BaseException) -> None:
    """The service ends by this error. Blocking."""
    try:
        text = f"{type(error).__name__}: {error}"[:MAX_PANIC]
        atomic_write(state / PANIC, text.encode())
    except OSError as problem:
        log.warning("the last error cannot be kept: %s", problem)


def end_well(state: Path) -> None:
    """The service was stopped as it should: nothing is held against the next run. Blocking."""
    for name in (FILE, PANIC):
        (state / name).unlink(missing_ok=True)


def _stored(state: Path) -> dict[str, object]:
    try:
        found = json.loads((state / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_of_this_boot(state: Path, boot: str) -> bool:
    return _stored(state).get("boot") == boot


def _crashes(state: Path, boot: str) -> list[float]:
    at = _stored(state).get("at")
    if not _is_of_this_boot(state, boot) or not isinstance(at, list):
        return []
    return [float(each) for each in at if isinstance(each, int | float)]


def _write(state: Path, text: str) -> None:
    try:
        atomic_write(state / FILE, text.encode())
    except OSError as error:  # a full disk must not keep the service from serving
        log.warning("crashes cannot be counted: %s", error)


def _panic(state: Path) -> str:
    try:
        text = (state / PANIC).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ", see `journalctl -u hearth`"
    return f", last with {text!r}"
