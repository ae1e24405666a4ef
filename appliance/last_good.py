"""A broken settings file stays out of force: the service goes on with the one that it served with.

Only under a service manager, where nobody reads an error message and a box that does not come back
needs a visit. At a terminal `hearth serve` says what is wrong and ends.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from appliance.config import Settings, default_state, find_file, load_settings
from appliance.errors import ConfigError, LibraryError
from appliance.library.blobs import atomic_write

log = logging.getLogger("hearth.settings")

FILE = "settings.last-good.toml"


def load_or_last_good(
    flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None
) -> Settings:
    """The settings; with `broken_file` set, those of the last good start. Raises ConfigError."""
    try:
        return load_settings(flags, environ, file)
    except ConfigError as error:
        state = Path(flags.get("state") or environ.get("HEARTH_STATE") or default_state())
        copy = state.expanduser() / FILE
        is_managed = bool(environ.get("NOTIFY_SOCKET"))
        if not is_managed or (file or find_file(environ)) is None or not copy.is_file():
            raise
        return replace(load_settings(flags, environ, copy), broken_file=str(error))


def keep(settings: Settings) -> None:
    """The service serves with these: keep a copy of their file, if it is another one. Blocking."""
    if settings.file is None or settings.broken_file:
        return
    copy = settings.state / FILE
    try:
        text = settings.file.read_bytes()
        if not copy.is_file() or copy.read_bytes() != text:
            atomic_write(copy, text)
    except (OSError, LibraryError) as error:
        log.warning("no copy of the settings is kept: %s", error)
