"""What each stage script puts together: tiles, sampler, cropper, initial weights and loss, as the method lists them."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.artifacts import difficulty_text
from common.checkpoints import Checkpoint, digest_tensors
from common.croppers import ForegroundCrop, MinorityCrop, RandomCrop, RareClassCrop
from common.errors import UserError
from common.initial_weights import EncoderWeights, StageWeights
from common.inputs import Input
from common.losses import ClassWeightedLoss, FocalLoss, HardAndKDLoss, HardLoss
from common.models import Architecture, build_model
from common.samplers import RareClassTiles, UniformTiles, WeightedTiles
from common.stages import ARM_OF
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP
from common.tiles import TileSet
from tests.conftest import ARCH, ENCODER
from tests.helpers import made, quiet, save_checkpoint

REPLICATED = "biodiversity_split/train_rep"
STAGES = {  # stage: the last two parts of its --train-dir, sampler, cropper, where the weights come from, loss
    "stage1_baseline": ("biodiversity_split/train", UniformTiles, RandomCrop, None, HardLoss),
    "stage2_replication": (REPLICATED, UniformTiles, RandomCrop, None, HardLoss),
    "stage3_difficulty": (REPLICATED, WeightedTiles, RandomCrop, None, HardLoss),
    "stage4_minority_crop": (REPLICATED, WeightedTiles, MinorityCrop, None, HardLoss),
    "stage5a_pretrain": ("biodiversity_oem_combined/train", UniformTiles, RandomCrop, None, HardLoss),
    "stage5b_finetune": (REPLICATED, WeightedTiles, MinorityCrop, "stage5a_pretrain", HardLoss),
    "stage6_distill": (REPLICATED, WeightedTiles, MinorityCrop, "stage5a_pretrain", HardAndKDLoss),
    "control_5b_from_stage1": (REPLICATED, WeightedTiles, MinorityCrop, "stage1_baseline", HardLoss),
    "control_kd_cycled": (REPLICATED, WeightedTiles, MinorityCrop, "stage5a_pretrain", HardAndKDLoss),
    "control_kd_uniform": (REPLICATED, WeightedTiles, MinorityCrop, "stage5a_pretrain", HardAndKDLoss),
    "rival_class_weights": ("biodiversity_split/train", UniformTiles, RandomCrop, None, ClassWeightedLoss),
    "rival_focal": ("biodiversity_split/train", UniformTiles, RandomCrop, None, FocalLoss),
    "rival_rare_class_sampling": ("biodiversity_split/train", RareClassTiles, RareClassCrop, None, HardLoss),
    "rival_foreground_crop": ("biodiversity_split/train", UniformTiles, ForegroundCrop, None, HardLoss),
}
UNTRAINED = {"rival_logit_adjustment"}  # has no recipe of its own to hand to the loop
WEIGHTS = "model_weights/biodiversity"
TEACHER = "model_weights/openearthmap/teacher"


def script_of(stage: str):
    return importlib.import_module(f"training.train_{stage}")


def save_run(folder: Path, stage: str, seed: int, train: TileSet, val: TileSet) -> str:
    """A finished last.pt of random weights, and another best.pt beside it; returns the digest of last.pt."""
    taxonomy = train.taxonomy
    metadata = {"stage": stage, "seed": seed, "arch": ARCH, "encoder": ENCODER, "taxonomy": taxonomy.to_json()}
    metadata |= {"step": 2, "iterations": 2, "crops": 8, "cumulative_steps": 2, "stretch": train.stretch}
    metadata |= {"train": {"digest": train.digest}, "val": {"digest": val.digest}, "ancestors": [], "command": "python"}
    folder.mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        model = build_model(Architecture(ARCH, ENCODER), taxonomy.num_classes)
        save_checkpoint(folder / name, model.state_dict(), metadata)
    return digest_tensors(model.state_dict())


@pytest.fixture(scope="module")
def root(prepared, tmp_path_factory):
    """Data steps done, and what stages build on, of seeds 42 and 7, made up: no training has run; and its digests."""
    root = tmp_path_factory.mktemp("stages")
    (root / "data").symlink_to(prepared / "data")
    (root / "artifacts").mkdir()
    for path in (prepared / "artifacts").glob("*.json"):
        (root / "artifacts" / path.name).write_bytes(path.read_bytes())
    val = TileSet.open(made(root / "data/biodiversity_split/val"))
    teacher_parts = [TileSet.open(made(root / "data/openearthmap_teacher" / name)) for name in ("train", "val")]
    ids = TileSet.open(made(root / "data" / REPLICATED)).ids
    digests = {}
    for seed in (42, 7):
        for stage in ("stage1_baseline", "stage5a_pretrain"):
            train = TileSet.open(made(root / "data" / STAGES[stage][0]))
            digests[stage, seed] = save_run(root / WEIGHTS / stage / f"seed{seed}", stage, seed, train, val)
        digests["teacher", seed] = save_run(root / TEACHER / f"seed{seed}", "teacher", seed, *teacher_parts)
        table = root / f"artifacts/seed{seed}/tile_difficulty.tsv"
        table.parent.mkdir()
        table.write_text(
            difficulty_text([(name, 9, "0.5", "0.5", f"{1 + (n + seed) % 3}") for n, name in enumerate(ids)])
        )
    return root, digests


def recipe_of(stage: str, root: Path, monkeypatch, *flags):
    """The recipe and the val set that a stage's main hands to the loop."""
    handed = []
    for module in {script_of(stage), script_of("stage5b_finetune"), script_of("stage6_distill")}:
        monkeypatch.setattr(module, "fit", lambda recipe, val, *_: handed.append((recipe, val)), raising=False)
    common = ["--preset", "demo", "--arch", ARCH, "--encoder", ENCODER, "--crop-size", 32, "--device", "cpu"]
    quiet(script_of(stage).main, "--root", root, *common, *flags)
    (recipe_and_val,) = handed
    return recipe_and_val


