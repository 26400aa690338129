"""The paper's settings with learning rates for adapters, and a warning where training changed nothing."""

import warnings
from dataclasses import asdict
from unittest.mock import patch

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.training.learner import Learner  # noqa: E402
from alpacafarm_nb.methods.binary import FeedMEConfig, RewardConditioningConfig, train_feedme  # noqa: E402
from alpacafarm_nb.methods.dpo import DPOConfig, train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import ExpertConfig  # noqa: E402
from alpacafarm_nb.methods.ppo import PPOConfig, train_ppo  # noqa: E402
from alpacafarm_nb.methods.quark import QuarkConfig, train_quark  # noqa: E402
from alpacafarm_nb.methods.reward import RewardConfig, train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import ADAPTER_RATES, STILL, SFTConfig, mean_logp_shift, train_sft  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs.", "Milk.", "The sheep.", "The cows do."]
SHOWN = pd.DataFrame({"instruction": QUESTIONS * 16, "input": "", "output": ANSWERS * 16})
PAIRS = pd.DataFrame([dict(instruction=q, input="", output_1=a, output_2=b, preference=1.)
                      for q, a, b in zip(QUESTIONS, ANSWERS, ANSWERS[1:] + ANSWERS[:1])] * 16)
TRAINERS = {"sft": (train_sft, SHOWN, SFTConfig), "dpo": (train_dpo, PAIRS, DPOConfig),
            "reward": (train_reward_model, PAIRS, RewardConfig), "feedme": (train_feedme, PAIRS, FeedMEConfig)}


@pytest.fixture(scope="module")
def base():
    return Model(new_backbone(QUESTIONS + ANSWERS, vocab=300, hidden=32, context=80, seed=3), name="tiny",
                 decoding=Decoding(max_new_tokens=8))


@pytest.mark.parametrize("kind, lr, method", [
    (SFTConfig, 2e-5, "sft"), (FeedMEConfig, 2e-5, "sft"), (RewardConditioningConfig, 2e-5, "sft"),
    (ExpertConfig, 2e-5, "sft"), (RewardConfig, 3e-6, "reward"), (DPOConfig, 1e-6, "dpo"),
    (PPOConfig, 1e-5, "ppo"), (QuarkConfig, 3e-6, "quark")])
def test_only_the_rate_differs(kind, lr, method):
    plain, lora = asdict(kind.paper()), asdict(kind.paper(lora=True))
    for rate in {"lr", "value_lr"} & plain.keys():
        assert (plain.pop(rate), lora.pop(rate)) == (lr, ADAPTER_RATES[method])
    assert plain == lora and type(kind.paper(lora=True)) is kind


@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_that_ends_as_it_began_says_so(name, base):
    train, table, kind = TRAINERS[name]
    with pytest.warns(UserWarning, match=f"{name} ends as it began: .*learning rate {kind.paper().lr:g} have moved it"):
        train(base, table, kind.paper())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(base, table, kind.paper(lora=True), batch_size=2, gradient_accumulation_steps=1)
        train(base, table, batch_size=2)


def by_transformers(model, question, answer):
    "Log-probabilities of an answer's tokens, from the logits."
    backbone = model.backbone
    prompt, output = backbone.encode_prompt(question), backbone.encode_output(answer)
    with backbone.inference(model.adapter) as net, torch.no_grad():
        logps = net(input_ids=torch.tensor([prompt + output])).logits[0].log_softmax(-1)
    return [logps[len(prompt) - 1 + i, token].item() for i, token in enumerate(output)]


def test_how_far_by_hand(base):
    trained, other = train_sft(base, SHOWN, epochs=1), train_sft(base, SHOWN, epochs=1, seed=1)
    ids = base.backbone.codec.encode_prompts(SHOWN.head(4)), base.backbone.codec.encode_outputs(ANSWERS)
    for start, end in ((base, trained), (trained, other)):
        pairs = [by_transformers(m, q, a) for m in (start, end) for q, a in zip(QUESTIONS, ANSWERS)]
        gaps = [abs(x - y) for before, after in zip(pairs[:4], pairs[4:]) for x, y in zip(before, after)]
        assert mean_logp_shift(start, end, *ids) == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
        assert mean_logp_shift(start, end, *ids) > STILL
    assert mean_logp_shift(trained, trained, *ids) == 0


def test_an_interrupted_run_may_end_early(base):
    def stopped(self, *args, **kwargs): raise KeyboardInterrupt
    with patch.object(Learner, "log_step", stopped), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train_sft(base, SHOWN).history.interrupted


@pytest.mark.parametrize("train", [train_ppo, train_quark])
def test_so_does_a_policy_that_learned_from_its_own_answers(train, base):
    longest = lambda table: table["output"].str.len().to_numpy(dtype=float)
    few = dict(steps=1, rollout_batch_size=4)
    with pytest.warns(UserWarning, match=f"{train.__name__[6:]} ends as it began: 1 steps .* moved it by "):
        train(base, longest, QUESTIONS, lr=1e-12, **few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(base, longest, QUESTIONS, lr=3e-2, **few)
