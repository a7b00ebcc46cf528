import numpy as np
import pytest

from common.samplers import difficulty_weights


def test_weights_run_from_one_to_one_plus_alpha_and_one_outlier_does_not_flatten_them():
    losses = np.concatenate([np.linspace(1, 2, 99), [1000.0]])
    difficulty, weights = difficulty_weights(losses, alpha=2.0)
    assert weights.min() == 1 and weights.max() == 3
    assert np.all(np.diff(weights) >= 0)
    assert difficulty[50] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_difficulty_is_scaled_between_the_5th_and_the_95th_percentile_and_keeps_the_order_of_tiles(alpha):
    losses = np.random.default_rng(0).permutation(np.arange(101.0))  # whose percentiles are 0, 1, 2, ... 100
    difficulty, weights = difficulty_weights(losses, alpha)
    by_loss = {0: 0, 4: 0, 5: 0, 6: 1 / 90, 14: 0.1, 50: 0.5, 94: 89 / 90, 95: 1, 96: 1, 100: 1}
    for loss, wanted in by_loss.items():
        (place,) = np.flatnonzero(losses == loss)
        assert (difficulty[place], weights[place]) == pytest.approx((wanted, 1 + alpha * wanted))


def test_equal_losses_give_equal_weights():
    assert difficulty_weights(np.full(10, 0.7), alpha=2.0)[1].tolist() == [1.0] * 10
