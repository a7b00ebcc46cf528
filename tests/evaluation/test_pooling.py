"""Scores pooled over the blocks of a study: those of the summed matrices, on one split and over folds."""

from dataclasses import replace

import numpy as np
import pytest

from common.metrics import mean_iou_of, score
from common.stages import STAGE_NAMES
from common.taxonomy import BIODIVERSITY
from evaluation.study.comparability import read_results
from evaluation.study.comparisons import MINORITY
from evaluation.study.pooling import Scored, Trainings, by_block, trainings_of
from tests.helpers import made
from tests.synthetic_results import VAL, WORLD, write_result

ONE = STAGE_NAMES[0]
NAMES = list(BIODIVERSITY.foreground)
SCORED = Scored(BIODIVERSITY, [1, 2, 3, 4, 5], [4, 5], dict.fromkeys(range(1, 6), 6))


def drawn(trainings, blocks):
    """(T, B, C, C) counts."""
    return WORLD.draw(np.random.default_rng(0), [0.0], trainings, blocks)[0].round().astype(np.int64)


def by_folds(counts, folds, of=SCORED):
    """Trainings of which each scores every ``folds``-th block, in as many repeats as there are."""
    trainings, blocks = counts.shape[:2]
    scored = np.arange(blocks) % folds == (np.arange(trainings) % folds)[:, None]
    repeats = np.arange(trainings) // folds + 1
    return Trainings(np.where(scored[..., None, None], counts, 0), scored, repeats, folds, of)


def scores_of(confusion, names=("Settlement", "Seminatural")):
    """What common.metrics has to say of a matrix, by the names of a study's metrics."""
    scores = score(confusion, BIODIVERSITY)
    means = {key: scores[key] for key in ("mIoU", "mF1", "OA")} | {MINORITY: mean_iou_of(scores, list(names))}
    return means | {f"IoU {name}": of_class["IoU"] for name, of_class in scores["classes"].items()}


def test_on_one_split_each_training_is_a_repeat_on_all_blocks():
    counts = drawn(2, 5)
    trainings = Trainings(counts, np.ones((2, 5), bool), np.array([42, 43]), 1, SCORED)
    statistics = trainings.statistics()
    for seed, block in np.ndindex(2, 5):
        whole, rest = counts[seed].sum(axis=0), np.delete(counts[seed], block, axis=0).sum(axis=0)
        assert {key: of.by_repeat[seed] for key, of in statistics.items()} == pytest.approx(scores_of(whole))
        assert {key: of.without_block[seed, block] for key, of in statistics.items()} == pytest.approx(scores_of(rest))
    assert statistics["mIoU"].scored_by.tolist() == [[0] * 5, [1] * 5] and statistics["mIoU"].folds == 1
    assert trainings.by_training()["OA"] == pytest.approx(statistics["OA"].by_repeat)


def test_over_folds_a_score_is_that_of_the_summed_matrices_of_its_repeat():
    counts = drawn(6, 7)
    trainings = by_folds(counts, 3)
    statistics = trainings.statistics()
    for repeat in range(2):
        of_blocks = np.stack([counts[3 * repeat + block % 3, block] for block in range(7)])
        found = {key: of.by_repeat[repeat] for key, of in statistics.items()}
        assert found == pytest.approx(scores_of(of_blocks.sum(axis=0)))
        for block in range(7):
            found = {key: of.without_block[repeat, block] for key, of in statistics.items()}
            assert found == pytest.approx(scores_of(np.delete(of_blocks, block, axis=0).sum(axis=0)))
    scored_by = statistics["OA"].scored_by
    assert scored_by.tolist() == [[0, 1, 2, 0, 1, 2, 0], [3, 4, 5, 3, 4, 5, 3]] and statistics["OA"].folds == 3
    mean_of_folds = trainings.by_training()["mIoU"][:3].mean()
    assert statistics["mIoU"].by_repeat[0] != pytest.approx(mean_of_folds, abs=1e-4)
    fold_2 = counts[1, [1, 4]].sum(axis=0)
    assert {key: of[1] for key, of in trainings.by_training().items()} == pytest.approx(scores_of(fold_2))


def test_a_class_of_one_fold_counts_in_its_pooled_score_and_in_no_other_fold():
    counts = drawn(3, 6)
    counts[:, [1, 2, 4, 5], 5] = 0  # Seminatural is in blocks 0 and 3, which are of fold 1
    trainings = by_folds(counts, 3)
    pooled = sum(counts[block % 3, block] for block in range(6))
    statistics = trainings.statistics()
    assert {key: of.by_repeat[0] for key, of in statistics.items()} == pytest.approx(scores_of(pooled))
    alone = trainings.by_training()
    assert np.isnan(alone["IoU Seminatural"]).tolist() == [False, True, True]
    fold_2 = scores_of(counts[1, [1, 4]].sum(axis=0))
    assert alone[MINORITY][1] == pytest.approx(fold_2["IoU Settlement"])
    assert alone["mIoU"][1] == pytest.approx(np.mean([fold_2[f"IoU {name}"] for name in NAMES[:4]]))
    assert trainings.unmet == [] and trainings.only([1, 2]).unmet == ["Seminatural"]
    # without the one block of two that holds it, it is still found in the other; without its only block it is lost
    counts[:, 3, 5] = 0
    lost = by_folds(counts, 3).statistics()["IoU Seminatural"]
    assert lost.without_block[0, 0] == 0 and (lost.without_block[0, 1:] > 0).all()


