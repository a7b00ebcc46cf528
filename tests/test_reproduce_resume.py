"""reproduce.py goes on: what was finished is skipped, what was interrupted is continued, what builds on either runs."""

from tests.small_pipeline import wait

RESUMABLE = (
    "parser.add_seed(); g = parser.add_mutually_exclusive_group();"
    "[g.add_argument(flag, action='store_true') for flag in ('--overwrite', '--resume')]"
)


def test_an_interrupted_stage_is_resumed_and_what_comes_after_it_replaces_what_an_earlier_run_left(pipeline):
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.run("--root", "demo")
    pipeline.module("train.stage1", flags=RESUMABLE, body="raise KeyboardInterrupt")
    hint = "python reproduce.py --root demo --overwrite --resume"
    assert f"{hint}\n" in pipeline.run("--root", "demo", "--overwrite", status=130).err
    assert [row[4] for row in pipeline.summary()] == ["exit_status", "0", "130", "outdated", "outdated", "outdated"]
    pipeline.module("train.stage1", flags=RESUMABLE)
    pipeline.forget()
    pipeline.run(*hint.split()[2:])
    assert pipeline.ran_briefly() == [
        "train.stage1 --resume", "train.stage2 --overwrite", "train.score --split val", "train.score --split test",
    ]  # fmt: skip


def test_from_with_resume_continues_the_stage_that_is_named(pipeline):
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.run("--root", "demo", "--from", "stage1", "--to", "stage1", "--resume")
    assert pipeline.ran_briefly() == ["train.stage1 --resume"]


def test_resume_skips_what_was_finished_and_adds_seeds_and_controls(pipeline):
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.run("--root", "demo")  # seed 42, the default
    pipeline.forget()
    out = pipeline.run("--root", "demo", "--seeds", "42", "43", "--controls", "--jobs", "1", "--resume").out
    assert pipeline.ran_briefly() == [
        "train.control --seed 42",
        "train.stage1 --seed 43 --resume",
        "train.stage2 --seed 43 --resume",
        "train.control --seed 43",
        "train.score --split val --seed 42",
        "train.score --split test --seed 42",
    ]
    assert "Skipped 3 steps that were finished before\n" in out and "[4/9] control seed 42" in out
    pipeline.forget()
    out = pipeline.run("--root", "demo", "--seeds", "42", "43", "--controls", "--workers", "0", "--resume").out
    assert pipeline.ran() == [] and "nothing is left to run" in out
    assert [(row[0], row[2]) for row in pipeline.summary()[1:]] == [
        ("split", ""), ("stage1", "42"), ("stage2", "42"), ("control", "42"),
        ("stage1", "43"), ("stage2", "43"), ("control", "43"), ("score-val", ""), ("score-test", ""),
    ]  # fmt: skip


def test_resume_runs_what_builds_on_a_step_that_runs(pipeline):
    pipeline.two_stages()
    pipeline.run("--root", "demo", "--seeds", "1", "2")
    pipeline.run("--root", "demo", "--seeds", "1", "--from", "stage1", "--to", "stage1", "--overwrite")
    pipeline.forget()
    refused = pipeline.run("--root", "demo", "--seeds", "1", "2", "--from", "split", status=2).err
    assert "stage1 of seed 1 was finished by" in refused and "with --resume" in refused
    assert pipeline.ran() == []
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--resume")
    assert pipeline.ran_briefly() == [
        "train.stage2 --seed 1", "train.score --split val --seed 1", "train.score --split test --seed 1",
    ]  # fmt: skip


def test_resume_runs_a_step_again_whose_command_changed_where_it_may_replace_its_output(pipeline):
    pipeline.two_stages(flags=f"{RESUMABLE}; parser.add_argument('--preset')")
    pipeline.run("--root", "demo", "--preset", "laptop")
    pipeline.forget()
    error = pipeline.run("--root", "demo", "--preset", "demo", "--resume", status=2).err
    assert "stage1 of seed 42 was finished by\n    python -m train.stage1 --root demo --preset laptop\n" in error
    assert "    python -m train.stage1 --root demo --preset demo\n" in error and "--overwrite" in error
    assert pipeline.ran() == []
    pipeline.run("--root", "demo", "--preset", "demo", "--resume", "--overwrite")
    assert pipeline.ran_briefly() == [
        "train.stage1 --preset demo --overwrite", "train.stage2 --preset demo --overwrite",
        "train.score --split val", "train.score --split test",
    ]  # fmt: skip


def test_a_step_that_nobody_saw_end_is_continued(pipeline):
    pipeline.two_stages("(args.root / 'began').touch(); time.sleep(60)", flags=RESUMABLE)
    process = pipeline.start("--root", "demo", "--overwrite")
    wait(lambda: (pipeline.folder / "demo" / "began").exists())
    process.kill()
    process.communicate()
    assert pipeline.summary()[2][4] == "running"
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.forget()
    pipeline.run("--root", "demo", "--overwrite", "--resume")
    assert pipeline.ran_briefly()[0] == "train.stage1 --resume"
