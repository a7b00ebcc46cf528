"""Difficulty of training tiles, from a network whose loss on each tile is chosen beforehand to the table of weights."""

import csv
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from common.artifacts import read_difficulty
from common.checkpoints import Checkpoint
from common.encoders import EncoderConstants
from common.errors import UserError
from common.files import json_text
from common.models import Architecture, build_model
from common.rasters import write_image, write_mask
from common.samplers import WeightedTiles
from common.taxonomy import BIODIVERSITY
from common.tiles import MANIFEST, TileSet, manifest_digest
from data_prep.tile_sets.writer import describe_tile
from tests.conftest import ARCH, ENCODER
from tests.helpers import THREE_CLASSES, made, quiet, save_checkpoint, write_taxonomy
from training import score_difficulty
from training.engine.crops import TileDraws

SIDE = 32
LABELLED = 40  # pixels of a tile that count, all Forest


class LossOfImage(torch.nn.Module):
    """Where the first band is 10 · loss, Forest has this cross-entropy; elsewhere in a tile it has a huge one."""

    def forward(self, images):
        grey = torch.round(255 * images[:, 0])
        loss = torch.where(grey > 0, grey / 10, 50.0)
        logits = torch.zeros(len(images), 6, *images.shape[-2:])
        logits[:, 1] = torch.log(4 / (torch.exp(loss) - 1))  # the other four outputs are 0
        logits[:, 0] = 99.0  # counts in nothing
        return logits


