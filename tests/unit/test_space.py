"""How much of a disk models leave free, and how exactly a refusal says it."""

import shutil

import pytest

from appliance.config import load_settings
from appliance.errors import ConfigError, DiskFullError
from appliance.library.space import Space, reserve_bytes

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("disk", "setting", "kept"),
    [
        (16 * GIB, None, 2 * GIB),
        (1000 * GIB, None, 50 * GIB),
        (4 * GIB, None, GIB),  # of a small card a quarter
        (64 * MIB, None, 16 * MIB),
        (1000 * GIB, 100, 100 * MIB),
        (1000 * GIB, 0, 0),
    ],
)
def test_the_reserve(disk, setting, kept):
    assert reserve_bytes(disk, setting) == kept


def test_a_refusal_names_the_bytes_and_comes_after_room_was_asked_for(tmp_path):
    disk = shutil.disk_usage(tmp_path)
    space = Space(tmp_path / "blobs", disk.total // MIB + 1)
    asked = []
    space.make_room = asked.append
    with pytest.raises(DiskFullError) as caught:
        space.require(1000, "the model")
    kept = (disk.total // MIB + 1) * MIB
    assert f"the model needs 1000 bytes and {kept} must stay free" in str(caught.value)
    assert asked[0] > 1000


def test_enough_room_is_no_question(tmp_path):
    space = Space(tmp_path, 0)
    space.make_room = None  # would fail if it were called
    space.require(1, "the model")
    assert space.missing() < 0


@pytest.mark.parametrize(("text", "value"), [("auto", None), ("0", 0), ("512", 512)])
def test_the_setting(text, value):
    assert load_settings({"disk_reserve_mib": text}, {}, None).disk_reserve_mib == value


@pytest.mark.parametrize("text", ["-1", "5 GiB", "much", "1.5", ""])
def test_a_bad_setting_says_what_is_allowed(text):
    with pytest.raises(ConfigError, match="'auto' or a whole number"):
        load_settings({"disk_reserve_mib": text}, {}, None)
