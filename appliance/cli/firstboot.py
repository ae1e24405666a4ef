"""The verb firstboot: what an image does with the files on its boot partition."""

from pathlib import Path

import click

BOOT_FOLDERS = (Path("/boot/firmware"), Path("/efi"))


@click.command("firstboot", hidden=True)
@click.option("--boot", type=click.Path(path_type=Path), help="The boot partition's folder")
def firstboot(boot: Path | None) -> None:
    """Set this box up from its boot partition, on an image and as root

    Reads hearth.toml and custom.toml there once and wipes them; hands site-root.json, a site's
    enrolment file, to the service; `hearth-reset-keys` there takes all keys back. What cannot be
    done is said, and keeps nothing from starting.
    """
    from appliance.config import SYSTEM_STATE
    from appliance.firstboot.apply import Machine, first_boot

    mounted = [folder for folder in BOOT_FOLDERS if folder.is_mount()]
    machine = Machine()
    first_boot(machine, boot or next(iter(mounted), BOOT_FOLDERS[0]), SYSTEM_STATE)
    for sentence in machine.said:
        click.echo(sentence, err=True)