def write_tiles(folder: Path, tenths: dict[str, int], replicas: dict[str, str], split="train") -> TileSet:
    """A tile set of which each tile has a cross-entropy of so many tenths; one of 0 has no label."""
    entries = {}
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for tile_id in [*tenths, *replicas]:
        base = replicas.get(tile_id, tile_id)
        image, mask = np.zeros((3, SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        if tenths[base]:
            image[0].flat[:LABELLED], mask.flat[:LABELLED] = tenths[base], BIODIVERSITY.index("Forest")
        files = folder / f"images/{tile_id}.tif", folder / f"masks/{tile_id}.png"
        write_image(files[0], image)
        write_mask(files[1], mask)
        place = {"crs": None, "bounds": None, "gsd": None}
        entries[tile_id] = describe_tile(image, mask, *files, place, 6)
        if base != tile_id:
            entries[tile_id]["base"] = base
    manifest = {
        **{"split": split, "taxonomy": BIODIVERSITY.to_json(), "command": "x", "made_from": [], "inputs": []},
        **{"stretch": None, "tile_count": len(entries), "tiles": dict(sorted(entries.items()))},
    }
    (folder / MANIFEST).write_text(json_text({**manifest, "digest": manifest_digest(manifest)}))
    return TileSet.open(made(folder))


def save_stage2(root: Path, tiles: TileSet, *, seed=42, network=None, **changes) -> Path:
    """A last.pt of stage 2 as training leaves it, trained on ``tiles``."""
    path = root / f"model_weights/biodiversity/stage2_replication/seed{seed}/last.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        **{"stage": "stage2_replication", "arch": ARCH, "encoder": ENCODER, "seed": seed, "step": 2, "iterations": 2},
        **{"crops": 8, "cumulative_steps": 2, "train": {"digest": tiles.digest}, "val": {"digest": "v"}},
        **{"taxonomy": BIODIVERSITY.to_json(), "stretch": None, "ancestors": [], "command": "python -m x", **changes},
    }
    state = network.state_dict() if network else {"a": torch.zeros(1)}
    save_checkpoint(path, state, metadata)
    return path


def score(root: Path, *flags, network=LossOfImage, plot=lambda *_: Figure((1, 1))) -> str:
    """Run the script with a network of chosen losses, and a blank figure since that takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "build", lambda self: network())
        patch.setattr(score_difficulty, "difficulty_figure", plot)
        return quiet(score_difficulty.main, "--root", root, "--device", "cpu", *flags)


def rows_of(root: Path, seed=42) -> dict[str, dict]:
    with open(root / f"artifacts/seed{seed}/tile_difficulty.tsv", newline="") as file:
        return {row.pop("tile_id"): row for row in csv.DictReader(file, delimiter="\t")}


def weights_of(root: Path, seed=42) -> dict[str, float]:
    return {tile_id: float(row["weight"]) for tile_id, row in rows_of(root, seed).items()}


TENTHS = {f"t{number:02}": 2 * number + 2 for number in range(21)}  # losses 0.2, 0.4, ... 4.2
TENTHS["void"] = 0


@pytest.fixture
def root(tmp_path):
    tiles = write_tiles(tmp_path / "data/biodiversity_split/train_rep", TENTHS, {})
    save_stage2(tmp_path, tiles)
    return tmp_path


def test_weights_run_from_1_at_the_5th_percentile_of_the_losses_to_3_at_the_95th(root):
    """Of 21 losses these are the second and the last but one; a tile without a label is none of them."""
    said = score(root, plot=score_difficulty.difficulty_figure)
    rows = rows_of(root)
    assert list(rows) == sorted(TENTHS)
    assert {tile_id: float(row["loss"]) for tile_id, row in rows.items() if tile_id != "void"} == pytest.approx(
        {tile_id: tenths / 10 for tile_id, tenths in TENTHS.items() if tenths}, abs=1e-4
    )
    difficulty = {0: 0, 1: 0, 2: 1 / 18, 10: 0.5, 18: 17 / 18, 19: 1, 20: 1}
    for number, wanted in difficulty.items():
        row = rows[f"t{number:02}"]
        assert float(row["difficulty"]) == pytest.approx(wanted, abs=1e-4)
        assert float(row["weight"]) == pytest.approx(1 + 2 * wanted, abs=2e-4)
        assert row["labelled_pixels"] == str(LABELLED)
    assert rows["void"] == {"labelled_pixels": "0", "loss": "0", "difficulty": "0", "weight": "1"}
    assert "22 tiles; weight 1 for 2, 3 for 2, mean 2.00; 1 without a label" in said
    with Image.open(root / "artifacts/seed42/tile_difficulty.png") as figure:
        assert figure.width > figure.height > 100


def test_the_figure_shows_the_losses_and_the_weight_of_each_in_their_order():
    figure = score_difficulty.difficulty_figure(np.array([3.0, 1.0, 2.0]), np.array([30.0, 10.0, 20.0]))
    histogram, curve = figure.axes
    assert sum(bar.get_height() for bar in histogram.patches) == 3
    (line,) = curve.lines
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == [10, 20, 30]
    assert "nats" in histogram.get_xlabel() and "weight" in curve.get_ylabel()


def test_stages_draw_tiles_by_the_table_that_was_written(root):
    score(root)
    tiles = TileSet.open(made(root / "data/biodiversity_split/train_rep"))
    sampler = WeightedTiles(*read_difficulty(made(root / "artifacts/seed42/tile_difficulty.tsv"), tiles))
    drawn = [tiles.ids[TileDraws(tiles, sampler, 0)(n)] for n in range(400)]
    assert "void" not in drawn and drawn.count("t20") + drawn.count("t19") > 2 * (
        drawn.count("t00") + drawn.count("t01")
    )


def test_alpha_says_how_much_more_the_most_difficult_tiles_weigh(root):
    score(root, "--alpha", 0.5)
    weights = weights_of(root)
    assert (weights["t01"], weights["t10"], weights["t20"]) == pytest.approx((1, 1.25, 1.5), abs=1e-4)
    score(root, "--alpha", 0, "--overwrite")
    assert set(weights_of(root).values()) == {1.0}


def test_a_replica_has_the_loss_and_weight_of_its_base_and_counts_in_the_percentiles(tmp_path):
    """Of 1, 1, eighteen times 1.7 and 4 the percentiles are 1 and 1.7; of 1, 1.7 and 4 they would be others."""
    replicas = {"a_rep1": "a", **{f"b_rep{number:02}": "b" for number in range(17)}}
    tiles = write_tiles(tmp_path / "data/biodiversity_split/train_rep", {"a": 10, "b": 17, "c": 40}, replicas)
    save_stage2(tmp_path, tiles)
    network = LossOfImage()
    scored = []
    network.register_forward_hook(lambda module, images, logits: scored.append(len(logits)))
    score(tmp_path, network=lambda: network)
    rows = rows_of(tmp_path)
    assert sum(scored) == 3  # the same pixels are not scored twice
    assert len(rows) == 21 and all(rows[replica] == rows[base] for replica, base in replicas.items())
    assert weights_of(tmp_path).items() >= {"a": 1.0, "b": 3.0, "c": 3.0}.items()


def test_the_network_scores_in_eval_mode_and_every_base_once(root):
    seen = []

    class Noting(LossOfImage):
        def forward(self, images):
            seen.append((len(images), self.training, torch.is_grad_enabled()))
            return super().forward(images)

    score(root, network=lambda: Noting().train())
    assert sum(count for count, *_ in seen) == len(TENTHS)
    assert not any(training or gradients for _, training, gradients in seen)


def test_the_loss_of_a_tile_is_that_of_the_stage_2_network_on_its_labelled_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(score_difficulty, "difficulty_figure", lambda *_: Figure((1, 1)))
    tiles = write_tiles(tmp_path / "data/biodiversity_split/train_rep", {"a": 10, "b": 90}, {})
    torch.manual_seed(3)
    network = build_model(Architecture(ARCH, ENCODER), 6)
    constants = EncoderConstants.installed(network.encoder).to_json()
    save_stage2(tmp_path, tiles, network=network, encoder_constants=constants)
    quiet(score_difficulty.main, "--root", tmp_path, "--device", "cpu")
    for tile_id, row in rows_of(tmp_path).items():
        image = torch.from_numpy(tiles[tile_id].read_image()) / 255
        with torch.no_grad():
            probs = network.eval()(image[None])[0, 1:].softmax(dim=0)
        wanted = [-math.log(probs[0].flatten()[pixel]) for pixel in range(LABELLED)]
        assert float(row["loss"]) == pytest.approx(sum(wanted) / LABELLED, abs=1e-4)


def test_the_loss_of_a_tile_is_the_mean_of_its_labelled_pixels_and_not_smoothed():
    logits = torch.zeros(3, 6, 1, 3)
    logits[0, 1, 0, 0] = math.log(4)  # Forest has 1/2 here, and each of the others 1/8
    logits[1, 5, 0, 1] = math.log(4)  # Seminatural likewise
    logits[:, 0] = 30.0
    mask = torch.tensor([[[1, 2, 0]], [[0, 5, 0]], [[0, 0, 0]]])
    wanted = [(math.log(2) + math.log(5)) / 2, math.log(2), 0.0]
    assert score_difficulty.tile_losses(logits, mask).tolist() == pytest.approx(wanted)
    logits[0, 1, 0, 1] = math.log(4)
    assert score_difficulty.tile_losses(logits, mask)[0].item() == pytest.approx((math.log(2) + math.log(8)) / 2)


def test_the_defaults_are_those_of_the_method():
    args = score_difficulty.parse_args(["--root", "r", "--seed", "7"])
    assert args.alpha == 2.0 and score_difficulty.parse_args([]).seed == 42
    assert args.train_dir.path == Path("r/data/biodiversity_split/train_rep")
    assert args.checkpoint.path == Path("r/model_weights/biodiversity/stage2_replication/seed7/last.pt")
    assert args.out == Path("r/artifacts/seed7/tile_difficulty.tsv")


@pytest.mark.parametrize(("alpha", "accepted"), [("1e6", True), ("1000001", False), ("-1", False), ("inf", False)])
def test_alpha_is_not_negative_and_at_most_a_million(alpha, accepted, capsys):
    if accepted:
        assert score_difficulty.parse_args(["--alpha", alpha]).alpha == 1e6
    else:
        with pytest.raises(SystemExit):
            score_difficulty.parse_args(["--alpha", alpha])
        assert "--alpha" in capsys.readouterr().err


def test_each_seed_is_scored_by_its_own_network(root):
    tiles = TileSet.open(made(root / "data/biodiversity_split/train_rep"))
    with pytest.raises(UserError, match="seed7/last.pt does not exist.*train_stage2_replication.*--seed 7"):
        score(root, "--seed", 7)
    save_stage2(root, tiles, seed=7)
    score(root, "--seed", 7)
    assert weights_of(root, 7)["t20"] == 3.0 and not (root / "artifacts/seed42").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"train": {"digest": "other"}},
            "trained on other tiles than .*train_stage2_replication.*--seed 42 --overwrite",
        ),
        ({"stage": "stage1_baseline"}, "is of stage1_baseline with seed 42, expected stage2_replication"),
    ],
)
def test_tiles_are_not_scored_by_another_network(root, changes, said):
    save_stage2(root, TileSet.open(made(root / "data/biodiversity_split/train_rep")), **changes)
    with pytest.raises(UserError, match=said):
        score(root)
    assert not (root / "artifacts/seed42/tile_difficulty.tsv").exists()


def test_a_network_of_another_seed_is_not_taken_for_that_of_this_one(root):
    other = save_stage2(root, TileSet.open(made(root / "data/biodiversity_split/train_rep")), seed=43)
    with pytest.raises(UserError, match="with seed 43, expected stage2_replication with seed 42"):
        score(root, "--checkpoint", other)


def test_validation_tiles_and_tiles_of_other_classes_are_not_scored(root, tmp_path):
    write_tiles(tmp_path / "val", {"a": 10}, {}, split="val")
    with pytest.raises(UserError, match="--train-dir .*says it is 'val', expected 'train'"):
        score(root, "--train-dir", tmp_path / "val")
    write_taxonomy(root, THREE_CLASSES)
    with pytest.raises(UserError, match="Two taxonomies in one root"):
        score(root)


def test_a_table_that_is_there_is_replaced_only_where_that_is_asked_for(root):
    score(root)
    table = root / "artifacts/seed42/tile_difficulty.tsv"
    before = table.read_text()
    table.write_text("mine")
    with pytest.raises(UserError, match="tile_difficulty.tsv exists. Replace it with --overwrite"):
        score(root)
    assert table.read_text() == "mine"
    score(root, "--overwrite")
    assert table.read_text() == before


def test_no_other_run_can_write_the_table_while_tiles_are_scored(root, monkeypatch):
    held, seen = [], []

    @contextmanager
    def note(path):
        held.append(path)
        yield
        held.clear()

    def plot(*_):
        seen.extend(held)
        return Figure((1, 1))

    monkeypatch.setattr(score_difficulty, "locked", note)
    score(root, plot=plot)
    assert seen == [root / "artifacts/seed42/tile_difficulty.tsv"]