def file_weights(root: Path, seed: int) -> dict[str, float]:
    lines = (root / f"artifacts/seed{seed}/tile_difficulty.tsv").read_text().splitlines()[1:]
    return {line.split("\t")[0]: float(line.split("\t")[-1]) for line in lines}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", [42, 7])
def test_a_stage_is_made_of_what_the_method_lists(root, stage, seed, monkeypatch):
    root, digests = root
    folder, sampler, cropper, start, loss = STAGES[stage]
    recipe, val = recipe_of(stage, root, monkeypatch, "--seed", seed)
    assert recipe.stage == stage and recipe.tiles.path == root / "data" / folder
    assert val.path == root / "data/biodiversity_split/val"
    assert type(recipe.sampler) is sampler and type(recipe.cropper) is cropper and recipe.cropper.size == 32
    assert type(recipe.loss) is loss
    if sampler is WeightedTiles:
        weights = file_weights(root, seed)
        assert recipe.sampler.weights(recipe.tiles).tolist() == [weights[name] for name in recipe.tiles.ids]
    if cropper is MinorityCrop:
        found = json.loads((root / "artifacts/class_distribution.json").read_text())
        names = found["minority_classes"]
        assert names and recipe.cropper.p == 0.5
        assert [BIODIVERSITY.classes[label] for label in recipe.cropper.classes] == names
        assert recipe.cropper.shares.tolist() == [found["classes"][name]["share"] for name in names]
    if start is None:
        assert type(recipe.init) is EncoderWeights and recipe.init.ancestors == ()
    else:
        assert type(recipe.init) is StageWeights
        network = recipe.init.build(Architecture(ARCH, ENCODER), BIODIVERSITY)
        assert digest_tensors(network.state_dict()) == digests[start, seed]
        assert [(run["stage"], run["digest"]) for run in recipe.init.ancestors] == [(start, digests[start, seed])]


def masks_of(root: Path) -> list[np.ndarray]:
    return [tile.read_mask() for tile in TileSet.open(made(root / "data/biodiversity_split/train"))]


def test_class_weights_are_those_of_the_pixels_of_train(root, monkeypatch):
    masks = masks_of(root[0])
    frequencies = []
    for label in range(1, BIODIVERSITY.num_classes):
        holding = [mask for mask in masks if (mask == label).any()]
        frequencies.append(sum((mask == label).sum() for mask in holding) / sum((mask > 0).sum() for mask in holding))
    weights = [float(np.median(frequencies) / frequency) for frequency in frequencies]
    loss = recipe_of("rival_class_weights", root[0], monkeypatch)[0].loss
    assert loss.weights == pytest.approx([0, *weights]) and 1 < max(weights) < 20
    described = loss.describe()["hard"]["class_weights"]
    assert described == {"kind": "median_frequency", "largest": 20.0, "weights": loss.weights}
    loss = recipe_of("rival_class_weights", root[0], monkeypatch, "--largest-weight", 1.25)[0].loss
    assert loss.weights == pytest.approx([0, *np.minimum(weights, 1.25)])


