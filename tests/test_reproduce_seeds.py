"""reproduce.py with several seeds: what runs once, what runs for each, and what runs side by side."""

import signal
from types import SimpleNamespace

import pytest

from reproduction.documents import read_steps
from reproduction.jobs import cpu_count
from reproduction.plan import RUN_PER_SEED, next_run, plan
from tests.small_pipeline import alive, step, wait


def test_seeds_are_trained_one_after_the_other_and_everything_else_runs_once_with_the_first(pipeline):
    pipeline.two_stages()
    commands = pipeline.run("--root", "demo", "--seeds", "7", "3", "--controls", "--dry-run").out.splitlines()
    out = pipeline.run("--root", "demo", "--seeds", "7", "3", "--controls").out
    assert pipeline.ran_briefly() == [
        "prep.split",
        *(f"train.{name} --seed 7" for name in ("stage1", "stage2", "control")),
        *(f"train.{name} --seed 3" for name in ("stage1", "stage2", "control")),
        "train.score --split val --seed 7",
        "train.score --split test --seed 7",
    ]
    assert [f"python -m {line}" for line in pipeline.ran()] == commands
    assert "[5/9] stage1 seed 3: Baseline  (elapsed" in out
    logs = pipeline.folder / "demo" / "logs"
    assert sorted(str(path.relative_to(logs)) for path in logs.rglob("*.log")) == [
        "01_split.log", "05_score-val.log", "06_score-test.log",
        *(f"seed{seed}/{name}.log" for seed in "37" for name in ("02_stage1", "03_stage2", "04_control")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1", "--seeds", "1", "2"], "not allowed with"),
        (["--seeds", "1", "2", "1"], "--seeds: 1 2 1 holds a seed twice"),
        (["--seeds", "1", "two"], "'two' is not a whole number"),
        (["--jobs", "0"], "--jobs: '0' is not a whole number above 0"),
    ],
)
def test_seeds_and_jobs_that_mean_nothing_are_refused(pipeline, flags, message):
    assert message in pipeline.run(*flags, status=2).err
    assert pipeline.ran() == []


def test_a_training_step_that_takes_no_seed_is_refused_with_several(pipeline):
    pipeline.two_stages(flags="pass")
    error = pipeline.run("--root", "demo", "--seeds", "1", "2", status=2).err
    assert "step 1 (Baseline): it takes no --seed" in error


EVENTS = """def event(what):
        with (args.root / 'events.txt').open('a') as out:
            print(what, __spec__.name[6:], args.seed, file=out)
    def events():
        return (args.root / 'events.txt').read_text().splitlines()
    event('begin')
    {between}
    event('end')"""


def events(pipeline) -> list[tuple[str, str, str]]:
    return [tuple(line.split()) for line in (pipeline.folder / "demo" / "events.txt").read_text().splitlines()]


def test_two_seeds_run_side_by_side_and_the_steps_of_each_in_order(pipeline):
    meet = """until = time.monotonic() + 20
    while 'stage2' in __spec__.name and f'begin stage2 {3 - args.seed}' not in events():
        assert time.monotonic() < until, 'waited in vain for the other seed'
        time.sleep(0.02)"""
    pipeline.two_stages(EVENTS.format(between=meet))
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--jobs", "2")
    seen, running, most = events(pipeline), set(), 0
    for what, name, seed in seen:
        if what == "begin":
            assert seed not in {other for _, other in running}
            running.add((name, seed))
        else:
            running.remove((name, seed))
        most = max(most, len(running))
    assert most == 2 and len(seen) == 8
    for seed in "12":
        assert [(what, name) for what, name, other in seen if other == seed] == [
            ("begin", "stage1"), ("end", "stage1"), ("begin", "stage2"), ("end", "stage2"),
        ]  # fmt: skip
    assert [line.split()[0] for line in pipeline.ran()[:1] + pipeline.ran()[-2:]] == [
        "prep.split", "train.score", "train.score",
    ]  # fmt: skip


