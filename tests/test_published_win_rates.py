"""The win rates that AlpacaEval published, recomputed from its judges' annotations."""
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alpacafarm_nb.evaluation import (agreement_rate, length_controlled_win_rate, load_published, paired_difference,
                                      scoreboard, win_rate)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "alpaca_eval"
JUDGES = ("alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo")
CASES = [(judge, path.parent.name) for judge in JUDGES for path in sorted(DATA.glob(f"*/{judge}.annotations.json.gz"))]

pytestmark = pytest.mark.skipif(not CASES, reason=f"the AlpacaEval annotations are not here (looked in {DATA})")


def annotations(model, judge):
    return DATA / model / f"{judge}.annotations.json.gz"


def published(model, judge):
    return pd.read_csv(DATA / f"{judge}_published_rows.csv", index_col=0).loc[model]


@pytest.mark.parametrize("judge, model", CASES)
def test_row_of_the_leaderboard(judge, model):
    ours, row = win_rate(annotations(model, judge)), published(model, judge)
    for figure in ("win_rate", "standard_error", "discrete_win_rate"):
        assert getattr(ours, figure) == pytest.approx(row[figure], abs=1e-3), figure
    for count in ("n_wins", "n_wins_base", "n_draws", "n_total"): assert getattr(ours, count) == row[count], count
    # The published length is that of the model's output file, the annotations leave a few outputs out.
    outputs = pd.read_json(DATA / model / "model_outputs.json.gz")
    assert abs(ours.avg_length - row["avg_length"]) <= 2
    assert abs(ours.avg_length - outputs["output"].str.len().mean()) <= 2


def test_a_missing_verdict_is_no_loss():
    ours = win_rate(annotations("text_davinci_001", "alpaca_eval_gpt4"))
    assert (ours.n_missing, ours.n_total) == (1, 804)


def test_pairing_narrows_the_comparison():
    tables = [pd.read_json(annotations(m, "alpaca_eval_gpt4")) for m in ("alpaca-farm-ppo-human", "alpaca-7b")]
    shuffled = tables[0].sample(frac=1, random_state=0)   # rows are matched by text, not by place
    difference = paired_difference(shuffled, tables[1])
    rates = [win_rate(t) for t in tables]
    assert difference.difference == pytest.approx(rates[0].win_rate - rates[1].win_rate, abs=1e-9)
    assert difference.standard_error < (rates[0].standard_error**2 + rates[1].standard_error**2)**.5
    assert difference.z > 5


def test_agreement_of_a_judge_with_itself():
    path = annotations("alpaca-7b", "alpaca_eval_gpt4")
    same = agreement_rate(path, path)
    assert (same.agreement, same.n, same.n_ties) == (100, 805, 0)


@pytest.mark.parametrize("model", [model for judge, model in CASES if judge == JUDGES[0]])
def test_length_controlled_as_published(model):
    with warnings.catch_warnings(action="error"): ours = length_controlled_win_rate(annotations(model, JUDGES[0]))
    assert ours.win_rate == pytest.approx(published(model, JUDGES[0])["length_controlled_winrate"], abs=1.)
    assert ours.low < ours.unpenalized < ours.high and .5 < ours.standard_error < 4


@pytest.mark.parametrize("model", [model for judge, model in CASES if judge == JUDGES[1]])
def test_without_its_files_the_turbo_judge_is_not_comparable(model):
    with pytest.warns(UserWarning, match="not comparable"): length_controlled_win_rate(annotations(model, JUDGES[1]))


def by_definition(table):
    "AlpacaEval's length_controlled_minimal, with scikit-learn: L1 penalty by 5-fold cross-validation, no intercept."
    linear_model = pytest.importorskip("sklearn.linear_model")
    selection = pytest.importorskip("sklearn.model_selection")
    gap = table["output_1"].str.len() - table["output_2"].str.len()
    keep = table["preference"].notna().to_numpy()
    X = np.c_[np.tanh(gap / gap.std()), np.ones(len(gap))][keep]
    p = table["preference"].astype(float).replace(0., 1.5).to_numpy()[keep] - 1
    rows, label, share = np.r_[X, X], np.r_[np.ones(len(p)), np.zeros(len(p))], np.r_[p, 1 - p]
    def fit(C, at):
        model = linear_model.LogisticRegression(C=C, penalty="l1", solver="liblinear", fit_intercept=False,
                                                random_state=123)
        return model.fit(rows[at], label[at], sample_weight=share[at])
    losses, groups = np.zeros(10), np.r_[np.arange(len(p)), np.arange(len(p))]
    for k, C in enumerate(np.logspace(-4, 4, 10)):
        for train, held in selection.GroupKFold(5).split(rows, groups=groups):
            held = held[held < len(p)]
            q = np.clip(fit(C, train).predict_proba(X[held])[:, 1], 1e-15, 1 - 1e-15)
            losses[k] -= (p[held] * np.log(q) + (1 - p[held]) * np.log(1 - q)).mean()
    constant = fit(np.logspace(-4, 4, 10)[losses.argmin()], np.arange(len(rows))).coef_[0, 1]
    return 100 / (1 + np.exp(-constant))


@pytest.mark.parametrize("judge, model", CASES)
def test_length_controlled_minimal_by_definition(judge, model):
    with warnings.catch_warnings(action="ignore"):
        ours, want = length_controlled_win_rate(annotations(model, judge)), by_definition(
            pd.read_json(annotations(model, judge)))
    assert ours.win_rate == pytest.approx(want, abs=.1)


@pytest.mark.parametrize("judge", JUDGES)
def test_a_board_of_the_files_as_they_are(judge):
    models = [model for j, model in CASES if j == judge]
    board = scoreboard([annotations(m, judge) for m in models])
    rows = load_published(DATA / f"{judge}_published_rows.csv")
    shown, wanted = board.to_pandas(), rows.to_pandas().loc[board.models]
    for figure in ("win_rate", "standard_error", "discrete_win_rate"):
        np.testing.assert_allclose(shown[figure], wanted[figure], atol=1e-3)
    for count in ("n_wins", "n_wins_base", "n_draws", "n_total"): assert (shown[count] == wanted[count]).all()
    assert (abs(shown["avg_length"] - wanted["avg_length"]) <= 2).all()
    assert (shown["low"] < shown["win_rate"]).all() and (shown["win_rate"] < shown["high"]).all()
    best, worst = board.models[0], board.models[-1]
    difference = board.compare(best, worst)
    apart = shown["win_rate"].iloc[0] - shown["win_rate"].iloc[-1]
    assert difference.difference == pytest.approx(apart, abs=.1)   # one model lacks a verdict or two
    assert difference.n + difference.n_missing == 805 and difference.p_value < .05
