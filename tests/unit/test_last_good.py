"""A broken settings file stays out of force under a service manager, and nowhere else."""

import pytest

from appliance.errors import ConfigError
from appliance.last_good import FILE, keep, load_or_last_good


@pytest.fixture
def world(tmp_path):
    (tmp_path / "state").mkdir()
    file = tmp_path / "hearth.toml"
    file.write_text('access_lan = "keys"\n')
    environ = {"HEARTH_STATE": str(tmp_path / "state"), "NOTIFY_SOCKET": "/run/systemd/notify"}
    return file, environ


def test_the_last_good_one_serves_and_says_so(world):
    file, environ = world
    keep(load_or_last_good({}, environ, file))
    file.write_text('access_lan = "everybody"\n')
    settings = load_or_last_good({}, environ, file)
    assert settings.access_lan == "keys"
    assert "access_lan = 'everybody'" in settings.broken_file
    keep(settings)
    assert (settings.state / FILE).read_text() == 'access_lan = "keys"\n'


def test_at_a_terminal_and_without_a_good_one_it_is_an_error(world):
    file, environ = world
    file.write_text("access_lan = [")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_or_last_good({}, environ, file)  # there never was a good one
    (world[0].parent / "state" / FILE).write_text('access_lan = "keys"\n')
    del environ["NOTIFY_SOCKET"]
    with pytest.raises(ConfigError, match="is not TOML"):
        load_or_last_good({}, environ, file)


def test_a_wrong_flag_is_an_error_anyway(world):
    file, environ = world
    keep(load_or_last_good({}, environ, file))
    with pytest.raises(ConfigError, match="engine"):
        load_or_last_good({"engine": "steam"}, environ, file)
