"""The parts of the report on the test split, and on what the results were made with."""

from datetime import UTC, datetime
from pathlib import Path

from common.cli import command_for
from common.errors import UserError
from common.files import read_json
from common.stages import ARM_OF, FINAL_STAGE
from evaluation.report.format import hundredths, short, told
from evaluation.report.page import Html, el, facts_list, figure, flat, fold, html_table, joined, missing
from evaluation.scoring.results import METRICS, seed_folders, shared_blocks_note
from evaluation.scoring.test_log import read_test_log
from evaluation.study.comparability import Result
from evaluation.study.evidence import KEYS, Evidence
from evaluation.study.wording import starred


def scores_on_test(seed: int, folder: Path, evidence: Evidence) -> Html:
    facts = read_json(folder / METRICS, "python -m evaluation.compute_metrics --split test")
    try:
        names, minority = facts["classes"], facts.get("minority_classes") or []
        means = {key: hundredths(facts[key]) for key in KEYS}
        rows = [
            [
                starred(name, minority),
                *(hundredths(of[key]) for key in ("IoU", "F1", "precision", "recall")),
                f"{of['pixels']:,}",
            ]
            for name, of in names.items()
        ]
        split, absent, note = facts["split_facts"], facts["absent"], shared_blocks_note("test", facts["split_facts"])
    except (KeyError, TypeError):
        raise UserError(f"{folder / METRICS} is not of this project.") from None
    final = evidence.arms.get(FINAL_STAGE)
    beside = final.best.get(seed) if final else None
    same = None
    if beside:
        same = f"on val it has mIoU {hundredths(beside.scores['mIoU'])}, where it was chosen"
        if beside.tiles.checkpoint_digest != facts.get("checkpoint_digest"):
            same = f"best.pt on val is another checkpoint by now, with mIoU {hundredths(beside.scores['mIoU'])}"
    about = f"{flat(ARM_OF[FINAL_STAGE])}, seed {seed}, best.pt on test"
    pictures = [
        figure(folder / "confusion_matrix.png", f"Confusion matrix of {about}."),
        figure(folder / "reliability_diagram.png", f"Reliability diagram of {about}: accuracy against confidence."),
    ]
    by_class = html_table("Test, by class, %", ["class", "IoU", "F1", "precision", "recall", "pixels"], rows)
    return joined(
        [
            el(
                "p",
                el("strong", f"mIoU {means['mIoU']}, mF1 {means['mF1']}, OA {means['OA']} %"),
                f" for best.pt of stage {flat(ARM_OF[FINAL_STAGE])}, seed {seed}, on {split['tiles']} tiles in "
                f"{split['blocks']} blocks" + (f"; {same}." if same else "."),
                class_="lead",
            ),
            el("p", note) if note else None,
            el("p", f"Not in test, so not scored: {', '.join(absent)}.") if absent else None,
            el("div", by_class, *pictures, class_="pictures"),
        ]
    )


def on_test(evidence: Evidence, args) -> list:
    """The final stage on test, apart from the ranking, and how often test was used."""
    folders = [(s, f) for s, f in seed_folders(args.test_dir / FINAL_STAGE) if (f / METRICS).is_file()]
    entries = read_test_log(args.test_dir / "test_log.jsonl")
    command = command_for("evaluation.compute_metrics", args) + " --split test"
    if not folders and not entries:
        return [missing("The test split was not used yet", command)]
    header = ["when", "checkpoint", "seed", "mIoU", "mF1", "OA", "reason", "command"]
    rows = [
        [
            el("span", entry["time"].replace("T", " ").replace("+00:00", " UTC"), class_="nowrap"),
            el("code", short(entry["checkpoint_digest"]), class_="nowrap"),
            entry["seed"],
            *(hundredths(entry["metrics"].get(key)) for key in KEYS),
            entry.get("reason") or "-",
            el("code", entry["command"]),
        ]
        for entry in entries
    ]
    checkpoints = len({entry["checkpoint_digest"] for entry in entries})
    used = f"The test split was used {'once' if len(entries) == 1 else f'{len(entries)} times'}"
    used += (
        f", with {checkpoints} checkpoints: its scores are no longer those of a first look." if checkpoints > 1 else "."
    )
    return [
        el("p", "No part of the ranking: no stage was chosen by it."),
        el(
            "div",
            *(scores_on_test(seed, folder, evidence) for seed, folder in folders),
            None if folders else missing("The files of the result are not there", command),
            el("p", used) if entries else missing("The log of its use is not there", command),
            html_table("Uses of the test split", header, rows, text=header) if rows else None,
            class_="test",
        ),
    ]


def shared_values(results: list[Result], key: str) -> str | None:
    """What the runs say of ``key``; where they differ, each value with the number of its runs."""
    values = [told(value) for result in results if (value := result.run.get(key)) is not None]
    counts = {value: values.count(value) for value in values}
    if len(counts) < 2:
        return next(iter(counts), None)
    return "; ".join(f"{value} ({number} runs)" for value, number in counts.items())


def provenance(evidence: Evidence, args) -> list:
    last = [result for scores in evidence.arms.values() for result in scores.last.values()]
    settings = last[0].run["settings"]
    pairs = [[name, told(value)] for name, value in settings.items()]
    rows = []
    for result in last:
        written = datetime.fromtimestamp((result.folder / METRICS).stat().st_mtime, UTC)
        rows.append(
            [
                flat(ARM_OF[result.arm]),
                result.seed,
                el("code", short(result.tiles.checkpoint_digest), class_="nowrap"),
                el("code", short(result.run["git_commit"]), class_="nowrap") if result.run.get("git_commit") else "-",
                f"{result.facts['cumulative_steps']:,}",
                el("span", f"{written:%Y-%m-%d %H:%M}", class_="nowrap"),
                el("code", result.run.get("command", "-")),
            ]
        )
    header = ["arm", "seed", "last.pt", "commit", "steps", "scored, UTC", "trained by"]
    return [
        facts_list(
            {
                "this report": joined([el("code", args.command), f", {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"]),
                "scored by": shared_commands(last),
                "val tiles": el("code", evidence.results[0].tiles.split_digest),
                "seeds": ", ".join(map(str, evidence.seeds)),
                "preset": shared_values(last, "preset"),
                "commits trained with": shared_values(last, "git_commit"),
                "versions": shared_values(last, "versions"),
                "devices": shared_values(last, "device"),
            }
        ),
        fold(
            el("h3", "Settings that all arms share"),
            html_table("Every arm was trained with these", ["setting", "value"], pairs, text=("value",)),
        ),
        fold(
            el("h3", f"Runs and checkpoints ({len(rows)})"),
            html_table("last.pt of every run", header, rows, text=("last.pt", "commit", "scored, UTC", "trained by")),
        ),
    ]


def shared_commands(results: list[Result]) -> Html | None:
    commands = dict.fromkeys(r.facts["command"] for r in results if r.facts.get("command"))
    return joined((el("code", command) for command in commands), "<br>") if commands else None
