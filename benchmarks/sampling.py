"""Sampling and scoring compared with transformers' `generate`: new tokens per CPU second.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [--rows 128] [--samples 1 4 16] [--turns 3]   # the embedded model
    OMP_NUM_THREADS=1 python benchmarks/sampling.py --smollm2 --rows 64 --samples 1 4             # SmolLM2-135M

CPU seconds are counted, because other processes make wall times noisy. Each number is the best of several turns, which
the competitors take alternately. `generate` gets settings that suit it: prompts sorted by length, all samples of a
prompt in one call, no top-k, the better of two batch sizes, and the adapter merged ("peft": with the adapter active).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alpacafarm_nb.farm.worlds import load_farm
from alpacafarm_nb.models.kernels import bf16_units
from alpacafarm_nb.methods.sft import train_sft
from alpacafarm_nb.models.reward_model import RewardModel
from alpacafarm_nb.models.policy import load_base
from alpacafarm_nb.models.sampling import sample_ids

ROOT = Path(__file__).resolve().parents[1]
HOW = dict(temperature=.7, top_p=1., max_new_tokens=72)


def rate(work):
    "The number that `work` returns, per CPU second."
    start = time.process_time()
    return work() / (time.process_time() - start)


def generate(model, net, prompts, n, rows):
    "Number of tokens that transformers' own loop sampled, up to and including the end token."
    backbone, total = model.backbone, 0
    for i in range(0, len(prompts), max(1, rows // n)):
        some = {"input_ids": prompts[i:i + max(1, rows // n)]}
        batch = backbone.tokenizer.pad(some, return_tensors="pt", padding_side="left")
        with torch.inference_mode():
            ids = net.generate(**batch, **HOW, do_sample=True, top_k=0, num_return_sequences=n)
        for row in ids[:, batch["input_ids"].shape[1]:].tolist():
            total += row.index(backbone.codec.eos_id) + 1 if backbone.codec.eos_id in row else len(row)
    return total


def compare(model, reward, prompts, n, turns):
    "Print one line of results for n samples per prompt."
    backbone, best, kept = model.backbone, {}, []

    def ours():
        with backbone.inference(model.adapter) as net: kept[:] = sample_ids(backbone, net, prompts, n, **HOW).ids
        return sum(len(x) for xs in kept for x in xs)

    def theirs(live, rows):
        with (backbone.using if live else backbone.inference)(model.adapter) as net:
            return generate(model, net, prompts, n, rows)

    def scored():
        rows = [(p, x) for p, xs in zip(prompts, kept) for x in xs]
        return len(reward.score_ids(*zip(*rows)))

    works = {"here": ours, "generate 64": lambda: theirs(False, 64), "generate 256": lambda: theirs(False, 256),
             "peft 64": lambda: theirs(True, 64), "scores": scored}
    for _ in range(turns): best = {k: max(best.get(k, 0), rate(work)) for k, work in works.items()}
    times = best["here"] / max(best["generate 64"], best["generate 256"])
    print(f"n={n}, {len(prompts)} prompts of {np.mean([len(p) for p in prompts]):.0f} tokens, answers of "
          f"{np.mean([len(x) for xs in kept for x in xs]):.0f}; per CPU second:",
          ", ".join(f"{k} {v:.0f}" for k, v in best.items()), f"({times:.1f} times generate)", flush=True)


def smollm2(data):
    "SmolLM2-135M-Instruct with a fresh adapter, and Alpaca instructions: first those of the comparison with TRL."
    from beside_trl import check_data, table_of
    from real_language import embedded_model
    check_data(data)
    HOW["max_new_tokens"] = 48
    base = load_base(embedded_model(), dtype="bf16" if bf16_units() else "fp32", prompts="chat", device="cpu")
    return base.branch("policy"), pd.concat([table_of("rloo", data), table_of("sft", data)], ignore_index=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--smollm2", action="store_true",
                        help="use SmolLM2-135M (in bf16 where that is fast) and real Alpaca instructions")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with alpaca_demo/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.smollm2: model, asked = smollm2(args.data)
    else:
        farm = load_farm("farmyard")
        model, asked = train_sft(load_base(farm.model), farm.sft, epochs=1), farm.eval
    backbone = model.backbone
    reward = RewardModel(backbone, backbone.adapters.add("reward", copy_from=model.adapter))
    prompts = sorted(backbone.codec.encode_prompts(asked.head(args.rows)), key=len)
    print(backbone)
    for n in args.samples: compare(model, reward, prompts[::n], n, args.turns)


if __name__ == "__main__": main()
