"""How many planted bugs `debug_run` finds blind, and how often it finds one in a healthy run.

    python benchmarks/debugger.py dev            # the runs on which ranges and rules were set
    python benchmarks/debugger.py test           # other seeds, other strengths of the bugs, other methods
    python benchmarks/debugger.py test --table   # only print the table of the runs that are there
    python benchmarks/debugger.py losses         # how the utility that best-of-n loses is split, for known bugs

Each run is small (300 demonstrations, 500 pairs, policies of 6 steps), so that all of them take about ten minutes of
one core per seed. A run's measurements are kept in runs/debugger, and a run that is there is not computed again. Runs
of the same seed share every stage whose inputs are the same, such as SFT and the pairs.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from alpacafarm_nb import (METHODS, Model, Pipeline, PipelineSettings, RewardConfig, SFTConfig, load_farm,
                           sample_pairs, train_reward_model)
from alpacafarm_nb.annotators.simulated import SimulatedAnnotator
from alpacafarm_nb.core import seed_for
from alpacafarm_nb.farmyard.tasks import parse_task
from alpacafarm_nb.farmyard.writers import DEMONSTRATOR, REFERENCE, write_answer
from alpacafarm_nb.studies.debugger import Chain, branch, debug_run, diagnose, evidence_of

REWARD = RewardConfig(epochs=1, lr=2e-3)
SETTINGS = PipelineSettings(n_pairs=1, n_demonstrations=300, n_labeled=500, n_unlabeled=200, n_eval=80, n=8,
                            p_label_flip=.1, sft=SFTConfig(epochs=2), reward=REWARD)
SHORT = dict(steps=6, rollout_batch_size=32, minibatch_size=16, warmup=1)
SIZES = {"ppo": SHORT, "rloo": SHORT, "grpo": SHORT, "expert_iteration": dict(n=4, epochs=1),
         "quark": dict(steps=4, rollout_batch_size=32, batch_size=8, updates=9)}


def method(name, **changes): return name, METHODS[name].with_settings(**{**SIZES[name], **changes})


BEST = ("best_of_n", None)


class Negated:
    "A reward with the wrong sign."
    name = "negated"
    def __init__(self, reward): self.reward = reward
    def score(self, table): return -self.reward.score(table)


def relabeled(change):
    "A plant that changes the table of labels."
    def plant(p):
        def make(q): return q.table("preferences", ["pairs", p.identity(p.annotator), {"plant": change.__name__}],
                                    lambda: change(p.preferences()), "planted")
        p.preferences()
        return branch(p, change.__name__, preferences=make)
    return plant


def preference_swapped(labels): return labels.assign(preference=3 - labels["preference"])


def outputs_swapped(labels): return labels.assign(output_1=labels["output_2"], output_2=labels["output_1"])


def shuffled(labels):
    return labels.assign(preference=np.random.default_rng(5).permutation(labels["preference"].to_numpy()))


def rolled(labels): return labels.assign(preference=np.roll(labels["preference"].to_numpy(), 1))


def with_settings(**changes):
    def plant(p):
        q = branch(p, "settings")
        q.settings = replace(p.settings, **changes)
        return q
    return plant


def biased(**biases):
    def plant(p):
        q = branch(p, "biased")
        q.annotator = SimulatedAnnotator(p.farm.world, f"fond of {biases}", biases)
        return q
    return plant


def reward_with_sign(in_place):
    def plant(p):
        def train(q):
            reward = train_reward_model(q.sft(), q.preferences(), q.settings.reward, name="reward", seed=q.seed)
            if not in_place: return Negated(reward)
            reward.head.weight.data.mul_(-1)
            reward.mean = -reward.mean
            return reward
        needs = ["sft", "preferences", {"plant": in_place}]
        return branch(p, "sign", reward=lambda q: q.stage("reward", needs, lambda: train(q), say="planted"))
    return plant


def pairs_of_base(p):
    def make(q):
        asked = q.farm.preference.head(400)
        draw = lambda: sample_pairs(q.base, asked, seed=seed_for(q.seed, "plant"), max_new_tokens=48)
        return q.table("pairs", [{"plant": "base"}], draw, "planted")
    return branch(p, "base", pairs=make)


def pairs_of_writers(p):
    def make(q):
        asked, world = q.farm.preference.head(400), q.farm.world
        def write(style, k): return [write_answer(parse_task(world, i, x), world, style, random.Random(f"{k} {n}"))
                                     for n, (i, x) in enumerate(zip(asked["instruction"], asked["input"]))]
        draw = lambda: asked.assign(output_1=write(DEMONSTRATOR, 1), output_2=write(REFERENCE, 2))
        return q.table("pairs", [{"plant": "writers"}], draw, "planted")
    return branch(p, "writers", pairs=make)


def prompted(control):
    def plant(p):
        def policy(q, name, how):
            model = Pipeline.policy(q, name, how)
            return Model(model.backbone, model.adapter, name, model.history, replace(model.decoding, control=control))
        return branch(p, "prompted", policy=policy)
    return plant


def healthy(p): return p


# kind of bug: the cause that has to be named, the planted bug and the method in development, and those in the test
PLANTS = {
    "labels swapped": ("labels_swapped", (relabeled(preference_swapped), BEST),
                       (relabeled(outputs_swapped), method("rloo"))),
    "labels shuffled": ("labels_random", (relabeled(shuffled), BEST), (relabeled(rolled), BEST)),
    "label flips": ("labels_noisy", (with_settings(p_label_flip=.4), BEST), (with_settings(p_label_flip=.38), BEST)),
    "length bias": ("labels_biased", (biased(length=2.), BEST), (biased(length=-2.), method("rloo"))),
    "style bias": ("labels_biased", (biased(courtesy=2.), BEST), (biased(list=4.), BEST)),
    "few pairs": ("few_pairs", (with_settings(n_labeled=60), BEST), (with_settings(n_labeled=40), method("rloo"))),
    "reward rate": ("reward_untrained", (with_settings(reward=replace(REWARD, lr=2e-5)), BEST),
                    (with_settings(reward=replace(REWARD, lr=6e-6)), BEST)),
    "reward sign": ("reward_sign", (reward_with_sign(False), BEST), (reward_with_sign(True), method("rloo"))),
    "other pairs": ("pairs_off_distribution", (pairs_of_base, BEST), (pairs_of_writers, BEST)),
    "policy rate": ("policy_untrained", (healthy, method("ppo", lr=5e-6)), (healthy, method("rloo", lr=2e-6))),
    "strong KL": ("kl_too_strong", (healthy, method("ppo", kl_coef=10.)), (healthy, method("grpo", kl_coef=15.))),
    "no KL": ("kl_too_weak", (healthy, method("ppo", kl_coef=0., lr=5e-3)),
              (healthy, method("rloo", kl_coef=0., lr=4e-3))),
    "cut short": ("cut_short", (healthy, method("rloo", max_new_tokens=8)), (healthy, method("ppo", max_new_tokens=6))),
    "weak SFT": ("start_weak", (with_settings(n_demonstrations=10, sft=SFTConfig(epochs=1)), BEST),
                 (with_settings(n_demonstrations=16, sft=SFTConfig(epochs=1)), BEST)),
    "temperature": ("sampling_hot", (with_settings(temperature=2.), BEST),
                    (with_settings(temperature=1.5), method("rloo"))),
    "other prompt": ("other_prompt", (prompted(" Answer:"), method("rloo")),
                     (prompted("\nPlease answer now.\n"), method("ppo"))),
}
HEALTHY = dict(dev=[method("ppo"), method("rloo"), BEST],
               test=[method("ppo"), method("rloo"), method("grpo"), method("expert_iteration"), method("quark"), BEST])
SEEDS = dict(dev=[0], test=[1, 2, 4])


def runs_of(part, seed):
    "Name, cause, plant, and method of each run of a seed; after the first seed, few kinds of bugs."
    for name, how in HEALTHY[part]: yield f"healthy {name}", "healthy", healthy, (name, how)
    for kind, (cause, dev, test) in PLANTS.items():
        if seed == SEEDS[part][0] or seed == 4 and kind == "reward rate":
            yield kind, cause, *(dev if part == "dev" else test)


def compute(part, seed, folder, most):
    "Measure the runs that are not in the folder, most of them at a time."
    pipeline, done = Pipeline(load_farm("farmyard"), seed=seed, settings=SETTINGS, say=False), 0
    for kind, cause, plant, (name, how) in runs_of(part, seed):
        file = folder / f"{part}-{seed}-{kind}.json"
        if file.exists() or done == most: continue
        start, done = time.process_time(), done + 1
        chain = Chain(plant(branch(pipeline, "run")), name if plant.__name__ != "plant" or how is None else
                      f"{name}_{kind}".replace(" ", "_"), how)
        found = dict(kind=kind, cause=cause, method=name, seed=seed, seconds=0.)
        found["evidence"] = evidence_of(chain, chain.points(swaps=False))
        found["seconds"] = round(time.process_time() - start, 1)
        file.write_text(json.dumps(found, indent=1))
        print(f"{part} {seed} {kind}: {found['seconds']:.0f} s", flush=True)


LOSSES = {"healthy": healthy, "labels swapped": relabeled(preference_swapped), "labels shuffled": relabeled(shuffled),
          "length bias": biased(length=-3.), "reward sign": reward_with_sign(False),
          "few pairs": with_settings(n_labeled=60)}


def split(seed, folder):
    "Print the losses of best-of-n for bugs whose place is known, one row per bug."
    pipeline, rows = Pipeline(load_farm("farmyard"), seed=seed, settings=SETTINGS, say=False), []
    for kind, plant in LOSSES.items():
        file = folder / f"losses-{seed}-{kind}.json"
        if not file.exists():
            found = debug_run(plant(branch(pipeline, "run")), "best_of_n")
            steps = found.to_pandas().dropna(subset=["step"])
            texts = {s: f"{d:+.2f} ± {e:.2f}" for s, d, e in zip(steps["step"], steps["difference"],
                                                                 steps["difference_error"])}
            file.write_text(json.dumps(dict(kind=kind, cause=found.cause, **texts), indent=1))
            print(f"losses {seed} {kind}", flush=True)
        rows.append(json.loads(file.read_text()))
    print(pd.DataFrame(rows).to_string(index=False))


def table(part, folder):
    "One row per run: what was planted and what was found."
    rows = [json.loads(f.read_text()) for f in sorted(folder.glob(f"{part}-*.json"))]
    return pd.DataFrame([dict(kind=r["kind"], method=r["method"], seed=r["seed"], planted=r["cause"],
                              found=diagnose(r["evidence"]).cause, seconds=r["seconds"]) for r in rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("dev", "test", "losses"))
    parser.add_argument("--folder", type=Path, default=Path("runs/debugger"), help="where measurements are kept")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    parser.add_argument("--most", type=int, default=10**6, help="measure at most so many runs per seed")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.part == "losses":
        for seed in args.seeds or [3]: split(seed, args.folder)
        raise SystemExit
    for seed in () if args.table else args.seeds or SEEDS[args.part]: compute(args.part, seed, args.folder, args.most)
    found = table(args.part, args.folder)
    print(found.to_string(index=False))
    bugs = found[found["planted"] != "healthy"]
    print(f"{(bugs['planted'] == bugs['found']).sum()} of {len(bugs)} planted bugs found; "
          f"{(found.loc[found['planted'] == 'healthy', 'found'] != 'healthy').sum()} false alarms in "
          f"{(found['planted'] == 'healthy').sum()} healthy runs")
