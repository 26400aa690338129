"""Every method, killed at random steps and taken up again, ends as a run that nothing stopped, bit for bit."""

import random

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.learner import Learner  # noqa: E402
from alpacafarm_nb.methods.binary import train_feedme, train_reward_conditioning  # noqa: E402
from alpacafarm_nb.methods.dpo import train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.models import new_backbone  # noqa: E402
from alpacafarm_nb.sampling import Decoding, Model  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs.", "Milk.", "The sheep.", "The cows do."]
PAIRS = pd.DataFrame([dict(instruction=q, input="", output_1=a, output_2=b, preference=p)
                      for q, a, b, p in zip(QUESTIONS * 4, ANSWERS * 4, ANSWERS[1:] * 5, [1, 2, 1.3, 2] * 4)])


def longest(table): return table["output"].str.len().to_numpy(dtype=float)


@pytest.fixture(scope="module")
def base():
    "An untrained model: to learn anything is not the point here."
    backbone = new_backbone(QUESTIONS + ANSWERS, vocab=300, hidden=32, context=80, seed=3)
    return Model(backbone, name="tiny", decoding=Decoding(max_new_tokens=10))


PAIRWISE = dict(epochs=3, batch_size=4, lr=1e-3)
ONLINE = dict(steps=6, rollouts=8, lr=1e-3)
METHODS = {
    "reward": lambda m, **run: train_reward_model(m, PAIRS, **PAIRWISE, **run),
    "dpo": lambda m, **run: train_dpo(m, PAIRS, **PAIRWISE, **run),
    "kto": lambda m, **run: train_dpo(m, PAIRS, loss="kto", **PAIRWISE, **run),
    "orpo": lambda m, **run: train_dpo(m, PAIRS, loss="orpo", **PAIRWISE, **run),
    "feedme": lambda m, **run: train_feedme(m, PAIRS, **PAIRWISE, **run),
    "reward_conditioning": lambda m, **run: train_reward_conditioning(m, PAIRS, **PAIRWISE, **run),
    "ppo": lambda m, **run: train_ppo(m, longest, QUESTIONS, **ONLINE, minibatch=4, kl_target=.1, **run),
    "rloo": lambda m, **run: train_ppo(m, longest, QUESTIONS, **ONLINE, minibatch=4, advantage="rloo", **run),
    "quark": lambda m, **run: train_quark(m, longest, QUESTIONS, **ONLINE, updates=3, batch_size=4, **run),
    "quark_all": lambda m, **run: train_quark(m, longest, QUESTIONS, mode="all", **ONLINE, updates=3, batch_size=4,
                                              **run),
}


def ended(model):
    "All that a run ends with: its weights and its history, but for the seconds."
    weights = [p.detach().clone() for p in model.backbone.role_parameters(model.role)]
    if hasattr(model, "head"): weights.append(model.head.weight.detach().clone())
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in model.history.rows]
    model.free()
    return torch.cat([w.flatten() for w in weights]), history


class Killed(BaseException):
    "Not an Exception, as a signal is none."


def failing(monkeypatch, method, at, error):
    "Make the call number `at` of a method of `Learner` fail."
    calls, plain = [], getattr(Learner, method)
    def wrapped(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == at: raise error
        return plain(self, *args, **kwargs)
    monkeypatch.setattr(Learner, method, wrapped)


@pytest.mark.parametrize("name", METHODS)
def test_killed_at_random_steps(name, base, tmp_path, monkeypatch):
    train, rng, roles = METHODS[name], random.Random(name), list(base.backbone.roles)
    weights, history = ended(train(base))
    for k in range(5):
        run = dict(run_dir=tmp_path / str(k), checkpoint_every=rng.randint(1, 3))
        stop = rng.randint(1, 6)
        with monkeypatch.context() as patch:
            if k % 2: failing(patch, "advance", stop, Killed())
            else: failing(patch, "descend", stop, rng.choice([Killed(), KeyboardInterrupt()]))
            try: train(base, **run).free()
            except Killed: pass
        assert base.backbone.roles == roles, "an ended run leaves no role behind"
        again, rows = ended(train(base, **run))
        assert torch.equal(again, weights) and rows == history, (run["checkpoint_every"], stop, k)


def test_expert_iteration_killed_at_random_steps(base, tmp_path, monkeypatch):
    settings = dict(n=3, rounds=2, learn_from="last", epochs=3, batch_size=2, lr=1e-3)
    train = lambda **run: train_expert_iteration(base, longest, QUESTIONS, **settings, **run)
    weights, history = ended(train())
    rng = random.Random(5)
    for k in range(5):
        with monkeypatch.context() as patch:
            failing(patch, "advance", rng.randint(1, 11), Killed())
            with pytest.raises(Killed): train(run_dir=tmp_path / str(k))
        again, rows = ended(train(run_dir=tmp_path / str(k)))
        assert torch.equal(again, weights) and rows == history
