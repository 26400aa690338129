"""What training methods are given by mistake: each says what is wrong, trains nothing, and leaves no role behind."""

import sys
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import FarmError, ModelError, StageError  # noqa: E402
from alpacafarm_nb.methods.binary import train_feedme, train_reward_conditioning  # noqa: E402
from alpacafarm_nb.methods.dpo import PREFERENCE_LOSSES, train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.ppo import train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import train_sft  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model, load_base, load_model  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs.", "Milk.", "The sheep.", "The cows do."]
PAIRS = pd.DataFrame([dict(instruction=q, input="", output_1=a, output_2=b, preference=1.)
                      for q, a, b in zip(QUESTIONS, ANSWERS, ANSWERS[1:] + ANSWERS[:1])])
ON_PAIRS = {"reward": train_reward_model, "dpo": train_dpo, "feedme": train_feedme,
            "reward_conditioning": train_reward_conditioning,
            **{loss: lambda m, t, loss=loss, **more: train_dpo(m, t, loss=loss, **more) for loss in PREFERENCE_LOSSES}}
ONLINE = {"ppo": train_ppo, "quark": train_quark,
          "rloo": lambda *a, **more: train_ppo(*a, advantage="rloo", **more),
          "grpo": lambda *a, **more: train_ppo(*a, advantage="grpo", **more)}
FEW = dict(steps=1, rollout_batch_size=4)


def length(table): return table["output"].str.len().to_numpy(dtype=float)


def tiny(seed=3, **shape):
    texts = QUESTIONS + ANSWERS
    backbone = new_backbone(texts, **{**dict(vocab=300, hidden=32, context=80, seed=seed), **shape})
    return Model(backbone, name="tiny", decoding=Decoding(max_new_tokens=8))


@pytest.fixture(scope="module")
def base(): return tiny()


@pytest.fixture(autouse=True)
def no_role_stays(base):
    before = list(base.backbone.adapters.names)
    yield
    assert base.backbone.adapters.names == before


@pytest.mark.parametrize("name", ON_PAIRS)
@pytest.mark.parametrize("verdict", [1.5, 0., np.nan], ids=["ties", "old ties", "no verdicts"])
def test_nothing_to_tell_apart(name, verdict, base):
    with pytest.raises(FarmError, match="without a verdict|no usable|verdict"):
        ON_PAIRS[name](base, PAIRS.assign(preference=verdict))


def trained(model):
    "Weights and losses of a model, which is freed."
    weights, losses = model.backbone.adapters.state(model.adapter), model.history["loss"]
    model.free()
    return weights, losses


def assert_alike(one, other, atol=0.):
    "The same losses and the same weights."
    np.testing.assert_allclose(one[1], other[1], rtol=0, atol=atol)
    for key, weight in one[0].items(): torch.testing.assert_close(weight, other[0][key], rtol=0, atol=atol)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_one_class_only(name, base):
    "The first output is always the better one: that is the same as the second one's being it, put the other way round."
    turned = PAIRS.rename(columns={"output_1": "output_2", "output_2": "output_1"}).assign(preference=2.)
    one, other = (trained(ON_PAIRS[name](base, table, epochs=2, batch_size=2)) for table in (PAIRS, turned))
    assert_alike(one, other)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_zero_length_responses(name, base, monkeypatch):
    "An empty answer is its end sign alone; sharing a row with another it is read as it is alone."
    empty = PAIRS.assign(output_1=["", "Milk.", "", "Hay."])
    shared = trained(ON_PAIRS[name](base, empty, epochs=2, batch_size=4, lr=1e-3))
    monkeypatch.setattr("alpacafarm_nb.methods.pair_batches.shares_prompts", lambda backbone: False)
    alone = trained(ON_PAIRS[name](base, empty, epochs=2, batch_size=4, lr=1e-3))
    assert_alike(shared, alone, atol=2e-4)
    both = PAIRS.assign(output_1="", output_2="")
    with pytest.raises(FarmError): ON_PAIRS[name](base, both)


def test_no_demonstrations(base):
    with pytest.raises(FarmError, match="nothing to train on"):
        train_sft(base, pd.DataFrame({"instruction": [], "input": [], "output": []}))


