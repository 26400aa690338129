"""A run folder is taken up by the run that it was made by, and by no other: nothing it depends on may differ."""

import functools
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import ConfigError, StageError, stable_hash  # noqa: E402
from alpacafarm_nb.marks import marks_of  # noqa: E402
from alpacafarm_nb.methods.dpo import PREFERENCE_LOSSES, PreferenceLoss, train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import train_sft  # noqa: E402
from alpacafarm_nb.models import RewardModel, new_backbone, scalar_head  # noqa: E402
from alpacafarm_nb.prompts import PromptFormat  # noqa: E402
from alpacafarm_nb.sampling import Decoding, Model  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs.", "Milk.", "The sheep.", "The cows do."]
DEMOS = pd.DataFrame({"instruction": QUESTIONS, "input": "", "output": ANSWERS})
PAIRS = DEMOS.assign(output_1=ANSWERS, output_2=ANSWERS[::-1], preference=1)
GLOBAL = 1.


def tiny(seed=3):
    backbone = new_backbone(QUESTIONS + ANSWERS, vocab=300, hidden=32, context=80, seed=seed)
    return Model(backbone, name="tiny", decoding=Decoding(max_new_tokens=6))


@pytest.fixture(scope="module")
def base(): return tiny()


def lengths(table): return table["output"].str.len().to_numpy(dtype=float)
def weighted(w): return lambda table: w * lengths(table)
def by_global(table): return GLOBAL * lengths(table)
def plus(table, more=0.): return lengths(table) + more


class Scorer:
    def __init__(self, w): self.w, self.calls = w, 0

    def score(self, table):
        self.calls += 1
        return self.w * lengths(table)


def reward_model(base, scale=1., mean=0., seed=0, bias=None):
    head = scalar_head(base.backbone)
    with torch.no_grad(): head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    if bias is not None: head.bias = torch.nn.Parameter(torch.tensor([bias]))
    return RewardModel(base.backbone, None, head, mean=mean, scale=scale)


ONLINE = {
    "ppo": lambda m, r, **run: train_ppo(m, r, QUESTIONS, steps=2, rollouts=4, minibatch=4, checkpoint_every=1, **run),
    "grpo": lambda m, r, **run: train_ppo(m, r, QUESTIONS, steps=2, rollouts=8, minibatch=8, advantage="grpo",
                                          checkpoint_every=1, **run),
    "quark": lambda m, r, **run: train_quark(m, r, QUESTIONS, steps=2, rollouts=4, updates=1, batch_size=4,
                                             checkpoint_every=1, **run),
}
CHANGED = {  # a reward, and another that is not the same
    "lambda": lambda base: (lambda t: lengths(t), lambda t: -lengths(t)),
    "constant": lambda base: (lambda t: 1 * lengths(t), lambda t: 2 * lengths(t)),
    "closure": lambda base: (weighted(1.), weighted(2.)),
    "partial": lambda base: (functools.partial(plus, more=1.), functools.partial(plus, more=2.)),
    "object": lambda base: (Scorer(1.), Scorer(2.)),
    "method": lambda base: (Scorer(1.).score, Scorer(2.).score),
    "table": lambda base: (by_table([1., 2.]), by_table([2., 1.])),
    "model's head": lambda base: (reward_model(base), reward_model(base, seed=1)),
    "model's scale": lambda base: (reward_model(base), reward_model(base, scale=2.)),
    "model's mean": lambda base: (reward_model(base), reward_model(base, mean=1.)),
    "model's bias": lambda base: (reward_model(base), reward_model(base, bias=1.)),
    "model within": lambda base: tuple(within(reward_model(base, scale=s)) for s in (1., 2.)),
    "model's base": lambda base: (reward_model(tiny(4)), reward_model(tiny(5))),
}


def by_table(values):
    table = pd.Series(values, index=[0, 1])
    return lambda t: table[t["output"].str.len() % 2].to_numpy()


def within(model): return lambda table: model.score(table) + 1


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("name", ["ppo", "quark"])
def test_another_reward_is_refused(name, change, base, tmp_path):
    one, two = CHANGED[change](base)
    train = ONLINE[name]
    first = train(base, one, run_dir=tmp_path)
    rows = first.history.rows
    first.free()
    with pytest.raises(StageError, match=r"other settings or data \(not the same: reward\)"):
        train(base, two, run_dir=tmp_path)
    again = train(base, CHANGED[change](base)[0], run_dir=tmp_path)   # the same, made anew
    assert again.history.rows == rows
    again.free()
    train(base, two).free()   # without a folder nothing is asked


