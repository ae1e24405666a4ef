"""What only root may read: found by the probe, and believed by the reader if sane."""

import json

import pytest

from appliance.config import load_settings
from appliance.device.device import Device
from appliance.device.health_file import FILE, STALE_S, Probed, read_health
from appliance.device.nvme import LOG_BYTES, parse_nvme
from appliance.device.probe import main, parse_smart, probe, rails, remounted
from tests.fakes import boards

NOW_S = 5000.0
MOUNTS = """25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 ro,errors=remount-ro
26 25 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw
27 25 179:3 / /mnt ro - ext4 /dev/mmcblk0p3 ro
"""


def with_uptime(root, seconds=NOW_S, **files):
    return boards.write(root, {"proc/uptime": f"{seconds} 1.0\n", **files})


def tell(root, **told):
    """Put a file of the probe into the tree."""
    body = {"format": 1, "uptime_s": NOW_S - 60, **told}
    return with_uptime(root, **{str(FILE): json.dumps(body)})


def read(root, state):
    state.mkdir(exist_ok=True)
    return Device(load_settings({"state": str(state)}, {}, None), root).read()


def test_the_probe_reads_a_pc_and_averages_power_between_two_runs(tmp_path):
    root = boards.pc(with_uptime(tmp_path, **{"proc/1/mountinfo": MOUNTS}), energy="1000000")
    first = probe(root, {})
    assert (first["rails"], first["remounted"], first["throttled"]) == ([], ["/"], None)
    (root / "proc/uptime").write_text(f"{NOW_S + 120} 1.0\n")
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("1801000000")
    second = probe(root, first)
    assert second["rails"] == [{"name": "package-0", "watts": 15.0}]


def test_a_counter_that_wraps_and_a_run_too_soon():
    wrapped = rails({"p": [0.0, 9_000_000, 10_000_000]}, {"p": [2.0, 1_000_000, 10_000_000]})
    assert wrapped == [{"name": "p", "watts": 1.0}]
    assert rails({"p": [0.0, 1, 0]}, {"p": [0.5, 2, 0]}) == []


def test_what_the_program_writes_the_reader_reads(tmp_path):
    file = tmp_path / FILE
    file.parent.mkdir(parents=True)
    file.write_text("left by a power cut")
    assert main([str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    body = json.loads(file.read_text())
    with_uptime(tmp_path, body["uptime_s"] + 1)
    found = read_health(tmp_path)
    assert found.remounted == tuple(body["remounted"])
    assert set(found.disks) == set(body["disks"])


def test_an_nvme_log():
    log = bytearray(LOG_BYTES)
    log[5] = 103
    log[160:162] = (7, 1)
    assert parse_nvme(bytes(log)) == {"life_used": 1.03, "is_failing": False, "errors": 263}
    log[0] = 0b1000
    assert parse_nvme(bytes(log))["is_failing"]
    log[0] = 0b10  # a temperature outside its range is no failure
    assert not parse_nvme(bytes(log))["is_failing"]


def test_smartctl():
    table = [{"id": 5, "value": 100}, {"id": 177, "value": 93}]
    told = {"smart_status": {"passed": True}, "ata_smart_attributes": {"table": table}}
    assert parse_smart(told | {"rotation_rate": 0}, 1.0)["life_used"] == 0.07
    assert parse_smart(told | {"rotation_rate": 7200}, 1.0)["life_used"] is None
    assert parse_smart({"smart_status": {"passed": False}}, 1.0)["is_failing"]
    assert parse_smart({"smartctl": {"exit_status": 2}}, 1.0) is None  # it sleeps, or has none


def test_only_what_was_writable_and_is_no_more_was_remounted():
    assert remounted(MOUNTS) == ["/"]
    assert remounted("") == []


def test_a_service_that_is_not_root_goes_by_the_probe(tmp_path):
    disks = {"nvme0n1": {"life_used": 0.9, "is_failing": True, "errors": 1}}
    root = boards.nvme(tmp_path / "root", tmp_path)
    tell(
        root,
        throttled="throttled=0x50005",
        rails=[{"name": "package-0", "watts": 7.5}],
        disks=disks,
        remounted=["/boot", str(tmp_path)],
    )
    found = read(root, tmp_path / "s")
    assert found.throttling.now == ("undervoltage", "thermal")
    assert found.power_watts == 7.5
    (disk,) = found.disks
    assert (disk.kind, disk.life_used, disk.is_failing) == ("nvme", 0.9, True)
    assert found.remounted == ("/boot",)  # that of our own folder is told as ours


@pytest.mark.parametrize(
    "told",
    [
        {"format": 2},
        {"uptime_s": NOW_S - STALE_S - 1},
        {"uptime_s": NOW_S + 1},  # of another boot, were it not in /run
        {"rails": [{"name": "x\n", "watts": 1}]},
        {"rails": [{"name": "x", "watts": -1}]},
        {"disks": {"sda": {"is_failing": "no"}}},
        {"remounted": ["x" * 5000]},
        {"throttled": ["0x5"]},
    ],
)
def test_what_makes_no_sense_is_not_believed(tmp_path, told):
    assert read_health(tell(tmp_path, **{"remounted": ["/x"], **told})) == Probed()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "\udcff"])
def test_a_file_that_is_none(tmp_path, text):
    with_uptime(tmp_path, **{str(FILE): ""})
    (tmp_path / FILE).write_bytes(text.encode(errors="surrogateescape"))
    assert read_health(tmp_path) == Probed()


def test_models_on_a_card_beside_a_better_disk(tmp_path):
    disk = "sys/devices/platform/axi/1000110000.pcie/0001:01:00.0/nvme/nvme0/nvme0n1"
    stick = "sys/devices/platform/axi/usb1/1-1/block/sda"
    root = boards.pi(tmp_path / "root", tmp_path)
    boards.write(root, {f"{disk}/size": "500000000", f"{stick}/size": "500000000"})
    boards.write(root, {f"{stick}/removable": "1", "sys/block/sda": f"-> ../../{stick}"})
    assert read(root, tmp_path / "s").better_disks == ()
    boards.write(root, {"sys/block/nvme0n1": f"-> ../../{disk}"})
    assert read(root, tmp_path / "s").better_disks == ("nvme0n1",)
    (root / disk / "size").write_text("20000")
    assert read(root, tmp_path / "s").better_disks == ()  # too small to be worth it