def test_the_numbers_of_rivals_are_those_of_their_sources_and_of_their_flags(root, monkeypatch):
    for flags, gamma in (((), 2.0), (("--gamma", 3), 3.0)):
        assert recipe_of("rival_focal", root[0], monkeypatch, *flags)[0].loss.gamma == gamma
    for flags, p in (((), 1 / 3), (("--foreground-probability", 0.5), 0.5)):
        cropper = recipe_of("rival_foreground_crop", root[0], monkeypatch, *flags)[0].cropper
        assert cropper.p == p and cropper.classes.tolist() == [1, 2, 3, 4, 5]
    masks = masks_of(root[0])
    pixels = np.array([sum((mask == label).sum() for mask in masks) for label in range(1, 6)])
    tiles = [sum((mask == label).any() for mask in masks) for label in range(1, 6)]
    for flags, temperature in (((), 0.01), (("--class-temperature", 0.5), 0.5)):
        recipe, _ = recipe_of("rival_rare_class_sampling", root[0], monkeypatch, *flags)
        assert recipe.sampler.temperature == recipe.cropper.temperature == temperature
        assert recipe.cropper.shares == pytest.approx(pixels / pixels.sum()) and recipe.cropper.tiles.tolist() == tiles
        assert recipe.cropper.p == 1.0


MATRIX = np.array(  # OpenEarthMap's rows to Background, Forest, Grassland, Cropland, Settlement, Seminatural
    [
        [1, 0, 0, 0, 0, 0],  # Unknown
        [1, 0, 0, 0, 0, 0],  # Bareland
        [0, 0, 0.7, 0, 0, 0.3],  # Rangeland
        [0, 0, 0, 0, 1, 0],  # Developed space
        [0, 0, 0, 0, 1, 0],  # Road
        [0, 1, 0, 0, 0, 0],  # Tree
        [1, 0, 0, 0, 0, 0],  # Water
        [0, 0, 0, 1, 0, 0],  # Agriculture land
        [0, 0, 0, 0, 1, 0],  # Building
    ]
)
CYCLED = MATRIX[:, [0, 5, 1, 2, 3, 4]]  # what Forest had, Grassland has; what Seminatural had, Forest has
UNIFORM = np.hstack([MATRIX[:, :1], np.repeat((1 - MATRIX[:, :1]) / 5, 5, axis=1)])


@pytest.mark.parametrize(
    ("stage", "matrix"),
    [("stage6_distill", MATRIX), ("control_kd_cycled", CYCLED), ("control_kd_uniform", UNIFORM)],
)
def test_distillation_takes_the_teacher_of_the_seed_and_the_matrix_of_the_method(root, stage, matrix, monkeypatch):
    root, digests = root
    for seed in (42, 7):
        loss = recipe_of(stage, root, monkeypatch, "--seed", seed)[0].loss
        np.testing.assert_allclose(loss.class_matrix.numpy(), matrix, atol=1e-6)
        assert digest_tensors(loss.teacher.state_dict()) == digests["teacher", seed]
        assert loss.describe()["kd"]["teacher_digest"] == digests["teacher", seed]
        assert (loss.alpha, loss.temperature) == (0.3, 2.0)


def test_the_teacher_sees_the_bands_that_are_red_green_and_blue_of_openearthmap(root, monkeypatch):
    root, digests = root
    for stage in ("stage6_distill", "control_kd_uniform"):
        loss = recipe_of(stage, root, monkeypatch, "--oem-bands", 3, 2, 1)[0].loss
        assert loss.teacher.at == [2, 1, 0] and loss.describe()["kd"]["oem_bands"] == "3 2 1"
        assert digest_tensors(loss.teacher.network.state_dict()) == digests["teacher", 42]
        assert not loss.teacher.network.training


def test_the_numbers_of_distillation_are_those_of_the_flags(root, monkeypatch):
    flags = ("--kd-alpha", 0.6, "--temperature", 3, "--max-mapped-void", 0.7, "--label-smoothing", 0.2)
    loss = recipe_of("stage6_distill", root[0], monkeypatch, *flags)[0].loss
    assert (loss.alpha, loss.temperature, loss.max_mapped_void, loss.hard.label_smoothing) == (0.6, 3.0, 0.7, 0.2)
    recorded = {key: loss.describe()["kd"][key] for key in ("alpha", "temperature", "max_mapped_void")}
    assert recorded == {"alpha": 0.6, "temperature": 3.0, "max_mapped_void": 0.7}


def test_every_arm_is_looked_at_here():
    assert {*STAGES, *UNTRAINED} == set(ARM_OF), "write down in STAGES what the new arm is made of"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_smooths_labels_and_seeks_minorities_as_its_flags_say(root, stage, monkeypatch):
    seeks = STAGES[stage][2] is MinorityCrop
    flags = ("--label-smoothing", 0.2, *(("--minority-probability", 0.75) if seeks else ()))
    recipe = recipe_of(stage, root[0], monkeypatch, *flags)[0].describe()
    assert recipe["loss"]["hard"].get("label_smoothing") == (None if stage == "rival_focal" else 0.2)
    assert not seeks or recipe["cropper"]["p"] == 0.75