def test_a_changed_global_and_helper(base, tmp_path, monkeypatch):
    ONLINE["grpo"](base, by_global, run_dir=tmp_path).free()
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "GLOBAL", 2.)
        with pytest.raises(StageError, match="reward"): ONLINE["grpo"](base, by_global, run_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "lengths", lambda table: np.zeros(len(table)))
        with pytest.raises(StageError, match="reward"): ONLINE["grpo"](base, by_global, run_dir=tmp_path)
    ONLINE["grpo"](base, by_global, run_dir=tmp_path).free()


def test_a_reward_that_counts_is_taken_up(base, tmp_path):
    "What a reward writes itself (calls, a cache) is no other reward: a run is continued in the same kernel."
    calls, cache = [], {}
    def counted(table):
        calls.append(len(table)); cache[len(calls)] = 1
        if len(calls) == 2: raise KeyboardInterrupt
        return lengths(table)
    scorer = Scorer(1.)
    for reward in (counted, scorer):
        stopped = ONLINE["ppo"](base, reward, run_dir=tmp_path / type(reward).__name__)
        ended = ONLINE["ppo"](base, reward, run_dir=tmp_path / type(reward).__name__)
        assert len(ended.history) == 2
        stopped.free(), ended.free()


def test_a_reward_that_cannot_be_told_asks_for_a_version(base, tmp_path):
    def remote(stream, version=None):
        f = lambda table: next(stream) * lengths(table)
        if version: f.version = version
        return f
    ones = lambda: iter(zip([1.] * 9))
    scalars = lambda: (1. for _ in range(9))
    for train in ONLINE.values():
        with pytest.raises(ConfigError, match="version"): train(base, remote(scalars()), run_dir=tmp_path / "no")
        assert base.backbone.roles == []
    with pytest.raises(ConfigError, match="version"):
        train_expert_iteration(base, remote(ones()), QUESTIONS, n=2, epochs=1, run_dir=tmp_path / "no")
    ONLINE["ppo"](base, remote(scalars())).free()
    ONLINE["ppo"](base, remote(scalars(), "1"), run_dir=tmp_path / "yes").free()
    ONLINE["ppo"](base, remote(scalars(), "1"), run_dir=tmp_path / "yes").free()
    with pytest.raises(StageError): ONLINE["ppo"](base, remote(scalars(), "2"), run_dir=tmp_path / "yes")


def test_winners_of_another_reward_are_drawn_anew(base, tmp_path):
    train = lambda reward, model=base: train_expert_iteration(model, reward, QUESTIONS, n=4, epochs=1, run_dir=tmp_path)
    short = train(weighted(-1.))
    with pytest.raises(StageError, match="not the same"): train(weighted(1.))   # other winners, another round-1 folder
    short.free()


def start_changes(base):
    "Another start of the same shape: other weights of the base, of the adapter, another prompt, another precision."
    def other_prompt():
        model = tiny()
        model.backbone.prompts = PromptFormat("Q: {instruction} {input}\nA:", "Q: {instruction}\nA:")
        return model
    def half():
        model = tiny()
        model.backbone.net.to(torch.bfloat16)
        return model
    def other_weights():
        model = tiny()
        with torch.no_grad():
            for p in model.backbone.net.parameters(): p.mul_(1.01)
        return model
    def trained():
        model = tiny()
        return train_sft(model, DEMOS, epochs=1)
    return [other_weights, other_prompt, half, trained]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "simpo", "ppo", "quark"])
def test_another_start_is_refused(name, kind, base, tmp_path):
    few = dict(epochs=1, batch_size=2, checkpoint_every=1)
    train = {"sft": lambda m: train_sft(m, DEMOS, run_dir=tmp_path, **few),
             "reward": lambda m: train_reward_model(m, PAIRS, run_dir=tmp_path, **few),
             "dpo": lambda m: train_dpo(m, PAIRS, run_dir=tmp_path, **few),
             "simpo": lambda m: train_dpo(m, PAIRS, run_dir=tmp_path, loss="simpo", **few),
             **{k: lambda m, k=k: ONLINE[k](m, lengths, run_dir=tmp_path) for k in ("ppo", "quark")}}[name]
    train(base).free()
    train(tiny()).free()   # the same, made anew
    with pytest.raises(StageError, match="other settings or data"): train(start_changes(base)[kind]())


