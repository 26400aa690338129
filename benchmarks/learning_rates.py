"""Learning rates of adapters: the paper's settings on the embedded farm and on SmolLM2-135M, at several rates.

    python benchmarks/learning_rates.py                            # the farm: about 15 minutes of one core per seed
    python benchmarks/learning_rates.py --world smollm2            # real records and pairs; half an hour per seed
    python benchmarks/learning_rates.py --methods dpo --seeds 0 1  # only one method
    python benchmarks/learning_rates.py --show                     # print the tables of results

Epochs, schedule, warm-up and KL coefficient are those of `.paper()`; batches are smaller where there is less data, so
that there are about as many steps. In addition to adapters, SFT and DPO train all weights, as in the paper. Every run
is a line in `runs/learning_rates/results.jsonl`; a run that is in the file is not repeated.
"""

import argparse
import json
import os
import sys
import time
import warnings
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RATES = {"farm": {"dpo": (1e-6, 1e-5, 2e-4, 1e-3), "sft": (2e-5, 2e-4, 5e-4, 2e-3), "reward": (3e-6, 3e-5, 3e-4, 1e-3),
                  "ppo": (1e-5, 2e-4, 5e-4), "quark": (3e-6, 2e-4, 5e-4),
                  "dpo_full": (1e-6, 1e-5, 1e-4), "sft_full": (2e-5, 2e-4, 2e-3)},
         "smollm2": {"sft": (2e-5, 2e-4, 5e-4, 2e-3), "reward": (3e-6, 3e-5, 3e-4), "dpo": (1e-6, 1e-5, 2e-4)}}


def moved(model, start, table):
    "Mean absolute change of the log-probability of a token of some outputs, in nats."
    import torch
    from alpacafarm_nb.training.batches import encode_examples
    from alpacafarm_nb.training.batches import collate
    from alpacafarm_nb.models.backbone import token_logps
    prompts, outputs = encode_examples(model.backbone, table)
    found = []
    for one in (model, start):
        backbone = one.backbone
        batch = collate(prompts, outputs, range(len(prompts)), backbone)
        with backbone.inference(one.adapter) as net, torch.no_grad():
            found.append(token_logps(backbone, net, batch)[batch.output_mask])
    return (found[0] - found[1]).abs().mean().item()


def train_all_weights(start, batches, lengths, config, loss_of, seed):
    "A copy of a model with all weights trained; `loss_of(backbone, net, rows)` returns the loss of a batch."
    from alpacafarm_nb.training.learner import Learner
    model = start.merge()
    backbone, net = model.backbone, model.backbone.net.requires_grad_(True)
    learner = Learner(net.parameters(), config.lr, schedule=config.schedule, warmup=config.warmup,
                      max_grad_norm=config.max_grad_norm, seed=seed)
    weight = lambda rows: sum(lengths[i] for i in rows)
    try: learner.fit(batches, lambda rows: (loss_of(backbone, net, rows), {}), weight)
    finally: net.requires_grad_(False)
    return model


