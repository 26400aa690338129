"""Training on one base in 4 bits: the memory that a few steps need, compared with `estimate_memory`.

    python benchmarks/memory.py --shape 7b --limit 14.5        # on a GPU: reserved memory, tokens per second
    python benchmarks/memory.py --shape 1b --prompt 428 --new 64 --rollouts 4     # on a CPU, about ten minutes

A LLaMA-like model with random weights is created, stored in NF4, and given the adapters of PPO: the policy, its start
(the reference), a reward model, and a value adapter. Then one step of PPO runs, or with `--methods` two steps of
other methods, with gradient checkpointing, at the lengths of the paper (192 + 300 tokens) unless others are given. On a
GPU, the result is `torch.cuda.max_memory_reserved`. On a CPU, it is the peak of the process's own memory (RssAnon on
Linux, read every 20 ms; it excludes pages of the file that the weights come from), minus the memory that was in use
before the model was loaded.
"""

import argparse
import gc
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import torch

from alpacafarm_nb.methods.dpo import DPOConfig, train_dpo
from alpacafarm_nb.methods.memory import estimate_memory
from alpacafarm_nb.methods.ppo import PPOConfig, train_ppo
from alpacafarm_nb.methods.reward import RewardConfig, train_reward_model
from alpacafarm_nb.methods.sft import SFTConfig, train_sft
from alpacafarm_nb.models.backbone import Backbone
from alpacafarm_nb.models.loading import load_backbone, new_tokenizer
from alpacafarm_nb.models.saving import save_backbone
from alpacafarm_nb.models.reward_model import RewardModel
from alpacafarm_nb.prompts import PLAIN
from alpacafarm_nb.models.policy import Decoding, Model

SHAPES = {  # hidden, inner, layers, heads, key-value heads
    "tiny": (256, 704, 4, 4, 4), "160m": (768, 2048, 12, 12, 12), "1b": (2048, 5632, 22, 32, 4),
    "7b": (4096, 11008, 32, 32, 32)}


class Watch(threading.Thread):
    "Watches the process's own memory and records its peak since the start, in GiB."

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.on = own_memory(), True

    def run(self):
        while self.on: self.peak = max(self.peak, own_memory()); time.sleep(.02)

    def stop(self):
        self.on = False
        return self.peak


def own_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2 ** 20


def make(shape, folder, dtype, device):
    "Save a model with random weights and a small tokenizer into a folder."
    from transformers import LlamaConfig, LlamaForCausalLM
    hidden, inner, layers, heads, kv = SHAPES[shape]
    config = LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, vocab_size=32000,
                         num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=2048,
                         bos_token_id=1, eos_token_id=2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device): net = LlamaForCausalLM(config)
    finally: torch.set_default_dtype(before)
    return save_backbone(Backbone(net, new_tokenizer(["What do hens lay?"], 300, 2048), PLAIN, "new"), folder)


def runs(args, sft, reward, asked):
    "The runs by method: settings, and a function that trains with them."
    rows, each, words = args.rollouts, args.part, " lay" * (args.new - 1)
    texts = asked.assign(output=words)
    pairs = asked.assign(output_1=words, output_2=words[4:], preference=[1 + i % 2 for i in range(len(asked))])
    plain = dict(epochs=1, batch_size=each, gradient_accumulation_steps=rows // (2 * each))   # two steps
    ppo = PPOConfig(steps=1, rollout_batch_size=rows, minibatch_size=rows, ppo_epochs=1, value=args.value,
                    gradient_accumulation_steps=rows // each, max_new_tokens=args.new)
    return {"sft": (SFTConfig(**plain), lambda c: train_sft(sft, texts, c)),
            "reward": (RewardConfig(**plain), lambda c: train_reward_model(sft, pairs, c)),
            "dpo": (DPOConfig(**plain), lambda c: train_dpo(sft, pairs, c)),
            "ppo": (ppo, lambda c: train_ppo(sft, reward, asked, c))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1b", choices=list(SHAPES))
    parser.add_argument("--methods", default="ppo", help="such as sft,reward,dpo,ppo")
    parser.add_argument("--prompt", type=int, default=192, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=300, help="tokens of an answer")
    parser.add_argument("--rollouts", type=int, default=8, help="answers per step of PPO; rows of the other methods")
    parser.add_argument("--part", type=int, default=2, help="rows processed at a time")
    parser.add_argument("--value", default="adapter", choices=["adapter", "head"])
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--limit", type=float, help="GiB of GPU memory that torch may use, such as 14.5")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    dtype = torch.float16 if gpu else torch.bfloat16   # a T4 has no bf16; a CPU does not train in fp16
    with tempfile.TemporaryDirectory() as folder:
        make(args.shape, Path(folder) / "model", dtype, "cuda" if gpu else "cpu")
        gc.collect()
        if gpu: torch.cuda.empty_cache()
        if gpu and args.limit:
            torch.cuda.set_per_process_memory_fraction(args.limit * 2 ** 30 / torch.cuda.mem_get_info()[1])
        before = 0. if gpu else own_memory()
        backbone = load_backbone(Path(folder) / "model", quantize="nf4", dtype="fp16" if gpu else "bf16")
    if not args.no_checkpointing: backbone.checkpointing()
    sft = Model(backbone, backbone.adapters.add("sft"), "sft", decoding=Decoding(max_new_tokens=args.new))
    reward = RewardModel(backbone, backbone.adapters.add("reward"))
    torch.nn.init.normal_(reward.head.weight, std=.02)
    text = "lay " * (args.prompt - len(backbone.encode_prompt("")))
    asked = pd.DataFrame({"instruction": [f"{text}{i}" for i in range(args.rollouts)], "input": ""})
    prompt = max(map(len, backbone.codec.encode_prompts(asked)))
    if gpu: print(torch.cuda.get_device_name(), f"of which {args.limit} GiB may be used" if args.limit else "")
    print(f"{backbone!r}\nprompts of {prompt} tokens, answers of {args.new}", flush=True)
    for method in args.methods.split(","):
        config, train = runs(args, sft, reward, asked)[method]
        estimate = estimate_memory(backbone, config, prompt=prompt, response=args.new)
        print(f"\n{estimate!r}", flush=True)
        gc.collect()
        if gpu: torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
        watch = None if gpu else Watch()
        if watch: print(f"loaded: {own_memory() - before:.2f} GiB", flush=True); watch.start()
        start = time.perf_counter()
        trained = train(config)
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_reserved() / 2 ** 30 if gpu else watch.stop() - before
        held = f" ({torch.cuda.max_memory_allocated() / 2 ** 30:.2f} of them in use)" if gpu else ""
        row = trained.history.rows[-1]
        print(f"{method} measured: {peak:.2f} GiB {'reserved' if gpu else 'of own memory'}{held}, "
              f"estimated {estimate.gib:.2f}; {seconds:.0f} s; last row of its history: "
              + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, (int, float))), flush=True)
        del trained


if __name__ == "__main__": main()