@pytest.mark.parametrize("name", ONLINE)
def test_a_policy_that_says_nothing(name, base):
    "The end sign at once, always: answers of one token, all alike, and a reward that does not vary."
    silent = tiny()
    head = silent.backbone.net.get_output_embeddings()
    bias = torch.zeros(silent.backbone.vocab_size)
    bias[silent.backbone.codec.eos_id] = 1e4
    head.bias = torch.nn.Parameter(bias, requires_grad=False)
    model = ONLINE[name](silent, length, QUESTIONS, **FEW)
    assert model.history["response_length"] == [1.] and model.history["reward"] == [0.]
    before = silent.branch("before")   # nothing was better than anything else: nothing was learned
    for key, weight in silent.backbone.adapters.state(model.adapter).items():
        torch.testing.assert_close(weight, silent.backbone.adapters.state(before.adapter)[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*ON_PAIRS, *ONLINE])
def test_no_pad_token(name):
    base = tiny()
    base.backbone.tokenizer.pad_token = None
    model = ON_PAIRS[name](base, PAIRS, epochs=1) if name in ON_PAIRS else ONLINE[name](base, length, QUESTIONS, **FEW)
    with_pad = tiny()
    again = ON_PAIRS[name](with_pad, PAIRS, epochs=1) if name in ON_PAIRS else \
        ONLINE[name](with_pad, length, QUESTIONS, **FEW)
    of = lambda model: model.backbone.adapters.parameters(model.adapter)
    for a, b in zip(of(model), of(again)):
        assert torch.allclose(a, b, atol=1e-6)  # what fills up short rows is never read


@pytest.mark.parametrize("name", [*ON_PAIRS, *ONLINE])
def test_a_loss_that_is_no_number(name, base, tmp_path):
    "Broken weights: the run stops, says where, and the checkpoint before is whole."
    broken = tiny()
    train = lambda **more: ON_PAIRS[name](broken, PAIRS, epochs=3, batch_size=2, lr=1e-3, **more) if name in ON_PAIRS \
        else ONLINE[name](broken, length, QUESTIONS, **{**FEW, "steps": 3}, **more)
    from alpacafarm_nb.training.learner import Learner
    whole, calls = Learner.log_step, []

    def then_break(self, **figures):
        row = whole(self, **figures)
        calls.append(1)
        if len(calls) == 2:
            with torch.no_grad(): next(p for g in self.groups.values() for p in g)[0] = float("nan")
        return row
    with patch.object(Learner, "log_step", then_break), pytest.raises((StageError, ModelError)) as caught:
        train(run_dir=tmp_path, checkpoint_every=1)
    said = str(caught.value)
    assert "became nan at step 2 of" in said and "batch of rows" in said or "logits that are not numbers" in said
    kept = sorted(p.name for p in tmp_path.glob("step-*"))
    assert kept and broken.backbone.adapters.names == []


def test_an_adapter_of_another_base(base, tmp_path):
    adapter = train_sft(base, pd.DataFrame(dict(instruction=QUESTIONS, input="", output=ANSWERS)), epochs=1)
    adapter.save(tmp_path / "adapter")
    adapter.free()
    for other in (tiny(seed=4), tiny(hidden=64)):
        with pytest.raises(ModelError, match="another base"): load_model(tmp_path / "adapter", other)
        assert other.backbone.adapters.names == []
    with pytest.raises(FarmError, match="backbone of the policy"):
        train_ppo(base, length, QUESTIONS, reference=tiny(seed=4), **FEW)


def test_four_bits_without_bitsandbytes(base, tmp_path):
    base.export(tmp_path / "model")
    with patch.dict(sys.modules, {"bitsandbytes": None}), \
            patch("transformers.utils.import_utils.is_bitsandbytes_available", lambda *a, **k: False), \
            patch("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda *a, **k: False,
                  create=True):
        with pytest.raises(ModelError, match="bitsandbytes"): load_base(tmp_path / "model", quantize="nf4")


def test_expert_iteration_without_rewards(base):
    with pytest.raises(FarmError, match="not a finite number"):
        train_expert_iteration(base, lambda t: np.full(len(t), np.nan), QUESTIONS, n=2)
