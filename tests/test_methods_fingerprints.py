"""A run folder is taken up by the run that it was made by, and by no other: nothing it depends on may differ."""

import functools
import json
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import ConfigError, StageError, stable_hash  # noqa: E402
from alpacafarm_nb.fingerprints import fingerprint_of  # noqa: E402
from alpacafarm_nb.methods.dpo import PREFERENCE_LOSSES, PreferenceLoss, train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import train_sft  # noqa: E402
from alpacafarm_nb.models.reward_model import RewardModel, scalar_head  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.prompts import PromptFormat  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model  # noqa: E402

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
    "ppo": lambda m, r, **run: train_ppo(m, r, QUESTIONS, steps=2, rollout_batch_size=4, minibatch_size=4,
                                         checkpoint_every=1, **run),
    "grpo": lambda m, r, **run: train_ppo(m, r, QUESTIONS, steps=2, rollout_batch_size=8, minibatch_size=8,
                                          advantage="grpo", checkpoint_every=1, **run),
    "quark": lambda m, r, **run: train_quark(m, r, QUESTIONS, steps=2, rollout_batch_size=4, updates=1, batch_size=4,
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


@pytest.mark.parametrize("name", ["ppo", "quark"])
def test_a_reward_that_counts_is_another_once_used(name, base, tmp_path):
    "It is said what to do: define it again, and the run goes on; or give it a version, and it goes on as it is."
    def counting(version=None):
        calls = []
        def reward(table):
            calls.append(len(table))
            if len(calls) == 2: raise KeyboardInterrupt
            return lengths(table)
        if version: reward.version = version
        return reward
    train = lambda reward, folder: ONLINE[name](base, reward, run_dir=tmp_path / folder)
    used = counting()
    train(used, "plain").free()
    with pytest.raises(StageError, match="counts its calls or keeps a cache .* `version`"): train(used, "plain")
    versioned = counting("1")
    train(versioned, "version").free()
    for reward, folder in ((counting(), "plain"), (versioned, "version")):
        ended = train(reward, folder)
        assert len(ended.history) == 2
        ended.free()


def test_a_reward_that_cannot_be_told_asks_for_a_version(base, tmp_path):
    def remote(stream, version=None):
        f = lambda table: next(stream) * lengths(table)
        if version: f.version = version
        return f
    ones = lambda: iter(zip([1.] * 9))
    scalars = lambda: (1. for _ in range(9))
    for train in ONLINE.values():
        with pytest.raises(ConfigError, match="version"): train(base, remote(scalars()), run_dir=tmp_path / "no")
        assert base.backbone.adapters.names == []
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
        model.backbone.codec.prompts = PromptFormat("Q: {instruction} {input}\nA:", "Q: {instruction}\nA:")
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
    from alpacafarm_nb.training import learner
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


def gold(table): return np.array([float(len(o) - len(g)) for o, g in zip(table["output"], table["gold"])])


def stopping(*ids):
    model = tiny()
    model.backbone.net.generation_config.eos_token_id = list(ids)
    return model


def scaled(base, alpha):
    "A role of which nothing but its scale is another."
    adapter = base.backbone.adapters.add("scaled", seed=1, alpha=alpha)
    with torch.no_grad():
        for p in base.backbone.adapters.parameters(adapter): p.copy_(torch.ones_like(p) / 50)
    return Model(base.backbone, adapter, "scaled", decoding=base.decoding)


TABLE = pd.DataFrame({"instruction": QUESTIONS, "input": "", "gold": ANSWERS})
TASKS = {   # what two runs differ in: policy, reward, instructions
    "gold answers": lambda base: [(base, gold, TABLE), (base, gold, TABLE.assign(gold=ANSWERS[::-1]))],
    "control": lambda base: [(base, lengths, TABLE.assign(control=c)) for c in ("Good: ", "Bad: ")],
    "a column more": lambda base: [(base, lengths, TABLE), (base, lengths, TABLE.assign(more=[1, 2, 3, [4]]))],
    "stop tokens": lambda base: [(stopping(2), lengths, TABLE), (stopping(2, 7, 9), lengths, TABLE)],
    "scale of the start": lambda base: [(scaled(base, 16), lengths, TABLE), (scaled(base, 64), lengths, TABLE)],
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["ppo", "grpo", "quark", "expert"])
def test_another_table_stop_or_scale_is_refused(name, task, base, tmp_path):
    if (name, task) == ("expert", "gold answers"): pytest.skip("the reward is shown no other columns there")
    few = dict(steps=2, checkpoint_every=1, run_dir=tmp_path)
    train = {"ppo": lambda *a: train_ppo(*a, rollout_batch_size=4, minibatch_size=4, **few),
             "grpo": lambda *a: train_ppo(*a, rollout_batch_size=8, minibatch_size=8, advantage="grpo", **few),
             "quark": lambda *a: train_quark(*a, rollout_batch_size=4, updates=1, batch_size=4, **few),
             "expert": lambda *a: train_expert_iteration(*a, n=4, epochs=1, batch_size=2, run_dir=tmp_path)}[name]
    roles = list(base.backbone.adapters.names)
    one, two = TASKS[task](base)
    figures = lambda model: [{k: v for k, v in row.items() if k != "seconds"} for row in model.history.rows]
    rows, made = figures(train(*one)), [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.json*"))]
    assert figures(train(*TASKS[task](base)[0])) == rows
    try: train(*two)
    except StageError as error: assert "not the same" in str(error)
    else:   # winners are drawn anew; where they are the same, so is what is learned from them
        assert name == "expert" and made != [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.json*"))]
    for adapter in set(base.backbone.adapters.names) - set(roles): base.backbone.adapters.remove(adapter)


def test_another_scale_of_the_reference_is_refused(base, tmp_path):
    train = lambda alpha: train_ppo(base, lengths, QUESTIONS, reference=scaled(base, alpha), steps=1,
                                    rollout_batch_size=4, minibatch_size=4, checkpoint_every=1, run_dir=tmp_path)
    train(16), train(16)
    with pytest.raises(StageError, match="not the same: start"): train(64)
    for adapter in list(base.backbone.adapters.names): base.backbone.adapters.remove(adapter)


def test_a_column_that_cannot_be_read(base, tmp_path):
    table = TABLE.assign(odd=[object()] * 4)
    train = lambda **run: train_ppo(base, lengths, table, steps=1, rollout_batch_size=4, minibatch_size=4, **run).free()
    train()
    with pytest.raises(ConfigError, match="column 'odd'"): train(run_dir=tmp_path)


def test_every_weight_of_a_base_counts():
    from alpacafarm_nb.training.start import base_identity
    from alpacafarm_nb.models.policy import load_base
    model = tiny()
    content = lambda m: stable_hash(base_identity(m.backbone))
    first = content(model)
    assert content(tiny()) == first
    rng = np.random.default_rng(0)
    for weight in model.backbone.net.parameters():
        flat = weight.data.view(-1)   # not counted by torch as a write
        for k in {0, len(flat) - 1, *map(int, rng.integers(0, len(flat), 3))}:
            kept = flat[k].item()
            with torch.no_grad(): weight.view(-1)[k] += 1
            assert content(model) != first
            with torch.no_grad(): weight.view(-1)[k] = kept
    assert content(model) == first
    import tempfile
    with tempfile.TemporaryDirectory() as folder:   # written and read again it is the same
        model.export(f"{folder}/base")
        assert content(load_base(f"{folder}/base", dtype="fp32")) == first


class Settled(torch.nn.Module):
    "A module with something in it that is no weight."
    def __init__(self, **held):
        super().__init__()
        self.register_buffer("aside", torch.ones(1), persistent=False)
        for name, value in held.items(): setattr(self, name, value)

    def forward(self, table): return torch.tensor(lengths(table))


def buffered(value):
    module = Settled()
    module.aside.fill_(value)
    return module


def hooked(value):
    module = Settled()
    module.register_forward_hook(lambda module, given, found: value * found)
    return module


def layers(*more):
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), *more)
    for weight in net.parameters(): torch.nn.init.constant_(weight, .5)   # whatever else draws numbers
    return net


NETWORKS = {
    "an activation": (lambda: layers(torch.nn.ReLU()), lambda: layers(torch.nn.Tanh())),
    "a submodule's setting": (lambda: layers(torch.nn.Dropout(.1)), lambda: layers(torch.nn.Dropout(.2))),
    "one's own submodule": (lambda: layers(Settled(w=1.)), lambda: layers(Settled(w=2.))),
    "a plain tensor": (lambda: Settled(w=torch.ones(2)), lambda: Settled(w=torch.zeros(2))),
    "a function": (lambda: Settled(f=torch.tanh), lambda: Settled(f=torch.sin)),
    "one's own function": (lambda: Settled(f=lambda x: x), lambda: Settled(f=lambda x: -x)),
    "a list": (lambda: Settled(words=["a"]), lambda: Settled(words=["b"])),
    "a buffer that is not saved": (lambda: buffered(1.), lambda: buffered(2.)),
    "a hook": (lambda: hooked(1.), lambda: hooked(2.)),
    "a weight": (lambda: layers(torch.nn.Linear(1, 1)), lambda: layers(torch.nn.Linear(1, 1, bias=False))),
}


@pytest.mark.parametrize("change", NETWORKS)
def test_a_network_is_all_that_it_holds(change):
    mark = lambda reward: stable_hash(fingerprint_of(reward, "reward"))
    one, two = NETWORKS[change]
    assert mark(one()) == mark(one()) != mark(two())
    inside = lambda net: (lambda table: net(table))
    assert mark(inside(one())) == mark(inside(one())) != mark(inside(two()))
    used = one()
    before = mark(used)
    used.eval(), used.train()
    assert mark(used) == before


PARTS = {   # a reward made with one of two values, and with the other
    "an attribute of the function": """
        def make(w):
            def reward(t): return reward.w * size(t)
            reward.w = w
            return reward""",
    "what setdefault finds": """
        def make(w):
            known = {"w": w}
            return lambda t: known.setdefault("w", 1.) * size(t)""",
    "where nonlocal begins": """
        def make(w):
            def reward(t):
                nonlocal w
                w *= .9
                return w * size(t)
            return reward""",
    "where an attribute begins": """
        class Falling:
            def __init__(self, w): self.w = w
            def score(self, t):
                self.w *= .9
                return self.w * size(t)
        make = Falling""",
    "an attribute made plain": """
        class Plain:
            def __init__(self, w): self.w = w
            def score(self, t):
                self.w = float(self.w)
                return self.w * size(t)
        make = Plain""",
    "the items that a cache begins with": """
        def make(w):
            known = {"eggs": w}
            def reward(t):
                for x in t["output"]:
                    if x not in known: known[x] = len(x)
                return np.array([known[x] for x in t["output"]])
            return reward""",
    "the order of rules": """
        def make(w):
            rules = {"egg": 1., "eggs": 2.} if w == 1 else {"eggs": 2., "egg": 1.}
            return lambda t: np.array([next((v for k, v in rules.items() if k in x), 0.) for x in t["output"]])""",
    "what a dictionary lacks": """
        def make(w):
            class Lacking(dict):
                def __missing__(self, key): return w
            known = Lacking()
            return lambda t: np.array([known[x] for x in t["output"]])""",
    "a default factory": """
        def make(w):
            known = collections.defaultdict(lambda: w)
            return lambda t: np.array([known[x] for x in t["output"]])""",
    "a text of one's own kind": """
        def make(w):
            class Text(str):
                def weight(self): return w
            text = Text("x")
            return lambda t: text.weight() * size(t)""",
    "a number with an attribute": """
        class Number(float): pass
        def make(w):
            number = Number(1.)
            number.w = w
            return lambda t: number.w * size(t)""",
    "the fields of a named tuple": """
        def make(w):
            pair = collections.namedtuple("Pair", "a b" if w == 1 else "b a")(1., 2.)
            return lambda t: pair.a * size(t) - pair.b""",
    "a field's factory": """
        def make(w):
            @dataclasses.dataclass
            class Settings:
                ws: list = dataclasses.field(default_factory=lambda: [w])
            return lambda t: Settings().ws[0] * size(t)""",
    "a module's value, two functions deep": """
        import mine
        def make(w):
            mine.weight = w
            def reward(t):
                each = lambda xs: [(lambda x: mine.weight * len(x))(x) for x in xs]
                return np.array(each(t["output"]))
            return reward""",
    "what is imported inside": """
        import mine
        def make(w):
            mine.weight = w
            def reward(t):
                from mine import weight
                return weight * size(t)
            return reward""",
    "a module imported inside": """
        import mine
        def make(w):
            mine.weight = w
            def reward(t):
                import mine as other
                return other.weight * size(t)
            return reward""",
    "files of a folder": """
        def make(w):
            folder = Path("folder")
            folder.mkdir(exist_ok=True)
            (folder / "w.txt").write_text(str(w))
            return lambda t: float((folder / "w.txt").read_text()) * size(t)""",
    "a slot with a private name": """
        class Slotted:
            __slots__ = ("__w",)
            def __init__(self, w): self.__w = w
            def score(self, t): return self.__w * size(t)
        make = Slotted""",
    "an attribute set by hand that is also counted": """
        class Counted:
            n = 0
            def score(self, t):
                self.n += 1
                return self.n * size(t)
        def make(w):
            counted = Counted()
            if w != 1: counted.n = w
            return counted""",
    "a member of an ensemble": """
        def make(w):
            from alpacafarm_nb.methods.ensemble import RewardEnsemble
            return RewardEnsemble([size, lambda t: w * size(t)], "worst")""",
    "the price of a length penalty on an ensemble": """
        def make(w):
            from alpacafarm_nb.methods.ensemble import LengthPenalty, RewardEnsemble
            return LengthPenalty(RewardEnsemble([size], "uncertainty"), w)""",
    "the sign of a zero": """
        def make(w):
            zero = 0. if w == 1 else -0.
            return lambda t: np.copysign(1., zero) * size(t)""",
}
STATEFUL = {   # rewards that write while they are used
    "a cache in a helper method": """
        class Judge:
            def __init__(self, w=1.): self.w, self.calls, self.cache = w, 0, {}
            def ask(self, x):
                self.calls += 1
                if x not in self.cache: self.cache[x] = self.w * len(x)
                return self.cache[x]
            def score(self, t): return np.array([self.ask(x) for x in t["output"]])
        make = Judge""",
    "a cache as default": """
        CACHE = {}
        def via(x, cache=CACHE):
            if x not in cache: cache[x] = len(x)
            return cache[x]
        def make(w=1.): return lambda t: np.array([w * via(x) for x in t["output"]])""",
    "a cache handed to a helper": """
        CACHE = {}
        def keep(cache, x): cache[x] = len(x)
        def make(w=1.):
            def reward(t):
                for x in t["output"]:
                    if x not in CACHE: keep(CACHE, x)
                return w * np.array([CACHE[x] for x in t["output"]])
            return reward""",
    "a cache that another function reads": """
        CACHE = {}
        def fill(x): CACHE[x] = len(x)
        def known(x): return CACHE.get(x)
        def make(w=1.):
            def reward(t):
                for x in t["output"]:
                    if known(x) is None: fill(x)
                return w * np.array([known(x) for x in t["output"]])
            return reward""",
    "a cache of a decorator": """
        def memo(f):
            seen = {}
            @functools.wraps(f)
            def inner(x):
                try: return seen[x]
                except KeyError: seen[x] = f(x)
                return seen[x]
            return inner
        @memo
        def slow(x): return len(x)
        def make(w=1.): return lambda t: np.array([w * slow(x) for x in t["output"]])""",
    "a class attribute set late": """
        class Late:
            model = None
            def __init__(self, w=1.): self.w = w
            def score(self, t):
                if self.model is None: self.model = {"w": 2.}
                return self.w * self.model["w"] * size(t)
        make = Late""",
    "an attribute set late by a helper": """
        class Late:
            def __init__(self, w=1.):
                self.model = None
                self.w = w
            def load(self): self.model = {"w": 2.}
            def score(self, t):
                if self.model is None: self.load()
                return self.w * self.model["w"] * size(t)
        make = Late""",
    "an attribute of the class that all share": """
        class Shared:
            calls = []
            def __init__(self, w=1.): self.w = w
            def score(self, t):
                Shared.calls.append(len(t))
                return self.w * size(t)
        make = Shared""",
    "times and counts": """
        COUNT, TOTAL, SEEN = collections.Counter(), 0, []
        def make(w=1.):
            def reward(t):
                global TOTAL
                TOTAL += 1
                COUNT["calls"] += 1
                SEEN.append(len(t))
                reward.last = time.time()
                return w * size(t)
            return reward""",
    "a running mean": """
        SEEN = []
        def make(w=1.):
            def reward(t):
                global SEEN
                SEEN = SEEN + [len(t)]
                return w * size(t) - np.mean(SEEN)
            return reward""",
    "a logger": """
        log = logging.getLogger("mine")
        def make(w=1.):
            def reward(t):
                log.info("scored")
                logging.getLogger("mine.later")
                return w * size(t)
            return reward""",
    "a cache of functools": """
        @functools.lru_cache
        def length(x): return len(x)
        class Cached:
            def __init__(self, w=1.): self.w = w
            @functools.cached_property
            def doubled(self): return 2 * self.w
            def score(self, t): return np.array([self.doubled * length(x) for x in t["output"]])
        make = Cached""",
    "a generator of chance": """
        rng = random.Random(0)
        def make(w=1.): return lambda t: w * size(t) + rng.random()""",
}
HEAD = """
import collections, dataclasses, functools, logging, random, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from alpacafarm_nb.core import stable_hash
from alpacafarm_nb.fingerprints import fingerprint_of
def size(t): return t["output"].str.len().to_numpy(float)
mark = lambda reward: stable_hash(fingerprint_of(reward, "reward"))
"""
MADE = "found = mark(make(1.)), mark(make(1.)), mark(make(2.))"
USED = """
one = make()
made = mark(one), mark(make()), mark(make(w=2.))
for _ in range(3): getattr(one, "score", one)(pd.DataFrame({"output": ["Eggs.", "Milk and eggs."]}))
found = *made, mark(one)
"""
AS_BEFORE = {"a logger", "a cache of functools"}   # known not to matter
RUN = """
import json, sys
found = {}
for name, code in json.load(open("codes.json")).items():
    names = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), names)
    found[name] = names["found"]
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    "Marks of all rewards above, in two processes that order sets in their own ways."
    codes = {k: HEAD + textwrap.dedent(v) + "\n" + (MADE if k in PARTS else USED)
             for k, v in {**PARTS, **STATEFUL}.items()}
    both = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp(seed)
        (folder / "mine.py").write_text("weight = 1.")
        (folder / "codes.json").write_text(json.dumps(codes))
        (folder / "run.py").write_text(RUN)
        env = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "run.py"], cwd=folder, env=env, capture_output=True, text=True,
                              check=False)
        assert not done.returncode, done.stderr
        both.append(json.loads((folder / "found.json").read_text()))
    return both


@pytest.mark.parametrize("what", [*PARTS, *STATEFUL])
def test_what_counts_and_what_does_not(what, in_two_processes):
    "Made again with the same value it is the same, in any process; with another value, or after its own writes, not."
    one, two = (found[what] for found in in_two_processes)
    first, again, other, *used = one
    assert first == again != other and one[:3] == two[:3]
    if used: assert (used == [first]) == (what in AS_BEFORE)


def test_a_library_is_what_is_installed(tmp_path, monkeypatch):
    "Not what lies beside it; and another version of it is another helper."
    import sysconfig
    import types

    import alpacafarm_nb
    from alpacafarm_nb import fingerprints as marks
    mark = lambda f: stable_hash(fingerprint_of(f))
    own, site = alpacafarm_nb.__path__[0], sysconfig.get_paths()["purelib"]
    for file in ("/home/me/my_rewards.py", f"{own}_rewards.py", f"{own}_study/my_rewards.py", f"{site}/my_rewards.py"):
        def make(w, file=file):
            module = types.ModuleType("my_rewards")
            module.__file__ = file
            monkeypatch.setitem(sys.modules, "my_rewards", module)
            exec(f"def helper(x): return {w} * len(x)", vars(module))
            return lambda t, helper=module.helper: [helper(x) for x in t]
        assert mark(make(1.)) == mark(make(1.)) != mark(make(2.)), file
    using = lambda t: np.mean(t)
    before = mark(using)
    assert mark(lambda t: np.mean(t)) == before
    with monkeypatch.context() as patch:
        patch.setattr(marks, "_release", lambda name: ["numpy 0.0"])
        assert mark(using) != before
    assert mark(using) == before


def test_a_proxy_answers_to_any_name():
    class Proxy:
        def __init__(self, w): self.w = w
        def __getattr__(self, name): return self.w
    def around(proxy): return lambda t: proxy.any * len(t)
    mark = lambda w: stable_hash(fingerprint_of(around(Proxy(w))))
    assert mark(1.) == mark(1.) != mark(2.)


def test_a_base_is_all_of_its_files(tmp_path):
    "Shards, chat template, decoding: each makes another farm. The shipped base keeps what studies have noted of it."
    import dataclasses
    import shutil

    from alpacafarm_nb.farm.worlds import fingerprint, load_farm
    farm = load_farm("farmyard")
    noted = json.loads((farm.model.parent / "frozen.json").read_text())
    assert fingerprint(farm)["model"] in json.dumps(noted)
    mark = lambda folder: fingerprint(dataclasses.replace(farm, model_source=folder))["model"]
    shutil.copytree(farm.model, tmp_path / "copy")
    assert mark(tmp_path / "copy") == fingerprint(farm)["model"]
    tiny().export(tmp_path / "base")
    folder, seen = tmp_path / "base", []
    def change(name, text):
        (folder / name).write_text(text)
        seen.append(mark(folder))
    seen.append(mark(folder))
    for name in ("alpacafarm.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        change(name, "{}"), change(name, '{"a": 1}')
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    change("model.safetensors.index.json", "{}"), change("model-00001-of-00001.safetensors", "other")
    assert len(set(seen)) == len(seen) == 11
    change("README.md", "notes")
    assert seen[-1] == seen[-2]


DEFINED = """
import numpy as np
from alpacafarm_nb.core import stable_hash
from alpacafarm_nb.fingerprints import fingerprint_of
WORDS = {"please", "thanks", "kindly"}
class Table:
    def __init__(self): self.by = {"eggs": 1., "milk": 2.}
    def __call__(self, text): return self.by.get(text, np.nan)
table = Table()
def helper(text, *, plus=1): return plus + len(WORDS & set(text.split()))
def reward(t, w=(1, .5)):
    def inner(x): return helper(x) * w[0] + (x in {"a", "b", "c"})
    return np.array([inner(x) + table(x) for x in t["output"]])
print(stable_hash(fingerprint_of(reward)))
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
    assert stable_hash(fingerprint_of(even)) == stable_hash(fingerprint_of(even)) != stable_hash(fingerprint_of(odd))
    assert stable_hash(fingerprint_of(lambda: loop)) == stable_hash(fingerprint_of(lambda: loop))


def test_annotators_are_known_by_what_they_say(tmp_path):
    "A pool of judges by its judges and models, whatever it has cached; the farm's annotators by what they compute."
    from alpacafarm_nb import load_pool
    from alpacafarm_nb.farm.worlds import load_farm
    pool = lambda model, file: load_pool("single", base_url="http://127.0.0.1:9/v1", models={"strong": model},
                                         cache=tmp_path / file, api_key="k")
    farm, mark = load_farm("farmyard"), lambda annotator: stable_hash(fingerprint_of(annotator, "annotator"))
    one = pool("m", "a.sqlite")
    assert mark(one) == mark(pool("m", "b.sqlite")) != mark(pool("n", "a.sqlite"))
    before = mark(one)
    one.report = {"spent": 3.}
    assert mark(one) == before
    assert mark(farm.simulated) == mark(load_farm("farmyard").simulated) != mark(farm.gold) != mark(one)
    scored = lambda annotator: (lambda table: annotator)
    assert mark(scored(one)) == mark(scored(pool("m", "c.sqlite"))) != mark(scored(pool("n", "a.sqlite")))
