"""What is sampled, scored, merged and exported on a base in half precision is what was trained: small updates stay."""

import warnings

import pandas as pd
import pytest
import torch

from alpacafarm_nb.models.kernels import fused_layers
from alpacafarm_nb.training.start import new_adapter, forward_in_training_precision
from alpacafarm_nb.methods.memory import estimate_memory
from alpacafarm_nb.methods.sft import SFTConfig
from alpacafarm_nb.models.reward_model import RewardModel
from alpacafarm_nb.models.loading import load_backbone, new_backbone
from alpacafarm_nb.models.backbone import token_logps
from alpacafarm_nb.models.saving import save_backbone
from alpacafarm_nb.models.batches import pad_batch
from alpacafarm_nb.models.policy import Model, load_base, load_model

TEXTS = ["The farm has a red cow and two old horses.", "What does the hen eat? The hen eats corn and grass."]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A base of single precision whose weights are numbers of bf16, so that it is the same in all precisions."
    made = new_backbone(TEXTS, vocab=300, hidden=64, layers=3, context=96)
    with torch.no_grad():
        for p in made.net.parameters(): p.copy_((3 * p).bfloat16())
    return save_backbone(made, tmp_path_factory.mktemp("half") / "base")


def pushed(folder, dtype, size=2e-5):
    "A policy whose small update raises one direction of the states everywhere, on a base of some precision."
    backbone = load_backbone(folder, dtype=dtype, device="cpu")
    adapter, draw = backbone.adapters.add("policy", rank=4), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in backbone.adapters.parameters(adapter): p.copy_(torch.randn(p.shape, generator=draw) * size ** .5)
    return Model(backbone, adapter, "policy")


def rows(backbone, copies=1):
    prompts = [backbone.encode_prompt(t) for t in ("What does the hen eat?", "Hi", "Tell me about the cow.")]
    texts = "Corn and grass, if the cow leaves any.", "The farm.", "It is red!"
    outputs = [backbone.encode_output(t) for t in texts]
    return pad_batch(prompts * copies, outputs * copies, backbone.codec.pad_id)


def logps(backbone, net):
    batch = rows(backbone)
    with torch.no_grad(): return token_logps(backbone, net, batch)[batch.output_mask]


def change(model):
    "How far an adapter moves the log-probabilities of tokens, as the model is read."
    with model.backbone.inference(None) as bare: before = logps(model.backbone, bare)
    with model.backbone.inference(model.adapter) as net: return logps(model.backbone, net) - before


@pytest.mark.filterwarnings("ignore:rounding to")
@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_read_is_what_was_trained(folder, dtype):
    model = pushed(folder, dtype)
    with model.backbone.using(model.adapter, train=True) as net, fused_layers(net): trained = logps(model.backbone, net)
    with model.backbone.inference(model.adapter) as net: read = logps(model.backbone, net)
    assert torch.equal(read, trained)
    with forward_in_training_precision(model.backbone, model.adapter,
                                       "no") as net: assert torch.equal(logps(model.backbone, net),
                                                                                            trained)
    plain = model.backbone.adapters.merge(model.adapter, dtype=HALVES[dtype])   # what half precision would give
    assert not torch.equal(logps(model.backbone, plain), trained)


def gains(folder, dtype, lr):
    "Mean gain of the log-probability of what was taught in two steps: as read, merged, and in single precision."
    model = Model(load_backbone(folder, dtype=dtype, device="cpu"), None, "base")
    backbone, batch = model.backbone, rows(model.backbone, 8)
    with new_adapter(backbone, "taught", rank=8) as (adapter, net):
        optimizer = torch.optim.AdamW(backbone.adapters.parameters(adapter), lr=lr)
        for _ in range(2):
            (-token_logps(backbone, net, batch)[batch.output_mask].mean()).backward()
            optimizer.step(), optimizer.zero_grad()
    exact = load_backbone(folder, dtype="fp32", device="cpu")
    exact.adapters.load_state(exact.adapters.add("taught", rank=8), backbone.adapters.state(adapter))
    taught, merged = Model(backbone, adapter, "taught"), Model(backbone, adapter, "taught").merge()
    with exact.inference(None) as net: before = logps(exact, net)
    with merged.backbone.inference(None) as net: whole = logps(merged.backbone, net) - before
    return [x.mean().item() for x in (change(taught), whole, change(Model(exact, "taught", "taught")))]


def test_small_steps_are_not_rounded_away(folder):
    read, merged, exact = gains(folder, "bf16", 3e-5)
    assert exact > 0 and abs(merged - exact) < .02 * exact
    assert abs(read - exact) < .25 * exact, (read, exact)


