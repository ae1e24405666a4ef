"""What each board's files mean, in trees of the shape that they really have."""

import pytest

from appliance.config import load_settings
from appliance.device.device import Device
from appliance.device.load import parse_stall
from appliance.device.power import PowerMeter, parse_throttled
from appliance.device.storage import mount_of, parse_mounts
from appliance.http.device import device_answer
from tests.fakes import boards


def read(root, state):
    state.mkdir(exist_ok=True)
    return Device(load_settings({"state": str(state)}, {}, None), root).read()


def test_a_pi_with_a_card(tmp_path):
    state = tmp_path / "state"
    found = read(boards.pi(tmp_path / "root", tmp_path, throttled="50005"), state)
    assert found.board.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.board.page_bytes == 16384
    assert found.board.watchdog == "inactive"
    assert [(zone.name, zone.celsius, zone.passive) for zone in found.zones] == [
        ("cpu-thermal", 48.312, None)
    ]
    assert found.throttling.now == ("undervoltage", "thermal")
    assert found.throttling.since_boot == ("undervoltage", "thermal")
    (disk,) = found.disks
    assert (disk.device, disk.kind, disk.life_used) == ("mmcblk0", "sd", None)
    assert disk.written_bytes == 2048 * 512
    assert disk.mount == tmp_path
    assert disk.total_bytes > disk.free_bytes > 0
    assert found.memory.total == 8_000_000 * 1024
    assert found.oom_kills == 3


@pytest.mark.parametrize(
    ("output", "now", "past"),
    [
        ("throttled=0x0\n", (), ()),
        ("throttled=0x50000\n", (), ("undervoltage", "thermal")),
        ("80008", ("soft_temp_limit",), ("soft_temp_limit",)),
        ("0x2", ("freq_cap",), ("freq_cap",)),
    ],
)
def test_the_pi_says_why_it_is_slow(output, now, past):
    found = parse_throttled(output)
    assert (found.now, found.since_boot) == (now, past)


@pytest.mark.parametrize("output", ["", "error=1", "throttled=", "VCHI initialization failed"])
def test_what_the_pi_does_not_say_is_not_guessed(output):
    assert parse_throttled(output) is None


def test_the_voltage_alarm_stands_in_for_the_firmware(tmp_path):
    root = boards.any_board(tmp_path / "root")
    files = {
        "sys/class/hwmon/hwmon0/name": "rpi_volt",
        "sys/class/hwmon/hwmon0/in0_lcrit_alarm": "1",
    }
    assert read(boards.write(root, files), tmp_path / "s").throttling.now == ("undervoltage",)


def test_a_jetson(tmp_path):
    found = read(boards.jetson(tmp_path / "root"), tmp_path / "s")
    assert [(rail.name, rail.watts) for rail in found.rails] == [
        ("VDD_IN", 7.661),
        ("VDD_CPU_GPU_CV", 2.419),
    ]
    assert found.power_watts == 7.661  # what comes in, not the sum of what is inside
    assert found.throttling.since_boot == ("over_current",)
    assert {zone.name for zone in found.zones} == {"cpu-thermal", "gpu-thermal"}
    assert found.hottest.celsius == 98.5
    assert found.hottest.passive == 99


def test_a_pc(tmp_path):
    root = boards.pc(tmp_path / "root")
    found = read(root, tmp_path / "s")
    assert found.rails == ()  # an energy counter needs two looks
    assert [zone.name for zone in found.zones] == ["acpitz", "acpitz-1"]
    assert found.throttling.since_boot == ("thermal",)
    assert (found.board.model, found.board.governor) == ("NUC", "powersave")


def test_energy_becomes_power_also_when_the_counter_wraps(tmp_path):
    now = iter([10.0, 12.0, 14.0])
    meter, root = PowerMeter(lambda: next(now)), boards.pc(tmp_path, energy="1000000")
    assert meter.read(root) == ()
    energy = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    energy.write_text("31000000")
    assert [(rail.name, rail.watts) for rail in meter.read(root)] == [("package-0", 15.0)]
    energy.write_text("999000")
    (rail,) = meter.read(root)
    assert rail.watts == pytest.approx((262143328850 - 31_000_000 + 999_000) / 2e6)


@pytest.mark.parametrize(
    ("life", "pre_eol", "used", "worn"),
    [
        ("0x02 0x09", "0x01", 0.9, False),
        ("0x0b 0x01", "0x03", 1.1, True),
        ("0x00 0x00", "0x00", None, False),
        ("garbage", "", None, False),
    ],
)
def test_an_emmc_tells_its_wear(tmp_path, life, pre_eol, used, worn):
    root = boards.emmc(tmp_path / "root", tmp_path, life=life, pre_eol=pre_eol)
    (disk,) = read(root, tmp_path / "s").disks
    assert (disk.kind, disk.life_used, disk.is_worn) == ("emmc", used, worn)
    assert disk.errors == 7
    assert not disk.is_read_only


def test_a_disk_that_the_kernel_made_read_only(tmp_path):
    root = boards.emmc(tmp_path / "root", tmp_path, options="ro,errors=remount-ro")
    assert read(root, tmp_path / "s").disks[0].is_read_only


def test_a_folder_is_on_the_mount_next_to_it():
    mounts = parse_mounts(
        "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "21 20 8:2 / /var/lib\\040x rw - ext4 /dev/sda2 rw\n"
        "22 21 8:3 / /var/lib\\040x/hearth ro - ext4 /dev/sda3 ro\n"
        "23 20 8:4 / /var/lib\\040x/hearth rw - ext4 /dev/sda4 rw\n"
        "nonsense\n"
    )
    path = mounts[1].path
    assert str(path) == "/var/lib x"
    assert mount_of(path / "y", mounts).number == "8:2"
    assert mount_of(path / "hearth/models", mounts).number == "8:4"  # hides the one before
    assert mount_of(path.parent, mounts).number == "8:1"


def test_stalls():
    stall = parse_stall(boards.PRESSURE.format("21.50", "7.00"))
    assert (stall.some10, stall.some60, stall.full10) == (21.5, 7.0, 1.5)
    assert parse_stall("some nonsense") is None
    assert parse_stall("") is None


def test_a_board_that_tells_nothing_is_no_error(tmp_path):
    root = boards.write(tmp_path / "root", {"proc/meminfo": boards.MEMINFO})
    found = read(root, tmp_path / "s")
    assert (found.zones, found.rails, found.disks, found.oom_kills) == ((), (), (), None)
    assert found.power_watts is None
    answer = device_answer(found)
    assert answer["temperatures"] == []
    assert answer["throttled"] == []
    assert answer["memory"] == {"total": 8_000_000 * 1024, "available": 4_000_000 * 1024}


def test_this_machine_can_be_read():
    found = Device(load_settings({}, {}, None)).read()
    assert found.memory.total > found.memory.available > 0
    assert found.disks
    assert set(device_answer(found)) >= {"temperatures", "throttled", "disks", "clock", "memory"}
