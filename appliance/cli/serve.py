"""The verb serve: the only one that runs the service instead of asking it."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import click

from appliance.config import SETTINGS
from appliance.last_good import load_or_last_good


def _setting_flags(verb: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(SETTINGS):
        flag = f"--{setting.name.replace('_', '-')}"
        text = setting.help[0].upper() + setting.help[1:]
        verb = click.option(flag, setting.name, metavar="VALUE", help=text)(verb)
    return verb


@click.command("serve")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="Read settings from this TOML file"
)
@_setting_flags
def serve(file: Path | None, **flags: str | None) -> None:
    """Start the service and stay in the foreground

    Every setting can also be given in the settings file or as an environment variable;
    `hearth config` lists them with their values and origins.
    """
    given = {name: text for name, text in flags.items() if text is not None}
    settings = load_or_last_good(given, os.environ, file)
    gc.disable()
    # Only here: this import brings the HTTP server, which no other verb needs.
    from appliance.service import serve as run_service

    # All that was imported stays. To look through it for garbage took a twelfth of a start, and
    # each full collection would do so again.
    gc.freeze()
    gc.enable()
    run_service(settings)