class Farm:
    "The embedded world, where the truth is known: win rates by gold."

    def __init__(self, seed):
        from alpacafarm_nb import load_base, load_farm
        self.seed, self.farm = seed, load_farm("farmyard")
        self.base = load_base(self.farm.model, name="base")

    @cached_property
    def start(self):
        from alpacafarm_nb import train_sft
        return train_sft(self.base, self.farm.sft, seed=self.seed)

    @cached_property
    def pairs(self):
        "Pairs with noiseless labels, so that a few hundred suffice for training, and as many on other instructions."
        from alpacafarm_nb import sample_pairs
        asked = (self.farm.preference.head(400), self.farm.val.drop(columns="output").head(400))
        drawn = [sample_pairs(self.start, table, 1, seed=self.seed + k) for k, table in enumerate(asked)]
        return [self.farm.gold.noiseless.annotate_pairs(table, seed=self.seed) for table in drawn]

    @cached_property
    def reward(self):
        from alpacafarm_nb import train_reward_model
        return train_reward_model(self.start, self.pairs[0], seed=self.seed)

    def figures(self, model, start):
        "Win rate by gold in percent, change of log-probabilities, and share of greedy answers that are unchanged."
        from alpacafarm_nb.studies.overoptimization import win_probability
        asked = self.farm.val
        drawn = model.sample(asked.drop(columns="output"), n=2, temperature=.5, seed=9)
        values = win_probability(drawn, asked, self.farm.gold).mean(1)
        few = asked.head(100).drop(columns="output")
        same = model.sample(few, greedy=True)["output"] == start.sample(few, greedy=True)["output"]
        return {"win_rate": values.mean(), "error": values.std(ddof=1) / len(values) ** .5,
                "unchanged": same.mean(), "moved": moved(model, start, asked.head(32))}

    def sft(self, lr):
        from alpacafarm_nb import SFTConfig, train_sft
        config = SFTConfig.paper()
        model = train_sft(self.base, self.farm.sft, config, lr=lr, batch_size=16, gradient_accumulation_steps=1,
                          seed=self.seed)
        return {"loss": model.history["loss"][-1], **self.figures(model, self.base)}

    def sft_full(self, lr):
        from alpacafarm_nb import SFTConfig
        from alpacafarm_nb.training.batches import encode_examples, length_batches
        from alpacafarm_nb.methods.losses import sft_loss
        from alpacafarm_nb.training.batches import collate
        from alpacafarm_nb.models.backbone import token_logps
        config = SFTConfig.make(SFTConfig.paper(), lr=lr)
        prompts, outputs = encode_examples(self.base.backbone, self.farm.sft)
        batches = length_batches([len(p) + len(o) for p, o in zip(prompts, outputs)], 16, config.epochs, self.seed)

        def loss(backbone, net, rows):
            batch = collate(prompts, outputs, rows, backbone)
            return sft_loss(token_logps(backbone, net, batch), batch.output_mask).sum() / batch.output_mask.sum()
        model = train_all_weights(self.base, batches, list(map(len, outputs)), config, loss, self.seed)
        return self.figures(model, self.base)

    def rewarded(self, lr):
        from alpacafarm_nb import RewardConfig, train_reward_model
        from alpacafarm_nb.methods.reward import reward_accuracy
        train, held = self.pairs
        reward = train_reward_model(self.start, train, RewardConfig.paper(), lr=lr, batch_size=4, seed=self.seed,
                                    standardize=False)
        last = reward.history.rows[-20:]
        return {"accuracy": reward_accuracy(reward, held), "margin": sum(r["margin"] for r in last) / len(last)}

    def dpo(self, lr):
        from alpacafarm_nb import DPOConfig, train_dpo
        model = train_dpo(self.start, self.pairs[0], DPOConfig.paper(), lr=lr, gradient_accumulation_steps=1,
                          seed=self.seed)
        return {"margin": model.history["margin"][-1], **self.figures(model, self.start)}

    def dpo_full(self, lr):
        from alpacafarm_nb import DPOConfig
        from alpacafarm_nb.training.batches import length_batches
        from alpacafarm_nb.methods.dpo import pair_logps
        from alpacafarm_nb.methods.losses import dpo_loss
        from alpacafarm_nb.methods.pair_batches import EncodedPairs, pair_answer_logps
        config = DPOConfig.make(DPOConfig.paper(), lr=lr)
        pairs = EncodedPairs.of(self.start.backbone, self.pairs[0])
        ref = pair_logps(self.start, pairs)

        def loss(backbone, net, rows):
            chosen, rejected = pair_answer_logps(backbone, net, pairs.batch(rows, backbone)).chunk(2)
            return dpo_loss(chosen, rejected, *ref[rows].T, config.beta, pairs.target[rows]).mean()
        batches = length_batches(pairs.lengths, config.batch_size, config.epochs, self.seed)
        model = train_all_weights(self.start, batches, [1] * len(pairs), config, loss, self.seed)
        return self.figures(model, self.start)

    def ppo(self, lr):
        from alpacafarm_nb import PPOConfig, train_ppo
        model = train_ppo(self.start, self.reward, self.farm.unlabeled, PPOConfig.paper(), lr=lr, value_lr=10 * lr,
                          rollout_batch_size=64, minibatch_size=32, gradient_accumulation_steps=1, steps=12,
                          max_new_tokens=72, seed=self.seed)
        return {"kl": model.history["kl"][-1], **self.figures(model, self.start)}

    def quark(self, lr):
        from alpacafarm_nb import QuarkConfig, train_quark
        model = train_quark(self.start, self.reward, self.farm.unlabeled, QuarkConfig.paper(), lr=lr,
                            rollout_batch_size=64,
                            batch_size=64, gradient_accumulation_steps=1, steps=20, max_new_tokens=72, seed=self.seed)
        return {"kl": model.history["kl"][-1], **self.figures(model, self.start)}


