"""An answer that was cut off is taught and scored as what it is: no end token stands behind it, on any way."""

import warnings

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.annotators.local import RewardJudge  # noqa: E402
from alpacafarm_nb.farm.leaderboard import leaderboard  # noqa: E402
from alpacafarm_nb.core import RecordError  # noqa: E402
from alpacafarm_nb.training.batches import encode_examples  # noqa: E402
from alpacafarm_nb.methods.bestofn import BestOfN  # noqa: E402
from alpacafarm_nb.methods.binary import train_feedme, train_reward_conditioning  # noqa: E402
from alpacafarm_nb.methods.dpo import train_dpo  # noqa: E402
from alpacafarm_nb.methods.expert import train_expert_iteration  # noqa: E402
from alpacafarm_nb.methods.pair_batches import EncodedPairs  # noqa: E402
from alpacafarm_nb.methods.reward import reward_accuracy, train_reward_model  # noqa: E402
from alpacafarm_nb.methods.sft import train_sft  # noqa: E402
from alpacafarm_nb.models.reward_model import RewardModel, scalar_head  # noqa: E402
from alpacafarm_nb.models.loading import new_backbone  # noqa: E402
from alpacafarm_nb.records import check_pairs, check_preferences, read_table, save_table, training_pairs  # noqa: E402
from alpacafarm_nb.models.policy import Decoding, Model, sample_pairs  # noqa: E402

QUESTIONS = ["What do hens lay?", "What do cows give?", "Who has wool?", "Who eats hay?"]
ANSWERS = ["Eggs.", "Milk.", "The sheep has", "The cows do."]
ENDS = [True, True, False, True]
SHOWN = pd.DataFrame({"instruction": QUESTIONS, "input": "", "output": ANSWERS, "finished": ENDS})
# of the first pair the chosen answer is cut off, of the second the rejected one, of the third both, of the last none
PAIRS = pd.DataFrame({"instruction": QUESTIONS, "input": "", "output_1": ANSWERS, "output_2": ANSWERS[1:] + ANSWERS[:1],
                      "preference": [1, 2, 1, 2], "finished_1": [False, False, False, True],
                      "finished_2": [True, True, False, True]})
CHOSEN = [("Eggs.", False), ("The sheep has", True), ("The sheep has", False), ("Eggs.", True)]
REJECTED = [("Milk.", True), ("Milk.", False), ("The cows do.", False), ("The cows do.", True)]
STILL = dict(lr=1e-12, warmup=0, epochs=1, batch_size=4)   # the history's first loss is that of the start

pytestmark = pytest.mark.filterwarnings("ignore:.*unfinished", "ignore:.*as it began")


@pytest.fixture(scope="module")
def base():
    backbone = new_backbone(QUESTIONS + ANSWERS, vocab=300, hidden=32, context=80, seed=3)
    return Model(backbone, name="tiny", decoding=Decoding(max_new_tokens=4))


@pytest.fixture(scope="module")
def reward(base):
    head = scalar_head(base.backbone)
    with torch.no_grad(): head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)))
    return RewardModel(base.backbone, None, head)


def ids(base, text, ends):
    codec = base.backbone.codec
    return base.backbone.encode_output(text, eos=False) + [codec.eos_id] * ends


def by_hand(base, question, text, ends):
    "Log-probability of an answer by transformers' own loss, and the last hidden state."
    prompt, output = base.backbone.encode_prompt(question), ids(base, text, ends)
    given = torch.tensor([prompt + output])
    labels = given.clone()
    labels[:, :len(prompt)] = -100
    with base.backbone.inference(None) as net, torch.no_grad():
        found = net(input_ids=given, labels=labels, output_hidden_states=True)
    return -found.loss.item() * len(output), found.hidden_states[-1][0, -1], len(output)


def score(base, reward, question, text, ends):
    "Its head on the state of the last token, read alone."
    return (reward.head.weight @ by_hand(base, question, text, ends)[1]).item()


def test_ids_of_demonstrations(base):
    with pytest.warns(UserWarning, match="1 of 4 texts in 'output' are unfinished"):
        _, outputs = encode_examples(base.backbone, SHOWN)
    assert outputs == [ids(base, a, e) for a, e in zip(ANSWERS, ENDS)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = encode_examples(base.backbone, SHOWN.drop(columns="finished"))[1]
        few = SHOWN.loc[[0] * 100].assign(finished=[False] * 2 + [True] * 98)   # too few for a word
        assert sum(o[-1] != base.backbone.codec.eos_id for o in encode_examples(base.backbone, few)[1]) == 2
    assert whole == [ids(base, a, True) for a in ANSWERS]
    codec = base.backbone.codec
    assert codec.encode_outputs(["", ""], [False, True]) == [[codec.eos_id]] * 2   # some token to read


def test_what_was_cut_off_before_it_began_is_left_out(base):
    "An end token behind it would teach to end at once."
    shown = SHOWN.assign(output=["", "Milk.", "", "The cows do."])   # the first is a finished answer of no words
    with pytest.warns(UserWarning, match="1 of 4 rows have an unfinished text that is empty: they are left out"):
        losses = train_sft(base, shown, **STILL).history["loss"]
    assert losses == train_sft(base, shown.drop(index=2), **STILL).history["loss"]
    with pytest.raises(RecordError, match="all of 4 rows"): train_sft(base, SHOWN.assign(output="", finished=False))
    pairs = PAIRS.assign(output_1=["", "Milk.", "The sheep has", "The cows do."])
    with pytest.warns(UserWarning, match="1 of 4 rows"): found = EncodedPairs.of(base.backbone, pairs)
    left = EncodedPairs.of(base.backbone, PAIRS.iloc[1:])
    assert (found.prompts, found.chosen, found.rejected) == (left.prompts, left.chosen, left.rejected)
    assert len(EncodedPairs.of(base.backbone, PAIRS)) == len(PAIRS)


def test_ids_of_pairs(base):
    found = EncodedPairs.of(base.backbone, PAIRS)
    assert found.chosen == [ids(base, *answer) for answer in CHOSEN]
    assert found.rejected == [ids(base, *answer) for answer in REJECTED]


def nats(base, answers): return [by_hand(base, q, *a) for q, a in zip(QUESTIONS, answers)]


def test_losses_of_the_start(base):
    mean = lambda found: -sum(f[0] for f in found) / sum(f[2] for f in found)
    shown, chosen, rejected = nats(base, zip(ANSWERS, ENDS)), nats(base, CHOSEN), nats(base, REJECTED)
    assert train_sft(base, SHOWN, **STILL).history["loss"][0] == pytest.approx(mean(shown), abs=1e-5)
    assert train_feedme(base, PAIRS, **STILL).history["loss"][0] == pytest.approx(mean(chosen), abs=1e-5)
    worse = train_feedme(base, PAIRS, keep="rejected", **STILL).history["loss"][0]
    assert worse == pytest.approx(mean(rejected), abs=1e-5)
    both = train_reward_conditioning(base, PAIRS, conditioned=False, **STILL | dict(batch_size=8)).history["loss"][0]
    assert both == pytest.approx(mean(chosen + rejected), abs=1e-5)
    gaps = torch.tensor([c[0] / c[2] - r[0] / r[2] for c, r in zip(chosen, rejected)])
    found = train_dpo(base, PAIRS, loss="simpo", beta=2., margin=.5, **STILL).history["loss"][0]
    assert found == pytest.approx(torch.nn.functional.softplus(.5 - 2 * gaps).mean().item(), abs=1e-4)


def test_scores(base, reward):
    found = reward.score(SHOWN)
    assert found == pytest.approx([score(base, reward, *row) for row in zip(QUESTIONS, ANSWERS, ENDS)], abs=1e-4)
    whole = reward.score(SHOWN.drop(columns="finished"))
    assert np.flatnonzero(np.abs(found - whole) > 1e-3).tolist() == [2]   # the one that was cut off, and no other
    several = pd.DataFrame({"instruction": QUESTIONS[:1], "input": "", "output": [["Eggs.", "Eggs.", ""]],
                            "finished": [[True, False, True]]})
    alone = [score(base, reward, QUESTIONS[0], *answer) for answer in (("Eggs.", True), ("Eggs.", False), ("", True))]
    assert reward.score(several)[0] == pytest.approx(alone, abs=1e-4)


def test_what_asks_a_reward_model(base, reward):
    sides = [[score(base, reward, q, *a) for q, a in zip(QUESTIONS, side)] for side in (CHOSEN, REJECTED)]
    assert reward_accuracy(reward, PAIRS) == np.mean(np.array(sides[0]) > np.array(sides[1]))
    odds = np.array(sides[0]) - np.array(sides[1])
    assert RewardJudge(reward).log_odds(check_pairs(PAIRS), None) == pytest.approx(odds * [-1, 1, -1, 1], abs=1e-4)
    drawn = BestOfN(base, reward, 3).pool(QUESTIONS[:2], seed=1)
    assert not all(sum(drawn["finished"], []))
    for _, row in drawn.iterrows():
        alone = [score(base, reward, row["instruction"], o, f) for o, f in zip(row["output"], row["finished"])]
        assert row["score"] == pytest.approx(alone, abs=1e-4)


def test_a_reward_model_learns_from_what_was_said(base):
    trained = train_reward_model(base, PAIRS, standardize=False, **STILL)
    with base.backbone.inference(trained.adapter): gap = trained.score(training_pairs(PAIRS).rename(columns={
        "chosen": "output", "finished_chosen": "finished"})) - trained.score(training_pairs(PAIRS).rename(columns={
        "rejected": "output", "finished_rejected": "finished"}))
    assert trained.history["margin"][0] == pytest.approx(gap.mean(), abs=1e-5)


def test_expert_iteration_teaches_no_end_where_there_was_none(base):
    cut = lambda table: table["n_tokens"].to_numpy(dtype=float) if "n_tokens" in table else np.zeros(len(table))
    how = dict(n=2, epochs=1, batch_size=4, lr=1e-12, warmup=0)
    expert = train_expert_iteration(base, cut, QUESTIONS, **how)
    finished = expert.history["finished"][-1]
    assert 0 <= finished < 1
    never = train_expert_iteration(Model(base.backbone, decoding=Decoding(max_new_tokens=1)), cut, QUESTIONS, **how)
    assert never.history["finished"][-1] == 0


def test_pairs_that_are_sampled_say_so(base, tmp_path):
    pairs = sample_pairs(base, QUESTIONS, seed=1)
    drawn = base.sample(QUESTIONS, n=2, temperature=1., seed=1)
    assert pairs["finished_1"].tolist() == [f[0] for f, o in zip(drawn["finished"], drawn["output"]) if o[0] != o[1]]
    judged = pairs.assign(preference=1.)
    assert not judged[["finished_1", "finished_2"]].all(axis=None)
    for name in ("pairs.jsonl", "pairs.csv", "pairs.parquet"):
        again = check_preferences(save_table(judged, tmp_path / name))
        assert again["finished_1"].tolist() == pairs["finished_1"].tolist()
        assert again["finished_2"].tolist() == pairs["finished_2"].tolist()
    save_table(drawn[["instruction", "input", "output", "finished"]], tmp_path / "drawn.jsonl")
    assert read_table(tmp_path / "drawn.jsonl")[0]["finished"].tolist() == drawn["finished"].tolist()


def test_a_board_says_the_share(base):
    class Judge:
        name = "judge"
        def expected(self, pairs): return pairs.assign(preference=1.5)
    asked = SHOWN[["instruction", "input"]].assign(output="no")
    table = SHOWN.assign(finished=["True", "true", "False", None])   # as files write them
    board = leaderboard({"cut": table, "whole": SHOWN.drop(columns="finished")}, asked, Judge()).to_pandas()
    assert board.loc["cut", "share_unfinished"] == pytest.approx(100 / 3)
    assert np.isnan(board.loc["whole", "share_unfinished"])
