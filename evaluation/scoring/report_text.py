"""The report of one evaluation as plain text."""

from common.stages import ARM_OF
from common.text import percent, starred, table
from evaluation.scoring.results import shared_blocks_note


def heading(metrics: dict, checkpoints: str | None = None) -> str:
    """One line that says whose scores these are; ``checkpoints`` if they are not of ``which`` alone."""
    arm = ARM_OF[metrics["stage"]]
    kind = "Stage" if arm.number else f"{arm.kind.capitalize()}:"
    return (
        f"{kind} {arm.title}, seed {metrics['seed']}, {checkpoints or metrics['which'] + '.pt'} on {metrics['split']}"
    )


def describe_confidence(metrics: dict) -> str:
    """Whether the network is too sure of itself, or not sure enough, over all labelled pixels."""
    confidence, accuracy = metrics["calibration"]["mean_confidence"], metrics["OA"]
    excess = round(100 * (confidence - accuracy), 1)
    verdict = f"{'over' if excess > 0 else 'under'}-confident by {abs(excess)} points" if excess else "no difference"
    return f"mean confidence {percent(confidence)}, OA {percent(accuracy)}: {verdict}"


def report(metrics: dict) -> str:
    """evaluation_report.txt: the scores, by class, and what a reader must know of them."""
    split, total = metrics["split_facts"], metrics["labelled_pixels"]
    boundary, calibration = metrics["boundary"], metrics["calibration"]
    minority = metrics["minority_classes"] or []
    rows = [
        [
            starred(name, minority),
            *(percent(values[key]) for key in ("IoU", "F1", "precision", "recall")),
            percent(boundary["classes"][name]),
            f"{values['pixels']:,}",
            percent(values["pixels"] / total, 2),
        ]
        for name, values in metrics["classes"].items()
    ]
    overall = [[key, percent(metrics[key], 2)] for key in ("mIoU", "mF1", "OA")]
    if metrics["minority_mIoU"] is not None:
        overall.append(["mIoU of the minority classes", percent(metrics["minority_mIoU"], 2)])
    if boundary["mIoU"] is not None:
        overall.append(["boundary mIoU", percent(boundary["mIoU"], 2)])
    overall.append(["ECE", percent(calibration["ECE"], 2)])
    void = metrics["taxonomy"]["classes"][0]
    notes = [
        f"mIoU and mF1 are means over {', '.join(metrics['classes_averaged'])}; OA is the share of labelled pixels "
        "that are right.",
        f"boundary IoU counts only pixels within {percent(boundary['distance_share'], 0)} of the tile's diagonal of "
        "the contours of their class, so that it says how well outlines are met.",
        "ECE, the expected calibration error, is how far on average the confidence of a prediction is from the share "
        f"of such predictions that is right, in {calibration['bins']} bins; {describe_confidence(metrics)}.",
        f"{void} is unlabelled: its {metrics['void_pixels']:,} pixels count nowhere, and it is never predicted.",
    ]
    if minority:
        notes.append("* minority class of train")
    if metrics["absent"]:
        notes.append(f"Not in the truth of this split, so neither scored nor averaged: {', '.join(metrics['absent'])}.")
    if metrics["which"] == "best" and metrics["split"] == "val":
        notes.append(
            "best.pt was chosen on val, so that its scores on val are too high; stages are compared by last.pt."
        )
    shared = shared_blocks_note(metrics["split"], split)
    if shared:
        notes.append(shared)
    split_by = f", split by {split['strategy']}" if split["strategy"] else ""
    own = (
        f"step {metrics['step']:,} of {metrics['iterations']:,}; " if metrics["iterations"] else "not trained itself; "
    )
    lines = [
        heading(metrics),
        "",
        f"{own}{metrics['cumulative_steps']:,} steps with those of its ancestors",
        f"{metrics['arch']}, {metrics['encoder']}",
        f"{split['tiles']} tiles in {split['blocks']} spatial blocks{split_by}; {total:,} labelled pixels",
        "",
        table(["", metrics["split"]], overall),
        "",
        table(["class", "IoU", "F1", "precision", "recall", "boundary IoU", "pixels", "share"], rows),
        "",
        *notes,
        "",
        f"checkpoint {metrics['checkpoint_digest']}",
        f"{metrics['split']:<10} {metrics['split_digest']}",
        f"command    {metrics['command']}",
    ]
    return "\n".join(lines) + "\n"
