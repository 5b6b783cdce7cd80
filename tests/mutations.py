"""Faults put into the code one at a time: does a test fail for each?

    python tests/mutations.py           lists them
    python tests/mutations.py 7 12      tries these
    python tests/mutations.py --all     tries all

Each is tried in a copy of this checkout, on the tests that it names alone.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """A fault: what to write instead of a text that is in the file once."""

    file: str  # in src
    old: str
    new: str
    tests: str  # one or more of which fail, in tests: a file, or FILE::NAME; separated by spaces


MUTATIONS = (
    Mutation(
        "runrecord/record/writer.py",
        "event = without_secrets(event)",
        "pass",
        "runrecord/trackers/test_tracking.py::test_no_secret_reaches_a_record_or_a_tracker",
    ),
    Mutation(
        "runrecord/run/run.py",
        "redact(text).encode(",
        "text.encode(",
        "runrecord/trackers/test_tracking.py::test_no_secret_reaches_a_record_or_a_tracker",
    ),
    Mutation(
        "runrecord/cli/__init__.py",
        'default="127.0.0.1"',
        'default="0.0.0.0"',
        "runrecord/trackers/test_viewers.py::test_a_viewer_answers_this_machine_alone_and_needs_no_program_beside_python",
    ),
    Mutation(
        "runrecord/cli/verify.py",
        'if answer.strip().lower() != "y":',
        'if answer.strip().lower() == "n":',
        "runrecord/verify/test_trust.py::test_nothing_but_yes_lets_a_change_from_elsewhere_run",
    ),
    Mutation(
        "runrecord/sweep/study.py",
        "elif known != wanted:",
        "elif False:",
        "runrecord/sweep/test_sweep.py::test_another_study_of_that_name_is_refused_and_a_torn_journal_is_not",
    ),
    Mutation(
        "runrecord/verify/compare.py",
        "{PICTURE: event.images, TEXT",
        "{TEXT",
        "runrecord/verify/test_differences.py::test_any_one_thing_that_is_changed_is_found_and_named",
    ),
    Mutation(
        "runrecord/trackers/mlflow/audit.py",
        "shown[Place(PARAM, key, None)] = [text]",
        "shown[Place(PARAM, key, None)] = recorded.get(Place(PARAM, key, None), [text])",
        "runrecord/trackers/test_audit.py::test_whatever_is_changed_in_mlflow_is_found_and_named",
    ),
    Mutation(
        "runrecord/verify/compare.py",
        "sorted(first.keys() | second.keys(), key=_order)",
        "sorted(first.keys() & second.keys(), key=_order)",
        "runrecord/trackers/test_audit.py runrecord/verify/test_differences.py",
    ),
    Mutation(
        "runrecord/verify/rebuild.py",
        "for path in [path for path in wanted if found.get(path) == wanted[path]]:",
        "for path in [path for path in wanted if path in found]:",
        "runrecord/dvc/test_layouts.py::test_inputs_are_those_of_the_run_whatever_the_workspace_has_by_now",
    ),
    Mutation(
        "runrecord/record/reader.py",
        "if start.patch and (why",
        "if False and (why",
        "runrecord/record/test_hostile.py::test_a_record_from_elsewhere_is_shown_or_refused_and_nothing_else_is_done",
    ),
    Mutation(
        "runrecord/record/writer.py",
        "os.fsync(file.fileno())",
        "pass",
        "runrecord/test_stops.py::test_a_record_is_whole_wherever_its_writing_stops",
    ),
    Mutation(
        "runrecord/files.py",
        "os.fsync(file.fileno())",
        "pass",
        "runrecord/test_stops.py::test_a_record_is_whole_wherever_its_writing_stops",
    ),
    Mutation(
        "runrecord/run/start.py",
        "identity_of(origin, shown, device, project.packages, number)",
        'identity_of(origin, shown, "", project.packages, number)',
        "runrecord/resume/test_resume.py::test_a_run_goes_on_only_where_all_that_changes_numbers_is_as_it_was",
    ),
    Mutation(
        "runrecord/resume/identity.py",
        "[Path(sys.argv[0]).name, *sys.argv[1:]] if several else []",
        "[]",
        "runrecord/resume/test_resume.py::test_a_run_goes_on_only_where_all_that_changes_numbers_is_as_it_was",
    ),
    Mutation(
        "runrecord/resume/identity.py",
        '"Python": ".".join(platform.python_version_tuple()[:2]),',
        "",
        "runrecord/resume/test_resume.py::test_a_run_goes_on_only_where_all_that_changes_numbers_is_as_it_was",
    ),
    Mutation(
        "runrecord/cli/upkeep.py",
        "newer[run.summary.stage] > keep and",
        "newer[run.summary.stage] >= keep and",
        "runrecord/cli/test_gc.py::test_what_dvc_can_give_back_goes_and_can_be_had_again",
    ),
    Mutation(
        "runrecord/cli/exec.py",
        "else 128 - process.returncode",
        "else 1",
        "runrecord/dvc/test_pipelines.py::test_a_program_that_a_signal_ends_ends_as_a_shell_says_it",
    ),
    Mutation(
        "runrecord/sweep/study.py",
        '"maximize" if',
        '"minimize" if',
        "runrecord/sweep/test_sweep.py::test_a_search_goes_where_the_metric_is_better",
    ),
    Mutation(
        "runrecord/sweep/trials.py",
        " and not changes_numbers(name)",
        "",
        "runrecord/sweep/test_sweep.py::test_a_trial_has_the_variables_that_change_numbers_from_its_driver_alone",
    ),
    Mutation(
        "runrecord/record/events.py",
        '("mlflow.", "record.", "model.")',
        '("mlflow.", "record.")',
        "runrecord/record/test_records.py::test_what_cannot_be_recorded_is_one_sentence_and_nothing_of_it_is_kept",
    ),
    Mutation(
        "generative/models/gan.py",
        "self.config.weight_decay, self.config.beta1",
        "self.config.weight_decay",
        "generative/test_optimizers.py::test_steps_are_bit_for_bit_those_of_pytorch",
    ),
    Mutation(
        "generative/models/gan.py",
        "images + self.config.instance_noise * normal_like(images, rng)",
        "images",
        "generative/test_gan.py::test_the_losses_are_those_of_the_paper_under_noise_of_that_level",
    ),
    Mutation(
        "generative/core/model.py",
        "self.config.lr, self.config.weight_decay",
        "self.config.lr, 0.0",
        "generative/test_optimizers.py::test_steps_are_bit_for_bit_those_of_pytorch",
    ),
    Mutation(
        "generative/models/vae.py",
        "return losses[TOTAL].sum()",
        "return losses[TOTAL].mean()",
        "generative/test_models.py::test_the_objective_is_the_chapters_reduction",
    ),
    Mutation(
        "generative/core/loop.py",
        'reseed(self.noise, seed, "noise", number)',
        'reseed(self.noise, seed, "noise", 1)',
        "generative/test_steps.py::test_each_epoch_has_noise_of_its_own_the_same_whenever_it_is_taken",
    ),
    Mutation(
        "generative/evaluation/samples.py",
        "float(np.mean(distances))",
        "distances[0]",
        "generative/test_samples.py::test_several_judges_give_the_mean_of_what_each_says_and_how_far_they_differ",
    ),
    Mutation(
        "generative/evaluation/samples.py",
        "real.stream.clone_state()",
        "real.stream",
        "generative/test_samples.py::test_a_models_samples_do_not_depend_on_the_models_before_it",
    ),
    Mutation(
        "generative/evaluation/likelihood.py",
        "stats.t.ppf(0.975, config.noise_seeds - 1)",
        "stats.t.ppf(0.975, config.noise_seeds)",
        "generative/test_evaluation.py::test_the_elbos_interval_is_students",
    ),
    Mutation(
        "generative/project.py",
        '"SSIM", "Accuracy", "ELBO", "Bound"), "higher"),',
        '"Accuracy", "ELBO", "Bound"), "higher"), "SSIM": "lower",',
        "generative/test_seeds.py::test_which_way_a_metric_is_better_is_what_the_docs_say",
    ),
    Mutation(
        "generative/serving.py",
        "manual_seed(int(s))",
        "manual_seed(0)",
        "generative/test_serving.py::test_a_sampler_draws_an_image_a_seed_whatever_it_draws_besides",
    ),
    Mutation(
        "runrecord/record/writer.py",
        "while written < len(data):",
        "if written < len(data):",
        "runrecord/record/test_records.py::test_a_line_that_the_disk_takes_in_parts_is_whole",
    ),
    Mutation(
        "runrecord/verify/compare.py",
        "first.hex() == second.hex()",
        "first == second",
        "runrecord/verify/test_compare.py::test_zero_and_its_negative_are_two_numbers",
    ),
    Mutation(
        "runrecord/verify/compare.py",
        'if one.state == "differs" or one.place',
        "if one.state or one.place",
        "runrecord/verify/test_compare.py::test_only_the_environment_explains_numbers_that_differ_a_little",
    ),
    Mutation(
        "runrecord/provenance/environment.py",
        "return tag in ENVIRONMENT or",
        "return True or tag in ENVIRONMENT or",
        "runrecord/verify/test_compare.py::test_only_the_environment_explains_numbers_that_differ_a_little",
    ),
    Mutation(
        "runrecord/verify/rebuild.py",
        "if together and process",
        "if False and process",
        "runrecord/verify/test_executions.py::test_a_run_meets_that_of_its_number_unless_another_process_was_at_it",
    ),
    Mutation(
        "runrecord/verify/rebuild.py",
        "        **variables_of(start.tags),\n",
        "",
        "runrecord/verify/test_verify.py::test_every_variable_that_changes_numbers_is_as_the_run_had_it",
    ),
    Mutation(
        "runrecord/resume/identity.py",
        '"the run": number,',
        '"the run": 1,',
        "runrecord/verify/test_executions.py::test_each_of_several_runs_goes_on_from_its_own_checkpoint",
    ),
    Mutation(
        "runrecord/verify/rebuild.py",
        "if not Path(os.path.realpath(path.parent)).is_relative_to(clone):",
        "if not clone:",
        "runrecord/dvc/test_layouts.py::test_nothing_is_written_behind_a_link_that_leads_out_of_the_repository",
    ),
    Mutation(
        "runrecord/dvc/stages.py",
        'if dep not in params and dep.protocol == "local"',
        "if dep not in params and is_inside(_local_path(dep, root))",
        "runrecord/dvc/test_layouts.py::test_a_dependency_outside_the_repository_is_part_of_what_a_run_read",
    ),
    Mutation(
        "runrecord/provenance/environment.py",
        "committed_params(checkout), fit(params, os.environ)",
        "committed_params(checkout), params",
        "runrecord/run/test_endings.py::test_a_secret_param_that_changes_is_told_nowhere",
    ),
    Mutation(
        "runrecord/safety/secrets.py",
        "elif equals and _says_secret(name)",
        'elif equals and name.startswith("-") and _says_secret(name)',
        "runrecord/safety/test_redact.py::test_of_a_command_what_an_option_says_is_secret_is_struck_out",
    ),
    Mutation(
        "runrecord/provenance/environment.py",
        "read_inputs(checkout, was.named, cwd)",
        "read_inputs(checkout, was.stage.name, cwd)",
        "runrecord/dvc/test_layouts.py::test_a_stage_is_the_same_at_its_end_wherever_dvc_was_started",
    ),
    Mutation(
        "runrecord/verify/rebuild.py",
        "if one.start.number == start.number), None)",
        "if one), None)",
        "runrecord/verify/test_executions.py::test_a_run_meets_that_of_its_number_unless_another_process_was_at_it",
    ),
    Mutation(
        "runrecord/verify/compare.py",
        'return "bit-identical" if self.compared else "nothing to compare"',
        'return "bit-identical"',
        "runrecord/verify/test_compare.py::test_where_nothing_could_be_compared_nothing_is_called_equal",
    ),
    Mutation(
        "runrecord/verify/compare.py",
        "for name, why in record.damaged.items():",
        "for name, why in ():",
        "runrecord/verify/test_compare.py::test_a_file_of_a_record_that_is_gone_or_altered_is_named_and_never_bit_identical",
    ),
    Mutation(
        "runrecord/verify/rebuild.py",
        "return bool(fit and (said or not known))",
        "return bool(said or not known)",
        "runrecord/dvc/test_layouts.py::test_a_stage_is_that_of_a_run_as_far_as_the_record_tells",
    ),
    Mutation(
        "runrecord/run/start.py",
        "tracker.take(more=False)",
        "pass",
        "runrecord/run/test_runs.py::test_a_thread_that_logs_while_its_run_ends_is_refused_before_the_record_is_sealed",
    ),
    Mutation(
        "runrecord/dvc/stages.py",
        "dvc_folder(root) if name == told else None",
        "None",
        "runrecord/dvc/test_layouts.py::test_a_stage_that_works_in_a_folder_of_another_of_its_name_is_not_that_one",
    ),
    Mutation(
        "runrecord/trackers/mlflow/audit.py",
        '{"of the run": run.info.status} if whole else {}',
        "{}",
        "runrecord/trackers/test_audit.py::test_whatever_is_changed_in_mlflow_is_found_and_named",
    ),
    Mutation(
        "runrecord/files.py",
        "        sync_folder(path.parent)\n",
        "",
        "runrecord/test_power.py::test_nothing_on_record_is_lost_when_the_power_fails",
    ),
    Mutation(
        "runrecord/record/writer.py",
        "                sync_folder(folder)\n",
        "                pass\n",
        "runrecord/test_power.py::test_nothing_on_record_is_lost_when_the_power_fails",
    ),
)
"""Each goes by its place among these, from 1 on."""

CAUGHT, SURVIVED, NOT_TRIED = "caught", "SURVIVED", "NOT TRIED"


def mutated(text: str, mutation: Mutation) -> str:
    """A file's text with the fault in it.

    Raises:
        ValueError: its text is not in the file exactly once.
    """
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(
            f"src/{mutation.file} has {mutation.old!r} {count} times, not once; point the mutation "
            "at what the code is now"
        )
    return text.replace(mutation.old, mutation.new)


def attempt(mutation: Mutation, checkout: Path) -> tuple[str, str]:
    """Run the tests of a mutation on a checkout with it, and leave the checkout as it was.

    Returns what became of it and, of one that is caught, the test that failed first.
    """
    path = checkout / "src" / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(mutated(text, mutation), encoding="utf-8")
    try:
        done = _pytest(checkout, mutation.tests.split())
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode == 1:
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
        return CAUGHT, failed[1] if failed else mutation.tests
    if done.returncode == 0 and re.search(r"^\d+ passed", done.stdout, re.MULTILINE):
        return SURVIVED, mutation.tests
    print(done.stdout, done.stderr, file=sys.stderr)
    return NOT_TRIED, mutation.tests


def _pytest(checkout: Path, tests: list[str]) -> "subprocess.CompletedProcess[str]":
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-ra", *(f"tests/{name}" for name in tests)],
        cwd=checkout,
        env=own | {"PYTHONPATH": str(checkout / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of a checkout's files, in a Git repository of their own."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        checkout = Path(folder).resolve() / "checkout"
        for name in filter(None, names.split("\0")):
            if (root / name).is_file():
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, checkout / name)
        subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
        subprocess.run(["git", "add", "--all"], cwd=checkout, check=True)
        yield checkout


def table(mutations: Mapping[int, Mutation], root: Path) -> int:
    """Print what became of each, by its number; how many were not caught."""
    missed = 0
    print("| mutation | of | test | outcome |\n|---|---|---|---|", flush=True)
    with copied(root) as checkout:
        for number, one in mutations.items():
            outcome, test = attempt(one, checkout)
            missed += outcome != CAUGHT
            print(f"| {number} | {one.file} | {test} | {outcome} |", flush=True)
    return missed


def main() -> int:
    """Try mutations; 1 if one is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", type=int, nargs="*")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    every = dict(enumerate(MUTATIONS, start=1))
    if not given.all and not given.numbers:
        for number, one in every.items():
            print(f"{number:3}  {one.file}: {one.old.strip()}  ->  {one.new.strip()}")
        return 0
    wanted = every if given.all else {number: every[number] for number in given.numbers}
    missed = table(wanted, ROOT)
    print(f"{len(wanted)} mutations, {len(wanted) - missed} caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
