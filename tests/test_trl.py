"""The same model, data, order and seeds in TRL: the curves of training must agree to numerical noise."""

import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("trl", reason="trl is not installed")
torch = pytest.importorskip("torch")

from alpacafarm_nb.farm.worlds import make_farm  # noqa: E402
from alpacafarm_nb.methods.dpo import train_dpo  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import train_sft  # noqa: E402
from alpacafarm_nb.models.policy import load_base  # noqa: E402

BATCH, LR, TOLERANCE = 4, 1e-3, 2e-6
COMMON = dict(per_device_train_batch_size=BATCH, learning_rate=LR, lr_scheduler_type="constant", warmup_steps=0,
              num_train_epochs=2, max_grad_norm=1.0, weight_decay=0.0, optim="adamw_torch", logging_steps=1, bf16=False,
              use_cpu=True, gradient_checkpointing=False, report_to="none", save_strategy="no", max_length=128,
              train_sampling_strategy="sequential", disable_tqdm=True, dataloader_drop_last=False, seed=0)
OURS = dict(batch_size=BATCH, lr=LR, schedule="constant", warmup=0, max_grad_norm=1.0, epochs=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    "The farm's base with a fresh adapter, ours and in files, and some of its data."
    farm, folder = make_farm(0), tmp_path_factory.mktemp("trl")
    base = load_base(farm.model, name="base")
    policy = base.branch("start", seed=5, rank=8, alpha=16)
    policy.save(folder / "adapter")
    return farm, policy, folder / "adapter"


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    "Batches in the order of the table, as TRL is asked to take them."
    def batches(lengths, batch_size, epochs=1, seed=0, mix=8):
        rows = np.arange(len(lengths))
        return [rows[i:i + batch_size] for _ in range(epochs) for i in range(0, len(rows), batch_size)]
    for method in ("sft", "dpo", "reward"):
        monkeypatch.setattr(sys.modules[f"alpacafarm_nb.methods.{method}"], "length_batches", batches)


def theirs(farm, adapter):
    "The same policy in transformers and peft, its tokenizer, and prompts as ours are."
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    net = AutoModelForCausalLM.from_pretrained(farm.model, dtype=torch.float32)
    return PeftModel.from_pretrained(net, adapter, is_trainable=True), AutoTokenizer.from_pretrained(farm.model)


def curve(trainer, column="loss"):
    "What TRL logged at each step."
    trainer.train()
    return [row[column] for row in trainer.state.log_history if column in row]


def test_sft(start, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    farm, policy, adapter = start
    shown = farm.sft.head(24)
    ours = train_sft(policy, shown, name="ours", **OURS)
    net, tokenizer = theirs(farm, adapter)
    rows = [dict(prompt=policy.backbone.prompts.format(r.instruction, r.input), completion=r.output)
            for r in shown.itertuples()]
    config = SFTConfig(output_dir=str(tmp_path), completion_only_loss=True, packing=False, **COMMON)
    trainer = SFTTrainer(net, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    np.testing.assert_allclose(ours.history["loss"], curve(trainer), rtol=1e-6, atol=TOLERANCE)


def preferences(farm):
    "Pairs of demonstrations and reference-like answers, a verdict each."
    rows = farm.sft.head(24)
    return pd.DataFrame(dict(instruction=rows["instruction"], input=rows["input"], output_1=rows["output"],
                             output_2=rows["output"].shift(1).fillna("No."), preference=[1, 2, 1] * 8))


def as_pairs(policy, table):
    "The same for TRL."
    from datasets import Dataset
    first = table["preference"] == 1
    rows = zip(table["instruction"], table["input"], table["output_1"].where(first, table["output_2"]),
               table["output_2"].where(first, table["output_1"]))
    return Dataset.from_list([dict(prompt=policy.backbone.prompts.format(i, x), chosen=c, rejected=r)
                              for i, x, c, r in rows])


@pytest.mark.parametrize("ours, named, beta", [("dpo", "sigmoid", .1), ("dpo_per_token", "sigmoid_norm", 1.),
                                                ("ipo_per_token", "ipo", .1)])
def test_dpo(ours, named, beta, start, tmp_path):
    from trl import DPOConfig, DPOTrainer
    farm, policy, adapter = start
    table = preferences(farm)
    trained = train_dpo(policy, table, name="ours", loss=ours, beta=beta, **OURS)
    net, tokenizer = theirs(farm, adapter)
    config = DPOConfig(output_dir=str(tmp_path), beta=beta, loss_type=[named], **COMMON)
    trainer = DPOTrainer(net, args=config, train_dataset=as_pairs(policy, table), processing_class=tokenizer)
    np.testing.assert_allclose(trained.history["loss"], curve(trainer), rtol=1e-6, atol=TOLERANCE)


def test_reward_model(start, tmp_path):
    from peft import LoraConfig, TaskType, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer
    farm, policy, adapter = start
    table = preferences(farm)
    ours = train_reward_model(policy, table, name="ours", seed=3, **OURS)
    net = AutoModelForSequenceClassification.from_pretrained(farm.model, num_labels=1, dtype=torch.float32)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    net = get_peft_model(net, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=linear,
                                         modules_to_save=["score"]))
    weights = load_file(adapter / "adapter_model.safetensors")
    state = {k: v for k, v in net.named_parameters() if "lora_" in k}
    from alpacafarm_nb.methods.reward import _small_head
    with torch.no_grad():
        for key, value in state.items(): value.copy_(weights[key.replace(".default", "")])
        for key, value in net.named_parameters():
            if "score.modules_to_save" in key: value.copy_(_small_head(policy.backbone, 3).weight)
    config = RewardConfig(output_dir=str(tmp_path), **COMMON)
    trainer = RewardTrainer(net, args=config, train_dataset=as_pairs(policy, table),
                            processing_class=AutoTokenizer.from_pretrained(farm.model))
    np.testing.assert_allclose(ours.history["loss"], curve(trainer), rtol=1e-6, atol=TOLERANCE)


def count_e(texts): return [100. * t.count("e") / max(1, len(t)) for t in texts]


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_the_gradient_of_answers_compared(advantage, start, tmp_path, monkeypatch):
    "RLOO and GRPO on the same sampled answers: the same gradient, up to what the loss is divided by."
    import trl
    from datasets import Dataset

    from alpacafarm_nb.training.learner import Learner
    from alpacafarm_nb.methods import ppo
    farm, policy, adapter = start
    asked, kept = farm.unlabeled.head(4), {}

    def keep_rollout(*args, **kwargs):
        kept["rollout"] = rolled(*args, **kwargs)
        return kept["rollout"]

    def keep_gradient(self, batch=None):
        names = policy.backbone.adapters.state(policy.adapter)
        kept["ours"] = {k: p.grad.clone() for k, p in zip(names, self.groups["policy"])}
        return {}
    rolled = ppo.roll_out
    monkeypatch.setattr(ppo, "roll_out", keep_rollout)
    monkeypatch.setattr(Learner, "optimizer_step", keep_gradient)
    ppo.train_ppo(policy, lambda t: np.array(count_e(t["output"])), asked, name="ours", advantage=advantage,
                  group_size=4,
                  rollout_batch_size=16, minibatch_size=16, ppo_epochs=1, steps=1, kl_coef=.05, missing_eos_penalty=0.,
                  max_new_tokens=24)
    rollout = kept["rollout"]
    spread = float(np.std(count_e(rollout.table["output"]))) if advantage == "rloo" else 1.  # our rewards' unit

    net, tokenizer = theirs(farm, adapter)
    shared = {k: v for k, v in COMMON.items() if k not in ("max_length", "train_sampling_strategy", "optim")}
    shared |= dict(per_device_train_batch_size=16, num_train_epochs=1, max_grad_norm=1e9, optim="sgd", learning_rate=1.,
                   output_dir=str(tmp_path), num_generations=4, max_completion_length=24, shuffle_dataset=False,
                   temperature=1., beta=.05 if advantage == "rloo" else 0.)
    prompts = [policy.backbone.prompts.format(r.instruction, r.input) for r in rollout.table.iloc[::4].itertuples()]
    data = Dataset.from_list([dict(prompt=p) for p in prompts])
    reward = lambda completions, **_: count_e([c.strip() for c in completions])
    if advantage == "rloo":
        config = trl.RLOOConfig(normalize_advantages=False, **shared)
        trainer = trl.RLOOTrainer(net, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer)
        trainer._generate_single_turn = lambda *args: [list(o) for o in rollout.outputs]
    else:
        config = trl.GRPOConfig(loss_type="bnpo", **shared)
        trainer = trl.GRPOTrainer(net, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer)
        trainer._generate_single_turn = lambda *args, **kwargs: ([list(o) for o in rollout.outputs], None)
    before = {k: p.detach().clone() for k, p in net.named_parameters() if p.requires_grad}
    trainer.train()
    moved = {k.replace(".default", ""): before[k] - p.detach() for k, p in net.named_parameters() if k in before}
    # theirs: a mean over the answers (RLOO) or over the tokens (GRPO); ours: over the tokens
    tokens = sum(map(len, rollout.outputs))
    scale = spread * tokens / 16 if advantage == "rloo" else 1.
    assert set(moved) == set(kept["ours"])
    size = max(g.abs().max() for g in kept["ours"].values())
    assert size > 1e-6
    for key, gradient in kept["ours"].items():
        np.testing.assert_allclose(scale * gradient.numpy(), moved[key].numpy(), atol=2e-4 * scale * size.item())
