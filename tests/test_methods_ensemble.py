"""Ensembles of rewards and the price for length, with every method that learns from a reward, killed and resumed."""

import random

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from test_methods_resume import PAIRS, QUESTIONS, Killed, ended, failing  # noqa: E402

from alpacafarm_nb.core import FarmError, RecordError, StageError, stable_hash  # noqa: E402
from alpacafarm_nb.farm.worlds import load_farm  # noqa: E402
from alpacafarm_nb.methods.bestofn import best_of_n  # noqa: E402
from alpacafarm_nb.methods.ensemble import (  # noqa: E402
    LengthPenalty, RewardEnsemble, load_reward_ensemble, train_reward_ensemble)
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import reward_fingerprint  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model, load_base, sample_pairs  # noqa: E402

FEW = dict(epochs=1, batch_size=8, lr=2e-3, warmup=1)
ONLINE = dict(steps=3, rollout_batch_size=8, max_new_tokens=12)
METHODS = {
    "ppo": lambda *a, **run: train_ppo(*a, **ONLINE, minibatch_size=4, **run),
    "rloo": lambda *a, **run: train_ppo(*a, **ONLINE, minibatch_size=8, advantage="rloo", **run),
    "grpo": lambda *a, **run: train_ppo(*a, **ONLINE, minibatch_size=8, advantage="grpo", **run),
    "quark": lambda *a, **run: train_quark(*a, **ONLINE, updates=1, batch_size=4, quantiles=2, **run),
    "expert": lambda *a, **run: train_expert_iteration(*a, n=3, rounds=2, epochs=1, batch_size=2, max_new_tokens=12,
                                                       **run),
}


@pytest.fixture(scope="module")
def farm(): return load_farm("farmyard")


@pytest.fixture(scope="module")
def base(farm): return load_base(farm.model)


@pytest.fixture(scope="module")
def pairs(farm, base):
    return farm.gold.annotate_pairs(sample_pairs(base, farm.preference.head(24), max_new_tokens=12, seed=1))


@pytest.fixture(scope="module")
def ensemble(base, pairs): return train_reward_ensemble(base, pairs, n=2, how="worst", **FEW)


def rewards(ensemble):
    "One of each kind, by name; all have the same two members."
    return {"mean": RewardEnsemble(ensemble.members), "worst": ensemble,
            "uncertainty": RewardEnsemble(ensemble.members, "uncertainty", .1),
            "length": LengthPenalty(ensemble, .05, limit=3)}


@pytest.mark.parametrize("name", METHODS)
def test_killed_and_resumed(name, farm, base, ensemble, tmp_path, monkeypatch):
    "On the farmyard: the same as without a kill; with another reward, its result or a refusal."
    train, asked = METHODS[name], farm.unlabeled.head(4)
    kinds = rewards(ensemble)
    reward = kinds[dict(zip(METHODS, ("uncertainty", "length", "mean", "worst", "length")))[name]]
    before = list(base.backbone.adapters.names)
    weights, history = ended(train(base, reward, asked, seed=2))
    run = dict(seed=2, run_dir=tmp_path, checkpoint_every=1)
    with monkeypatch.context() as patch:
        failing(patch, "log_step", 2, Killed())
        with pytest.raises(Killed): train(base, reward, asked, **run)
    assert base.backbone.adapters.names == before
    again, rows = ended(train(base, reward, asked, **run))
    assert torch.equal(again, weights) and rows == history
    for other in kinds.values():
        if other is reward: continue
        try: found = ended(train(base, other, asked, **run))
        except StageError: continue
        assert name == "expert", "only this method picks winners again, and a round with the same winners is the same"
        fresh = ended(train(base, other, asked, seed=2))
        assert torch.equal(found[0], fresh[0]) and found[1] == fresh[1] != history
    assert base.backbone.adapters.names == before


def test_best_of_n_by_hand(farm, base, ensemble):
    "The winner has the highest of the combined scores of the candidates that are drawn."
    asked = farm.unlabeled.head(4)
    drawn = base.sample(asked, n=4, seed=5, max_new_tokens=12)
    each = ensemble.score_members(drawn)
    assert each.shape == (4, 4, 2)
    words = np.array([[len(text.split()) for text in row] for row in drawn["output"]])
    expected = {"mean": each.mean(2), "worst": each.min(2), "uncertainty": each.mean(2) - .1 * each.var(2),
                "length": each.min(2) - .05 * np.maximum(words - 3, 0)}
    for name, reward in rewards(ensemble).items():
        np.testing.assert_allclose(reward.score(drawn), expected[name], atol=1e-9)
        found = best_of_n(base, reward, n=4).sample(asked, seed=5, max_new_tokens=12)
        best = expected[name].argmax(1)
        assert found["output"].tolist() == [row[k] for row, k in zip(drawn["output"], best)]
        np.testing.assert_allclose(found["score"].astype(float), expected[name].max(1), atol=1e-5)


