"""Which tests hold each situation that people reported, or a hostile file made: "folder/case" -> tests, as pytest names them.

The cases themselves (a script that makes the input, what is right) lie outside this project; each test makes its own small file.
"""

from __future__ import annotations

from typing import Final

HOSTILE: Final[dict[str, tuple[str, ...]]] = {
    "01_file_read": (
        "tests/data/files/test_safety.py::test_bad_files_are_refused",
        "tests/data/files/test_safety.py::test_categories_of_anndata_0_7_are_followed",
        "tests/sandbox/test_isolated.py::test_a_child_reads_no_other_file",
    ),
    "02_pickle_pointer": (
        "tests/checkpoints/arc/test_pickles.py::test_a_dtype_cannot_hide_pointers",
        "tests/checkpoints/arc/test_read.py::test_hostile_files_are_refused_wherever_they_are",
        "tests/train/test_bad_training_input.py::test_a_file_of_features_runs_no_program",
    ),
    "03_hdf5_hang": (
        "tests/data/files/test_heaps.py::test_a_heap_without_end_is_refused_at_once",
        "tests/browser/test_hanging_file.py::test_others_get_their_pages_while_a_file_hangs",
    ),
    "04_string_bomb": (
        "tests/data/files/test_safety.py::test_bad_files_are_refused",
        "tests/data/files/test_columns.py::test_nullable_strings_are_read_within_a_budget",
    ),
    "05_uns_loop": (
        "tests/data/files/test_safety.py::test_uns_that_is_no_group_is_passed_over",
        "tests/data/files/test_safety.py::test_bad_files_are_refused",
    ),
    "06_column_length": ("tests/data/files/test_safety.py::test_a_broken_column_is_left_out_and_named",),
    "07_many_columns": (
        "tests/data/files/test_safety.py::test_many_links_to_one_column_are_not_all_read",
        "tests/data/files/test_columns.py::test_a_matrix_of_many_names_is_checked_once",
    ),
    "08_shared_containers": (
        "tests/checkpoints/arc/test_pickles.py::test_shared_lists_are_rebuilt_once",
        "tests/checkpoints/arc/test_pickles.py::test_nested_tuples_are_not_hashed",
        "tests/checkpoints/arc/test_read.py::test_odd_configurations_end_in_a_sentence",
    ),
    "09_expanded_tensor": (
        "tests/checkpoints/arc/test_pickles.py::test_one_number_repeated_is_no_tensor",
        "tests/checkpoints/arc/test_pickles.py::test_views_of_one_storage_do_not_add_up_without_end",
    ),
    "10_zstd_bomb": (
        "tests/challenge/test_verify.py::test_a_bomb_is_refused_with_little_written",
        "tests/library/test_models.py::test_a_zip_of_zeros_is_refused_unwritten",
    ),
    "11_untyped_archives": (
        "tests/data/files/test_text.py::test_deep_or_endless_toml_is_a_sentence",
        "tests/data/files/test_text.py::test_a_field_without_end_is_a_sentence",
        "tests/checkpoints/arc/test_read.py::test_odd_configurations_end_in_a_sentence",
        "tests/checkpoints/arc/test_read.py::test_odd_weights_and_labels_end_in_a_sentence",
        "tests/checkpoints/arc/test_pickles.py::test_a_list_in_itself_is_refused",
        "tests/checkpoints/arc/test_pickles.py::test_tensors_that_are_not_plain_are_refused",
        "tests/library/test_models.py::test_headers_of_weights_from_strangers_are_sentences",
        "tests/library/test_models.py::test_a_damaged_zip_is_a_sentence_with_its_name",
        "tests/challenge/test_verify.py::test_a_damaged_sparse_map_of_the_tar_is_a_finding",
        "tests/data/test_embedding_record.py::test_a_record_that_makes_no_sense_counts_as_none",
    ),
    "12_queue_stalls": (
        "tests/jobs/test_look_after.py::test_a_dead_worker_is_replaced_by_whoever_polls",
        "tests/pages/test_jobs.py::test_runs_replaces_a_worker_that_was_killed",
    ),
    "13_frozen_worker": (
        "tests/jobs/test_look_after.py::test_a_worker_that_stays_silent_is_killed_with_its_children",
        "tests/jobs/test_look_after.py::test_cancelling_the_job_of_a_silent_worker_kills_it",
        "tests/library/test_first_opening.py::test_a_new_file_is_opened_in_a_child_first",
    ),
    "14_claimed_not_started": (
        "tests/jobs/test_look_after.py::test_a_worker_that_dies_while_it_claims_a_job_has_claimed_nothing",
        "tests/jobs/test_look_after.py::test_a_run_whose_job_was_lost_before_it_began_is_lost_and_goes_on",
    ),
    "15_stuck_session": (
        "tests/pages/test_names.py::test_a_data_set_that_raises_anything_leaves_every_page_and_can_be_let_go",
        "tests/data/test_embedding_record.py::test_a_record_that_makes_no_sense_counts_as_none",
    ),
    "16_markdown_images": (
        "tests/pages/test_names.py::test_no_page_obeys_a_name",
        "tests/browser/test_privacy.py::test_no_request_leaves_the_computer",
    ),
    "17_rebinding": (
        "tests/pages/test_server.py::test_other_names_are_not",
        "tests/pages/test_server.py::test_every_answer_has_the_headers",
        "tests/browser/test_privacy.py::test_another_host_is_refused",
    ),
}
PUBLIC: Final[dict[str, tuple[str, ...]]] = {
    "01_noncanonical_csr": (
        "tests/cases/test_same_numbers.py::test_molecules_stored_one_by_one_are_the_same_cells",
        "tests/data/files/test_matrices.py::test_positions_that_are_stored_twice_are_added_up",
    ),
    "02_feature_types": (
        "tests/cases/test_same_numbers.py::test_guides_and_antibodies_beside_the_genes_change_nothing",
        "tests/data/test_dataset.py::test_only_genes_are_genes",
    ),
    "04_double_log": (
        "tests/data/test_scale.py::test_other_transformations_are_named",
        "tests/cases/test_commands.py::test_values_that_were_logged_twice_are_not_scored",
    ),
    "05_rare_nan": (
        "tests/data/test_usable_values.py::test_predict_refuses_with_counts",
        "tests/data/test_usable_values.py::test_replay_refuses",
        "tests/data/test_usable_values.py::test_train_refuses_before_genes_are_chosen",
        "tests/data/test_usable_values.py::test_differential_expression_of_a_result_that_has_nan",
        "tests/prediction/test_predict.py::test_a_model_whose_weights_are_no_numbers_predicts_nothing",
    ),
    "06_bad_side_column": (
        "tests/data/files/test_columns.py::test_a_broken_column_that_nobody_chose_is_named",
        "tests/data/files/test_safety.py::test_a_categorical_that_r_wrote_oddly_does_not_close_the_file",
    ),
    "07_slash_names": ("tests/data/files/test_columns.py::test_names_with_a_slash_are_columns",),
    "09_gears_labels": (
        "tests/data/test_dataset.py::test_combinations_with_ctrl_are_no_controls_and_orders_are_told",
        "tests/data/test_dataset.py::test_candidates_are_named_where_no_control_is_known",
        "tests/data/test_dataset.py::test_a_pattern_takes_several_controls_together",
        "tests/data/test_controls.py::test_a_perturbation_beside_a_control_is_no_control",
        "tests/data/test_controls.py::test_combinations_are_read_as_what_they_perturb",
        "tests/data/test_dataset.py::test_several_labels_are_one_control",
        "tests/prediction/test_predict.py::test_several_control_guides_are_one_control_and_recorded",
    ),
    "10_raw_holds_counts": (
        "tests/cases/test_commands.py::test_the_matrix_of_counts_is_chosen_and_kept_in_the_command",
        "tests/data/test_scale.py::test_a_file_with_nothing_but_raw_says_so",
        "tests/data/test_raw.py::test_raw_is_read_where_it_is_chosen",
        "tests/data/test_raw.py::test_commands_take_raw",
    ),
    "11_context_dots": (
        "tests/train/test_bad_training_input.py::test_contexts_with_dots_and_slashes_can_be_held_out",
        "tests/train/test_bad_training_input.py::test_labels_are_any_text",
    ),
    "13_duplicate_names": ("tests/prediction/test_predict.py::test_cells_are_found_by_their_row_where_names_repeat",),
    "14_checkpoint_moved": (
        "tests/checkpoints/arc/test_read.py::test_checkpoints_are_chosen_by_name",
        "tests/checkpoints/arc/test_read.py::test_a_checkpoint_one_folder_up_and_a_second_last_are_found",
        "tests/checkpoints/arc/test_read.py::test_files_that_only_add_names_may_be_missing",
        "tests/checkpoints/arc/test_read.py::test_missing_files_are_named_with_what_to_do",
        "tests/checkpoints/arc/test_read.py::test_a_folder_around_the_run_directory_is_told_with_its_place",
        "tests/cli/test_main.py::test_a_checkpoint_of_several_is_named",
    ),
    "16_brace_missing": ("tests/data/splits/test_apply.py::test_a_list_in_braces_must_be_all_there",),
    "17_training_edges": (
        "tests/train/test_bad_training_input.py::test_one_cell_of_each_perturbation_is_enough",
        "tests/train/test_bad_training_input.py::test_a_context_without_controls_is_left_out_and_said",
        "tests/cases/test_training_edges.py::test_it_trains",
        "tests/cases/test_training_edges.py::test_nothing_to_train_on_is_a_sentence",
        "tests/cases/test_training_edges.py::test_labels_that_are_fractions_are_told_as_they_are",
    ),
    "19_other_formats": (
        "tests/data/files/test_other_kinds.py::test_each_kind_is_named_with_a_way_out",
        "tests/library/test_other_formats.py::test_each_format_opens_as_its_cells",
        "tests/library/test_other_formats.py::test_hostile_files_are_refused_and_leave_nothing",
    ),
    "21_file_in_use": ("tests/data/files/test_other_kinds.py::test_a_file_that_another_program_writes_is_not_called_damaged",),
    "22_output_is_input": (
        "tests/test_files_output.py::test_commands_keep_their_inputs",
        "tests/test_files_output.py::test_inputs_are_not_written_over_under_any_name",
        "tests/cases/test_commands.py::test_no_command_writes_over_what_it_reads",
    ),
    "24_tiny_groups": (
        "tests/evaluation/test_bad_evaluation_input.py::test_one_cell_of_each_perturbation",
        "tests/cases/test_tiny_groups.py::test_groups_of_one_and_two_cells_are_scored_where_they_can_be",
    ),
    "25_two_depths": (
        "tests/data/splits/test_apply.py::test_files_of_different_depths_are_told_with_both_numbers",
        "tests/train/test_cells.py::test_files_of_two_depths_are_trained_on_at_one",
        "tests/prediction/test_predict.py::test_values_of_another_depth_are_brought_to_the_models",
        "tests/evaluation/test_evaluate.py::test_files_of_two_depths_are_compared_at_that_of_the_prediction",
    ),
    "28_same_cells_twice": ("tests/data/splits/test_apply.py::test_the_same_cells_under_another_data_set_are_found",),
    "29_lists_from_windows": (
        "tests/data/files/test_text.py::test_a_list_is_read_however_it_was_saved",
        "tests/data/files/test_text.py::test_another_encoding_is_a_sentence_at_every_door",
        "tests/cli/test_lists.py::test_a_list_that_cannot_be_read_ends_with_a_sentence",
    ),
    "30_warnings_not_said": (
        "tests/prediction/test_predict.py::test_warnings_of_the_report_belong_to_the_result",
        "tests/cases/test_commands.py::test_predict_prints_what_inspect_warns_of",
    ),
}
CASES: Final = {
    **{f"hostile/{name}": tests for name, tests in HOSTILE.items()},
    **{f"public/{name}": tests for name, tests in PUBLIC.items()},
}
