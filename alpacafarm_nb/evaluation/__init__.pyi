# What other notebooks and users take from this package; loaded when it is first used.
from .rates import (
    Estimate as Estimate, WinRate as WinRate, clustered_error as clustered_error, instruction_ids as instruction_ids,
    win_rate as win_rate, win_rate_interval as win_rate_interval, win_rates as win_rates,
)
from .paired import (
    PairedDifference as PairedDifference, instructions_needed as instructions_needed,
    paired_difference as paired_difference, power_of as power_of, score_matrix as score_matrix,
    unit_scores as unit_scores,
)
from .uncertainty import Bootstrap as Bootstrap, bootstrap as bootstrap, crossed_error as crossed_error
from .best_of_n import (
    BestOfNCurve as BestOfNCurve, best_of_n_curve as best_of_n_curve, best_of_n_kl as best_of_n_kl,
    order_weights as order_weights,
)
from .agreement_rates import (
    Agreement as Agreement, Calibration as Calibration, agreement_rate as agreement_rate, calibration as calibration,
)
from .length import LengthControl as LengthControl, length_controlled_win_rate as length_controlled_win_rate
from .reliability import (
    AgreementReport as AgreementReport, agreement as agreement, bias_and_variance as bias_and_variance,
    cohen_kappa as cohen_kappa, judge_agreement as judge_agreement, label_table as label_table,
    order_accuracy as order_accuracy, preference_biases as preference_biases,
)
from .rankings import (
    RankCorrelation as RankCorrelation, Ratings as Ratings, bradley_terry as bradley_terry, elo as elo,
    paper_results as paper_results, rank_correlation as rank_correlation,
)
from .corrected import (
    CorrectedWinRate as CorrectedWinRate, corrected_win_rate as corrected_win_rate, labels_needed as labels_needed,
)
from .overoptimization import (
    MeasuredFall as MeasuredFall, OverOptimization as OverOptimization, fit_overoptimization as fit_overoptimization,
    measured_fall as measured_fall,
)
from .scoreboards import Scoreboard as Scoreboard, load_published as load_published, scoreboard as scoreboard
