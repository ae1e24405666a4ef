"""The power goes while a box imports and answers, then a stick: it goes on, and is whole.

HEARTH_TEST_CUTS says how often the power goes (default: 5).
"""

import json
import os
import random
import threading
import time
from dataclasses import dataclass, field

import pytest

from tests.fakes.publisher import Publisher
from tests.fakes.waiting import wait_for
from tests.integration.medium_box import NAME, publish_heavy
from tests.system import box_disk, machine
from tests.system.box_disk import ask
from tests.system.machine import LIMIT_S

CUTS = int(os.environ.get("HEARTH_TEST_CUTS", "5"))
BALLAST = 8 * 2**20
PACE = BALLAST // 8  # bytes per second that a stick gives: slow enough for a cut to meet it
BEYOND = 1.25  # a cut comes within the time of a whole import and this much of it: also after it
# Names the files that are not what their names say.
BROKEN_BLOBS = """cd /var/lib/hearth/models/blobs && ls | grep -xE 'sha256-[0-9a-f]{64}' |
while read -r each; do
  [ "sha256-$(sha256sum <"$each" | cut -d ' ' -f 1)" = "$each" ] || echo "$each"
done"""

STATUS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:11434/hearth/v1/status").read().decode())
"""

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(900 * (CUTS + 3))]


@pytest.fixture(scope="module")
def publisher(tmp_path_factory):
    return Publisher(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def survivor(publisher, tmp_path_factory):
    """The box, switched on after the last cut; `possible` releases after each cut, those `seen`."""
    folder, moments = tmp_path_factory.mktemp("cuts"), random.Random(7)
    disk, boot = box_disk.make_box(folder, publisher)
    survivor = Survivor()
    with machine.Machine(disk, folder / "qemu", **boot) as box:
        survivor.start(box)
        began = plug(box, stick_of(publisher, folder, 1))
        wait_for(lambda: box_disk.sticks(box) == ["stick-done"], LIMIT_S)
        import_s = time.monotonic() - began
        print(f"a whole import takes {import_s:.1f} s", flush=True)
    survivor.possible.append({"1.0.0"})
    for number in range(2, CUTS + 2):
        stick, moment = stick_of(publisher, folder, number), moments.uniform(0, BEYOND * import_s)
        with machine.Machine(disk, folder / "qemu", **boot) as box:
            survivor.start(box)
            plug(box, stick)
            asking = threading.Thread(target=ask_for_ever, args=(box,))
            asking.start()
            threading.Event().wait(moment)
            told = box_disk.sticks(box)
            box.kill()
            asking.join()
        print(f"cut {moment:.1f} s after the import began: {told}", flush=True)
        before = set() if told == ["stick-done"] else {survivor.seen[-1]}
        survivor.possible.append({f"{number}.0.0"} | before)
    with machine.Machine(disk, folder / "qemu", **boot) as box:
        survivor.start(box)
        yield survivor
    disk.unlink()


def plug(box, stick):
    """Plug it in and wait until the box tells of it; when that was."""
    box.plug(stick, bytes_per_s=PACE)
    wait_for(lambda: box_disk.sticks(box) != [], LIMIT_S)
    return time.monotonic()


@dataclass
class Survivor:
    """A box through its starts: the release that each found, and that it might find."""

    box: machine.Machine = None
    seen: list = field(default_factory=list)
    possible: list = field(default_factory=lambda: [{None}])
    started_s: list = field(default_factory=list)

    def start(self, box):
        """Wait until it serves, and look whether it is whole."""
        self.box = box
        self.started_s.append(box.wait_ready())
        self.seen.append(version(box))
        if self.seen[-1] is not None:
            assert "hi" in ask(box)
        assert box.run("sh", "-c", BROKEN_BLOBS).output == ""
        print(f"start {len(self.seen)}: {self.seen[-1]} of {self.possible[-1]} after"
              f" {self.started_s[-1]:.0f} s, {box.accel}", flush=True)  # fmt: skip
        assert self.seen[-1] in self.possible[-1]


def stick_of(publisher, folder, number):
    """The image of a stick with the release of this number."""
    publish_heavy(publisher, f"{number}.0.0", random.Random(number).randbytes(BALLAST), "latest")
    return machine.fat_stick(folder / "stick", {"hearth": publisher.folder}, size_mib=512)


def version(box):
    """The release that is active; none before the first is whole."""
    status, answer = box.call("GET", f"/hearth/v1/bundles/show?model={NAME}")
    return answer["version"] if status == 200 else None


def ask_for_ever(box):
    """Chat until the power is gone."""
    while box.call("GET", "/readyz")[0]:
        ask(box)


def test_power_cuts_while_it_imports_and_answers_leave_a_whole_box(survivor):
    seconds = survivor.started_s
    print(f"{CUTS} cuts; the release after each: {survivor.seen[2:]}")
    print(f"power-on to API {min(seconds):.0f} to {max(seconds):.0f} s, {survivor.box.accel}")
    assert len(survivor.seen) == CUTS + 2


def test_a_stick_that_is_pulled_midway_is_one_clear_condition(survivor, publisher, tmp_path):
    box, before = survivor.box, survivor.seen[-1]
    stick = stick_of(publisher, tmp_path, CUTS + 2)
    box.plug(stick, bytes_per_s=BALLAST // 20)
    wait_for(lambda: "%" in told(box), LIMIT_S)
    box.unplug()
    wait_for(lambda: box_disk.sticks(box) == ["stick-failed"], LIMIT_S)
    print(told(box))
    assert "pulled out too early, plug it in again" in told(box)
    assert version(box) == before
    assert box.run("sh", "-c", BROKEN_BLOBS).output == ""
    box.plug(stick)
    wait_for(lambda: box_disk.sticks(box) == ["stick-done"], LIMIT_S)
    assert version(box) == f"{CUTS + 2}.0.0"
    assert "hi" in ask(box)
    box.unplug()


def told(box):
    """What the conditions say of sticks, and the cure, to the box itself."""
    status = json.loads(box.run("python3", "-c", STATUS).output)
    return " ".join(f"{each['text']} {each['cure']}" for each in status["conditions"]
                    if each["code"].startswith("stick-"))  # fmt: skip