def test_recorded_log_probabilities_are_those_of_the_model(folder):
    model = pushed(folder, "bf16", .01)
    table = model.sample(["What does the hen eat?", "Hi"], n=4, temperature=1., max_new_tokens=12, seed=3,
                         return_ids=True, return_logps=True)
    prompts = [p for p in table["prompt_ids"] for _ in range(4)]
    batch = pad_batch(prompts, [o for row in table["output_ids"] for o in row], model.backbone.codec.pad_id)
    drawn = torch.tensor([x for row in table["logps"] for lps in row for x in lps])
    def gap(net):
        with torch.no_grad(): again = token_logps(model.backbone, net, batch)[batch.output_mask]
        return (again - drawn).abs().mean().item()
    with model.backbone.inference(model.adapter) as net: live = gap(net)
    with model.backbone.inference(None) as net: other = gap(net)
    folded = gap(model.backbone.adapters.merge(model.adapter, dtype=torch.bfloat16))
    assert live < .9 * folded < other / 10, (live, folded, other)   # rounding alone, whatever the processor's is


def test_scores_merged_and_exported_models_lose_nothing(folder, tmp_path):
    model = pushed(folder, "bf16")
    backbone, exact = model.backbone, pushed(folder, "fp32")
    with exact.backbone.inference(exact.adapter) as net: want = logps(exact.backbone, net)
    merged, exported = model.merge(), load_base(model.export(tmp_path / "whole"), device="cpu")
    again = load_model(model.save(tmp_path / "adapter"), backbone)
    for whole in (merged, exported):
        assert whole.backbone.dtype == torch.float32
        with whole.backbone.inference(None) as net: torch.testing.assert_close(logps(whole.backbone, net), want)
    kept, mine = (backbone.adapters.parameters(m.adapter) for m in (again, model))
    assert all(torch.equal(a, b) for a, b in zip(kept, mine))
    own = backbone.merged_copy(model.adapter)
    for path, layer in backbone.adapters.layers.items():
        want = layer.base_layer.weight.float() + layer.get_delta_weight(model.adapter)
        assert torch.equal(own.get_submodule(path).weight, want)
    assert {p.dtype for p in own.parameters()} == {torch.float32} and backbone.dtype == torch.bfloat16
    assert own.lm_head.weight is own.model.embed_tokens.weight     # what was tied is tied


def test_a_reward_model_scores_with_what_it_learned(folder, tmp_path):
    model, exact = pushed(folder, "bf16", 1e-3), pushed(folder, "fp32", 1e-3)
    table = pd.DataFrame({"instruction": TEXTS * 8, "output": [f"The hen eats {i} cows." for i in range(16)]})
    found = []
    for m in (model, exact):
        reward = RewardModel(m.backbone, m.adapter)
        torch.nn.init.normal_(reward.head.weight, std=1., generator=torch.Generator().manual_seed(1))
        bare = RewardModel(m.backbone, None, reward.head)
        found.append(torch.tensor(reward.score(table) - bare.score(table)))
    assert torch.corrcoef(torch.stack(found))[0, 1] > .9, found
    reward = RewardModel(model.backbone, model.adapter, reward.head)
    again = load_model(reward.save(tmp_path / "reward"), model.backbone)
    assert (again.score(table) == reward.score(table)).all()


def test_rounding_is_done_when_asked_for_and_said(folder, tmp_path):
    small, large = pushed(folder, "bf16"), pushed(folder, "bf16", 1.)
    with pytest.warns(UserWarning, match=r"rounding to bfloat16 changes the weights by \d+% of what policy learned"):
        whole = load_base(small.export(tmp_path / "small", dtype="bf16"), dtype="auto", device="cpu")
    stored = {p.dtype for p in whole.backbone.net.parameters()}
    assert len(stored) == 1 and (tmp_path / "small" / "config.json").read_text().count('"bfloat16"') == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert large.merge(dtype="bf16").backbone.dtype == torch.bfloat16   # large updates are rounded by little
        model = Model(small.backbone, None, "base")
        assert model.merge().backbone.dtype == torch.bfloat16               # a base alone is as it was
        assert model.merge(dtype="fp32").backbone.dtype == torch.float32


def test_no_memory_is_reckoned_for_copies_that_are_not_made(folder):
    parts = {d: estimate_memory(pushed(folder, d), SFTConfig()).parts for d in ("fp32", "bf16")}
    assert "merged copies" in parts["fp32"] and "folded copies" not in parts["bf16"]
    model = pushed(folder, "bf16")
    with model.backbone.inference(model.adapter) as net: assert net is model.backbone.net
    assert not model.backbone.adapters._merged
