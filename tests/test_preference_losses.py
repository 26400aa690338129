"""What a preference loss says of its pairs: the reward that it implies, in the history, and a beta that can be met."""

import math
from dataclasses import replace

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import as_json, stable_hash  # noqa: E402
from alpacafarm_nb.methods.dpo import PREFERENCE_LOSSES, DPOConfig, PairTerms, PreferenceLoss, train_dpo  # noqa: E402
from alpacafarm_nb.methods.losses import mean_log_odds  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model  # noqa: E402

softplus = torch.nn.functional.softplus
# of both pairs, the chosen answer has the larger mean and the smaller sum of log-probabilities: -.5 and -1 a token
CHOSEN, REJECTED = torch.tensor([-5., -3.]), torch.tensor([-4., -2.])
N_CHOSEN, N_REJECTED = torch.tensor([10., 6.]), torch.tensor([4., 2.])
REF_CHOSEN, REF_REJECTED = torch.tensor([-7., -3.]), torch.tensor([-5., -2.5])
TERMS = PairTerms(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, N_CHOSEN, N_REJECTED, torch.ones(2), torch.tensor(0.))
odds = lambda p: math.log(p / (1 - p))
BY_HAND = {   # rewards of the first pair, at beta 2
    "dpo": (2 * 2., 2 * 1.), "kto": (2 * 2., 2 * 1.), "ipo": (2 * 2., 2 * 1.),
    "dpo_per_token": (2 * 2 / 10, 2 * 1 / 4), "ipo_per_token": (2 * 2 / 10, 2 * 1 / 4),
    "simpo": (2 * -.5, 2 * -1.), "orpo": (odds(math.exp(-.5)), odds(math.exp(-1)))}


def rewards(name, beta):
    reward = PREFERENCE_LOSSES[name].reward
    return reward(CHOSEN, REF_CHOSEN, N_CHOSEN, beta), reward(REJECTED, REF_REJECTED, N_REJECTED, beta)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_implied_rewards_by_hand(name):
    assert [r[0].item() for r in rewards(name, 2.)] == pytest.approx(BY_HAND[name], abs=1e-6)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_a_loss_is_a_function_of_the_rewards_that_it_names(name):
    config = DPOConfig(loss=name, beta=.7, margin=.3)
    chosen, rejected = rewards(name, .7)
    margin = chosen - rejected
    expected = {"dpo": softplus(-margin), "dpo_per_token": softplus(-margin), "simpo": softplus(.3 - margin),
                "ipo": ((margin - .5) / .7) ** 2, "ipo_per_token": ((margin - .5) / .7) ** 2,
                "kto": 1 - chosen.sigmoid() / 2 - (-rejected).sigmoid() / 2,
                "orpo": .7 * softplus(-margin) - CHOSEN / N_CHOSEN}[name]
    torch.testing.assert_close(PREFERENCE_LOSSES[name].of(TERMS, config), expected)


def test_log_odds_of_the_certain():
    assert mean_log_odds(torch.tensor(math.log(.2))).item() == pytest.approx(math.log(.25), abs=1e-6)
    assert 10 < mean_log_odds(torch.tensor(0.)).item() < 20


QUESTIONS = ["What do hens lay?", "What do cows give?"]
LONG, SHORT = "Eggs, eggs, eggs and eggs and eggs.", "Milk."
PAIRS = pd.DataFrame({"instruction": QUESTIONS, "input": "", "output_1": LONG, "output_2": SHORT, "preference": 1.})


@pytest.fixture(scope="module")
def base():
    return Model(new_backbone(QUESTIONS + [LONG, SHORT], vocab=300, hidden=32, context=96, seed=3),
                 decoding=Decoding(max_new_tokens=8))


def by_transformers(base, question, answer):
    "Log-probability of an answer and its number of tokens, by transformers' own loss."
    backbone = base.backbone
    prompt, output = backbone.encode_prompt(question), backbone.encode_output(answer)
    ids = torch.tensor([prompt + output])
    labels = ids.clone()
    labels[:, :len(prompt)] = -100
    with backbone.inference(None) as net, torch.no_grad():
        return -net(input_ids=ids, labels=labels).loss.item() * len(output), len(output)


@pytest.mark.filterwarnings("ignore:.*as it began")
@pytest.mark.parametrize("name", ["dpo", "dpo_per_token", "simpo", "orpo"])
def test_the_history_shows_them(name, base):
    how = dict(loss=name, beta=.5, lr=1e-12, warmup=0, epochs=1, batch_size=2)
    row = train_dpo(base, PAIRS, **how).history.rows[0]
    read = [[by_transformers(base, q, a) for q in QUESTIONS] for a in (LONG, SHORT)]
    worth = {"dpo": lambda logp, n: 0., "dpo_per_token": lambda logp, n: 0.,   # the start is its own reference
             "simpo": lambda logp, n: .5 * logp / n, "orpo": lambda logp, n: odds(math.exp(logp / n))}[name]
    chosen, rejected = ([worth(*one) for one in side] for side in read)
    assert row["chosen_reward"] == pytest.approx(sum(chosen) / 2, abs=1e-4)
    assert row["rejected_reward"] == pytest.approx(sum(rejected) / 2, abs=1e-4)
    assert row["margin"] == pytest.approx((sum(chosen) - sum(rejected)) / 2, abs=1e-4)
    if name in ("simpo", "orpo"): assert row["accuracy"] == sum(c > r for c, r in zip(chosen, rejected)) / 2
    if name == "simpo": assert all(sum(a) < sum(b) for a, b in zip(*[[[x[0]] for x in s] for s in read]))   # by sums: 0


def test_a_beta_for_each_loss():
    assert DPOConfig().beta == DPOConfig(loss="dpo", beta=None).beta == .1
    assert {name: DPOConfig(loss=name).beta for name in PREFERENCE_LOSSES} == {
        "dpo": .1, "dpo_per_token": .5, "ipo": .1, "ipo_per_token": 1., "kto": .1, "simpo": 2., "orpo": .1}
    assert DPOConfig(loss="simpo", beta=.1).beta == replace(DPOConfig(beta=.1), loss="simpo").beta == .1
    for simpo in (replace(DPOConfig(), loss="simpo"), DPOConfig.make(loss="simpo"),
                  DPOConfig.make(DPOConfig(lr=1e-4), loss="simpo"), DPOConfig.make(DPOConfig.paper(), loss="simpo")):
        assert simpo.beta == 2.
    assert stable_hash(DPOConfig()) == stable_hash(DPOConfig(beta=.1))   # kept runs stay what they are
    assert as_json(DPOConfig())["beta"] == .1
    # what a loss asks for, in nats a token: less than one where it is in means over tokens
    assert DPOConfig().margin / DPOConfig(loss="simpo").beta < 1 > 1 / (2 * DPOConfig(loss="ipo_per_token").beta)


def test_one_of_your_own(base, monkeypatch):
    monkeypatch.setitem(PREFERENCE_LOSSES, "hinge", PreferenceLoss(
        lambda t, c: torch.relu(1 - c.beta * (t.chosen_mean - t.rejected_mean)), reference=False, beta=3.,
        reward=lambda logps, ref_logps, tokens, beta: beta * logps / tokens))
    row = train_dpo(base, PAIRS, loss="hinge", epochs=1, batch_size=2, warmup=0).history.rows[0]
    assert row["loss"] == pytest.approx(1 - row["margin"], abs=1e-5) and abs(row["margin"]) > 1e-3
