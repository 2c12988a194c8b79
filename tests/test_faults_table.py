"""Which test keeps which of the twenty-five promises, and which of them is also run with its protection switched off."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROMISES: dict[str, list[str]] = {
    "1 kills of the web server lose and double nothing": [
        "faults_web::test_kills_of_the_web_server_lose_and_double_no_verdict",
        "faults_web::test_an_interrupted_verdict_of_many_is_all_there_or_not_at_all",
        "faults_storage::test_kill_9_loses_and_doubles_no_acknowledged_verdict",
        "kill_web::test_no_acknowledged_verdict_is_lost_or_doubled",
    ],
    "2 kills of workers and children lose and double nothing": [
        "faults_jobs::test_kills_of_workers_and_children_lose_and_double_nothing",
        "jobs::test_twenty_kills_at_random_moments_lose_and_double_nothing",
    ],
    "3 no child outlives its worker": ["faults_jobs::test_no_child_outlives_its_worker"],
    "4 a lost, doubled or flushed queue": [
        "faults_jobs::test_a_queue_that_is_flushed_doubled_or_damaged_loses_and_repeats_no_run",
        "jobs::test_a_lost_ring_only_delays",
    ],
    "5 a fault at every write, sync and rename": [
        "faults_sweep::test_wherever_it_is_interrupted_all_of_it_is_there_or_nothing",
        "faults_sweep::test_without_the_protection_the_sweep_finds_what_is_half",
        "faults_sweep::test_an_export_that_is_killed_leaves_nothing_under_its_name",
        "faults_storage::test_whichever_call_to_the_disk_fails_what_was_answered_is_there",
    ],
    "6 a power cut": [
        "faults_storage::test_a_power_cut_at_any_call_loses_no_acknowledged_verdict",
        "faults_storage::test_a_commit_is_on_the_disk_before_it_is_answered",
    ],
    "7 a full disk": [
        "faults_web::test_a_full_disk_is_507_loses_nothing_and_all_goes_on_with_room",
        "faults_web::test_whatever_is_done_without_room_is_507_and_done_when_there_is",
        "faults_storage::test_a_full_disk_is_told_loses_nothing_and_all_goes_on_when_there_is_room",
        "faults_storage::test_a_disk_that_is_really_full",
        "faults_storage::test_a_blob_that_does_not_fit_leaves_nothing_behind",
    ],
    "8 people who decide at once": [
        "faults_storage::test_of_those_who_decide_at_once_one_wins_and_the_others_are_told_by_whom",
    ],
    "9 offline, and the tab closed": [
        "faults_browser::test_what_was_decided_offline_outlives_the_tab_and_is_stored_once_in_order",
    ],
    "10 restarts with the page open, and a session that ends": [
        "faults_browser::test_a_page_outlives_restarts_and_the_end_of_its_session",
    ],
    "11 locks": [
        "faults_web::test_a_lock_that_does_not_end_is_503_with_a_time_to_come_back",
        "faults_storage::test_a_write_waits_for_another_process",
        "faults_storage::test_a_lock_that_does_not_end_is_told_and_nothing_is_stored",
        "faults_storage::test_writers_of_several_processes_never_meet_in_the_middle",
    ],
    "12 guards at the start": [
        "faults_start::test_a_second_studio_is_refused_until_the_first_is_gone_however_it_went",
        "faults_start::test_a_network_file_system_is_refused",
        "faults_start::test_a_library_with_the_wal_reset_bug_gets_a_rollback_journal_and_says_so",
        "faults_start::test_damage_in_any_place_is_told_in_words",
        "migrate::test_a_newer_file_and_a_file_of_another_kind_are_refused_untouched",
    ],
    "13 migrations killed half-way": [
        "faults_migrate::test_migrations_from_every_release_are_killed_at_every_statement",
        "faults_migrate::test_a_migration_that_is_killed_is_ended_by_the_next_start",
        "faults_migrate::test_a_migration_keeps_a_copy_that_opens",
    ],
    "14 any order of cancel, pause, resume, kill and retry": [
        "faults_jobs::test_many_orders_of_events_lead_to_a_consistent_end",
        "ledger::test_any_order_of_events_leads_to_a_consistent_end",
    ],
    "15 poison": [
        "faults_jobs::test_poison_is_put_aside_and_the_rest_is_done",
        "faults_jobs::test_whatever_a_shard_does_to_its_process_three_times_the_others_are_done",
        "hf_diffusers::test_out_of_memory_halves_the_batch_and_goes_on",
    ],
    "16 poisoned data sets": ["faults_input::test_a_poisoned_data_set_is_refused_in_words_or_taken_without_the_poison"],
    "17 hostile images": [
        "faults_input::test_a_hostile_image_is_one_fault_or_sound_and_never_served_as_something_else",
        "faults_input::test_a_hostile_blob_is_never_served_as_a_page",
        "faults_gate::test_what_ends_a_decoder_does_not_end_the_studio",
        "limited::test_what_ends_the_child_ends_nothing_else",
    ],
    "18 archives": ["faults_input::test_a_hostile_archive_leaves_nothing_outside"],
    "19 paths": [
        "faults_gate::test_a_curator_reads_no_folder_that_is_not_listed",
        "faults_input::test_no_name_leads_anywhere",
        "security::test_no_address_leads_out_of_its_folder",
        "roots::test_what_lies_outside_is_refused_whether_it_is_there_or_not",
    ],
    "20 addresses": [
        "faults_gate::test_a_name_of_an_inner_address_is_never_spoken_to",
        "outbound::test_a_name_that_changes_its_address_afterwards_changes_nothing",
        "outbound::test_redirects_are_answers_and_nothing_reaches_where_they_point",
    ],
    "21 weights, configurations and folders of models that are code": [
        "faults_input::test_weights_that_are_code_are_refused_and_nothing_is_run",
        "pickles::test_a_pickle_that_is_more_than_data_does_nothing",
        "hf_diffusers::test_code_in_a_model_folder_is_not_run",
        "security::test_options_of_a_training_are_a_closed_list",
    ],
    "22 texts that are scripts": [
        "faults_browser::test_no_text_is_ever_run",
        "security::test_no_page_makes_markup_of_a_name",
    ],
    "23 origins, hosts, roles and routes": [
        "faults_gate::test_another_site_changes_nothing",
        "faults_gate::test_a_reviewer_changes_nothing_but_verdicts",
        "security::test_every_route_is_ours_or_listed",
        "security::test_other_origins_change_nothing",
        "auth::test_reviewers_change_nothing_but_verdicts",
    ],
    "24 passwords and sessions": [
        "faults_gate::test_passwords_cannot_be_tried_one_after_the_other",
        "faults_gate::test_a_stranger_sees_nothing",
        "auth::test_guessing_is_slowed_down",
        "auth::test_signing_in_again_ends_the_earlier_session_of_the_browser",
    ],
    "25 many people and a long queue": [
        "faults_web::test_fifty_people_at_once_lose_nothing_and_the_server_does_not_grow",
        "faults_web::test_ten_thousand_runs_in_the_queue_hold_nobody_up",
    ],
}


def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((HERE / f"test_{file}.py").read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def switched_off(test: ast.FunctionDef) -> bool:
    """Whether the test also runs without what it tests."""
    text = ast.unparse(test)
    return "must_fail_without" in text or "switched_off" in text


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_is_kept_by_a_test_that_can_fail(promise: str) -> None:
    tests = [named.split("::") for named in PROMISES[promise]]
    found = [functions(file).get(name) for file, name in tests]
    missing = [named for named, test in zip(PROMISES[promise], found, strict=True) if test is None]
    assert not missing
    assert any(switched_off(test) for test in found if test is not None)


def test_there_are_twenty_five() -> None:
    assert [int(promise.split()[0]) for promise in PROMISES] == list(range(1, 26))