def test_independent_steps_of_one_seed_run_side_by_side(pipeline):
    meet = """until = time.monotonic() + 20
    while not {'begin stage1 1', 'begin stage2 1'} <= set(events()):
        assert time.monotonic() < until, 'waited in vain for the other step'
        time.sleep(0.02)"""
    pipeline.two_stages(EVENTS.format(between=meet))
    path = pipeline.folder / "REPRODUCE_TRAINING.md"
    path.write_text(path.read_text().replace("What it does.", "- Needs: nothing.", 2))
    pipeline.run("--root", "demo", "--seeds", "1", "--jobs", "2")
    assert len(events(pipeline)) == 4


def test_a_free_place_goes_to_the_idle_seed_with_most_steps_left(pipeline):
    controls = (
        step(n, f"Control {n} (control)", f"python -m train.{name}") for n, name in [(2, "control"), (3, "score")]
    )
    pipeline.document("REPRODUCE_TRAINING.md", step(1, "Baseline", "python -m train.stage1"), *controls)
    steps = [one for one in read_steps(pipeline.folder) if one.document == RUN_PER_SEED]
    waiting, running, order = plan(steps, ["1", "2", "3"]), [], []
    while waiting or running:
        while run := next_run(waiting, [job.run for job in running], 2):
            waiting.remove(run)
            running.append(SimpleNamespace(run=run))
            order.append((run.step.number, run.seed))
        assert len(running) <= 2
        running.pop(0)  # the one that began first ends first
    assert order == [(number, seed) for number in (1, 2, 3) for seed in "123"]


def test_steps_side_by_side_share_the_cores_unless_the_user_says_otherwise(pipeline, monkeypatch):
    pipeline.two_stages("import os; print('threads', os.environ.get('OMP_NUM_THREADS'))")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--to", "stage1", "--jobs", "2")
    assert f"threads {max(1, cpu_count() // 2)}\n" in pipeline.log("seed2/02_stage1")
    pipeline.run("--root", "demo", "--seed", "1", "--to", "stage1", "--overwrite")
    assert "threads None\n" in pipeline.log("seed1/02_stage1")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--to", "stage1", "--jobs", "2", "--overwrite")
    assert "threads 5\n" in pipeline.log("seed1/02_stage1")


def test_one_seed_fails_and_the_other_ends_its_step(pipeline):
    between = """while len(events()) < 2:
        time.sleep(0.02)
    if args.seed == 1:
        raise UserError('no memory left')
    time.sleep(0.5)"""
    pipeline.two_stages(EVENTS.format(between=between))
    failed = pipeline.run("--root", "demo", "--seeds", "1", "2", "--jobs", "2", status=2)
    assert ("end", "stage1", "2") in events(pipeline) and not any(name == "stage2" for _, name, _ in events(pipeline))
    assert "Waiting for the steps that still run: stage1 seed 2" in failed.out
    assert "stage1 seed 1, ended with exit status 2" in failed.err and "error: no memory left" in failed.err
    assert failed.err.count("To go on from here") == 1
    assert [(row[0], row[2], row[4]) for row in pipeline.summary()[1:]] == [
        ("split", "", "0"), ("stage1", "1", "2"), ("stage1", "2", "0"),
    ]  # fmt: skip
    pipeline.two_stages()
    pipeline.forget()
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--jobs", "2", "--resume")
    assert sorted(pipeline.ran_briefly()[:3]) == [
        "train.stage1 --seed 1", "train.stage2 --seed 1", "train.stage2 --seed 2",
    ]  # fmt: skip


def test_an_interrupt_stops_all_that_run(pipeline):
    body = "import os; (args.root / f'pid{args.seed}').write_text(str(os.getpid())); time.sleep(60)"
    pipeline.two_stages(body)
    process = pipeline.start("--root", "demo", "--seeds", "1", "2", "--jobs", "2")
    pids = [pipeline.folder / "demo" / f"pid{seed}" for seed in (1, 2)]
    wait(lambda: all(pid.exists() and pid.read_text() for pid in pids))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--seeds 1 2 --jobs 2 --resume\n" in err and "Traceback" not in err
    assert all(f"stage1 seed {seed}, ended with exit status 130" in err for seed in (1, 2))
    assert not any(alive(int(pid.read_text())) for pid in pids)
    assert [row[4] for row in pipeline.summary()[1:]] == ["0", "130", "130"]
