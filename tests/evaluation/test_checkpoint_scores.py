"""What is scored, kept, replaced and refused, with counts made up for each checkpoint in place of its predictions."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from common.checkpoints import UnfinishedRun
from common.errors import UserError
from common.files import write_json
from common.stages import STAGE_NAMES
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from evaluation import compute_metrics
from evaluation.scoring import agreement, all_runs, final_stage, write
from evaluation.scoring.predicted_classes import new_predicted_classes
from evaluation.scoring.results import TileCounts
from tests.helpers import made, quiet

ONE, TWO, THREE, SIX = (STAGE_NAMES[i] for i in (0, 1, 2, 6))
RESULTS = "evaluation/evaluation_results"
RIGHT = {"last": 0.5, "best": 0.75}  # share of each class that is right, by the name of the checkpoint
TAKEN_FOR = [0, 2, 3, 4, 5, 1]  # where the others go


class Scorer:
    """Stands for checkpoints and networks: which there are, and how often each was run on tiles."""

    def __init__(self, root):
        self.root, self.digests, self.refused, self.opened, self.evaluated = root, {}, {}, [], []

    def add(self, stage, seed, last="l", best="b"):
        folder = self.root / "model_weights/biodiversity" / stage / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", {"run": f"{stage} {seed}"})
        for which, digest in (("last", last), ("best", best)):
            self.digests[folder / f"{which}.pt"] = f"{digest} of {stage} {seed}"
        return folder

    def open_to_score(self, source, stage, seed, tiles):
        path = source.path
        self.opened.append((path.name, stage, seed, tiles.split, str(source.made_by)))
        if path in self.refused:
            raise self.refused[path]
        metadata = {"stage": stage, "seed": seed, "step": 20, "iterations": 20, "cumulative_steps": 40}
        metadata |= {"arch": "unet", "encoder": "resnet18"}
        return SimpleNamespace(path=path, digest=self.digests[path], metadata=metadata), None

    def evaluate(self, checkpoint, model, setting, predicted=None):
        digest = checkpoint.digest
        facts = {"tile_ids": setting.tiles.ids, "split_digest": setting.tiles.digest, "checkpoint_digest": digest}
        if predicted:
            with new_predicted_classes(predicted, **facts) as keep:
                for place, tile in enumerate(setting.tiles):
                    keep(place, np.where(tile.read_mask() > 3, 1, 2).astype(np.uint8))
        self.evaluated.append((checkpoint.path.parent.parent.name, checkpoint.path.name, digest, setting.tiles.split))
        share = RIGHT[checkpoint.path.stem]
        counts = np.zeros((len(setting.tiles), 6, 6), np.int64)
        for place, tile in enumerate(setting.tiles):
            for label in range(1, 6):
                right = int(share * tile.pixels[label])
                counts[place, label, label] = right
                counts[place, label, TAKEN_FOR[label]] = tile.pixels[label] - right
            counts[place, 0, 1] = tile.pixels[0]
        blocks = [tile.block for tile in setting.tiles]
        boundary = np.tile([1, 4], (len(counts), 6, 1))
        bins = np.zeros((len(counts), 15, 3))
        bins[:, 14] = 10, 9.5, 9
        return TileCounts(
            setting.tiles.ids, blocks, counts, list(BIODIVERSITY.classes), setting.tiles.digest, digest, boundary, bins
        )


@pytest.fixture
def scorer(prepared, tmp_path, monkeypatch):
    root = tmp_path / "root"
    for folder in ("data/biodiversity_split", "artifacts"):
        shutil.copytree(prepared / folder, root / folder)
    scorer = Scorer(root)
    for module in (all_runs, final_stage):
        monkeypatch.setattr(module, "open_to_score", scorer.open_to_score)
        monkeypatch.setattr(module, "evaluate", scorer.evaluate)
    monkeypatch.setattr(write, "save_figure", lambda figure, path: path.write_text("a figure"))
    for name in ("confusion_figure", "class_scores_figure", "boundary_figure", "reliability_figure"):
        monkeypatch.setattr(write, name, lambda *_: None)
    return scorer


def score(scorer, *flags) -> str:
    return quiet(compute_metrics.main, "--root", scorer.root, "--device", "cpu", *flags)


def rows(said) -> list[list[str]]:
    return [line.split() for line in said.splitlines() if line.startswith(("stage", "control")) and "mIoU" not in line]


def metrics(scorer, stage, seed, *parts, split="val"):
    folder = scorer.root.joinpath(RESULTS, split, stage, f"seed{seed}", *parts)
    return json.loads((folder / "metrics.json").read_text())


def expected(scorer, share, split="val"):
    """IoU of each class by the pixels of the split alone."""
    tiles = TileSet.open(made(scorer.root / "data/biodiversity_split" / split))
    pixels = np.array([tile.pixels for tile in tiles])
    right = np.floor(share * pixels).sum(axis=0)
    missed = pixels.sum(axis=0) - right
    taken = {TAKEN_FOR[label]: missed[label] for label in range(1, 6)}
    return {
        name: right[i] / (pixels[:, i].sum() + taken[i]) for i, name in enumerate(BIODIVERSITY.classes) if i > 0
    }, pixels


def test_last_and_best_of_each_run_are_scored_each_from_its_own_counts(scorer):
    scorer.add(TWO, 43)
    scorer.add(ONE, 42)
    said = score(scorer)
    assert scorer.opened == [
        (f"{which}.pt", stage, seed, "val", f"python -m training.train_{stage} --root {scorer.root} --seed {seed}")
        for stage, seed in ((ONE, 42), (TWO, 43))
        for which in ("last", "best")
    ]
    assert len(scorer.evaluated) == 4
    minority = json.loads((scorer.root / "artifacts/class_distribution.json").read_text())["minority_classes"]
    assert 0 < len(minority) < 5
    for parts, which in (((), "last"), (("best",), "best")):
        found = metrics(scorer, TWO, 43, *parts)
        ious, pixels = expected(scorer, RIGHT[which])
        assert {name: of["IoU"] for name, of in found["classes"].items()} == pytest.approx(ious)
        assert found["mIoU"] == pytest.approx(np.mean(list(ious.values())))
        assert found["minority_mIoU"] == pytest.approx(np.mean([ious[name] for name in minority]))
        assert found["minority_classes"] == minority and found["classes_averaged"] == list(ious)
        assert (found["stage"], found["seed"], found["which"]) == (TWO, 43, which)
        assert found["checkpoint_digest"] == f"{which[0]} of {TWO} 43" and found["split"] == "val"
        assert (found["step"], found["iterations"], found["cumulative_steps"]) == (20, 20, 40)
        assert found["labelled_pixels"] == pixels[:, 1:].sum() and found["void_pixels"] == pixels[:, 0].sum() > 0
        assert found["boundary"]["classes"] == dict.fromkeys(ious, 0.25)
        assert found["calibration"]["ECE"] == pytest.approx(0.05)
        assert found["split_facts"]["tiles"] == len(pixels)
    (first, second), shown = (
        rows(said),
        [f"{100 * metrics(scorer, TWO, 43)[key]:.1f}%" for key in ("mIoU", "mF1", "OA")],
    )
    best = f"{100 * metrics(scorer, TWO, 43, 'best')['mIoU']:.1f}%"
    assert first[:2] == [ONE, "42"] and second == [TWO, "43", *shown, best, "new"]
    record = scorer.root / RESULTS / "val" / TWO / "seed43"
    assert json.loads((record / "run.json").read_text()) == {"run": f"{TWO} 43"}
    assert json.loads((record / "best/run.json").read_text()) == {"run": f"{TWO} 43"}


def test_only_the_stages_that_are_asked_for_are_scored_and_others_are_not_called_missing(scorer):
    for stage in (ONE, TWO, "control_kd_uniform"):
        scorer.add(stage, 42)
    said = score(scorer, "--stages", TWO, SIX)
    assert {stage for stage, *_ in scorer.evaluated} == {TWO} and f"not run: {SIX}\n" in said
    said = score(scorer)
    assert "control_kd_uniform" in {row[0] for row in rows(said)}
    assert "not run: stage3_difficulty, stage4_minority_crop, stage5a_pretrain, stage5b_finetune, stage6" in said


def test_best_that_is_last_is_predicted_once(scorer):
    scorer.add(ONE, 42, last="same", best="same")
    score(scorer)
    assert [which for _, which, *_ in scorer.evaluated] == ["last.pt"]
    assert metrics(scorer, ONE, 42, "best")["which"] == "best"
    assert metrics(scorer, ONE, 42, "best")["mIoU"] == metrics(scorer, ONE, 42)["mIoU"]
    folder = scorer.root / RESULTS / "val" / ONE / "seed42"
    of_last = {"best", "predicted_classes.npz"}
    assert {path.name for path in folder.iterdir()} == {path.name for path in (folder / "best").iterdir()} | of_last


def said_of(scorer, *flags):
    """What the table says of the results, and how many checkpoints were predicted; what failed instead."""
    scorer.evaluated.clear()
    try:
        said = score(scorer, *flags)
    except UserError as problem:
        return str(problem), len(scorer.evaluated)
    return rows(said)[0][-1], len(scorer.evaluated)


@pytest.mark.parametrize("changed", ["last", "best", "tiles", "minority"])
def test_results_of_something_else_are_replaced_only_when_asked(scorer, changed):
    scorer.add(ONE, 42)
    assert said_of(scorer) == ("new", 2)
    assert said_of(scorer) == ("unchanged", 0)
    if changed in ("last", "best"):
        scorer.add(ONE, 42, **{changed: "trained again"})
    elif changed == "minority":
        path = scorer.root / "artifacts/class_distribution.json"
        write_json(path, json.loads(path.read_text()) | {"minority_classes": ["Forest"]})
    else:
        path = scorer.root / "data/biodiversity_split/val/manifest.json"
        path.write_text(path.read_text().replace(TileSet.open(made(path.parent)).digest, "0" * 64))
    before = metrics(scorer, ONE, 42)
    refused, predicted = said_of(scorer)
    assert "holds results of other checkpoints, tiles or minority classes. Replace them with --overwrite" in refused
    assert predicted == 0 and metrics(scorer, ONE, 42) == before
    assert said_of(scorer, "--overwrite") == ("replaced", 2)
    assert said_of(scorer) == ("unchanged", 0)


@pytest.mark.parametrize("name", ["predicted_classes.npz", "history.csv"])
def test_results_of_last_that_lack_a_file_are_made_again(scorer, name):
    run = scorer.add(ONE, 42)
    (run / "history.csv").write_text("step\n1\n")
    score(scorer)
    path = scorer.root / RESULTS / "val" / ONE / "seed42" / name
    whole = path.read_bytes()
    path.unlink()
    assert said_of(scorer) == ("replaced", 2) and path.read_bytes() == whole
    assert said_of(scorer) == ("unchanged", 0)


@pytest.fixture
def pairs(monkeypatch):
    """How many tiles were compared."""
    compared = []

    def count(truth, mine, theirs, num_classes, original=agreement.pair_counts):
        compared.append(truth.shape)
        return original(truth, mine, theirs, num_classes)

    monkeypatch.setattr(agreement, "pair_counts", count)
    return compared


def agreement_with(scorer, stage, other, seed=42):
    path = scorer.root / RESULTS / "val" / stage / f"seed{seed}" / "agreement.json"
    content = json.loads(path.read_text())
    return content["checkpoint_digest"], content["with"][other]["checkpoint_digest"]


def test_agreement_is_counted_once_for_the_same_two_checkpoints(scorer, pairs):
    for stage, seed in ((ONE, 42), (TWO, 42), (ONE, 43)):
        scorer.add(stage, seed)
    score(scorer)
    tiles = len(TileSet.open(made(scorer.root / "data/biodiversity_split/val")))
    assert len(pairs) == tiles and agreement_with(scorer, TWO, ONE) == (f"l of {TWO} 42", f"l of {ONE} 42")
    score(scorer)
    assert len(pairs) == tiles
    scorer.add(ONE, 42, last="trained again")  # the opponent alone
    score(scorer, "--overwrite", "--stages", ONE)
    assert len(pairs) == 2 * tiles and agreement_with(scorer, TWO, ONE)[1] == f"trained again of {ONE} 42"
    scorer.add(TWO, 42, last="trained again")
    score(scorer, "--overwrite", "--stages", TWO)
    assert len(pairs) == 3 * tiles and agreement_with(scorer, TWO, ONE)[0] == f"trained again of {TWO} 42"
    path = scorer.root / RESULTS / "val" / TWO / "seed42" / "agreement.json"
    for number, content in enumerate(("{}", path.read_text().replace(f"again of {TWO}", "before")), 4):
        path.write_text(content)
        score(scorer)
        assert len(pairs) == number * tiles
        assert agreement_with(scorer, TWO, ONE)[0] == f"trained again of {TWO} 42"
    scorer.add(THREE, 42)
    score(scorer)  # with stage 2 and with stage 1
    assert len(pairs) == 7 * tiles and agreement_with(scorer, THREE, TWO) and agreement_with(scorer, THREE, ONE)
    assert not list((scorer.root / RESULTS).rglob("best/agreement.json"))
    assert not list((scorer.root / RESULTS).glob(f"val/{ONE}/*/agreement.json"))


def test_predictions_that_cannot_be_read_leave_an_arm_out_of_the_agreement(scorer, pairs, capsys):
    for stage in (ONE, TWO):
        scorer.add(stage, 42)
    score(scorer)
    tiles = len(TileSet.open(made(scorer.root / "data/biodiversity_split/val")))
    pairs.clear()
    folder = scorer.root / RESULTS / "val" / TWO / "seed42"
    (folder / "agreement.json").unlink()
    path = folder / "predicted_classes.npz"
    whole = path.read_bytes()
    spoilt = whole.replace(whole[500:600], bytes(100))  # within a tile, so that only reading it tells
    for content, counted in ((b"PK", 0), (spoilt, None), (whole, tiles)):
        path.write_bytes(content)
        compute_metrics.main(["--root", str(scorer.root), "--device", "cpu"])
        warned = capsys.readouterr().err
        assert (f"{path} cannot be read" in warned and "--split val --overwrite" in warned) == (content != whole)
        assert counted in (None, len(pairs))
    assert agreement_with(scorer, TWO, ONE)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_damaged_results_are_refused_and_replaced_by_the_command_that_is_named(scorer, content):
    scorer.add(ONE, 42)
    score(scorer)
    path = scorer.root / RESULTS / "val" / ONE / "seed42" / "metrics.json"
    whole = path.read_text()
    path.write_text(content)
    again = f"python -m evaluation.compute_metrics --root {scorer.root} --split val --overwrite"
    refused, predicted = said_of(scorer)
    assert f"{path} is not " in refused and refused.endswith(f"Write it again: {again}") and predicted == 0
    assert said_of(scorer, *again.split()[5:]) == ("replaced", 2)
    assert path.read_text().replace(" --split val --overwrite", "") == whole


def test_damaged_results_on_test_are_made_again_without_another_use(scorer):
    scorer.add(SIX, 42)
    score(scorer, "--split", "test")
    path = scorer.root / RESULTS / "test" / SIX / "seed42" / "metrics.json"
    path.write_text("{}")
    assert "are restored" in score(scorer, "--split", "test", "--overwrite")
    assert metrics(scorer, SIX, 42, split="test")["seed"] == 42 and len(log(scorer)) == 1


def test_minority_classes_that_are_not_known_have_no_mean(scorer):
    (scorer.root / "artifacts/class_distribution.json").unlink()
    scorer.add(ONE, 42)
    score(scorer)
    found = metrics(scorer, ONE, 42)
    assert found["minority_mIoU"] is None and found["minority_classes"] is None


def test_an_unfinished_run_is_not_scored_at_all(scorer):
    folder = scorer.add(ONE, 42)
    scorer.refused[folder / "best.pt"] = UnfinishedRun("not at its end")
    scorer.add(TWO, 42)
    with pytest.raises(UserError, match="1 checkpoint could not be scored, the others were:\n  not at its end"):
        score(scorer)
    assert not (scorer.root / RESULTS / "val" / ONE).exists() and metrics(scorer, TWO, 42)


# The test split


def test_the_test_split_takes_best_of_the_final_stage_of_the_seed_fixed_beforehand(scorer):
    for seed in (42, 43):
        scorer.add(SIX, seed)
    scorer.add(ONE, 42)
    score(scorer, "--split", "test")
    assert [(name, stage, seed, split) for name, stage, seed, split, _ in scorer.opened] == [
        ("last.pt", SIX, 42, "val"),  # of a finished run under this split
        ("best.pt", SIX, 42, "test"),
    ]
    assert scorer.evaluated == [(SIX, "best.pt", f"b of {SIX} 42", "test")]
    found = metrics(scorer, SIX, 42, split="test")
    ious, _ = expected(scorer, 0.75, "test")
    assert found["mIoU"] == pytest.approx(np.mean(list(ious.values()))) and found["which"] == "best"
    (entry,) = log(scorer)
    assert entry["metrics"] == {key: found[key] for key in ("mIoU", "mF1", "OA")} and entry["seed"] == 42
    assert (entry["stage"], entry["checkpoint_digest"]) == (SIX, f"b of {SIX} 42") and entry["reason"] is None
    assert entry["split_digest"] == found["split_digest"] and "--split test" in entry["command"]


def log(scorer):
    path = scorer.root / RESULTS / "test" / "test_log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_last_that_may_not_be_scored_keeps_best_from_the_test_split(scorer):
    folder = scorer.add(SIX, 42)
    scorer.refused[folder / "last.pt"] = UserError("under another split")
    with pytest.raises(UserError, match="under another split"):
        score(scorer, "--split", "test")
    assert scorer.evaluated == [] and log(scorer) == []


def test_the_same_checkpoint_is_not_predicted_or_recorded_twice(scorer):
    scorer.add(SIX, 42)
    test = ("--split", "test")
    first = score(scorer, *test)
    again = score(scorer, *test, "--overwrite", "--reason", "a second look")
    assert "Evaluated before; nothing was computed." in again and len(scorer.evaluated) == len(log(scorer)) == 1
    assert next(line for line in first.splitlines() if "mIoU" in line) in again
    shutil.rmtree(scorer.root / RESULTS / "test" / SIX)
    assert "its files were missing and are restored" in score(scorer, *test)
    assert len(scorer.evaluated) == 2 and len(log(scorer)) == 1 and metrics(scorer, SIX, 42, split="test")


def test_another_checkpoint_needs_a_reason_each_time_and_each_use_is_recorded(scorer):
    test = ("--split", "test", "--overwrite")
    for number, reason in enumerate((None, "a defect", "another defect")):
        scorer.add(SIX, 42, best=f"best {number}")
        if reason:
            with pytest.raises(UserError, match=rf"has been used \({number} in .*another checkpoint"):
                score(scorer, *test)
        score(scorer, *test, *(("--reason", reason) if reason else ()))
    assert [entry["reason"] for entry in log(scorer)] == [None, "a defect", "another defect"]
    assert [entry["checkpoint_digest"] for entry in log(scorer)] == [f"best {n} of {SIX} 42" for n in range(3)]
    scorer.add(SIX, 42, best="best 1")  # was recorded as the second of three
    shown = score(scorer, *test)
    assert "a defect" in shown and "another defect" not in shown and len(log(scorer)) == 3
    scorer.add(SIX, 43)
    with pytest.raises(UserError, match="has been used"):  # another seed is another checkpoint
        score(scorer, "--split", "test", "--seed", "43")


def test_no_score_on_test_can_be_read_that_is_not_recorded(scorer, monkeypatch):
    def full(path, entry):
        raise OSError("no space left")

    scorer.add(SIX, 42)
    monkeypatch.setattr(final_stage, "append_log", full)
    with pytest.raises(OSError, match="no space left"):
        score(scorer, "--split", "test")
    assert not list((scorer.root / RESULTS).rglob("metrics.json")) and log(scorer) == []


def test_a_damaged_log_stops_the_use_of_the_test_split(scorer):
    scorer.add(SIX, 42)
    path = scorer.root / RESULTS / "test" / "test_log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    with pytest.raises(UserError, match="is damaged"):
        score(scorer, "--split", "test")
    assert scorer.evaluated == [] and path.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "test", "--stages", ONE), "the test split is for stage6_distill alone"),
        (("--reason", "x"), "--reason is for --split test"),
        (("--split", "test", "--reason", "  "), "--reason is empty"),
        (("--split", "train"), "invalid choice"),
        (("--seed", "-1"), "whole number of 0 or more"),
    ],
)
def test_flags_that_would_open_the_test_split_to_more_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        compute_metrics.parse_args(list(flags))
    assert message in capsys.readouterr().err


def test_by_default_val_is_scored_and_seed_42_goes_to_test():
    args = compute_metrics.parse_args([])
    assert (args.split, args.seed, args.reason, args.stages) == ("val", 42, None, None)
    assert args.data_dir.path.parts[-2:] == ("biodiversity_split", "val") and args.out_dir.name == "val"
    assert compute_metrics.parse_args(["--split", "test"]).data_dir.path.name == "test"


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_a_label_is_not_scored(scorer, split):
    scorer.add(SIX, 42)
    path = scorer.root / "data/biodiversity_split" / split / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["tiles"].values():
        entry["pixels"] = [sum(entry["pixels"]), 0, 0, 0, 0, 0]
    write_json(path, manifest)
    with pytest.raises(UserError, match=r"none of its [0-9]+ tiles has a labelled pixel"):
        score(scorer, "--split", split)
    assert scorer.evaluated == []
