"""The methods on a base in bf16 and in 4 bits: the same code, live adapters instead of folded ones, heads in fp32."""

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.methods.binary import train_feedme, train_reward_conditioning  # noqa: E402
from alpacafarm_nb.methods.bestofn import best_of_n  # noqa: E402
from alpacafarm_nb.methods.dpo import train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import pretrain, train_sft  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.prompts import PLAIN  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model, load_base  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs, please.", "Eggs.", "Milk, please.", "Milk.", "Sheep, please.", "The sheep.", "Hay, please.", "Hay."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A tiny base that knows the answers, saved."
    heard = [PLAIN.format(q) + a for q in QUESTIONS for a in ANSWERS]
    base = Model(new_backbone(heard, vocab=320, hidden=64, context=96), decoding=Decoding(max_new_tokens=12))
    return pretrain(base, heard, epochs=12, batch_size=8, lr=1e-2).export(tmp_path_factory.mktemp("base") / "model")


KINDS = [dict(dtype="bf16"), dict(quantize="nf4"), dict(quantize="nf4", dtype="bf16")]


@pytest.mark.parametrize("precision", KINDS, ids=str)
def test_the_methods_in_low_precision(folder, precision):
    if "quantize" in precision: pytest.importorskip("bitsandbytes")
    base = load_base(folder, device="cpu", **precision)
    frozen = {k: v.clone() for k, v in base.backbone.net.state_dict().items()}
    shown = pd.DataFrame({"instruction": QUESTIONS * 4, "input": "", "output": ANSWERS[::2] * 4})
    sft = train_sft(base, shown, epochs=16, batch_size=8, lr=1e-2)
    assert sum(sft.history["loss"][-2:]) < .9 * sum(sft.history["loss"][:2])   # the last epoch and the first
    assert {p.dtype for p in base.backbone.adapters.parameters(sft.adapter)} == {torch.float32}

    polite, plain = ANSWERS[:4:2], ANSWERS[1:4:2]
    pairs = pd.DataFrame([dict(instruction=q, input="", output_1=a, output_2=b, preference=1.)
                          for q in QUESTIONS for a in polite for b in plain])
    reward = train_reward_model(sft, pairs, epochs=8, batch_size=8, lr=1e-2, warmup=1)
    assert reward.history["loss"][-1] < .5 * reward.history["loss"][0]
    dpo = train_dpo(sft, pairs, epochs=24, batch_size=8, lr=1e-2, warmup=1)
    assert abs(dpo.history["loss"][0] - .6931) < .01  # policy and reference agree before the first step
    assert dpo.history["loss"][-1] < .8 * dpo.history["loss"][0]

    for value in ("head", "adapter"):
        ppo = train_ppo(sft, reward, QUESTIONS, steps=2, rollout_batch_size=8, minibatch_size=4, value=value)
        assert abs(ppo.history["kl"][0]) < .02 and ppo.history["clip_fraction"][0] < .1
        gaps = [x or 0. for x in ppo.history["sampling_gap"]]  # what is sampled is what is trained, but for rounding
        assert max(gaps) < .02 and (max(gaps) > 0) == (base.backbone.dtype == torch.bfloat16)
        now, then = (base.backbone.adapters.parameters(m.adapter) for m in (ppo, sft))
        assert max((a - b).abs().max().item() for a, b in zip(now, then)) > 1e-5
    assert len(best_of_n(sft, reward, 2).sample(QUESTIONS).output) == 4

    start, online = state(base, sft), dict(steps=2, rollout_batch_size=8)
    family = [train_dpo(sft, pairs, loss=loss, epochs=2, batch_size=8, lr=1e-2, warmup=1, name=loss)
              for loss in ("dpo_per_token", "ipo", "kto", "simpo", "orpo")]
    family += [train_ppo(sft, reward, QUESTIONS, **online, minibatch_size=4, advantage=a, name=a) for a in ("rloo",
                                                                                                            "grpo")]
    family += [train_quark(sft, reward, QUESTIONS, mode=m, **online, updates=2, batch_size=4, name=f"quark_{m}")
               for m in ("best", "all")]
    family += [train_expert_iteration(sft, reward, QUESTIONS, n=2, epochs=2, batch_size=4),
               train_feedme(sft, pairs, epochs=2, batch_size=8), train_reward_conditioning(sft, pairs, epochs=2)]
    for model in family:
        assert (state(base, model) - start).abs().max() > 1e-5, model.name
    for loss, first in (("ipo", 25.), ("kto", .5)):  # policy and reference agree here, too
        assert abs(next(m for m in family if m.name == loss).history["loss"][0] - first) < .03 * first
    assert family[7].name == "quark_best" and family[7].history["kl"][0] < .1  # the leash is read in the same rounding
    for k, v in frozen.items():  # and the base is what it was
        assert torch.equal(v, base.backbone.net.state_dict()[_injected(k, base.backbone.net)])


def state(base, model):
    "The adapter of a model, flat."
    return torch.cat([p.detach().flatten().clone() for p in base.backbone.adapters.parameters(model.adapter)])


def _injected(key, net):
    "Where peft keeps a tensor of the base now."
    state = net.state_dict()
    if key in state: return key
    for mark in (".weight", ".bias"):
        if mark in key and (moved := key.replace(mark, f".base_layer{mark}", 1)) in state: return moved
    raise KeyError(key)
