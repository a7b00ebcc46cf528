"""What the training loop does at each step, with a network of two convolutions."""

import json
import re
import signal
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from common.checkpoints import Checkpoint, digest_tensors
from common.croppers import RandomCrop
from common.datasets import network_input
from common.errors import UserError
from common.losses import HardLoss
from common.samplers import UniformTiles, WeightedTiles
from common.taxonomy import BIODIVERSITY
from tests.helpers import made, parser_of_a_stage, quiet
from tests.small_sets import write_set
from tests.training.parts import Counting, SmallNetwork, Start
from training.engine import loop as engine
from training.engine import run_folder
from training.engine.crops import CropDataset, TileDraws
from training.engine.flags import TrainSettings
from training.engine.loop import fit, make_optimizer
from training.engine.meters import DrawnCrops
from training.engine.recipe import Recipe

CPU = torch.device("cpu")
SETTINGS = [field.name for field in fields(TrainSettings)]
NAME = "small"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Two sets to train on and one to validate on, each of a few tiles of 48 px with stripes of all classes."""
    root = tmp_path_factory.mktemp("sets")
    stripes = np.arange(48 * 48).reshape(48, 48) // 64 % 6
    masks = {name: np.roll(stripes, 9 * n, axis=1) for n, name in enumerate("abcdefgh")}
    train = write_set(root / "train", dict(list(masks.items())[:5]), split="train")
    train_rep = write_set(root / "train_rep", dict(list(masks.items())[:6]), split="train")
    val = write_set(root / "val", {"g": masks["g"].T, "h": np.where(masks["h"] == 2, 1, masks["h"]).T}, split="val")
    return train, train_rep, val


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """flags(*more) → the settings of a run of six steps of four crops; its curves are not drawn."""
    monkeypatch.setattr(run_folder, "history_figure", lambda *_: Figure((1, 1)))
    common = ["--preset", "demo", "--crop-size", "32", "--batch-size", "4", "--workers", "0", "--device", "cpu"]
    common += ["--iterations", "6", "--val-every", "3", "--warmup", "2", "--average", "0.5"]
    common += ["--out-dir", tmp_path / "out"]
    parser = parser_of_a_stage(NAME)
    return lambda *more: parser.parse_args([*common, *map(str, more)])


def recipe_of(train, init=None, loss=None, sampler=None, cropper=None, stage=NAME) -> Recipe:
    return Recipe(
        stage, train, sampler or UniformTiles(), cropper or RandomCrop(32), init or Start(), loss or HardLoss()
    )


def run_fit(recipe, val, args) -> dict:
    """Train; returns run.json."""
    quiet(lambda _: fit(recipe, val, args.settings, args.run))
    return json.loads((args.out_dir / "run.json").read_text())


def history(args) -> list[dict]:
    header, *rows = [line.split(",") for line in (args.out_dir / "history.csv").read_text().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


# Each step


def test_the_network_sees_the_crops_of_its_positions_with_their_brightness_and_contrast(tiles, flags):
    train, _, val = tiles
    start = Start()
    run_fit(recipe_of(train, start), val, flags("--seed", 5, "--iterations", 3))
    crops = CropDataset(train, TileDraws(train, UniformTiles(), 5), RandomCrop(32), 5)
    assert len(start.built[0].seen) == 3
    for step, images in enumerate(start.built[0].seen):
        batch = crops[range(4 * step, 4 * step + 4)]
        assert torch.equal(images, network_input(batch["image"], batch["photometric"]))
        assert not torch.equal(images, network_input(batch["image"]))


def test_the_network_trains_in_training_mode_and_is_validated_in_eval_mode(tiles, flags):
    train, _, val = tiles
    start = Start()
    run_fit(recipe_of(train, start), val, flags("--iterations", 4, "--val-every", 2, "--average", 0))
    modes = "".join("t" if mode else "e" for mode in start.built[0].modes)
    assert modes.strip("e").count("t") == 4 and "te" in modes and modes[0] == "t" and modes[-1] == "e"
    assert [len(part) for part in modes.split("e") if part] == [2, 2]


def test_each_step_draws_its_dropout_anew_alike_in_every_run_of_a_seed(tiles, flags):
    train, _, val = tiles
    starts = [Start(), Start(), Start()]
    for n, (start, seed) in enumerate(zip(starts, (1, 1, 2), strict=True)):
        run_fit(recipe_of(train, start), val, flags("--seed", seed, "--out-dir", f"{flags().out_dir}{n}"))
    first, second, other = (start.built[0].draws for start in starts)
    assert first == second and len({*first, *other}) == 12


def test_processes_of_one_run_draw_their_dropout_apart():
    assert (
        len({engine.step_seed(seed, step, rank) for seed in range(3) for step in range(5) for rank in range(4)}) == 60
    )


@pytest.mark.parametrize(
    ("step", "factor"),
    # Two steps of warm-up, then half a cosine over eight: cos 0, π/8, π/4, …, 7π/8.
    [(1, 0.5), (2, 1.0), (3, 1.0), (4, 0.96194), (5, 0.853553), (7, 0.5), (9, 0.146447), (10, 0.03806)],
)
def test_the_learning_rate_rises_then_falls_by_half_a_cosine_to_zero(learning_rates, step, factor):
    assert learning_rates[step - 1] == pytest.approx((0.2 * factor, 0.1 * factor), abs=1e-6)


@pytest.fixture(scope="module")
def learning_rates(tiles, tmp_path_factory):
    """(encoder, rest) rates at each of ten steps, as the optimizer had them."""
    train, _, val = tiles
    rates = []

    def watched(model, settings):
        optimizer = make_optimizer(model, settings)
        optimizer.register_step_pre_hook(lambda opt, *_: rates.append(tuple(g["lr"] for g in opt.param_groups)))
        return optimizer

    argv = ["--preset", "demo", "--crop-size", 32, "--batch-size", 2, "--workers", 0, "--device", "cpu"]
    argv += ["--iterations", 10, "--warmup", 2, "--val-every", 10, "--lr", 0.1, "--encoder-lr", 0.2]
    args = parser_of_a_stage(NAME).parse_args([*argv, "--out-dir", tmp_path_factory.mktemp("rates")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "history_figure", lambda *_: Figure((1, 1)))
        patch.setattr(engine, "make_optimizer", watched)
        run_fit(recipe_of(train), val, args)
    return rates


def test_the_history_tells_the_learning_rate_of_decoder_and_head_at_the_step_it_names(tiles, flags):
    train, _, val = tiles
    args = flags("--lr", 0.1, "--encoder-lr", 0.01)
    run_fit(recipe_of(train), val, args)
    # Two steps of warm-up, half a cosine over four: at step 3 cos 0, at step 6 cos 3π/4.
    assert [float(row["lr"]) for row in history(args)] == pytest.approx([0.1, 0.0146447], rel=1e-3)


def test_the_optimizer_is_adamw_with_a_rate_of_its_own_for_the_encoder():
    model = SmallNetwork()
    args = parser_of_a_stage(NAME).parse_args(["--lr", "0.3", "--encoder-lr", "0.02", "--weight-decay", "0.07"])
    optimizer = make_optimizer(model, args.settings)
    assert type(optimizer) is torch.optim.AdamW
    groups = {group["lr"]: {id(p) for p in group["params"]} for group in optimizer.param_groups}
    assert groups[0.02] == {id(p) for p in model.encoder.parameters()}
    assert groups[0.3] == {id(p) for p in model.head.parameters()} and len(groups) == 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.07, 0.07]


@pytest.mark.parametrize(("clip_norm", "clipped"), [(0.5, True), (1e6, False)])
def test_gradients_are_clipped_to_the_norm_that_was_asked_for(tiles, flags, monkeypatch, clip_norm, clipped):
    train, _, val = tiles
    norms = []

    def watched(model, settings, original=make_optimizer):
        optimizer = original(model, settings)
        gradients = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.register_step_pre_hook(lambda *_: norms.append(torch.cat([p.grad.flatten() for p in gradients])))
        return optimizer

    monkeypatch.setattr(engine, "make_optimizer", watched)
    run_fit(recipe_of(train, loss=Counting(scale=1000.0)), val, flags("--clip-norm", clip_norm))
    sizes = [gradient.norm().item() for gradient in norms]
    assert len(sizes) == 6
    assert all(size == pytest.approx(0.5, rel=1e-3) for size in sizes) if clipped else min(sizes) > 10


def test_gradients_of_one_step_do_not_stay_for_the_next(tiles, flags, monkeypatch):
    train, _, val = tiles
    sizes = []

    def frozen(model, settings):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        head = model.head[0].weight
        optimizer.register_step_pre_hook(lambda *_: sizes.append(head.grad.abs().sum().item()))
        return optimizer

    monkeypatch.setattr(engine, "make_optimizer", frozen)
    monkeypatch.setattr(engine, "step_seed", lambda *_: 0)
    monkeypatch.setattr(TileDraws, "__call__", lambda self, position: 0)
    monkeypatch.setattr("training.engine.crops.stream", lambda *_: np.random.default_rng(0))
    run_fit(recipe_of(train), val, flags("--clip-norm", 1e6))
    assert sizes == pytest.approx([sizes[0]] * 6) and sizes[0] > 0


def test_every_recipe_of_a_seed_starts_from_the_same_weights(tiles, flags):
    train, train_rep, val = tiles
    weights = {tile_id: 1.0 + n % 3 for n, tile_id in enumerate(train_rep.ids)}
    digests = []
    for n, (parts, seed) in enumerate(
        [((train,), 1), ((train_rep, None, Counting()), 1), ((train_rep, None, None, WeightedTiles(weights)), 1)]
        + [((train,), 2)]
    ):
        start = Start()
        recipe = recipe_of(parts[0], start, *parts[2:])
        run_fit(recipe, val, flags("--seed", seed, "--iterations", 1, "--out-dir", f"{flags().out_dir}{n}"))
        digests += start.digests
    assert digests[0] == digests[1] == digests[2] != digests[3]


# What is kept


def test_what_is_validated_and_saved_is_the_average_of_the_weights_over_the_steps(tiles, flags, monkeypatch):
    train, _, val = tiles
    heads, validated = [], []

    def watched(model, settings, original=make_optimizer):
        optimizer = original(model, settings)
        optimizer.register_step_post_hook(lambda *_: heads.append(model.head[0].weight.detach().clone()))
        return optimizer

    def noted(model, *args, original=engine.validate):
        validated.append(model.head[0].weight.clone())
        return original(model, *args)

    monkeypatch.setattr(engine, "make_optimizer", watched)
    monkeypatch.setattr(engine, "validate", noted)
    run_fit(recipe_of(train), val, flags())
    decays = [(2 / 3) ** (6 - n) for n in range(1, 7)]  # half of six steps are a horizon of three
    wanted = sum(decay * head for decay, head in zip(decays, heads, strict=True)) / sum(decays)
    saved = Checkpoint.load(made(flags().out_dir / "last.pt")).state["head.0.weight"]
    torch.testing.assert_close(saved, wanted)
    assert torch.equal(validated[-1], saved) and not torch.allclose(saved, heads[-1], atol=1e-6)


def test_without_averaging_the_last_weights_are_saved(tiles, flags):
    train, _, val = tiles
    start = Start()
    run_fit(recipe_of(train, start), val, flags("--average", 0))
    last = Checkpoint.load(made(flags().out_dir / "last.pt"))
    assert last.digest == digest_tensors(start.built[0].state_dict())


def test_the_loss_of_a_row_is_the_mean_over_the_steps_since_the_row_before(tiles, flags):
    train, _, val = tiles
    args = flags("--iterations", 14, "--val-every", 12)  # the loss is read every ten steps in between
    run_fit(recipe_of(train, loss=Counting()), val, args)
    rows = history(args)
    assert [row["step"] for row in rows] == ["12", "14"]
    for name in ("loss", "a", "b"):  # at step n each is n, so that 1 … 12 and 13, 14 are averaged
        assert [float(row[name]) for row in rows] == pytest.approx([6.5, 13.5])


def scripted(monkeypatch, *scores):
    """Have the validations of a run give these (mIoU, OA), one after the other."""
    left = list(scores)

    def validate(*_):
        miou, oa = left.pop(0)
        return {"mIoU": miou, "mF1": miou, "OA": oa, "classes": {}, "absent": list(BIODIVERSITY.foreground)}

    monkeypatch.setattr(engine, "validate", validate)


def test_best_is_the_first_validation_with_the_highest_miou_and_last_is_the_end(tiles, flags, monkeypatch):
    train, _, val = tiles
    scripted(monkeypatch, (0.2, 0.9), (0.5, 0.1), (0.5, 0.8), (0.4, 0.95))
    args = flags("--iterations", 4, "--val-every", 1)
    run = run_fit(recipe_of(train), val, args)
    best, last = (Checkpoint.load(made(args.out_dir / name)) for name in ("best.pt", "last.pt"))
    assert (best.metadata["step"], last.metadata["step"]) == (2, 4) and best.digest != last.digest
    assert (run["best"]["step"], run["best"]["mIoU"], run["last"]["step"], run["last"]["mIoU"]) == (2, 0.5, 4, 0.4)
    assert run["finished"] and last.training is None


def test_steps_and_crops_of_ancestors_are_added(tiles, flags):
    train, _, val = tiles
    ancestors = (
        {"stage": "first", "steps": 7, "crops": 70, "digest": "x"},
        {"stage": "second", "steps": 20, "crops": 100, "digest": "y"},
    )
    run = run_fit(recipe_of(train, Start(ancestors)), val, flags())
    assert (run["step"], run["crops"], run["cumulative_steps"], run["cumulative_crops"]) == (6, 24, 33, 194)
    assert run["ancestors"] == list(ancestors)


def test_validation_scores_the_labelled_pixels_with_truth_in_the_rows(tiles, flags, monkeypatch):
    """A network that says Forest everywhere: its IoU is the share of Forest, that of all others 0."""
    train, _, val = tiles

    class ForestEverywhere(SmallNetwork):
        def forward(self, images):
            forest = torch.zeros(6)[:, None, None].index_fill(0, torch.tensor(1), 9.0)
            return super().forward(images) * 0 + forest

    start = Start()
    monkeypatch.setattr(start, "build", lambda *_: ForestEverywhere())
    run = run_fit(recipe_of(train, start), val, flags("--iterations", 1))
    pixels = np.sum([np.bincount(tile.read_mask().ravel(), minlength=6) for tile in val], axis=0)
    share = pixels[1] / pixels[1:].sum()
    assert run["last"]["OA"] == pytest.approx(share)
    assert run["last"]["classes"]["Forest"]["IoU"] == pytest.approx(share)
    assert run["last"]["mIoU"] == pytest.approx(share / 5) and len(run["last"]["classes"]) == 5


def test_run_json_holds_what_was_trained_on_what(tiles, flags):
    train, train_rep, val = tiles
    args = flags("--seed", 9, "--lr", 0.003)
    run = run_fit(recipe_of(train_rep, stage="stage4_minority_crop"), val, args)
    assert (run["stage"], run["seed"], run["compared_with"]) == ("stage4_minority_crop", 9, "stage3_difficulty")
    assert run["train"]["digest"] == train_rep.digest and run["val"]["digest"] == val.digest
    assert run["train"]["tiles"] == len(train_rep) and run["val"]["tiles"] == len(val)
    assert run["recipe"]["tiles"]["digest"] == train_rep.digest and run["taxonomy"] == BIODIVERSITY.to_json()
    assert run["settings"]["lr"] == 0.003 and run["settings"]["iterations"] == run["iterations"] == 6


# Stopping and resuming


def stop_after(monkeypatch, steps: int):
    """Have a run receive SIGTERM at a step."""
    seen = []

    def add(self, batch, original=DrawnCrops.add):
        original(self, batch)
        seen.append(batch)
        if len(seen) == steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(DrawnCrops, "add", add)


def outcome(args) -> tuple:
    run = json.loads((args.out_dir / "run.json").read_text())
    digests = [Checkpoint.load(made(args.out_dir / name)).digest for name in ("last.pt", "best.pt")]
    return digests, history(args), [run[key] for key in ("step", "crops", "drawn", "last", "best", "finished")]


@pytest.mark.parametrize("at", [2, 3, 4])  # before, at and after a validation
def test_a_stopped_run_is_resumed_as_if_nothing_had_happened(tiles, flags, monkeypatch, at):
    train, _, val = tiles
    whole = flags("--out-dir", f"{flags().out_dir}_whole")
    run_fit(recipe_of(train), val, whole)
    with monkeypatch.context() as patch:
        stop_after(patch, at)
        with pytest.raises(SystemExit) as stopped:
            run_fit(recipe_of(train), val, flags())
    assert stopped.value.code == 128 + signal.SIGTERM
    between = Checkpoint.load(made(flags().out_dir / "last.pt"))
    assert between.metadata["step"] == at and not between.metadata["finished"] and between.training is not None
    run_fit(recipe_of(train), val, flags("--resume"))
    assert outcome(flags()) == outcome(whole)


@pytest.fixture
def stopped(tiles, flags, monkeypatch):
    """The settings of a run that was stopped after its second step."""
    train, _, val = tiles
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(SystemExit):
            run_fit(recipe_of(train), val, flags())
    return flags


def test_a_run_is_resumed_only_as_it_was(tiles, stopped):
    train, train_rep, val = tiles
    weighted = WeightedTiles(dict.fromkeys(train.ids, 1.0))
    for recipe, more, said in (
        (recipe_of(train, stage="other"), (), "stage: small there, other asked for"),
        (recipe_of(train), ("--seed", 1), "seed: 42 there, 1 asked for"),
        (recipe_of(train, sampler=weighted), (), "recipe.sampler.kind: uniform there, weighted asked for"),
        (recipe_of(train, Start(name="other")), (), "recipe.init.kind: random there, other asked for"),
        (recipe_of(train, loss=Counting()), (), "recipe.loss"),
        (recipe_of(train_rep), (), "recipe.tiles.digest"),
    ):
        with pytest.raises(UserError, match=said):
            run_fit(recipe, val, stopped("--resume", *more))
    with pytest.raises(UserError, match="other val tiles"):
        run_fit(recipe_of(train), train_rep, stopped("--resume"))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_is_resumed_with_its_settings_alone(tiles, stopped, name):
    train, _, val = tiles
    args = stopped("--resume")
    before = getattr(args.settings, name)
    other = {"arch": "fpn", "encoder": "resnet34", "encoder_weights": "none", "crop_size": 64, "batch_size": 8}
    other["decoder_channels"] = (64,)
    args.settings = replace(args.settings, **{name: other[name] if name in other else before * 2})
    with pytest.raises(UserError, match=re.escape(f"settings.{name}: {json.loads(json.dumps(before))} there")):
        run_fit(recipe_of(train), val, args)


def test_best_of_a_run_that_was_killed_before_last_was_written_is_what_it_says(tiles, flags, stopped, monkeypatch):
    """best.pt is of step 3 and last.pt of step 2; on another machine step 3 may come out worse."""
    train, _, val = tiles
    folder = stopped().out_dir
    last = (folder / "last.pt").read_bytes()
    scripted(monkeypatch, (0.9, 0.9), (0.3, 0.3))
    run_fit(recipe_of(train), val, stopped("--resume"))
    best = (folder / "best.pt").read_bytes()
    (folder / "last.pt").write_bytes(last)
    scripted(monkeypatch, (0.5, 0.5), (0.6, 0.6))
    run = run_fit(recipe_of(train), val, stopped("--resume"))
    assert (run["best"]["step"], run["best"]["mIoU"], run["last"]["mIoU"]) == (3, 0.9, 0.6)
    assert (folder / "best.pt").read_bytes() == best


def test_nothing_of_a_run_that_is_replaced_lies_beside_the_new_one(tiles, flags, monkeypatch):
    """Its best.pt least of all: a resume would take it for that of the new run."""
    train, _, val = tiles
    run_fit(recipe_of(train), val, flags())
    assert (flags().out_dir / "best.pt").is_file()
    stop_after(monkeypatch, 2)  # before the first validation
    with pytest.raises(SystemExit):
        run_fit(recipe_of(train), val, flags("--overwrite"))
    assert {path.name for path in flags().out_dir.iterdir()} & set(run_folder.RUN_FILES) == {"last.pt", "run.json"}


def test_another_device_or_version_is_told_when_a_run_is_resumed(tiles, stopped, monkeypatch, capsys):
    train, _, val = tiles
    monkeypatch.setattr(torch, "__version__", "9.9")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    args = stopped("--resume")
    fit(recipe_of(train), val, args.settings, args.run)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(told) == 2 and "device: CPU, " in told[0] and "CPU, 64 threads here" in told[0]
    assert "versions.torch: " in told[1] and "9.9 here" in told[1]


def test_the_commit_of_the_code_is_recorded_where_git_knows_one(monkeypatch):
    def git(said):
        monkeypatch.setattr(run_folder.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
        return run_folder.git_commit()

    assert git("0123abc-dirty\n") == "0123abc-dirty" and git("") is None


def test_sizes_that_do_not_fit_are_refused_before_training(tiles, flags):
    train, _, val = tiles
    with pytest.raises(UserError, match="--crop-size 40: expected a multiple of 32"):
        run_fit(recipe_of(train, cropper=RandomCrop(40)), val, flags("--crop-size", 40))
