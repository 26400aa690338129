"""What reinforcement learning is measured in: equal rewards leave the KL its price, rounding is no reward."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import ConfigError, StageError  # noqa: E402
from alpacafarm_nb.training.learner import Learner  # noqa: E402
from alpacafarm_nb.methods.losses import explained_variance, grpo_advantages, whiten  # noqa: E402
from alpacafarm_nb.methods.ppo import PPOConfig, train_ppo  # noqa: E402
from alpacafarm_nb.methods.advantages import given_scale, measured_scale, scale_rewards  # noqa: E402
from alpacafarm_nb.methods.reward import as_reward  # noqa: E402
from alpacafarm_nb.models.reward_model import RewardModel, scalar_head  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs.", "Milk.", "The sheep.", "The cows do."]


@pytest.fixture(scope="module")
def policy():
    "A policy away from its base, so that there is a KL to pay for."
    backbone = new_backbone(QUESTIONS + ANSWERS, vocab=300, hidden=32, context=80, seed=3)
    adapter, generator = backbone.adapters.add("moved", seed=1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in backbone.adapters.parameters(adapter): p.copy_(.3 * torch.randn(p.shape, generator=generator))
    return Model(backbone, adapter, "moved", decoding=Decoding(max_new_tokens=8))


def gradient(policy, reward, **settings):
    "The policy's gradient at the first step of a rollout, before anything is clipped or moved."
    found = []
    def keep(learner, batch=None):
        found.append(torch.cat([p.grad.flatten() for p in learner.groups["policy"]]))
        learner.optimizer.zero_grad()
        return {}
    few = dict(steps=1, rollout_batch_size=16, minibatch_size=16, ppo_epochs=1, missing_eos_penalty=0., gae_lambda=1.)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "optimizer_step", keep)
        base = Model(policy.backbone, None, "base", decoding=policy.decoding)
        train_ppo(policy, reward, QUESTIONS, reference=base, **{**few, **settings}).free()
    return found[0]


equal = {"zero": lambda t: np.zeros(len(t)), "rounding": lambda t: .3 + 4e-17 * (np.arange(len(t)) % 3),
         "large": lambda t: np.full(len(t), 1e6)}


@pytest.mark.parametrize("reward", equal)
@pytest.mark.parametrize("kl_placement", ["reward", "loss"])
@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_equal_rewards_leave_the_kl_its_price(advantage, kl_placement, reward, policy):
    options = dict(advantage=advantage, kl_placement=kl_placement)
    grads = {c: gradient(policy, equal[reward], **options, kl_coef=c) for c in (.2, .02, .002)}
    size = grads[.2].norm()
    assert size > 1e-3
    for coef in (.02, .002):
        assert (grads[coef] / coef - grads[.2] / .2).norm() < 1e-3 * size / .2, grads[coef].norm() / size
    if advantage == "grpo":   # without a difference between scores, GRPO and RLOO are one
        rloo = gradient(policy, equal[reward], advantage="rloo", kl_placement=kl_placement, kl_coef=.2)
        assert torch.allclose(rloo, grads[.2], atol=1e-5 * size)


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_the_kl_is_added_to_what_the_scores_give(advantage, policy):
    "Twice the coefficient, twice the penalty, whatever the scores and their spread."
    length = lambda table: table["output"].str.len().to_numpy(dtype=float)
    at = lambda coef: gradient(policy, length, advantage=advantage, kl_coef=coef)
    alone, by_kl = at(0.), gradient(policy, equal["zero"], advantage=advantage, kl_coef=.2)
    for coef in (.2, .4): assert torch.allclose(at(coef), alone + coef / .2 * by_kl, atol=1e-5 * by_kl.norm())


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
@pytest.mark.parametrize("scale", ["first rollout", "raw"])
def test_rounding_is_no_reward(advantage, scale, policy):
    dust = lambda table: np.where(np.arange(len(table)) % 2, .1 + .2, .3)
    assert dust(range(4)).std() > 0
    trained = train_ppo(policy, dust, QUESTIONS, advantage=advantage, reward_scale=scale, steps=3, rollout_batch_size=8,
                        minibatch_size=8, kl_coef=0., missing_eos_penalty=0., gae_lambda=1.)
    rows = trained.history.rows
    assert all(abs(row["objective"]) < 1 and row.get("value_loss", 0) < 1 for row in rows)
    if advantage != "gae" or scale == "first rollout":   # of a raw constant, the value function must learn what it is
        of = policy.backbone.adapters.parameters
        for a, b in zip(of(trained.adapter), of(policy.adapter)):
            assert torch.equal(a, b), "nothing was to be learned"
    trained.free()


def test_functions_of_tensors_without_spread():
    dust = torch.tensor([.1 + .2, .3, .3, .3], dtype=torch.float64)
    assert dust.std() > 0
    assert grpo_advantages(dust, 4).tolist() == grpo_advantages(torch.full((4,), 7.), 4).tolist() == [0] * 4
    # a group that does not vary about the mean of one that does
    mixed = torch.cat([torch.tensor([1., -1., 1., -1.]), torch.tensor([1e-9, -1e-9, 1e-9, 0.])])
    assert grpo_advantages(mixed, 4)[4:].tolist() == [0] * 4
    on = torch.ones(1, 4)
    assert whiten(dust[None], on).tolist() == [[0] * 4]
    assert whiten(1e-7 * mixed[None, :4], on).std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    assert np.isnan(explained_variance(torch.zeros(1, 4), dust[None], on))


def test_an_outlier_silences_no_other_group():
    scores = torch.tensor([0., 1, 2, 3])
    alone = grpo_advantages(scores, 4)
    assert alone.abs().min() > .3
    for outlier in (1e7, 1e30):
        both = torch.cat([scores, torch.tensor([0., 0, 0, outlier])])
        assert torch.equal(grpo_advantages(both, 4)[:4], alone)
    # doubles keep what single precision takes for rounding
    assert torch.allclose(grpo_advantages(scores.double() + 1e7, 4), alone.double())
    assert whiten(scores.double()[None] + 1e7, torch.ones(1, 4)).std(unbiased=False) == pytest.approx(1, abs=1e-3)
    assert np.isfinite(explained_variance(torch.zeros(1, 4), scores.double()[None] + 1e7, torch.ones(1, 4)))


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
@pytest.mark.parametrize("unit", [1., 1 / 3])
def test_a_large_constant_in_the_reward_teaches_nothing(advantage, unit, policy):
    "The gradient is that without it, whether rewards are whole numbers or not."
    few = dict(advantage=advantage, kl_coef=.2)
    length = lambda table: unit * table["output"].str.len().to_numpy(dtype=float)
    plain = gradient(policy, length, **few)
    assert plain.norm() > 1e-3
    for constant in (1e6, 1e7, 1e8):
        assert torch.allclose(gradient(policy, lambda t: constant + length(t), **few), plain, atol=1e-5 * plain.norm())


def test_rewards_within_the_rounding_of_single_precision_are_named(policy):
    "A reward that was computed in single precision: its last digits are no reward, and that is said."
    single = lambda table: (3 + 3e-7 * (np.arange(len(table)) % 3)).astype(np.float32)
    few = dict(rollout_batch_size=8, minibatch_size=8, missing_eos_penalty=0., kl_coef=0.)
    with pytest.warns(UserWarning, match=r"differ by .* about 3, which is taken for the rounding"):
        assert gradient(policy, single, advantage="rloo", **few).norm() == 0
    length = lambda table: 1e7 + table["output"].str.len().to_numpy(dtype=float)
    with pytest.warns(UserWarning, match="taken for the rounding"):   # kept in single precision as it is
        gradient(policy, length, advantage="grpo", reward_scale="raw", **few)
    import warnings
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*taken for the rounding")
        for reward in (*equal.values(), lambda t: t["output"].str.len()): gradient(policy, reward, **few)


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
@pytest.mark.parametrize("size, scale", [(1e39, "raw"), (1., (0., 1e-300)), (1e300, "first rollout")])
def test_rewards_that_overflow_end_the_run(size, scale, advantage, policy):
    reward = lambda table: size * np.arange(1., len(table) + 1)
    with pytest.raises(StageError, match="not finite"):
        train_ppo(policy, reward, QUESTIONS, advantage=advantage, reward_scale=scale, steps=1, rollout_batch_size=8,
                  minibatch_size=8)


def scaled(policy, reward, **settings):
    "Rewards of a first rollout, in the units of the run."
    rewards = as_reward(reward)(policy.sample(QUESTIONS, seed=0))
    return scale_rewards(rewards, given_scale(reward, PPOConfig(**settings).reward_scale) or measured_scale(rewards))


def test_units_of_the_reward(policy):
    head = scalar_head(policy.backbone)
    with torch.no_grad(): head.weight.normal_(generator=torch.Generator().manual_seed(0))
    plain = RewardModel(policy.backbone, policy.adapter, head)
    own = RewardModel(policy.backbone, policy.adapter, head, mean=2., scale=5.)
    raw = scaled(policy, plain, reward_scale="raw")
    np.testing.assert_allclose(raw, plain.score(policy.sample(QUESTIONS, seed=0)), rtol=1e-12)
    np.testing.assert_allclose(scaled(policy, own, reward_scale="raw"), raw, rtol=1e-6)
    np.testing.assert_allclose(scaled(policy, own), (raw - 2) / 5, rtol=1e-6)
    np.testing.assert_allclose(scaled(policy, plain), (raw - raw.mean()) / raw.std(), rtol=1e-6)
    np.testing.assert_allclose(scaled(policy, plain, reward_scale=(1., 4.)), (raw - 1) / 4, rtol=1e-6)
    # the KL coefficient of a raw reward is in its units: a reward ten times as large asks for one ten times as large
    length = lambda table: table["output"].str.len().to_numpy(dtype=float)
    many = lambda table: 10 * length(table)
    one, ten = (gradient(policy, r, advantage="rloo", reward_scale="raw", kl_coef=c)
                for r, c in ((length, .2), (many, 2.)))
    assert torch.allclose(10 * one, ten, atol=1e-4 * ten.norm())
    for wrong in ("other", (0., 0.), (0., -1.), (1.,), None, [float("inf"), 1.]):
        with pytest.raises(ConfigError, match="reward_scale"): PPOConfig(reward_scale=wrong)
    assert PPOConfig(reward_scale=[1, 2]).reward_scale == (1., 2.)   # as JSON gives it back


def test_a_reward_model_without_spread(policy):
    "A reward model that scores everything alike is centered and not divided by rounding."
    from alpacafarm_nb.methods.pair_batches import EncodedPairs
    from alpacafarm_nb.methods.reward import _standardize

    class Constant(RewardModel):
        def score_ids(self, prompts, outputs): return .3 + 1e-16 * (np.arange(len(prompts)) % 2)
    pairs = EncodedPairs([[1, 5]] * 4, [[6, 2]] * 4, [[7, 2]] * 4, torch.ones(4))
    reward = Constant(policy.backbone, policy.adapter)
    assert reward.score_ids([0] * 4, []).std() > 0
    _standardize(reward, pairs)
    assert reward.scale == 1 and reward.mean == pytest.approx(.3)


def test_evaluation_takes_no_rounding_for_a_spread():
    "Scores that are equal but for rounding: errors are 0, correlations missing, intervals as for equal scores."
    import pandas as pd

    from alpacafarm_nb.evaluation import (clustered_error, corrected_win_rate, length_controlled_win_rate,
                                          paired_difference, win_rate_interval)
    dust, flat = 1.3 + np.array([0, 3e-16, 0, 2e-16] * 5), np.full(20, 1.3)
    assert dust.std() > 0
    assert clustered_error(dust, np.arange(20)) == 0
    at = lambda p: win_rate_interval(pd.DataFrame(dict(instruction=[f"q{i}" for i in range(20)], preference=p)))
    assert [at(dust).low, at(dust).high] == pytest.approx([at(flat).low, at(flat).high])
    assert np.isnan(paired_difference(dust, np.arange(20.)).correlation)
    other = np.r_[1., 2, 1, 1] .repeat(5)
    found, plain = (corrected_win_rate(p, other, other) for p in (dust, flat))
    assert str(found) == str(plain)
    words = pd.DataFrame(dict(instruction=[f"q{i}" for i in range(20)], output_1="a", output_2="bcd", preference=1.5))
    with pytest.raises(Exception, match="same length"): length_controlled_win_rate(words)
