"""The pool behind a server that fails: transient faults of all kinds, permanent ones, and a killed client."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import urllib.request
import warnings

import numpy as np
import pandas as pd
import pytest
from servers import FAULTS, Server, longer, transient

from alpacafarm_nb.annotators.judges import PromptTemplate, Judge
from alpacafarm_nb.annotators.endpoint_pool import EndpointPool
from alpacafarm_nb.servers.cache import AnnotationCache
from alpacafarm_nb.core import FarmError
from alpacafarm_nb.servers.endpoint import Endpoint

FRAME = PromptTemplate((("user", "{pairs}\nWhich is better?"),), "{instruction}\n(a) {output_1}\n(b) {output_2}")
JUDGES = [Judge("one", FRAME, dict(kind="numbered"), "m", dict(temperature=1., max_tokens=9)),
          Judge("five", FRAME, dict(kind="numbered"), "m", dict(temperature=1., max_tokens=50), batch_size=5)]


def make_pairs(n, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, (n, 2))
    lengths[:, 1] += lengths[:, 0] == lengths[:, 1]
    return pd.DataFrame(dict(instruction=[f"Say {i}." for i in range(n)], input="",
                             output_1=["x" * k for k in lengths[:, 0]], output_2=["y" * k for k in lengths[:, 1]]))


def truth(pairs): return np.where(pairs["output_1"].str.len() > pairs["output_2"].str.len(), 1., 2.)


def pool(server, path, judges=JUDGES, **limits):
    "The pool; a busy machine may stop for a second, which is no fault of the server's."
    limits = dict(concurrency=32, timeout=60., longest_wait=.2) | limits
    return EndpointPool(judges, Endpoint(server.url, "sk-planted-4711", **limits), cache=path)


def annotate(pool, pairs, **kwargs):
    with warnings.catch_warnings(action="ignore"): return pool.annotate_pairs(pairs, **kwargs)


def test_transient_faults_of_all_kinds(tmp_path):
    pairs = make_pairs(2000)
    with Server(longer, faults=transient(.2), slow=1.5) as server:
        crowd = pool(server, tmp_path / "a.sqlite", timeout=1.)
        labels = annotate(crowd, pairs, retry_unparsed=2)
        assert set(server.kinds) == set(FAULTS), "a kind of fault never came"
        assert .15 < sum(server.kinds.values()) / server.requests < .25
    given = labels["preference"].notna()
    assert given.mean() >= .99
    assert (labels["preference"][given] == truth(pairs)[given]).all(), "mislabelled"
    assert (labels["failure"].notna() == ~given).all(), "no verdict without a reason, no reason beside a verdict"
    assert crowd.report.unlabeled == (~given).sum()
    assert len(crowd.cache) <= server.requests


@pytest.mark.parametrize("kind", ["400", "500", "filtered"])
def test_permanent_faults_lose_their_own_pairs_alone(tmp_path, kind):
    pairs = make_pairs(300)
    bad = np.arange(300) % 17 == 3
    pairs.loc[bad, "instruction"] += " Unspeakable."
    faults = lambda number, body: kind if "Unspeakable" in body["messages"][-1]["content"] else None
    with Server(longer, faults=faults) as server:
        crowd = pool(server, tmp_path / "a.sqlite", retries=2)
        labels = annotate(crowd, pairs)
        assert (labels["preference"].isna() == bad).all()
        assert labels["failure"][bad].notna().all() and labels["failure"][~bad].isna().all()
        assert (labels["preference"][~bad] == truth(pairs)[~bad]).all()
        kept, asked = len(crowd.cache), server.requests
        again = annotate(pool(server, tmp_path / "a.sqlite", retries=0), pairs)   # failures are not served as answers
        assert again["preference"].equals(labels["preference"]) and server.requests > asked
        assert len(crowd.cache) == kept and len(crowd.cache.table(failures=True)) > 0


ANNOTATE = textwrap.dedent("""
    import sys
    from types import SimpleNamespace
    sys.path.insert(0, sys.argv[3])
    from test_annotators_faults import make_pairs, pool
    labels = pool(SimpleNamespace(url=sys.argv[1]), sys.argv[2], concurrency=16).annotate_pairs(make_pairs(1500))
    assert labels["preference"].notna().all()
""")


def test_a_killed_client_pays_nothing_twice(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "a.sqlite"
    kept = set()
    with Server(longer, latency=.02) as server:
        command = [sys.executable, "-c", ANNOTATE, server.url, str(path), os.path.dirname(__file__)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for _ in range(10):
            process, start = subprocess.Popen(command, env=environment), server.requests
            while server.requests == start and process.poll() is None: time.sleep(.005)   # it has begun
            time.sleep(rng.uniform(0, .15))
            process.send_signal(signal.SIGKILL)
            process.wait()
            committed = set(AnnotationCache(path).table()["key"])
            assert kept <= committed, "an answer that was committed is gone"
            kept = committed
        killed = server.requests
        assert subprocess.run(command, env=environment).returncode == 0
        counts = server.counts()
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/counts") as reply:
            assert json.load(reply)["requests"] == counts["requests"]
    assert 10 <= killed < counts["requests"], "the kills came too late or too early"
    assert counts["repeated"] <= 10 * 16, counts    # no more than were under way at each kill
    assert counts["repeated"] > 0, "no kill fell into a request"
    assert len(AnnotationCache(path)) == counts["different"]


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent otherwise on Windows")
def test_an_interrupted_client_stops_at_once_and_goes_on(tmp_path):
    path = tmp_path / "a.sqlite"
    with Server(longer, latency=.1) as server:
        command = [sys.executable, "-c", ANNOTATE, server.url, str(path), os.path.dirname(__file__)]
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)     # in the background of a shell it is ignored
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
        while server.requests < 40 and process.poll() is None: time.sleep(.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        assert "KeyboardInterrupt" in said and server.requests < 400, said   # of some 900
        kept = len(AnnotationCache(path))
        assert server.requests - 16 <= kept <= server.requests
        assert subprocess.run(command).returncode == 0
        assert server.counts()["repeated"] <= 16 and len(AnnotationCache(path)) == server.counts()["different"]


def test_a_planted_key_is_nowhere(tmp_path, capfd, caplog):
    "Neither in files, nor in logs of all levels, nor in what is printed, raised or shown."
    key, seen, pairs = "sk-planted-4711", [], make_pairs(40)
    for kind in ("500 with key", "401"):   # a server that says the key aloud
        with caplog.at_level(logging.DEBUG), Server(longer, faults=lambda n, body: kind if n % 3 else None) as server:
            crowd = pool(server, tmp_path / f"{kind}.sqlite", retries=1, concurrency=1)
            try: seen.append(annotate(crowd, pairs).to_json())
            except FarmError: seen.append(traceback.format_exc())
            seen += [repr(crowd), repr(crowd.endpoint), repr(vars(crowd.endpoint)), repr(crowd.report)]
    assert "<secret>" in seen[5], "the server's words were not shown"
    seen += list(capfd.readouterr()) + [caplog.text]
    assert caplog.text, "nothing was logged"
    assert not [text for text in seen if key in text]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 2 and not [p for p in files if key.encode() in p.read_bytes()]
    assert any(b"<secret>" in p.read_bytes() for p in files), "a failure that named the key was not kept"