class SmolLM2:
    "SmolLM2-135M-Instruct on Alpaca records and preference pairs: losses and margins on held-out rows."

    def __init__(self, seed):
        sys.path.insert(0, str(ROOT / "benchmarks"))
        import real_language
        from alpacafarm_nb import load_base
        sizes = {"pairs": 48, "pairs-held-out": 24, "pair-length": 256, "sft-length": 128, "seed": seed}
        args = real_language.arguments([x for k, v in sizes.items() for x in (f"--{k}", str(v))])
        real_language.check_data(args.data)
        self.seed, self.tools = seed, real_language
        self.base = load_base(real_language.embedded_model(), name="base")
        self.data = real_language.load_data(args, self.base.backbone)

    @cached_property
    def before(self): return self.tools.response_losses(self.base, self.data["sft_held"], 8)

    def sft(self, lr):
        from alpacafarm_nb import SFTConfig, train_sft
        data, held = self.data["sft"], self.data["sft_held"]
        model = train_sft(self.base, data, SFTConfig.paper(), lr=lr, batch_size=8, gradient_accumulation_steps=1,
                          seed=self.seed)
        losses, n = self.tools.response_losses(model, held, 8)
        fall, error = self.tools.loss_fall(self.before[0], losses, n)
        return {"fall": fall, "error": error, "moved": moved(model, self.base, held.head(8))}

    def held_margins(self, lr, train):
        "Margin and accuracy on held-out pairs."
        from alpacafarm_nb.methods.pair_batches import EncodedPairs
        margins = train(lr, EncodedPairs.of(self.base.backbone, self.data["pairs_held"]))
        accuracy, error = self.tools.share(margins > 0)
        return {"margin": float(margins.mean()), "accuracy": accuracy, "error": error}

    def dpo(self, lr):
        from alpacafarm_nb import DPOConfig, train_dpo
        from alpacafarm_nb.methods.dpo import pair_logps

        def train(lr, held):
            model = train_dpo(self.base, self.data["pairs"], DPOConfig.paper(), lr=lr, batch_size=4,
                              gradient_accumulation_steps=1, seed=self.seed)
            gain = pair_logps(model, held, 4) - pair_logps(self.base, held, 4)
            return .1 * (gain[:, 0] - gain[:, 1])
        return self.held_margins(lr, train)

    def rewarded(self, lr):
        import numpy as np
        from alpacafarm_nb import RewardConfig, train_reward_model

        def train(lr, held):
            reward = train_reward_model(self.base, self.data["pairs"], RewardConfig.paper(), lr=lr, batch_size=4,
                                        standardize=False, seed=self.seed)
            return np.subtract(*np.split(reward.score_ids(held.prompts * 2, held.chosen + held.rejected), 2))
        return self.held_margins(lr, train)


def show(path):
    "Print tables of the results, as means over seeds."
    import pandas as pd
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not rows: sys.exit(f"{path} is missing or empty: run this without --show first.")
    table = pd.DataFrame(rows)
    for (world, method), part in table.groupby(["world", "method"], sort=False):
        found = part.drop(columns=["world", "method", "seed", "seconds"]).dropna(axis=1, how="all").groupby("lr")
        print(f"\n{world}, {method}: mean over seeds {sorted(part['seed'].unique().tolist())}")
        print(found.mean().assign(runs=found.size()).to_string(float_format=lambda x: f"{x:.4g}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=list(RATES), default="farm")
    parser.add_argument("--methods", nargs="+", help="methods to run (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "learning_rates" / "results.jsonl")
    parser.add_argument("--show", action="store_true", help="print the results")
    args = parser.parse_args()
    if args.show: return show(args.out)
    import torch
    torch.set_num_threads(1)
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["world"], r["method"], r["lr"], r["seed"]) for r in map(json.loads, lines)}
    for seed in args.seeds:
        world = None
        for method, rates in RATES[args.world].items():
            if args.methods and method not in args.methods: continue
            for lr in rates:
                if (args.world, method, lr, seed) in done: continue
                world, start = world or {"farm": Farm, "smollm2": SmolLM2}[args.world](seed), time.perf_counter()
                found = getattr(world, {"reward": "rewarded"}.get(method, method))(lr)
                row = dict(world=args.world, method=method, lr=lr, seed=seed, **{k: float(v) for k, v in found.items()},
                           seconds=round(time.perf_counter() - start, 1))
                with args.out.open("a") as file: file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    show(args.out)


if __name__ == "__main__": main()