@pytest.mark.parametrize(
    "stage", ["teacher", "stage1_baseline", "stage2_replication", "stage3_difficulty", "stage4_minority_crop"]
)
def test_the_initial_weights_are_those_of_the_flag(root, stage, monkeypatch, tmp_path):
    torch.save(build_model(Architecture(ARCH, ENCODER), 2).encoder.state_dict(), tmp_path / "encoder.pt")
    recipe, _ = recipe_of(stage, root[0], monkeypatch, "--encoder-weights", tmp_path / "encoder.pt")
    assert type(recipe.init) is EncoderWeights and recipe.init.source == str(tmp_path / "encoder.pt")


def test_the_teacher_is_trained_in_openearthmap_classes_on_openearthmap_alone(root, monkeypatch):
    recipe, val = recipe_of("teacher", root[0], monkeypatch)
    assert recipe.tiles.taxonomy == val.taxonomy == OPENEARTHMAP and recipe.stage == "teacher"
    assert {tile.entry["source"] for tile in [*recipe.tiles, *val]} == {"openearthmap"}
    assert (recipe.tiles.path.name, val.path.name) == ("train", "val")
    assert type(recipe.sampler) is UniformTiles and type(recipe.cropper) is RandomCrop
    assert type(recipe.loss) is HardLoss and type(recipe.init) is EncoderWeights and recipe.cropper.size == 32


def test_default_paths_are_those_of_the_method():
    difficulty, last = "artifacts/seed7/tile_difficulty.tsv", "seed7/last.pt"
    for stage, (folder, sampler, cropper, start, loss) in STAGES.items():
        args = vars(script_of(stage).parse_args(["--seed", "7"]))
        wanted = {"train_dir": f"data/{folder}", "val_dir": "data/biodiversity_split/val"}
        wanted |= {"out_dir": f"{WEIGHTS}/{stage}/seed7"}
        wanted |= {"difficulty": difficulty} if sampler is WeightedTiles else {}
        wanted |= {"distribution": "artifacts/class_distribution.json"} if cropper is MinorityCrop else {}
        wanted |= {"init": f"{WEIGHTS}/{start}/{last}"} if start else {}
        wanted |= {"teacher": f"{TEACHER}/{last}"} if loss is HardAndKDLoss else {}
        wanted |= {"leakage": "artifacts/leakage.json"}
        paths = {name: str(path) for name, path in args.items() if isinstance(path, Path | Input) and name != "root"}
        assert paths == wanted
    args = script_of("teacher").parse_args(["--seed", "7"])
    assert str(args.out_dir) == f"{TEACHER}/seed7" and str(args.train_dir) == "data/openearthmap_teacher/train"
    assert str(args.val_dir) == "data/openearthmap_teacher/val"


@pytest.mark.parametrize("stage", ["stage5b_finetune", "control_5b_from_stage1", "stage6_distill"])
def test_an_ancestor_that_does_not_belong_here_is_refused(root, stage, monkeypatch):
    """Of another seed, of another stage, or not finished."""
    root, _ = root
    start = STAGES[stage][3]
    other = {"stage1_baseline": "stage5a_pretrain", "stage5a_pretrain": "stage1_baseline"}[start]
    for path in (f"{WEIGHTS}/{start}/seed7/last.pt", f"{WEIGHTS}/{other}/seed42/last.pt", f"{TEACHER}/seed42/last.pt"):
        with pytest.raises(UserError, match=f"expected {start} with seed 42"):
            recipe_of(stage, root, monkeypatch, "--init", root / path)

    def unfinished(source, load=Checkpoint.load):
        saved = load(source)
        return Checkpoint(source, saved.state, saved.metadata, {"history": []})

    monkeypatch.setattr(Checkpoint, "load", unfinished)
    with pytest.raises(UserError, match="unfinished run"):
        recipe_of(stage, root, monkeypatch)


def test_a_teacher_of_another_seed_or_other_classes_is_refused(root, monkeypatch):
    root, _ = root
    with pytest.raises(UserError, match="expected teacher with seed 42"):
        recipe_of("stage6_distill", root, monkeypatch, "--teacher", root / TEACHER / "seed7/last.pt")
    saved = Checkpoint.load(made(root / TEACHER / "seed42/last.pt"))
    student = saved.path.with_name("student.pt")
    save_checkpoint(student, saved.state, saved.metadata | {"taxonomy": BIODIVERSITY.to_json()})
    with pytest.raises(UserError, match="OpenEarthMap classes"):
        recipe_of("stage6_distill", root, monkeypatch, "--teacher", student)