def test_another_loss_validation_and_schedule_are_refused(base, tmp_path, monkeypatch):
    from alpacafarm_nb import learner
    loss = lambda sign: PreferenceLoss(lambda t, c: sign * (t.chosen_ratio - t.rejected_ratio))
    train = lambda: train_dpo(base, PAIRS, loss="own", epochs=1, run_dir=tmp_path / "dpo", checkpoint_every=1).free()
    for sign in (-1, 1):
        monkeypatch.setitem(PREFERENCE_LOSSES, "own", loss(sign))
        if sign == -1: train()
        else:
            with pytest.raises(StageError): train()
    held = lambda table: train_reward_model(base, PAIRS, validation=table, epochs=1, run_dir=tmp_path / "reward",
                                            checkpoint_every=1).free()
    held(PAIRS.head(3))
    with pytest.raises(StageError): held(PAIRS.head(2))
    fit = lambda: train_sft(base, DEMOS, epochs=1, schedule="own", run_dir=tmp_path / "sft", checkpoint_every=1).free()
    monkeypatch.setitem(learner.SCHEDULES, "own", lambda done: 1 - done)
    fit()
    monkeypatch.setitem(learner.SCHEDULES, "own", lambda done: 1 - done / 2)
    with pytest.raises(StageError, match="how it is trained"): fit()


@pytest.mark.parametrize("name", ["ppo", "quark"])
def test_figures_of_another_evaluation_are_named(name, base, tmp_path):
    train = lambda evaluate: ONLINE[name](base, lengths, run_dir=tmp_path, evaluate=evaluate, evaluate_at=[1]).free()
    train(lambda step, model: {"x": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*ends as it began")   # two steps move next to nothing
        train(lambda step, model: {"x": 1})
    with pytest.warns(UserWarning, match=r"after the steps \[1\] were made by another evaluate"):
        train(lambda step, model: {"x": 2})


DEFINED = """
import numpy as np
from alpacafarm_nb.core import stable_hash
from alpacafarm_nb.marks import marks_of
WORDS = {"please", "thanks", "kindly"}
class Table:
    def __init__(self): self.by = {"eggs": 1., "milk": 2.}
    def __call__(self, text): return self.by.get(text, np.nan)
table = Table()
def helper(text, *, plus=1): return plus + len(WORDS & set(text.split()))
def reward(t, w=(1, .5)):
    def inner(x): return helper(x) * w[0] + (x in {"a", "b", "c"})
    return np.array([inner(x) + table(x) for x in t["output"]])
print(stable_hash(marks_of(reward)))
"""


def test_the_same_in_another_process(tmp_path):
    "Another process, file and line, another order of sets: the same digits. Another constant: others."
    def run(code, name, seed):
        (tmp_path / name).write_text(textwrap.dedent(code))
        env = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run([sys.executable, name], cwd=tmp_path, env=env, check=True, capture_output=True,
                              text=True).stdout.strip()
    first = run(DEFINED, "a.py", 1)
    assert len(first) == 16
    assert run("\n\n# a comment\n" + DEFINED.replace("def helper", "\n\ndef helper"), "b.py", 2) == first
    assert run(DEFINED.replace("plus=1", "plus=2"), "c.py", 1) != first
    assert run(DEFINED.replace('"milk": 2.', '"milk": 3.'), "d.py", 1) != first


def test_things_that_contain_themselves():
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    loop = [1]
    loop.append(loop)
    assert stable_hash(marks_of(even)) == stable_hash(marks_of(even)) != stable_hash(marks_of(odd))
    assert stable_hash(marks_of(lambda: loop)) == stable_hash(marks_of(lambda: loop))


def test_annotators_are_known_by_what_they_say(tmp_path):
    "A pool of judges by its judges and models, whatever it has cached; the farm's own annotators by the farm."
    from alpacafarm_nb import load_pool
    from alpacafarm_nb.farm.farms import load_farm
    from alpacafarm_nb.farm.loop import _annotator_marks
    pool = lambda model, file: load_pool("single", base_url="http://127.0.0.1:9/v1", models={"strong": model},
                                         answers=tmp_path / file, api_key="k")
    farm, mark = load_farm("farmyard"), lambda annotator: stable_hash(marks_of(annotator, "annotator"))
    one = pool("m", "a.sqlite")
    assert mark(one) == mark(pool("m", "b.sqlite")) != mark(pool("n", "a.sqlite"))
    before = mark(one)
    one.report = {"spent": 3.}
    assert mark(one) == before
    assert _annotator_marks(farm, farm.simulated) is None
    assert _annotator_marks(farm, farm.gold) != _annotator_marks(farm, one)
    scored = lambda annotator: (lambda table: annotator)
    assert mark(scored(one)) == mark(scored(pool("m", "c.sqlite"))) != mark(scored(pool("n", "a.sqlite")))
