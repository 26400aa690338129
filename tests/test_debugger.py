"""The debugger: bugs that are found at any size, the order of causes, and a run folder that resumes."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from alpacafarm_nb import (  # noqa: E402
    METHODS, Model, Pipeline, PipelineSettings, PPOConfig, RewardConfig, SFTConfig, debug_run, load_farm)
from alpacafarm_nb.studies.debugger import POINTS, SWAPS, branch, diagnose  # noqa: E402

SETTINGS = PipelineSettings(n_pairs=1, n=4, n_demonstrations=160, n_labeled=40, n_unlabeled=16, n_eval=12,
                            p_label_flip=0., sft=SFTConfig(epochs=2), ppo=PPOConfig(steps=1, rollout_batch_size=8),
                            reward=RewardConfig(epochs=2, batch_size=8, lr=3e-3), evaluate_every=1, n_evaluated=4)
RLOO = METHODS["rloo"].with_settings(steps=2, rollout_batch_size=16, minibatch_size=8, warmup=0)


@pytest.fixture(scope="module")
def run():
    farm = load_farm("farmyard")
    return Pipeline(farm, settings=SETTINGS, annotator=farm.gold.noiseless, say=False)


def causes(pipeline, name="rloo", method=RLOO):
    "Every cause whose sign is found; runs as small as these have too few pairs, which is named first."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # of policies that end as they began
        found = debug_run(pipeline, name, method, losses=False, samples=1)
    return {found.cause, *found.found.suspects}


@pytest.mark.slow
def test_policies_that_were_not_trained(run):
    # the KL is below 1e-6 without learning, and over 0.05 at the usual rate; its range begins at 0.03
    assert "policy_untrained" in causes(run, method=RLOO.with_settings(lr=1e-9))
    assert "kl_too_strong" in causes(run, method=RLOO.with_settings(kl_coef=100.))
    assert not {"kl_too_strong", "cut_short", "reward_sign", "labels_swapped", "other_prompt"} & causes(run)


def test_answers_cut_in_training(run):
    assert "cut_short" in causes(run, method=RLOO.with_settings(max_new_tokens=3))


def test_a_wrong_sign(run):
    class Negated:
        def __init__(self, reward): self.reward = reward
        def score(self, table): return -self.reward.score(table)
    negated = lambda p: p.stage("reward", [{"bug": "sign"}], lambda: Negated(run.reward()))
    found = causes(branch(run, "sign", reward=negated), "best_of_n", None)
    assert "reward_sign" in found and "labels_swapped" not in found


def test_another_prompt(run):
    def policy(p, name, method):
        m = Pipeline.policy(p, name, method)
        return Model(m.backbone, m.adapter, name, m.history, replace(m.decoding, control=" Answer:"))
    assert "other_prompt" in causes(branch(run, "prompt", policy=policy), "prompted")


def test_training_seeds(run):
    found = debug_run(run, "best_of_n", losses=False, seeds=[0, 1, 1])   # the run's own seed is 0
    one = debug_run(run, "best_of_n", losses=False)
    assert (found.n_seeds, one.n_seeds) == (2, 1)
    assert found.table.loc["actual run", "utility"] != one.table.loc["actual run", "utility"]
    assert found.checks_table().equals(one.checks_table())   # of the run itself


def test_causes_are_named_in_the_order_of_the_stages():
    swapped = dict(gold_agreement=30., flips=95., kl=50., reward_fit=30.)
    assert diagnose(swapped).cause == "labels_swapped"
    assert diagnose(swapped).suspects == ("reward_sign", "kl_too_weak")
    assert diagnose({k: v for k, v in swapped.items() if k in ("kl",)}).cause == "kl_too_weak"


@pytest.mark.slow
def test_a_run_folder_resumes_and_agrees_with_memory(tmp_path):
    farm = load_farm("farmyard")
    small = replace(SETTINGS, n_labeled=16, n_eval=6, n_unlabeled=8, p_label_flip=.25,
                    sft=SFTConfig(epochs=1), reward=RewardConfig(epochs=1))
    tables, heard = [], []
    for folder in (None, tmp_path / "run", tmp_path / "run"):
        pipeline = Pipeline(farm, folder, settings=small, say=False)
        pipeline.on_stage = heard.append
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = debug_run(pipeline, "ppo", pool=4, other_order=True)
        tables.append(found.to_pandas())
        assert tables[-1].index.tolist() == list(POINTS)
        if len(tables) == 2: heard.clear()
    assert heard == ["base"]   # the third time, everything is there, and only the base model is loaded again
    for table in tables[1:]:
        for column in ("utility", "win_rate", "kl", "tokens", "difference", "other_order"):
            np.testing.assert_allclose(table[column], tables[0][column], atol=1e-4)
    assert {p.name for p in (tmp_path / "run/debug").iterdir()} == {*SWAPS, "gold_with_noise"}
    assert (tmp_path / "run/debug/true_utility/ppo").is_dir() and (tmp_path / "run/reward").is_dir()
