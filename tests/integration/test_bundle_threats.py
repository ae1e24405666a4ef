"""Every attack and every failure that signed bundles were designed against, and what builds it.

The rows are those of the design study: its threat table, the attacks that it tried on python-tuf,
the holes that it found there, and what a box does about each failure. Each names tests that build
it and see that what was installed is unchanged; a name that no test has any more fails here.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ATTACK = "integration/test_trust_attacks.py::test_attack_is_refused_and_changes_nothing"
SLOW = "integration/test_content_slow.py::test_bytes_that_never_end_are_left"
SMOKE = "integration/test_bundle_bad.py::test_what_fails_its_tests_does_not_serve"
OTHER_BYTES = "integration/test_bundle_bad.py::test_other_bytes_than_the_signed_ones_are_refused"
BAD_ANSWERS = "integration/test_trust_network.py::test_bad_answers"
HALF = "integration/test_import.py::test_a_half_copied_stick_changes_nothing"
CHANNEL = "integration/test_import_channels.py"


def attacks(*names):
    """Each by stick and over the network."""
    return [f"{ATTACK}[{form}-{name}]" for name in names for form in ("stick", "network")]


def slow(how):
    """From both kinds of source, for every kind of part."""
    parts = ("index", "manifest", "config", "weights", "system", "extras", "smoke")
    sources = ("web folder", "registry")
    return [f"{SLOW}[{source}-{part}-{how}]" for source in sources for part in parts]


THREATS = {
    "one signing key stolen": [
        *attacks("too_few_signatures", "threshold_reached_by_one_key_with_two_ids"),
        "integration/test_bundle_rotation.py::test_an_officer_who_left_signs_nothing_more",
        "integration/test_bundle_repository.py::test_the_same_officer_twice_is_one_officer",
        "integration/test_bundle_repository.py::test_one_key_twice_cannot_make_a_threshold",
        "integration/test_trust_delegations.py::test_a_publisher_of_two_keys_needs_both",
    ],
    "online key stolen": [
        "integration/test_bundle_rotation.py::test_a_thief_of_the_online_key_alone_lists_nothing",
        "integration/test_bundle_rotation.py::test_after_the_online_key_was_stolen_boxes_recover",
    ],
    "rollback to an old release": [
        *attacks(
            "timestamp_rollback",
            "whole_repository_rollback",
            "snapshot_rollback",
            "targets_rollback",
            "publisher_rollback",
            "root_rollback",
            "date_of_issue_goes_back",
        ),
        "integration/test_import.py::test_an_old_stick_after_a_newer_one_is_refused",
        f"{CHANNEL}::test_an_older_stick_of_the_channel_is_refused",
        f"{CHANNEL}::test_an_older_generation_and_two_words_under_one_number",
    ],
    "freeze": [
        *attacks("expired_timestamp", "expired_snapshot", "expired_targets", "expired_publisher"),
        "integration/test_bundle_source.py::test_a_box_that_was_away_for_weeks",
        "integration/test_trust_service.py::"
        "test_a_repository_that_was_silent_for_long_installs_nothing_new",
    ],
    "mix and match": [
        *attacks(
            "targets_of_another_release",
            "targets_of_another_release_without_hashes",
            "snapshot_of_another_release",
            "publisher_dropped_from_the_snapshot",
            "timestamp_is_a_snapshot",
        ),
        f"{CHANNEL}::test_an_index_of_yesterday_beside_signatures_of_today",
    ],
    "endless data": [
        *attacks("endless_timestamp", "endless_root"),
        f"{BAD_ANSWERS}[_endless-too_large-timestamp.json]",
        *slow("endless"),
        "integration/test_layout.py::test_a_huge_file_is_not_read_into_memory",
        f"{CHANNEL}::test_other_bytes_than_the_signed_ones_change_nothing[huge]",
    ],
    "slow drip": [
        f"{BAD_ANSWERS}[_drip-stalled-timestamp.json]",
        f"{BAD_ANSWERS}[_silent-stalled-timestamp.json]",
        *slow("drip"),
        *slow("dripping head"),
        *slow("stall"),
        "integration/test_transfer_download.py::test_a_server_that_drips_is_left",
    ],
    "wrong length": [
        *attacks("snapshot_longer_than_announced", "targets_shorter_than_announced"),
        *(f"{OTHER_BYTES}[longer-{part}]" for part in ("index", "manifest", "layer")),
        "integration/test_folder_content.py::"
        "test_a_copy_of_another_length_is_refused_before_a_byte_is_written",
    ],
    "flipped bits": [
        "integration/test_trust_hostile.py::test_every_flipped_byte_is_refused_or_without_effect",
        *(
            f"{OTHER_BYTES}[flipped-{part}]"
            for part in ("index", "manifest", "layer", "extras", "smoke")
        ),
        "integration/test_bundle_bad.py::test_a_config_of_wrong_bytes",
        "integration/test_folder_content.py::test_wrong_bytes_are_not_kept",
    ],
    "right signature, wrong device": [
        "integration/test_bundle_bad.py::test_no_variant_fits",
        "integration/test_bundle_bad.py::test_a_release_for_a_newer_hearth",
        "integration/test_import.py::test_a_stick_without_the_variant_that_this_box_takes",
    ],
    "wrong publisher for a name": [
        *attacks("publisher_signed_by_a_rival"),
        "integration/test_trust_hostile.py::"
        "test_a_name_outside_of_a_publishers_delegation_is_not_listed",
        "integration/test_trust_service.py::test_what_a_repository_owns_comes_signed_or_not_at_all",
        "integration/test_channels.py::test_a_channel_has_no_say_in_names_of_others",
        f"{CHANNEL}::test_a_channel_of_a_repository_that_is_not_enrolled",
    ],
    "malicious mirror or neighbour": [
        *(f"{OTHER_BYTES}[missing-{part}]" for part in ("index", "manifest", "layer")),
        "integration/test_bundle_install.py::test_a_lying_mirror_and_an_empty_one_are_both_told",
        "integration/test_bundle_install.py::"
        "test_the_next_source_is_asked_when_one_is_wrong_or_gone",
        "integration/test_repair.py::test_wrong_bytes_from_the_source_repair_nothing",
        "integration/test_transfer_proxy.py::test_no_redirect_of_metadata_leads_into_this_network",
    ],
    "replay of a revoked bundle": [
        "integration/test_bundle_switch.py::test_what_was_taken_back_is_not_installed",
        "integration/test_bundle_switch.py::test_warn_serves_on_and_says_so",
        "integration/test_import.py::test_a_release_that_is_withdrawn_is_skipped",
    ],
    "clock wrong": [
        "integration/test_trust_store.py::"
        "test_a_clock_in_the_past_does_not_accept_what_expired_before_the_floor",
        "integration/test_trust_store.py::"
        "test_a_clock_in_the_future_refuses_new_metadata_and_keeps_the_installed",
        "integration/test_trust_store.py::"
        "test_a_date_of_issue_in_the_future_does_not_make_everything_expire",
    ],
    "tampered or half-copied stick": [
        HALF,
        f"{CHANNEL}::test_a_half_copied_stick_changes_nothing",
        f"{CHANNEL}::test_other_bytes_than_the_signed_ones_change_nothing",
        "integration/test_trust_store.py::"
        "test_a_half_copied_stick_leaves_the_complete_one_acceptable",
        "integration/test_import_interrupted.py::test_an_unmounted_stick_is_told_and_gone_on_with",
        f"{CHANNEL}::test_pulled_out_in_the_middle_it_goes_on",
    ],
    "power cut tears the state of trust": [
        "integration/test_trust_store.py::test_torn_metadata_does_not_open_the_way_back",
        "integration/test_trust_store.py::test_a_torn_floor_is_mended_from_its_copy",
        "integration/test_trust_kill.py::"
        "test_a_power_cut_after_any_change_leaves_the_old_or_the_new_state",
        "system/test_power_cut.py::test_fifty_power_cuts_of_signed_installs_leave_no_broken_state",
    ],
    "bit rot, or a blob swapped after the install": [
        "integration/test_scrub.py::test_a_flipped_bit_takes_one_model_out_and_no_other",
        "integration/test_bundle_repair.py::test_weights_by_range_and_the_index_whole",
        "integration/test_trust_service.py::test_a_manifest_that_was_swapped_by_hand_is_not_served",
        "integration/test_trust_service.py::test_in_signed_mode_no_unsigned_byte_reaches_a_parser",
    ],
    "a new box is fed old valid metadata": [
        "integration/test_trust_store.py::"
        "test_a_new_box_of_1970_does_not_take_what_expired_before_it_was_built",
        "integration/test_trust_store.py::test_without_any_floor_and_metadata_the_box_is_as_new",
    ],
}

TRIED = {
    "threshold and rotation errors": [
        *attacks(
            "root_gap",
            "root_not_signed_by_the_old_keys",
            "root_not_signed_by_the_new_keys",
            "root_missing_in_the_chain",
            "expired_root",
            "foreign_root",
            "foreign_timestamp",
            "duplicate_key_ids",
            "root_of_one_key_with_two_ids_and_no_timestamp",
        ),
        "integration/test_trust_store.py::test_two_of_three_officers_rotate_one",
        "integration/test_trust_store.py::"
        "test_a_long_chain_of_roots_is_followed_and_an_old_stick_still_works",
    ],
    "fast-forward and recovery": [
        "integration/test_trust_store.py::test_new_online_keys_recover_from_a_fast_forward",
        "integration/test_trust_client.py::test_fast_forward_and_recovery",
        "integration/test_bundle_rotation.py::"
        "test_recovery_with_the_stolen_key_still_in_the_root_recovers_nothing",
    ],
    "hostile names": [
        "integration/test_trust_hostile.py::test_hostile_target_names_are_not_listed",
        "integration/test_trust_hostile.py::test_hostile_role_names_stay_in_the_folder",
        "integration/test_import_hostile.py::test_a_name_that_could_be_written_otherwise_is_passed_over",
        f"{CHANNEL}::test_files_with_strange_names_are_passed_over",
    ],
    "hostile JSON": [
        *attacks(
            "truncated_timestamp",
            "empty_timestamp",
            "deep_json",
            "deep_signed_json",
            "huge_number",
            "version_beyond_reason",
            "not_text",
            "duplicate_json_keys",
            "duplicate_signatures",
        ),
        "integration/test_bundle_bad.py::test_a_signed_file_that_is_no_release",
        "integration/test_bundle_bad.py::test_a_manifest_that_is_none",
        "integration/test_layout.py::test_a_hostile_index_is_refused",
        f"{CHANNEL}::test_a_signed_document_that_makes_no_sense_is_told",
    ],
    "sticks with links and devices": [
        "integration/test_trust_store.py::test_sticks_with_links_devices_and_folders_are_refused",
        "integration/test_layout.py::test_a_blob_that_is_no_file_is_not_read",
        "integration/test_layout.py::test_a_device_is_not_read",
        "integration/test_layout.py::test_folders_that_are_links_are_not_entered",
        "integration/test_layout.py::test_paths_that_lead_elsewhere_are_refused",
        "integration/test_import_hostile.py::test_a_medium_s_folder_must_not_be_a_link",
        f"{CHANNEL}::test_other_bytes_than_the_signed_ones_change_nothing[link]",
    ],
    "files missing": attacks("snapshot_missing", "publisher_missing", "timestamp_missing"),
    "H1: files torn by a power cut": [
        "integration/test_trust_store.py::test_torn_metadata_does_not_open_the_way_back"
    ],
    "H2: a clock in the past ends the check for freezes": [
        "integration/test_trust_store.py::"
        "test_a_clock_in_the_past_does_not_accept_what_expired_before_the_floor"
    ],
    "H3: a half-copied stick makes the complete one a rollback": [HALF],
    "H4: a publisher who left the snapshot breaks every client": [
        *attacks("publisher_dropped_from_the_snapshot"),
        "integration/test_bundle_rotation.py::test_offboarding_takes_the_names_and_breaks_no_client",
    ],
    "H5: the pinned root, never the cached file": [
        "integration/test_trust_roots.py::"
        "test_an_expired_pinned_root_is_the_start_of_a_longer_chain",
        "integration/test_trust_roots.py::test_a_root_that_nobody_confirmed_is_never_used",
    ],
    "H6: one refresh at a time": [
        "integration/test_trust_store.py::test_of_two_refreshes_one_waits_for_the_other",
        "integration/test_trust_kill.py::test_thirty_kills_leave_no_broken_state",
    ],
}

FAILURES = {
    "any error of verification": [
        SMOKE,
        "integration/test_trust_cli.py::test_codes_lists_all_twelve_with_their_cures",
        ATTACK,
    ],
    "source down": [
        "integration/test_bundle_source.py::test_nobody_answers",
        "integration/test_trust_network.py::test_nobody_there_is_unreachable",
        "integration/test_channel_turns.py::"
        "test_a_source_that_is_down_is_asked_again_later_and_later",
    ],
    "disk short, before the first byte": [
        "integration/test_bundle_source.py::test_a_disk_without_room_is_told_before_the_first_byte",
        "integration/test_import_interrupted.py::test_a_full_disk_is_told_before_the_first_byte",
        "integration/test_transfer_full_disk.py::test_before_the_first_byte",
    ],
    "disk full in the middle and at the last write": [
        "integration/test_transfer_full_disk.py::test_in_the_middle",
        "integration/test_transfer_full_disk.py::test_at_the_last_write",
        "integration/test_import_interrupted.py::"
        "test_a_disk_that_is_full_at_any_last_write_changes_nothing",
        "integration/test_trust_disk.py::test_a_full_disk_is_said_and_changes_nothing",
    ],
    "no variant fits": ["integration/test_bundle_bad.py::test_no_variant_fits"],
    "smoke failed": [f"{SMOKE}[content]"],
    "smoke crashed": [
        f"{SMOKE}[crash]",
        "integration/test_bundle_install_kill.py::"
        "test_tests_that_are_cut_short_twice_make_a_release_bad",
    ],
    "smoke slow": [
        f"{SMOKE}[slow]",
        f"{SMOKE}[late]",
        "integration/test_bundle_bad.py::"
        "test_it_is_tried_again_when_somebody_insists_or_a_new_release_comes",
    ],
    "corrupt blob": [
        "integration/test_scrub.py::test_a_flipped_bit_takes_one_model_out_and_no_other",
        "integration/test_repair.py::test_a_flipped_bit_costs_one_chunk",
        "integration/test_repair.py::test_a_flipped_byte_in_several_hundred_megabytes",
        "integration/test_bundle_repair.py::"
        "test_hashes_that_the_publisher_signed_help_where_our_own_are_gone",
    ],
    "metadata stale": [
        "integration/test_bundle_source.py::test_a_box_that_was_away_for_weeks",
        "integration/test_trust_service.py::"
        "test_a_repository_that_was_silent_for_long_installs_nothing_new",
    ],
    "revoked release active: warn": [
        "integration/test_bundle_switch.py::test_warn_serves_on_and_says_so"
    ],
    "revoked release active: replace": [
        "integration/test_bundle_switch.py::test_replace_goes_back_to_the_previous_release"
    ],
    "revoked release active: stop": [
        "integration/test_bundle_switch.py::test_stop_takes_it_out_of_use_until_another_comes"
    ],
}

NOT_OURS = {
    "stolen box": "no key that signs is on it; taking its access away is the fleet's business",
    "box lost": "as above",
    "fleet tool crash": "the fleet's business",
}

ROWS = {**THREATS, **TRIED, **FAILURES}


@pytest.fixture(scope="module")
def existing():
    """The ids of all tests in the files that are named, as pytest collects them."""
    files = sorted({name.partition("::")[0] for names in ROWS.values() for name in names})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    ids = [line.removeprefix("tests/") for line in found.stdout.splitlines() if "::" in line]
    return set(ids) | {name.partition("[")[0] for name in ids}


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_row_exist(existing, row):
    assert ROWS[row]
    assert [name for name in ROWS[row] if name not in existing] == []


def test_every_attack_on_metadata_belongs_to_a_row(existing):
    """A new attack says what it is an example of."""
    named = {name for names in ROWS.values() for name in names}
    assert sorted(name for name in existing if name.startswith(f"{ATTACK}[")) == sorted(
        name for name in named if name.startswith(f"{ATTACK}[")
    )
