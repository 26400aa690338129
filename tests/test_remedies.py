"""Early stopping by labels: for anything at all, and against the labels drawn one by one."""

import numpy as np
from hypothesis import given
from test_fuzz import ODD, SETTINGS, arrays, some, tried

from alpacafarm_nb.studies.remedies import chosen_points


def test_points_chosen_by_anything():
    "Probabilities that sum to 1, or a `FarmError` with a sentence."
    results = []

    @SETTINGS
    @given(arrays(0., 20., 50., 100., least=1, ndim=2), some(1, 7, 64, 10**9, *ODD, one_in=5),
           some(0., .25, 1., *ODD, one_in=5), some(0, 3, None), some(1, 20, None, one_in=5))
    def run(wins, n_labels, flip, seed, draws):
        if (found := tried(chosen_points, (wins, n_labels, flip, seed, draws))) is None: return
        results.append(found)
        assert found.shape == np.shape(wins)[1:] and abs(found.sum() - 1) < 1e-9 and (found >= 0).all()
    run()
    assert results, "the strategy never draws anything that can be used"


def test_points_chosen_by_labels_one_by_one():
    "Labels that are drawn and flipped singly, on instructions in random order, choose the same points as often."
    rng = np.random.default_rng(0)
    wins, each, flip = rng.choice([0., 50., 100., 80.], (6, 4)), 9, .3
    counts, repeats = np.zeros(4), 6000
    for _ in range(repeats):
        asked = np.concatenate([rng.permutation(6), rng.permutation(6)])[:each]
        labels = rng.random((each, 4)) < wins[asked] / 100
        flipped = np.where(rng.random((each, 4)) < flip, ~labels, labels)
        counts[flipped.sum(0).argmax()] += 1
    found = chosen_points(wins, 4 * each + 3, flip, draws=6000)
    assert abs(found - counts / repeats).max() < 4 * (.5 / repeats) ** .5, (found, counts / repeats)
