"""SIGKILL at any moment of a pull leaves the old model or the new, and the next pull goes on."""

from tests.integration.interrupted import kill_often

KILLS = 25


async def test_kills_leave_no_broken_state(tmp_path):
    unchanged = await kill_often(tmp_path / "state", KILLS)
    assert unchanged > 0
