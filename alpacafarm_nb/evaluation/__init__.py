"""Verdicts in, figures out, each with its uncertainty; neither torch nor a model is needed.

A name's module is loaded when the name is first used.
"""

import importlib
from pathlib import Path

# module: what other notebooks and users take from it
_MODULES = {
    "rates": "Estimate clustered_error instruction_ids WinRate win_rate win_rate_interval win_rates",
    "paired": "unit_scores score_matrix PairedDifference paired_difference power_of instructions_needed",
    "uncertainty": "Bootstrap bootstrap crossed_error",
    "best_of_n": "order_weights BestOfNCurve best_of_n_curve best_of_n_kl",
    "agreement_rates": "Agreement agreement_rate Calibration calibration",
    "length": "LengthControl length_controlled_win_rate",
    "reliability": "label_table AgreementReport agreement cohen_kappa judge_agreement bias_and_variance likings "
                   "order_accuracy",
    "rankings": "bradley_terry elo rank_correlation paper_results RankCorrelation Ratings",
    "corrected": "corrected_win_rate labels_needed CorrectedWinRate",
    "overoptimization": "fit_overoptimization OverOptimization",
    "scoreboards": "Scoreboard scoreboard load_published",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()
         if Path(__file__).with_name(f"{module}.py").exists()}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
