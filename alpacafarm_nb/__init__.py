"""AlpacaFarm in a notebook: simulate human feedback, train on it, and measure what it did.

Importing this package is quick, because a name's module is loaded when the name is first used.

On a busy machine, torch's threads wait for each other by counting, for up to a hundred times as long as they compute.
Unless the environment has a variable that begins with OMP_, GOMP_ or KMP_, importing this package before torch has them
sleep soon instead (`GOMP_SPINCOUNT`, which GNU's OpenMP reads when torch is loaded: on Linux). The number of threads, and
with it every figure, stays the same. Where torch was imported first, nothing is changed.
"""

__version__ = "0.1.0"

import importlib
import os
import sys
from pathlib import Path

SPIN = "5000"  # rounds that a thread waits for the others before it sleeps; GNU's default is 300000

# module: the names of it that users type
_MODULES = {
    "core": "FarmError RecordError ModelError ConfigError StageError stable_hash seed_for data_path",
    "runs": "Stages",
    "display": "plot_theme",
    "records": "as_table check_instructions check_demonstrations check_pairs check_preferences check_outputs training_pairs",
    "prompts": "PromptFormat ChatFormat",
    "sources": "load_alpaca_farm load_alpaca_farm_splits load_chat_pairs load_hh load_llmfao load_cross_annotations",
    "evaluation": "win_rate WinRate win_rate_interval win_rates paired_difference instructions_needed bootstrap "
                  "best_of_n_curve agreement_rate length_controlled_win_rate agreement cohen_kappa judge_agreement "
                  "bias_and_variance likings bradley_terry elo rank_correlation paper_results corrected_win_rate "
                  "labels_needed fit_overoptimization scoreboard Scoreboard load_published",
    "models.backbone": "Backbone",
    "models.loading": "load_backbone",
    "models.reward_model": "RewardModel",
    "models.policy": "Model load_base load_model ask sample_pairs",
    "models.released": "recover_weights load_released_reward",
    "training.learner": "Learner",
    "training.history": "History",
    "methods.memory": "estimate_memory MemoryEstimate",
    "methods.sft": "train_sft SFTConfig",
    "methods.reward": "train_reward_model RewardConfig",
    "methods.bestofn": "best_of_n BestOfN",
    "methods.expert": "train_expert_iteration ExpertConfig",
    "methods.dpo": "train_dpo DPOConfig PREFERENCE_LOSSES PreferenceLoss",
    "methods.ppo": "train_ppo PPOConfig",
    "methods.quark": "train_quark QuarkConfig",
    "methods.binary": "train_feedme FeedMEConfig train_reward_conditioning RewardConditioningConfig asking",
    "servers.cache": "Answers",
    "servers.endpoint": "Endpoint EndpointError BudgetSpent",
    "annotators.pool": "AnnotatorPool",
    "annotators.judges": "Judge load_judges",
    "annotators.endpoint_pool": "EndpointPool load_pool",
    "annotators.local": "RuleJudge RewardJudge ModelJudge HumanLabels",
    "annotators.human": "KeptLabels",
    "annotators.simulated": "Gold farmyard_pool",
    "farm.worlds": "load_farm make_farm Farm",
    "studies.pipeline": "Loop LoopSettings run_demo",
    "farm.training_curves": "Look best_of_n_points best_of_n_samples",
    "studies.repeat_seeds": "repeat",
    "farm.leaderboard": "leaderboard load_leaderboard Leaderboard",
    "widgets.explorer": "explore",
    "widgets.label": "label",
    "widgets.training_board": "training_board",
    "widgets.farm_panel": "farm_panel",
    "widgets.agreement_board": "agreement_board",
    "widgets.curves": "curves",
}


def _bound_spin():
    "Bound how long torch's threads wait awake for each other, unless somebody has settled that, or torch is loaded."
    settled = any(name.startswith(("OMP_", "GOMP_", "KMP_")) for name in os.environ)
    if not settled and "torch" not in sys.modules: os.environ["GOMP_SPINCOUNT"] = SPIN


_bound_spin()


def _built(module):
    place = Path(__file__).parent.joinpath(*module.split("."))
    return place.with_suffix(".py").exists() or place.is_dir()


_HOME = {name: module for module, names in _MODULES.items() if _built(module) for name in names.split()}
__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
