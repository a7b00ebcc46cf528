"""The part of the report on what the results were made with."""

import argparse
from datetime import UTC, datetime

from common.stages import ARM_OF
from evaluation.report.format import arm_name, short, value_text
from evaluation.report.page import Html, described, el, fold, html_table, joined
from evaluation.scoring.results import METRICS
from evaluation.study.comparability import Result
from evaluation.study.evidence import Evidence


def shared_values(results: list[Result], key: str) -> str | None:
    """What the runs say of ``key``; where they differ, each value with the number of its runs."""
    values = [value_text(value) for result in results if (value := result.run.get(key)) is not None]
    counts = {value: values.count(value) for value in values}
    if len(counts) < 2:
        return next(iter(counts), None)
    return "; ".join(f"{value} ({number} runs)" for value, number in counts.items())


def provenance(evidence: Evidence, args: argparse.Namespace) -> list[Html]:
    """Commands, commits, versions, devices and settings, and a table of all runs."""
    last = [result for scores in evidence.arms.values() for result in scores.last.values()]
    settings = last[0].run["settings"]
    pairs = [[name, value_text(value)] for name, value in settings.items()]
    rows = []
    for result in last:
        written = datetime.fromtimestamp((result.folder / METRICS).stat().st_mtime, UTC)
        rows.append(
            [
                arm_name(ARM_OF[result.arm]),
                result.seed,
                el("code", short(result.tiles.checkpoint_digest), class_="nowrap"),
                el("code", short(result.run["git_commit"]), class_="nowrap") if result.run.get("git_commit") else "-",
                f"{result.metrics['cumulative_steps']:,}",
                el("span", f"{written:%Y-%m-%d %H:%M}", class_="nowrap"),
                el("code", result.run.get("command", "-")),
            ]
        )
    digests = [result.tiles.split_digest for result in last]
    header = ["arm", "seed", "last.pt", "commit", "steps", "scored, UTC", "trained by"]
    return [
        described(
            {
                "this report": joined([el("code", args.command), f", {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"]),
                "scored by": shared_commands(last),
                "val tiles": joined((el("code", digest) for digest in dict.fromkeys(digests)), "<br>"),
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
    """The commands that scored the results; None where none is recorded."""
    commands = dict.fromkeys(r.metrics["command"] for r in results if r.metrics.get("command"))
    return joined((el("code", command) for command in commands), "<br>") if commands else None
