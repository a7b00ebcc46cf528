import json

import numpy as np
import pytest

from common.errors import UserError
from common.tiles import manifest_digest
from tests.helpers import THREE_CLASSES, parser_of_a_stage
from tests.small_sets import write_set
from training.engine.preflight import open_train_and_val

# Train and val


def parsed(root, *more):
    argv = ["--root", root, "--preset", "demo", "--crop-size", "32", "--device", "cpu", *more]
    return parser_of_a_stage().parse_args(argv)


def test_each_flag_takes_the_split_it_is_for(prepared):
    folder = prepared / "data/biodiversity_split"
    train, val = open_train_and_val(parsed(prepared))
    assert (train.path, val.path) == (folder / "train", folder / "val")
    for flag, split, said in (
        ("--train-dir", "val", "says it is 'val', expected 'train'"),
        ("--train-dir", "test", "says it is 'test', expected 'train'"),
        ("--val-dir", "test", "says it is 'test', expected 'val'"),
        ("--val-dir", "train", "says it is 'train', expected 'val'"),
    ):
        with pytest.raises(UserError, match=said):
            open_train_and_val(parsed(prepared, flag, folder / split))


def test_train_and_val_have_the_classes_of_the_root(prepared, tmp_path):
    for split in ("train", "val"):
        other = write_set(tmp_path / split, {"x": np.ones((64, 64))}, split=split, taxonomy=THREE_CLASSES).path
        with pytest.raises(UserError, match=f"{split} was written for the classes Nothing, Wet, Dry, Bright, but the"):
            open_train_and_val(parsed(prepared, f"--{split}-dir", other))


def test_a_training_does_not_start_on_a_val_that_shares_tiles_with_train(prepared, tmp_path):
    """Val holds the tiles of train under a manifest that calls them val; nothing else is wrong with it."""
    for name in ("images", "masks"):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / name).symlink_to(prepared / "data/biodiversity_split/train" / name)
    manifest = json.loads((prepared / "data/biodiversity_split/train/manifest.json").read_text()) | {"split": "val"}
    manifest["digest"] = manifest_digest(manifest)
    (tmp_path / "val/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="share"):
        open_train_and_val(parsed(prepared, "--val-dir", tmp_path / "val"))


@pytest.mark.parametrize(("size", "refused"), [(32, False), (63, False), (64, True), (65, True)])
def test_crops_must_be_smaller_than_tiles(prepared, size, refused):  # of 64 pixels
    args = parsed(prepared, "--crop-size", str(size))
    if refused:
        with pytest.raises(UserError, match="a crop would be the complete tile"):
            open_train_and_val(args)
    else:
        open_train_and_val(args)
