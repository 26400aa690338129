"""The dials of judges: from 200 labels, from anything at all, and of real judges."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from test_fuzz import ODD, SETTINGS, frames, some, tables, tried

from alpacafarm_nb.core import FarmError
from alpacafarm_nb.studies.judge_price import (DIALS, JudgeDials, dials_table, fit_judge_price, judge_dials,
                                               llmbar_dials, pair_gaps)

KNOWN = dict(truth=1., length=.6, list=-.5, courtesy=.4, first=.3)


def made_pairs(n, rng):
    "Pairs whose outputs differ in length, lists and courtesy, and which output is better."
    def output(k):
        words = " ".join(["word"] * rng.integers(3, 30))
        return f"{'Sure! ' * rng.integers(0, 2)}{words} {k}." + "\n- corn\n- oats" * rng.integers(0, 2)
    pairs = pd.DataFrame(dict(instruction=[f"Question {k}?" for k in range(n)], input="",
                              output_1=[output(k) for k in range(n)], output_2=[output(k + n) for k in range(n)]))
    return pairs.assign(preference=rng.integers(1, 3, n).astype(float))


def test_errors_of_dials_from_200_labels():
    "With 200 labels, 95 % intervals of the dials cover the known values, and are about as wide as they have to be."
    rng, covered, off, errors = np.random.default_rng(0), [], [], []
    pairs = made_pairs(20_000, rng)
    x = pair_gaps(pairs).assign(truth=2 * pairs["preference"] - 3, first=rng.choice([-1., 1.], len(pairs)))
    x = x / np.sqrt((x ** 2).mean())
    shown = np.where(x["first"] < 0, 1, 2)
    labels = pairs.assign(preference=1. + (rng.random(len(x)) < expit(sum(w * x[k] for k, w in KNOWN.items()))),
                          presented_first=shown)
    for k in range(100):
        rows = slice(200 * k, 200 * k + 200)
        dials = judge_dials(labels[rows], pairs[rows])
        gaps = np.array([getattr(dials, name) - w for name, w in KNOWN.items()])
        off.append(gaps)
        errors.append(list(dials.errors.values()))
        covered.append(abs(gaps) < 1.96 * np.array(errors[-1]))
    print(f"covered {np.mean(covered):.1%}, errors {np.mean(errors, 0).round(2)}, spread {np.std(off, 0).round(2)}")
    assert .92 < np.mean(covered) < .98
    np.testing.assert_allclose(np.mean(errors, 0), np.std(off, 0), rtol=.25)


def test_a_second_label_per_pair_is_not_a_second_pair():
    "The same label twice gives the same dials and the same errors, and full consistency."
    pairs = made_pairs(150, np.random.default_rng(1))
    labels = pairs.assign(preference=np.random.default_rng(2).integers(1, 3, 150).astype(float))
    once, twice = judge_dials(labels, pairs), judge_dials(pd.concat([labels, labels]), pairs)
    assert (once.agreement, once.agreement_error) == (twice.agreement, twice.agreement_error)
    assert twice.consistency == 100 and twice.settled == pytest.approx(twice.agreement) and twice.n_pairs == 150
    np.testing.assert_allclose(list(twice.errors.values()), list(once.errors.values()), rtol=.05)


def test_order_of_rows_and_of_outputs():
    "Rows in another order change nothing; swapped outputs change no dial."
    rng = np.random.default_rng(3)
    pairs = made_pairs(120, rng)
    labels = pairs.assign(preference=rng.integers(1, 3, 120).astype(float), presented_first=rng.integers(1, 3, 120))
    def swap(t):
        columns = [c for c in ("preference", "presented_first") if c in t]
        other = t.rename(columns={"output_1": "output_2", "output_2": "output_1"})
        return other.assign(**{c: 3 - t[c] for c in columns})
    as_given = judge_dials(labels, pairs)
    for other in (judge_dials(labels.sample(frac=1, random_state=0), pairs), judge_dials(swap(labels), swap(pairs))):
        np.testing.assert_allclose([getattr(other, k) for k in DIALS], [getattr(as_given, k) for k in DIALS], atol=1e-9)


def test_dials_of_anything():
    "A record, or a `FarmError` with a sentence."
    results, both = [], st.one_of(st.tuples(tables(30), tables(30)), frames(30).map(lambda t: (t, t)))

    @settings(SETTINGS, max_examples=60)
    @given(both, st.one_of(st.just(100.), some(70., 50., *ODD)))
    def run(two, agreement):
        if (found := tried(judge_dials, (*two, agreement))) is None: return
        results.append(found)
        assert 0 <= found.agreement <= 100 and np.isfinite(list(found.errors.values())).all()
    run()
    assert results, "the strategy never draws anything that can be used"


@SETTINGS
@given(tables(), some(.9, .5, *ODD, one_in=5))
def test_rows_of_anything(rows, level):
    with pytest.raises(FarmError): fit_judge_price(rows, level)


def test_real_judges(root):
    "The agreement of the dials is the published accuracy, except for completions that are read differently."
    folder = root.parent / "shared/data/llmbar"
    if not folder.exists(): pytest.skip(f"{folder} is not there: no dials of real judges")
    found = llmbar_dials(folder)
    assert len(found) == 56 and all(isinstance(d, JudgeDials) and d.asked_twice for d in found.values())
    rows = json.loads((folder / "published.json").read_text())
    published = {(p["subset"], p["judge"], p["strategy"]): float(p["correct_average"].rstrip("%")) for p in rows}
    off = [d.agreement - published[key] for key, d in found.items()]
    print(dials_table(found).round(1).to_string())
    # 70 completions were misread when the accuracies were published, 25 of them PaLM 2's with reasons
    assert np.quantile(np.abs(off), .9) < 2 and np.abs(off).max() < 9 and abs(np.median(off)) < 1e-6, np.round(off, 1)
    natural = {key[1:]: d for key, d in found.items() if key[0] == "Natural"}
    strong, weak = natural["GPT-4", "Vanilla"], natural["ChatGPT", "Vanilla"]
    assert strong.agreement > 90 > weak.agreement
    assert weak.first > 3 * weak.errors["first"] > 0    # it prefers the output that is shown first