@pytest.fixture(scope="module")
def tiny():
    backbone = new_backbone(QUESTIONS, vocab=300, hidden=32, context=80, seed=3)
    return Model(backbone, name="tiny", decoding=Decoding(max_new_tokens=10))


def members_ended(ensemble): return [ended(m) for m in ensemble.members]


def same(one, other): return all(torch.equal(a, c) and b == d for (a, b), (c, d) in zip(one, other, strict=True))


def test_an_ensemble_killed_at_random_steps(tiny, tmp_path, monkeypatch):
    "In any member: the finished ones are loaded, and all end as without the kill."
    train, rng = lambda **run: train_reward_ensemble(tiny, PAIRS, n=3, epochs=1, batch_size=4, lr=1e-3, **run), \
        random.Random(0)
    whole = members_ended(train())
    for k, stop in enumerate([1, 4, *rng.sample(range(2, 10), 2)]):   # three steps per member
        with monkeypatch.context() as patch:
            failing(patch, "log_step", stop, Killed())
            with pytest.raises(Killed): train(run_dir=tmp_path / str(k), checkpoint_every=1)
        assert tiny.backbone.adapters.names == []
        assert same(members_ended(train(run_dir=tmp_path / str(k), checkpoint_every=1)), whole), stop


def test_an_interrupted_ensemble_keeps_what_it_has(tiny, tmp_path, monkeypatch):
    train = lambda **run: train_reward_ensemble(tiny, PAIRS, n=3, epochs=2, batch_size=4, lr=1e-3, **run)
    whole = members_ended(train())
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="interrupted at member 2 of 3"):
        failing(patch, "optimizer_step", len(whole[0][1]) + 2, KeyboardInterrupt())
        stopped = train(run_dir=tmp_path)
    assert len(stopped.members) == 2 and stopped.members[1].history.interrupted
    assert np.isfinite(stopped.score(PAIRS.assign(output=PAIRS["output_1"]))).all()
    stopped.free()
    assert same(members_ended(train(run_dir=tmp_path)), whole) and tiny.backbone.adapters.names == []


@pytest.mark.parametrize("wrong", [dict(preference=1.5), dict(preference=np.nan), dict(preference=7)])
def test_bad_preferences_train_nothing(wrong, tiny):
    with pytest.raises(FarmError): train_reward_ensemble(tiny, PAIRS.assign(**wrong), n=2)
    assert tiny.backbone.adapters.names == []


def test_members_are_reward_models_of_their_seeds(tiny):
    "Other seeds give other members, the same seed the same ones; two ensembles share no member."
    train = lambda seed: train_reward_ensemble(tiny, PAIRS, n=2, seed=seed, epochs=1, batch_size=4)
    one, again, other = train(0), train(0), train(1)
    marks = lambda e: [stable_hash(reward_fingerprint(m)) for m in e.members]
    assert marks(one) == marks(again) and len({*marks(one), *marks(other)}) == 4
    assert stable_hash(reward_fingerprint(one)) == stable_hash(reward_fingerprint(again))
    for ensemble in (one, again, other): ensemble.free()


def test_saved_and_loaded_in_a_run(base, ensemble, farm, tmp_path):
    "A loaded ensemble is the same reward: a run that the first began is resumed with the second."
    asked = farm.unlabeled.head(4)
    weights, history = ended(METHODS["ppo"](base, ensemble, asked, run_dir=tmp_path / "run", checkpoint_every=1))
    loaded = load_reward_ensemble(ensemble.save(tmp_path / "ensemble"), base)
    again, rows = ended(METHODS["ppo"](base, loaded, asked, run_dir=tmp_path / "run", checkpoint_every=1))
    assert torch.equal(again, weights) and rows == history
    loaded.free()
    with pytest.raises(RecordError): ensemble.score(pd.DataFrame({"output": ["x"]}))
