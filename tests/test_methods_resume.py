"""Every method, killed at random steps and taken up again, ends as a run that nothing stopped, bit for bit."""

import json
import random
import shutil

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import FarmError  # noqa: E402
from alpacafarm_nb.training.learner import Learner  # noqa: E402
from alpacafarm_nb.methods.binary import train_feedme, train_reward_conditioning  # noqa: E402
from alpacafarm_nb.methods.dpo import train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model  # noqa: E402

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
ONLINE = dict(steps=6, rollout_batch_size=8, lr=1e-3)
METHODS = {
    "reward": lambda m, **run: train_reward_model(m, PAIRS, **PAIRWISE, **run),
    "dpo": lambda m, **run: train_dpo(m, PAIRS, **PAIRWISE, **run),
    "kto": lambda m, **run: train_dpo(m, PAIRS, loss="kto", **PAIRWISE, **run),
    "orpo": lambda m, **run: train_dpo(m, PAIRS, loss="orpo", **PAIRWISE, **run),
    "feedme": lambda m, **run: train_feedme(m, PAIRS, **PAIRWISE, **run),
    "reward_conditioning": lambda m, **run: train_reward_conditioning(m, PAIRS, **PAIRWISE, **run),
    "ppo": lambda m, **run: train_ppo(m, longest, QUESTIONS, **ONLINE, minibatch_size=4, kl_target=.1, **run),
    "rloo": lambda m, **run: train_ppo(m, longest, QUESTIONS, **ONLINE, minibatch_size=4, advantage="rloo", **run),
    "quark": lambda m, **run: train_quark(m, longest, QUESTIONS, **ONLINE, updates=3, batch_size=4, **run),
    "quark_all": lambda m, **run: train_quark(m, longest, QUESTIONS, mode="all", **ONLINE, updates=3, batch_size=4,
                                              **run),
}


def ended(model):
    "All that a run ends with: its weights and its history, but for the seconds."
    weights = [p.detach().clone() for p in model.backbone.adapters.parameters(model.adapter)]
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
    train, rng, roles = METHODS[name], random.Random(name), list(base.backbone.adapters.names)
    weights, history = ended(train(base))
    for k in range(5):
        run = dict(run_dir=tmp_path / str(k), checkpoint_every=rng.randint(1, 3))
        stop = rng.randint(1, 6)
        with monkeypatch.context() as patch:
            if k % 2: failing(patch, "log_step", stop, Killed())
            else: failing(patch, "optimizer_step", stop, rng.choice([Killed(), KeyboardInterrupt()]))
            try: train(base, **run).free()
            except Killed: pass
        assert base.backbone.adapters.names == roles, "an ended run leaves no role behind"
        again, rows = ended(train(base, **run))
        assert torch.equal(again, weights) and rows == history, (run["checkpoint_every"], stop, k)


def test_expert_iteration_killed_at_random_steps(base, tmp_path, monkeypatch):
    settings = dict(n=3, rounds=2, learn_from="last", epochs=3, batch_size=2, lr=1e-3)
    train = lambda **run: train_expert_iteration(base, longest, QUESTIONS, **settings, **run)
    weights, history = ended(train())
    rng = random.Random(5)
    for k in range(5):
        with monkeypatch.context() as patch:
            failing(patch, "log_step", rng.randint(1, 11), Killed())
            with pytest.raises(Killed): train(run_dir=tmp_path / str(k))
        again, rows = ended(train(run_dir=tmp_path / str(k)))
        assert torch.equal(again, weights) and rows == history


def damaged(whole):
    "A file of a run folder, harmed in several ways."
    return {"gone": None, "cut": whole[:len(whole) // 2], "empty": b"", "junk": b"\xff\x00junk" * 20, "list": b"[1]"}


@pytest.mark.parametrize("name", ["ppo", "quark", "expert"])
def test_a_damaged_folder_is_named_and_never_another_result(name, base, tmp_path):
    "Whatever happens to a file of a finished run: the same result, or an error that names the file and what to do."
    looked = dict(evaluate=lambda step, model: {"x": 1.}, evaluate_at=[1, 2])
    few = dict(steps=2, rollout_batch_size=4, checkpoint_every=1)
    train = {"ppo": lambda: train_ppo(base, longest, QUESTIONS, minibatch_size=4, run_dir=tmp_path / "run", **few,
                                      **looked),
             "quark": lambda: train_quark(base, longest, QUESTIONS, updates=1, batch_size=4, quantiles=2,
                                          run_dir=tmp_path / "run", **few, **looked),
             "expert": lambda: train_expert_iteration(base, longest, QUESTIONS, n=3, epochs=1, batch_size=2,
                                                      run_dir=tmp_path / "run")}[name]
    weights, history = ended(train())
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    def check(file, expected=""):
        roles = list(base.backbone.adapters.names)
        try: again, rows = ended(train())
        except FarmError as error: assert str(tmp_path / "run") in str(error) and file.name.split(".")[0] in str(error)
        else: assert not expected and torch.equal(again, weights) and rows == history, file
        assert base.backbone.adapters.names == roles
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "kept", tmp_path / "run")
    files = [p for p in (tmp_path / "run").rglob("*.*") if p.is_file() and p.name != ".lock"]
    assert len(files) > 3
    for file in files:
        for harmed in damaged(file.read_bytes()).values():
            if harmed is None: file.unlink()
            else: file.write_bytes(harmed)
            check(file)
    if name == "expert":   # cut where a line ends
        winners = tmp_path / "run" / "winners-1" / "winners.jsonl"
        winners.write_text("".join(winners.read_text().splitlines(keepends=True)[:-1]))
        check(winners, "an error")
    state = next(p for p in files if p.name == "state.json")
    whole = json.loads(state.read_text())
    wrong = [("history", 5), ("history", [5]), ("history", []), ("extra", 5), ("done", 99), ("done", "x"), ("done", -1),
             ("done", 1), ("done", True), ("scaler", 5)]
    if name != "expert":
        wrong += [("extra", None), ("extra", {}), *[("extra", {**whole["extra"], k: "x"})
                                                    for k in whole["extra"] if k != "evaluate"]]
    for key, value in wrong:
        state.write_text(json.dumps({**whole, key: value}))
        check(state, "an error")
    if name != "quark": return
    pool = tmp_path / "run" / "pool" / "step-0.json"
    prompts, outputs, scores = json.loads(pool.read_text())
    for held in ([prompts[:-1], outputs[:-1], scores[:-1]], [prompts, outputs, [*scores[:-1], float("nan")]],
                 [prompts, [[10**9], *outputs[1:]], scores], [prompts, ["x", *outputs[1:]], scores]):
        pool.write_text(json.dumps(held))
        check(pool, "an error")
