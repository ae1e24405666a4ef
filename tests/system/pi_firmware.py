"""What a Raspberry Pi's firmware does at a start, for a machine in qemu: it reads `autoboot.txt` of
the first partition, picks a boot partition and starts the kernel there.

Source: Raspberry Pi's documentation of autoboot.txt. qemu has no such firmware: here its rule is
played from outside, on the same disk. What the real one does is for hardware to show.
"""

import subprocess

from images.maker import board
from tests.system import machine
from tests.system.image_disk import offset_mib

TRIAL_WORDS = "Restarting system with command '0 tryboot'"  # the kernel's last line


class Pi:
    """A disk, and the firmware that starts it.

    selected    the number of the boot partition that the last start used
    """

    def __init__(self, disk, folder):
        self._disk, self._folder = disk, folder
        self._is_trial = False
        self._starts = 0
        self.selected = 0

    def start(self, *drives):
        """The machine, to be entered; a trial if the last restart asked for one."""
        self.selected = self._named()["tryboot" if self._is_trial else "all"]
        self._is_trial = False  # the flag is for one start
        self._starts += 1
        boot = self._folder / f"start{self._starts}"
        boot.mkdir()
        for name in ("vmlinuz", "initrd", "cmdline.txt"):
            self._copy(self.selected, name, boot)
        return machine.Machine(
            self._disk, boot / "qemu", arch="aarch64", accel="tcg", drives=drives,
            kernel=boot / "vmlinuz", initramfs=boot / "initrd",
            append=(boot / "cmdline.txt").read_text().strip(),
        )  # fmt: skip

    def wait_restart(self, box, limit_s=1800):
        """Return when the machine restarts, and keep what it told the firmware."""
        box.wait_off(limit_s)
        self._is_trial = TRIAL_WORDS in box.log

    def autoboot(self):
        """The text of autoboot.txt on the disk."""
        self._copy(1, "autoboot.txt", self._folder)
        return (self._folder / "autoboot.txt").read_text()

    def _named(self):
        sections = self.autoboot().split("[")[1:]
        texts = dict(each.split("]", 1) for each in sections)
        return {name: int(text.split("boot_partition=")[1].split()[0])
                for name, text in texts.items()}  # fmt: skip

    def _copy(self, number, name, target):
        offset = offset_mib("rpi", board.load("rpi").partitions[number - 1].name)
        command = ["mcopy", "-n", "-o", "-i", f"{self._disk}@@{offset}M", f"::{name}", target]
        subprocess.run(command, check=True)
