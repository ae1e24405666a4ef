"""Who the box is: one id for ever, names that fit where they are announced."""

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.box import FILE, MAX_NAME_BYTES, Box
from appliance.errors import ConfigError


def test_the_id_is_made_once_and_stays(tmp_path: Path) -> None:
    first = Box.open(tmp_path)
    assert Box.open(tmp_path, "Kitchen") == Box(first.id, "Kitchen")
    assert first.name == f"Hearth {first.id[-6:]}"
    assert first.host_name == f"hearth-{first.id[-6:]}.local"


def test_a_number_tells_two_boxes_of_one_name_apart(tmp_path: Path) -> None:
    box = Box.open(tmp_path, "Kitchen").renumbered(3)
    box.save(tmp_path)
    assert Box.open(tmp_path, "Kitchen") == box
    assert box.instance_name == "Kitchen (3)"
    assert box.host_label.endswith("-3")


def test_a_long_name_is_cut_between_characters() -> None:
    box = Box("0" * 12, "ü" * 60, 12)
    assert len(box.instance_name.encode()) <= MAX_NAME_BYTES
    assert box.instance_name.endswith("ü (12)")


def test_a_name_of_several_sentences_is_one_label() -> None:
    """python-zeroconf ends a label at each dot."""
    assert Box("0" * 12, " Dr. Smith's  box. ").instance_name == "Dr Smith's box"


def test_names_count_as_announced_until_they_change_or_the_machine_restarts(tmp_path: Path) -> None:
    box = Box.open(tmp_path, "Kitchen")
    assert not box.is_announced
    box.as_announced().save(tmp_path)
    again = Box.open(tmp_path, "Kitchen")
    assert again.is_announced
    assert not again.renumbered(2).is_announced
    assert not Box.open(tmp_path, "Cellar").is_announced
    assert not replace(again, boot="another").is_announced
    assert not replace(again, boot="").as_announced().is_announced


@pytest.mark.parametrize(
    "text", ["", "{}", '{"id": "../x"}', '{"id": "0123456789ab", "number": 0}', '{"idd": 1}']
)
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="cannot use") as caught:
        Box.open(tmp_path)
    assert "restore it" in caught.value.hint
    assert (tmp_path / FILE).read_text() == text
