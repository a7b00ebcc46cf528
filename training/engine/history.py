"""What a run wrote down at each validation, as a table and as curves."""

import csv
import io

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.figures import new_figure
from common.taxonomy import Taxonomy


def history_row(step: int, losses: dict[str, float], lr: float, metrics: dict, taxonomy: Taxonomy) -> dict:
    """One row: step, losses since the last row, learning rate, mIoU, mF1, OA, and IoU of each class that occurs."""
    ious = {f"IoU {name}": metrics["classes"].get(name, {}).get("IoU") for name in taxonomy.foreground}
    return {"step": step, **losses, "lr": lr, **{key: metrics[key] for key in ("mIoU", "mF1", "OA")}, **ious}


def validation_line(row: dict, taxonomy: Taxonomy) -> str:
    """A row in one line for the terminal."""

    def percent(value: float | None) -> str:
        return "  -  " if value is None else f"{value:5.1%}"

    overall = "  ".join(f"{key} {percent(row[key])}" for key in ("mIoU", "mF1", "OA"))
    classes = "  ".join(f"{name} {percent(row[f'IoU {name}'])}" for name in taxonomy.foreground)
    return f"step {row['step']:>6}  loss {row['loss']:.3f}  val {overall}  |  IoU {classes}"


def history_text(rows: list[dict]) -> str:
    """Rows as comma-separated text under a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def history_figure(rows: list[dict], taxonomy: Taxonomy, title: str) -> Figure:
    """The loss, the three metrics and the IoU of each class over the optimizer steps."""
    steps = [row["step"] for row in rows]
    columns = list(rows[0])
    loss_names = columns[1 : columns.index("lr")]
    figure = new_figure(13, 3.8)
    loss, overall, classes = figure.subplots(1, 3)
    figure.suptitle(title)
    for name in loss_names:
        loss.plot(steps, [row[name] for row in rows], marker=".", label=name)
    loss.set(title="Training loss since the last validation", ylim=(0, None))
    for name in ("mIoU", "mF1", "OA"):
        overall.plot(steps, [row[name] for row in rows], marker=".", label=name)
    overall.set(title="Validation", ylim=(0, 1))
    for name, color in zip(taxonomy.foreground, taxonomy.colors[1:], strict=True):
        values = [row[f"IoU {name}"] for row in rows]
        if values[-1] is not None:
            classes.plot(steps, values, marker=".", color=color, label=name)
    classes.set(title="Validation IoU by class", ylim=(0, 1))
    for axes in (overall, classes):
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (loss, overall, classes):
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure
