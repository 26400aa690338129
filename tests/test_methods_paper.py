"""`.paper()` of PPO and Quark against the released trainers' defaults and scripts, typed in by hand."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.training.learner import Learner  # noqa: E402
from alpacafarm_nb.training.config import lr_factor  # noqa: E402
from alpacafarm_nb.methods.losses import full_kl  # noqa: E402
from alpacafarm_nb.methods.ppo import PPOConfig  # noqa: E402
from alpacafarm_nb.methods.quark import QuarkConfig, train_quark  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model, load_model  # noqa: E402

# alpaca_farm: rl/quark_utils.py and rl/ppo_utils.py (defaults), examples/scripts/rlhf_quark.sh and rlhf_ppo.sh (what
# is set there), transformers.TrainingArguments (the rest); 20,000 unlabeled instructions
SHARED = dict(rollout_batch_size=512, step_batch_size=256, warmup_steps=5, lr_scheduler_type="linear",
              adam_epsilon=1e-5, max_grad_norm=1., weight_decay=0., temperature=1., response_len=300, total_epochs=10)
QUARK = SHARED | dict(learning_rate=3e-6, kl_coef=.05, entropy_coef=0., num_reward_tokens=4,
                      clear_data_pool_on_each_rollout=True, train_on_best_quantile=True, num_gradient_steps_per_step=1)
PPO = SHARED | dict(learning_rate=1e-5, kl_coef=.0067, noptepochs=2, cliprange=.2, cliprange_value=.2, gae_lambda=1.,
                    whiten_rewards=True, truncate_tokens=None)
STEPS = 20_000 * SHARED["total_epochs"] // SHARED["rollout_batch_size"]

SAME = dict(rollout_batch_size="rollout_batch_size", warmup_steps="warmup", lr_scheduler_type="schedule",
            adam_epsilon="adam_eps",
            temperature="temperature", response_len="max_new_tokens", learning_rate="lr", kl_coef="kl_coef")
QUARK_SAME = SAME | dict(step_batch_size="batch_size", num_reward_tokens="quantiles", max_grad_norm="max_grad_norm",
                         clear_data_pool_on_each_rollout="clear_pool", num_gradient_steps_per_step="updates")
PPO_SAME = SAME | dict(step_batch_size="minibatch_size", noptepochs="ppo_epochs", cliprange="clip_range",
                       gae_lambda="gae_lambda", cliprange_value="value_clip_range", whiten_rewards="whiten_rewards")

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]


@pytest.mark.parametrize("config,theirs,names", [(QuarkConfig.paper(), QUARK, QUARK_SAME),
                                                 (PPOConfig.paper(), PPO, PPO_SAME)])
def test_settings(config, theirs, names):
    assert {k: getattr(config, v) for k, v in names.items()} == {k: theirs[k] for k in names}
    assert config.schedule_steps == STEPS == 390
    assert config.steps <= 80   # the best checkpoints were after 20 to 80


def test_settings_of_one():
    assert QuarkConfig.paper().mode == "best" and QuarkConfig.paper().kl_first == "policy"
    assert QuarkConfig.paper("all").token_at == "front"
    ppo = PPOConfig.paper()
    assert ppo.reward_scale == "raw" and ppo.missing_eos_penalty == 0 and ppo.value == "adapter"
    assert ppo.value_lr == ppo.lr
    assert PPOConfig.paper(human=True).kl_coef == .02


def test_the_learning_rate_falls_as_theirs():
    "transformers' linear schedule, stepped once a rollout; only its first steps differ, which begin at 0."
    from transformers import get_linear_schedule_with_warmup
    parameter = torch.nn.Parameter(torch.zeros(1))
    scheduler = get_linear_schedule_with_warmup(torch.optim.SGD([parameter], lr=1.), 5, STEPS)
    for step in range(80):
        theirs, = scheduler.get_last_lr()
        if step >= 5: assert lr_factor(step, STEPS, "linear", 5) == pytest.approx(theirs, rel=1e-12)
        scheduler.optimizer.step(), scheduler.step()
    assert lr_factor(500, STEPS, "linear", 5) == 0   # and stays there


def test_the_kl_is_theirs():
    "Their line, kl_div(log_softmax(ref), softmax(logits)), is KL(policy || reference)."
    logits, ref = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = torch.nn.functional.kl_div(ref.log_softmax(-1), logits.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(full_kl(logits, ref, QuarkConfig.paper().kl_first), theirs)


@pytest.fixture(scope="module")
def base():
    texts = QUESTIONS + ["1:\n2:\n3:\n4:\n", "Eggs.", "Milk."]
    backbone = new_backbone(texts, vocab=300, hidden=32, context=96, seed=3)
    return Model(backbone, name="tiny", decoding=Decoding(max_new_tokens=6))


def test_a_run_of_quark_is_theirs(base, monkeypatch, tmp_path):
    "The optimizer's eps, the falling rate, the cleared pool, the best quarter of the last answers alone."
    kept, plain = {}, Learner.__init__
    def keep(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        kept["learner"] = self
    monkeypatch.setattr(Learner, "__init__", keep)
    scores = iter(range(1000))
    reward = lambda table: np.array([next(scores) for _ in range(len(table))], dtype=float)
    config = dict(steps=3, rollout_batch_size=16, batch_size=4, gradient_accumulation_steps=1, max_new_tokens=5,
                  warmup=1, schedule_steps=5)
    trained = train_quark(base, reward, QUESTIONS, QuarkConfig.paper(), **config)
    optimizer = kept["learner"].optimizer
    assert {(g["eps"], g["weight_decay"]) for g in optimizer.param_groups} == {(1e-5, 0.)}
    np.testing.assert_allclose(trained.history["lr"], np.array([.5, 1, .75]) * 3e-6)
    assert trained.history["pool"] == [16] * 3
    assert trained.history["kept_reward"] == [np.mean([12, 13, 14, 15]) + 16 * k for k in range(3)]
    trained.free()


def test_the_token_stands_in_front(base, monkeypatch, tmp_path):
    "<bos><token><query>: at training, in the first answers not at all, later and in the saved model for the best."
    from alpacafarm_nb.methods import quark
    backbone, read = base.backbone, []
    def keep(prompts, outputs, rows, b):
        read.append(prompts)
        return taken(prompts, outputs, rows, b)
    taken = quark.collate
    monkeypatch.setattr(quark, "collate", keep)
    length = lambda table: table["output"].str.len().to_numpy(dtype=float)
    trained = train_quark(base, length, QUESTIONS, QuarkConfig.paper("all"), steps=1, rollout_batch_size=4,
                          batch_size=4, gradient_accumulation_steps=1, max_new_tokens=5)
    asked, first = [backbone.encode_prompt(q) for q in QUESTIONS], int(backbone.codec.bos_id is not None)
    reference, policy = read
    assert sorted(reference) == sorted(asked)   # the reference reads no token
    tokens = [backbone.encode_output(f"{k}:\n", eos=False) for k in (1, 2, 3, 4)]
    bare = [p[:first] + p[first + len(tokens[0]):] for p in policy]
    assert bare == reference and sorted(p[first:first + len(tokens[0])] for p in policy) == sorted(tokens)
    best = [p[:first] + tokens[3] + p[first:] for p in asked]
    assert trained.sample(QUESTIONS, return_ids=True)["prompt_ids"].tolist() == best
    again = load_model(trained.save(tmp_path / "m"), base)
    assert again.sample(QUESTIONS, return_ids=True)["prompt_ids"].tolist() == best
    trained.free(), again.free()
