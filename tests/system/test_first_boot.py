"""The first boot of an image in a real systemd: what lies on the boot partition is taken, once."""

import json

import msgspec
import pytest

from appliance.trust.enrolment import FILE
from tests.integration.test_enrolment import Site
from tests.system.booted import LAUNCHER
from tests.system.test_care_units import add_units

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

BOOT = "/boot/firmware"
_DROP_IN = "[Service]\nEnvironment=HEARTH_ENGINE=echo HEARTH_DISCOVERY=off\n"


@pytest.fixture
def box(booted):
    """A container with the units of an image, which has not started yet."""
    found = booted(boots=False)
    add_units(found, "hearth-firstboot.service")
    found.write("/etc/hearth/image", "")
    found.write("/etc/systemd/system/hearth.service.d/test.conf", _DROP_IN)
    wants = found.path("/etc/systemd/system/multi-user.target.wants")
    wants.mkdir(parents=True, exist_ok=True)
    for unit in ("hearth-firstboot.service", "hearth.service"):
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
    return found


def hearth(box, *words):
    return json.loads(box.run(LAUNCHER, *words, "--json", check=False).stdout)


def told(box):
    found = hearth(box, "doctor")["conditions"]
    return {each["code"]: each for each in found if each["code"].startswith(("site", "enrol"))}


def test_a_site_makes_a_new_box_its_own_before_anybody_can_claim_it(box):
    site = Site()
    box.write(f"{BOOT}/{FILE}", msgspec.json.encode(site.paper()).decode())
    box.write(f"{BOOT}/hearth.toml", 'name = "Kitchen"\n[system]\nhostname = "kitchen-box"\n')
    assert box.boot() == "running", box.journal()
    box.wait_active("hearth.service")
    said = box.journal("-u", "hearth-firstboot.service")
    assert f"{FILE} was read" in said, said
    assert box.run("hostname").stdout == "kitchen-box\n"
    files = box.run("ls", BOOT).stdout.split()
    assert files == ["hearth.toml.read", f"{FILE}.read"]
    assert site.fingerprint in told(box)["site_enrolled"]["cure"]
    assert hearth(box, "pair")["claimed"] is True
    assert hearth(box, "status")["trust"]["mode"] == "signed"
    mode = box.run("stat", "-c", "%U %a", "/var/lib/hearth/enrolment.json").stdout
    assert mode == "hearth 600\n"
    box.power_off()
    assert box.boot() == "running", box.journal()
    box.wait_active("hearth.service")
    assert list(told(box)) == ["site_enrolled"]
    ran = box.show("hearth-firstboot.service", "ConditionResult")
    assert ran == "no"  # there is nothing to do any more


def test_a_bad_file_is_told_and_the_first_boot_goes_on(box):
    paper = Site().paper()
    paper.signatures = []
    box.write(f"{BOOT}/{FILE}", msgspec.json.encode(paper).decode())
    assert box.boot() == "running", box.journal()
    box.wait_active("hearth.service")
    assert "is not signed by" in told(box)["enrolment_refused"]["text"]
    assert hearth(box, "pair")["claimed"] is False
