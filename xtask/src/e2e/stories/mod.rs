//! The stories, by subject.

mod again;
mod channel;
mod daemon;
mod disks;
mod guest;
mod hooks;
mod kata;
mod lifecycle;
mod podman;
mod refusals;
mod resources;
mod run;
mod sandboxes;
mod share;
mod spending;
mod stdio;
mod terminal;
mod volumes;

use super::world::World;
use anyhow::Result;

pub struct Story {
    pub name: &'static str,
    pub tell: fn(&World<'_>) -> Result<()>,
}

/// A story's name is its function's.
macro_rules! stories {
    ($($room:ident :: $name:ident),* $(,)?) => {
        &[$(Story { name: stringify!($name), tell: $room::$name }),*]
    };
}

/// The longest first: what is short fills the gaps at the end.
pub const ALL: &[Story] = stories![
    stdio::a_gibibyte_goes_in_and_comes_out_unchanged_in_little_memory,
    share::a_program_is_read_once_and_anew_when_the_host_changes_it,
    share::a_program_that_is_given_capabilities_has_them_at_once,
    share::a_home_is_looked_up_once_and_anew_when_it_changes,
    share::a_program_is_read_ahead_of_its_start,
    podman::podman_hides_and_forbids_and_tells_what_was_killed_for_memory,
    podman::podman_restarts_what_fails_as_often_as_it_was_told,
    podman::podman_runs_a_pod_of_two_in_one_vm,
    podman::podman_reaches_into_a_running_container,
    podman::podman_attaches_to_a_terminal_and_stops_what_does_not_heed,
    podman::podman_runs_a_container_and_starts_it_again,
    podman::a_podman_container_outlives_a_killed_daemon,
    podman::podman_gives_a_container_its_limits_and_its_files,
    run::hello_comes_out_and_the_exit_code_comes_back,
    run::a_second_run_starts_from_the_cache,
    run::what_goes_in_comes_out_unchanged,
    run::output_written_just_before_the_end_is_not_lost,
    run::an_exit_is_reported_while_a_child_keeps_the_output_open,
    run::run_in_the_foreground_is_where_its_container_is,
    run::pain_1_a_run_whose_vm_is_lost_says_so_also_to_a_later_daemon,
    stdio::pain_8_of_twenty_last_words_none_is_lost,
    stdio::pain_7_the_end_of_input_is_not_the_end_of_output,
    terminal::a_shell_on_a_terminal_hears_its_keys_and_its_size,
    terminal::a_terminal_comes_back_from_sudden_ends,
    terminal::a_job_that_was_stopped_keeps_no_container_from_its_deletion,
    volumes::pain_6_fifty_containers_come_and_go_and_leave_no_mount,
    volumes::pain_16_a_volume_that_is_renewed_is_seen_whole_and_heard_of,
    share::a_link_that_the_host_turns_round_leads_to_the_new_place,
    share::a_container_that_is_given_the_hosts_files_holds_no_sandbox,
    share::a_guest_that_is_told_to_looks_for_answers_before_it_sleeps,
    volumes::volumes_outlive_the_daemon_that_attached_them,
    volumes::pain_17_mounts_are_what_their_options_say,
    volumes::pain_18_files_of_the_host_are_seen_as_runc_shows_them,
    volumes::a_hundred_binds_and_a_long_path_are_no_trouble,
    disks::disks_of_the_host_come_and_go_with_their_containers,
    disks::pain_1_a_daemon_killed_as_a_disk_is_plugged_leaves_all_or_nothing,
    disks::a_disk_of_the_first_container_and_what_is_no_disk,
    disks::what_a_container_alone_in_its_vm_wrote_to_its_disks_is_on_them,
    volumes::what_cannot_enter_a_guest_is_refused_with_the_reason,
    kata::a_stock_guest_carries_stdio_by_calls_and_outlives_a_killed_daemon,
    kata::a_sandbox_that_asks_for_a_stock_guest_lives_a_whole_life,
    kata::stock_guests_boot_of_one_image_and_answer_over_vsock,
    guest::twenty_containers_exit_and_their_guest_lives,
    guest::a_program_killed_while_it_is_read_takes_no_guest_along,
    guest::the_vsock_driver_keeps_the_channels_contract,
    guest::a_relay_keeps_every_byte_over_vsock,
    lifecycle::a_container_goes_through_its_states_and_is_gone_at_the_end,
    lifecycle::of_two_creates_with_one_id_one_wins_and_the_other_says_so,
    lifecycle::a_daemon_killed_during_create_leaves_all_or_nothing,
    lifecycle::a_delete_by_force_ends_a_container_that_is_still_starting,
    lifecycle::the_pid_in_the_pid_file_lives_as_long_as_its_container,
    lifecycle::a_container_that_is_stopped_has_its_time_and_no_more,
    lifecycle::fifty_execs_live_at_once_in_one_vm,
    lifecycle::an_exec_is_where_its_container_has_put_its_processes,
    lifecycle::a_container_that_may_divide_its_cgroup_lifts_no_limit_of_it,
    hooks::hooks_run_in_their_order_and_are_told_the_state,
    hooks::a_hook_that_fails_or_hangs_makes_no_container,
    hooks::a_hook_that_fails_later_is_told_to_who_asked,
    sandboxes::a_vm_that_dies_takes_its_containers_along_and_its_sandbox_starts_again,
    sandboxes::a_sandbox_that_is_stopped_lets_its_containers_end,
    sandboxes::a_sandbox_without_an_id_goes_by_its_uid,
    resources::a_running_container_is_held_and_counted_and_given_less,
    resources::pain_10_a_kill_for_want_of_memory_is_told_and_kept,
    resources::pain_9_a_signal_reaches_the_init_alone_and_the_end_comes_when_asked_for,
    refusals::bad_input_is_refused_in_one_line_and_leaves_nothing,
    refusals::a_guest_refuses_as_clearly_as_its_host,
    daemon::a_killed_daemon_costs_no_output_and_no_exit_code,
    daemon::pain_3_a_guest_that_hangs_is_looked_at_and_taken_away,
    daemon::a_killed_vm_ends_its_container_with_a_reason,
    daemon::a_killed_virtiofsd_ends_its_container_with_a_reason,
    daemon::a_crashed_agent_ends_its_container_with_a_reason,
    daemon::pain_1_a_daemon_killed_as_its_vm_begins_orphans_nothing,
    daemon::a_killed_relay_takes_its_process_along,
    channel::a_container_over_hybrid_vsock_has_output_exit_code_and_execs,
    channel::a_killed_daemon_costs_no_byte_over_hybrid_vsock,
    channel::a_killed_vsock_backend_ends_its_container_with_a_reason,
    channel::a_vsock_backend_killed_while_no_daemon_lives_ends_its_container_too,
    channel::a_daemon_killed_as_its_vsock_backend_begins_orphans_nothing,
    channel::a_vsock_backend_that_does_not_start_is_said_and_leaves_nothing,
    again::pain_2_a_create_whose_daemon_is_killed_ends_well,
    again::a_start_whose_daemon_is_killed_ends_well,
    again::an_exec_or_a_signal_whose_daemon_is_killed_is_done_once,
    again::a_damaged_store_costs_no_container,
    again::a_daemon_that_a_command_starts_stands_on_its_own,
];
