# The names that users type and where each is defined; loaded from there when it is first used.
__version__: str
from .core import (
    ConfigError as ConfigError, FarmError as FarmError, ModelError as ModelError, RecordError as RecordError,
    StageError as StageError, data_path as data_path, seed_for as seed_for, stable_hash as stable_hash,
)
from .runs import RunFolder as RunFolder
from .display import plot_theme as plot_theme
from .records import (
    as_table as as_table, check_demonstrations as check_demonstrations, check_instructions as check_instructions,
    check_outputs as check_outputs, check_pairs as check_pairs, check_preferences as check_preferences,
    training_pairs as training_pairs,
)
from .prompts import ChatFormat as ChatFormat, PromptFormat as PromptFormat
from .sources import (
    load_alpaca_farm as load_alpaca_farm, load_alpaca_farm_splits as load_alpaca_farm_splits,
    load_chat_pairs as load_chat_pairs, load_cross_annotations as load_cross_annotations, load_hh as load_hh,
    load_llmfao as load_llmfao,
)
from .evaluation import (
    Scoreboard as Scoreboard, WinRate as WinRate, agreement as agreement, agreement_rate as agreement_rate,
    best_of_n_curve as best_of_n_curve, bias_and_variance as bias_and_variance, bootstrap as bootstrap,
    bradley_terry as bradley_terry, cohen_kappa as cohen_kappa, corrected_win_rate as corrected_win_rate, elo as elo,
    fit_overoptimization as fit_overoptimization, instructions_needed as instructions_needed,
    judge_agreement as judge_agreement, labels_needed as labels_needed,
    length_controlled_win_rate as length_controlled_win_rate, load_published as load_published,
    measured_fall as measured_fall,
    paired_difference as paired_difference, paper_results as paper_results, preference_biases as preference_biases,
    rank_correlation as rank_correlation, scoreboard as scoreboard, win_rate as win_rate,
    win_rate_interval as win_rate_interval, win_rates as win_rates,
)
from .models.backbone import Backbone as Backbone
from .models.loading import load_backbone as load_backbone
from .models.reward_model import RewardModel as RewardModel
from .models.policy import (
    Model as Model, ask as ask, load_base as load_base, load_model as load_model, sample_pairs as sample_pairs,
)
from .models.released import load_released_reward as load_released_reward, recover_weights as recover_weights
from .training.learner import Learner as Learner
from .training.history import History as History
from .methods.memory import MemoryEstimate as MemoryEstimate, estimate_memory as estimate_memory
from .methods.sft import SFTConfig as SFTConfig, train_sft as train_sft
from .methods.reward import RewardConfig as RewardConfig, train_reward_model as train_reward_model
from .methods.ensemble import (
    LengthPenalty as LengthPenalty, RewardEnsemble as RewardEnsemble, load_reward_ensemble as load_reward_ensemble,
    train_reward_ensemble as train_reward_ensemble,
)
from .methods.bestofn import BestOfN as BestOfN, best_of_n as best_of_n
from .methods.expert import ExpertConfig as ExpertConfig, train_expert_iteration as train_expert_iteration
from .methods.dpo import (
    PREFERENCE_LOSSES as PREFERENCE_LOSSES, DPOConfig as DPOConfig, PreferenceLoss as PreferenceLoss,
    train_dpo as train_dpo,
)
from .methods.ppo import PPOConfig as PPOConfig, train_ppo as train_ppo
from .methods.quark import QuarkConfig as QuarkConfig, train_quark as train_quark
from .methods.binary import (
    FeedMEConfig as FeedMEConfig, RewardConditioningConfig as RewardConditioningConfig, with_control as with_control,
    train_feedme as train_feedme, train_reward_conditioning as train_reward_conditioning,
)
from .methods.registry import METHODS as METHODS, Method as Method
from .servers.cache import AnnotationCache as AnnotationCache
from .servers.endpoint import BudgetSpent as BudgetSpent, Endpoint as Endpoint, EndpointError as EndpointError
from .annotators.pool import AnnotatorPool as AnnotatorPool, LogOddsAnnotator as LogOddsAnnotator
from .annotators.judges import Judge as Judge, load_judges as load_judges
from .annotators.endpoint_pool import EndpointPool as EndpointPool, load_pool as load_pool
from .annotators.local import (
    HumanLabels as HumanLabels, ModelJudge as ModelJudge, RewardJudge as RewardJudge, RuleJudge as RuleJudge,
)
from .annotators.human import LabelStore as LabelStore
from .annotators.costs import (
    LabelCosts as LabelCosts, LabelPrice as LabelPrice, equal_labels as equal_labels, label_costs as label_costs,
    labels_within as labels_within,
)
from .annotators.simulated import Gold as Gold, farmyard_pool as farmyard_pool
from .farm.worlds import Farm as Farm, load_farm as load_farm, make_farm as make_farm
from .studies.pipeline import Pipeline as Pipeline, PipelineSettings as PipelineSettings, run_demo as run_demo
from .studies.debugger import DebugResult as DebugResult, debug_run as debug_run
from .farm.training_curves import (
    PolicyEvaluator as PolicyEvaluator, best_of_n_points as best_of_n_points, best_of_n_samples as best_of_n_samples,
)
from .studies.repeat_seeds import repeat as repeat
from .studies.judge_price import (
    JudgeDials as JudgeDials, JudgePrice as JudgePrice, fit_judge_price as fit_judge_price, judge_dials as judge_dials,
    shipped_judge_price as shipped_judge_price,
)
from .farm.leaderboard import (
    Leaderboard as Leaderboard, leaderboard as leaderboard, load_leaderboard as load_leaderboard,
)
from .widgets.explorer import explore as explore
from .widgets.label import label as label
from .widgets.training_board import training_board as training_board
from .widgets.farm_panel import farm_panel as farm_panel
from .widgets.agreement_board import agreement_board as agreement_board
from .widgets.curves import curves as curves
from .widgets.goodhart_panel import goodhart_panel as goodhart_panel