def test_of_some_trainings_only_their_own_blocks_and_classes_count():
    counts = drawn(3, 6)
    counts[:, [1, 2, 4, 5], 5] = 0
    some = by_folds(counts, 3).only([1, 2])
    statistics = some.statistics()
    assert statistics["mIoU"].blocks == 4 and statistics["mIoU"].scored_by.tolist() == [[0, 1, 0, 1]]
    pooled = scores_of(counts[1, [1, 4]].sum(axis=0) + counts[2, [2, 5]].sum(axis=0))
    assert np.isnan(statistics["IoU Seminatural"].by_repeat).all()
    assert statistics["mIoU"].by_repeat == pytest.approx([pooled["mIoU"]])  # a mean over four classes
    assert statistics[MINORITY].by_repeat == pytest.approx([pooled["IoU Settlement"]])
    assert not np.isnan(statistics["mIoU"].without_block).any()
    everything = by_folds(counts, 3)
    assert everything.only([0, 1, 2]) is everything
    of_repeat_2 = by_folds(drawn(6, 6), 3).only([4, 5])
    assert of_repeat_2.repeats.tolist() == [2, 2] and of_repeat_2.folds == 3
    assert np.array_equal(of_repeat_2.counts[0, [1, 4]], drawn(6, 6)[4, [1, 4]])


def test_a_repeat_of_which_folds_are_missing_leaves_blocks_unscored():
    found = by_folds(drawn(4, 6), 3).statistics()["OA"]  # fold 4 alone of the second repeat
    assert found.scored_by.tolist() == [[0, 1, 2, 0, 1, 2], [3, -1, -1, 3, -1, -1]]
    assert found.without_block[1, 1] == found.by_repeat[1] != found.without_block[1, 0]


def test_a_statistic_of_pairs_is_the_difference_of_each():
    mine, theirs = by_folds(drawn(3, 6), 3), by_folds(drawn(6, 6)[3:], 3)
    found = mine.statistics()["mIoU"] - theirs.statistics()["mIoU"]
    assert found.by_repeat == mine.statistics()["mIoU"].by_repeat - theirs.statistics()["mIoU"].by_repeat
    with pytest.raises(ValueError, match="other trainings or blocks"):
        mine.statistics()["mIoU"] - theirs.only([0, 1]).statistics()["mIoU"]


def test_without_minority_classes_there_is_no_mean_of_them():
    trainings = by_folds(drawn(3, 6), 3, replace(SCORED, minority=[]))
    assert MINORITY not in trainings.statistics() and MINORITY not in trainings.by_training()


def test_blocks_that_hold_a_class_are_counted_and_under_five_are_few():
    scored = Scored(BIODIVERSITY, [1, 2, 3, 5], [3, 5], {1: 12, 2: 9, 3: 5, 5: 4})
    assert scored.few == ["Seminatural"]
    assert [scored.is_settled(f"IoU {name}") for name in ("Cropland", "Seminatural")] == [True, False]
    assert scored.is_settled("mIoU") and scored.is_settled(MINORITY)
    held = {"IoU Forest": 12, "IoU Cropland": 5, "mIoU": 5, "mF1": 5, MINORITY: 4, "OA": None, "IoU Settlement": None}
    assert {metric: scored.holders_of(metric) for metric in held} == held
    odd = replace(scored, present=[1, 2, 3])
    assert odd.holders_of("mIoU") == 9


def results_in(root):
    return read_results([made(root / VAL)])[0]


def test_blocks_pair_up_whatever_the_order_of_tiles_and_empty_ones_do_not_count(tmp_path):
    counts = drawn(1, 4)[0]
    counts[2] = 0
    counts[2, 0, 1] = 500  # nothing labelled
    write_result(tmp_path, ONE, 1, counts, tiles_a_block=3)
    (result,) = results_in(tmp_path)
    tiles = result.tiles
    found = by_block(tiles)
    assert list(found) == ["block000", "block001", "block003"]
    assert np.array_equal(list(found.values()), counts[[0, 1, 3]])
    rest = tiles.class_names, tiles.split_digest, tiles.checkpoint_digest, tiles.boundary, tiles.calibration
    turned = by_block(type(tiles)(tiles.tile_ids[::-1], tiles.blocks[::-1], tiles.confusions[::-1], *rest))
    assert list(turned) == list(found) and np.array_equal(list(turned.values()), list(found.values()))


def test_counts_of_each_training_stand_at_the_blocks_that_it_scored(tmp_path):
    counts = drawn(1, 5)[0]
    write_result(tmp_path / "a", ONE, 1, counts[[0, 2]], numbers=[0, 2])
    write_result(tmp_path / "b", ONE, 2, counts[[1, 4]], numbers=[1, 4])
    tiles = [results_in(tmp_path / name)[0].tiles for name in "ab"]
    names = ["block000", "block001", "block002", "block004"]
    found = trainings_of(tiles, [1, 1], 2, names, SCORED)
    assert found.scored.tolist() == [[True, False, True, False], [False, True, False, True]]
    assert np.array_equal(found.counts[0, [0, 2]], counts[[0, 2]]) and np.array_equal(found.counts[1, 3], counts[4])
    assert not found.counts[~found.scored].any() and found.repeats.tolist() == [1, 1] and found.folds == 2
