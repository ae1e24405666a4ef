"""What every way of starting two systems needs: the disk that runs this one, and how to refuse."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

BLOCK, DEV = Path("/sys/class/block"), Path("/dev")


class RefusedError(Exception):
    """What cannot be done, and the cure."""


class Partition(NamedTuple):
    device: Path
    number: int


def root_device():
    return output("findmnt", "-no", "SOURCE", "/")


def running_partition():
    """The name of the root partition that runs, like hearth-root-a."""
    running = Path(root_device()).name
    for name, each in partitions().items():
        if each.device.name == running:
            return name
    raise RefusedError(f"{root_device()} is no partition of an image")


def partitions():
    """name -> Partition, of the disk that runs this system."""
    found = {}
    for each in sorted((BLOCK / Path(root_device()).name).resolve().parent.glob("*/uevent")):
        words = dict(line.partition("=")[::2] for line in each.read_text().splitlines())
        if "PARTNAME" in words:
            device = DEV / words["DEVNAME"]
            found[words["PARTNAME"]] = Partition(device, int(words["PARTN"]))
    return found


def partition(name):
    """The partition `name` beside the running one."""
    found = partitions()
    if name not in found:
        raise RefusedError(f"the disk of {root_device()} has no partition {name} beside it")
    return found[name]


def other(name):
    """The name of the other place: hearth-root-a and hearth-root-b take turns."""
    return name[:-1] + {"a": "b", "b": "a"}[name[-1]]


def write_durably(path, text):
    """A file appears whole, by a rename, and is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_folder(path.parent)


def sync_folder(folder):
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
