"""The same as tests/integration/test_transfer_kill.py, as often as the product promises."""

import pytest

from tests.integration.interrupted import kill_often

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


async def test_two_hundred_kills_leave_no_broken_state(tmp_path):
    assert await kill_often(tmp_path / "state", 200, seed=200) > 0
