"""What is optional and unreadable costs no answer; what is damaged in the file of answers is said and asked again."""

import json
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from servers import Server, completion, longer
from test_annotators_faults import annotate, make_pairs, pool, truth

from alpacafarm_nb.annotators.judges import load_judges
from alpacafarm_nb.annotators.human import LabelStore
from alpacafarm_nb.annotators.endpoint_pool import load_pool
from alpacafarm_nb.servers.cache import AnnotationCache, check_cache
from alpacafarm_nb.core import ConfigError

AT = dict(token="Output", logprob=-.1)
ODD = [dict(logprobs=dict(content=[AT | dict(top_logprobs=None)])),
       dict(logprobs=dict(content=[AT | dict(logprob=None)])),
       dict(logprobs=dict(content=[AT | dict(top_logprobs=[dict(token="x", logprob=None)])])), dict(logprobs=3),
       dict(logprobs=dict(content=[None, "x"])), dict(finish_reason=None), dict(finish_reason=7), dict(index="x")]
ODD_MESSAGE = [dict(tool_calls=None), dict(tool_calls=[None, {}, dict(function=None)]), dict(function_call="x"),
               dict(reasoning_content="Hm."), dict(refusal=None), dict(tool_calls=dict(a=1))]
ODD_USAGE = [None, {}, dict(prompt_tokens=None), dict(prompt_tokens="ten", completion_tokens=-3),
             dict(completion_tokens=True, prompt_tokens=1e999)]


@pytest.mark.parametrize("odd", [dict(choice=o) for o in ODD] + [dict(message=o) for o in ODD_MESSAGE]
                         + [dict(usage=o) for o in ODD_USAGE], ids=str)
def test_an_unreadable_optional_field_costs_no_answer(tmp_path, odd):
    def said(body):
        whole = completion("Output (b)", body)
        whole["choices"][0] |= odd.get("choice", {})
        whole["choices"][0]["message"] |= odd.get("message", {})
        return whole | ({"usage": odd["usage"]} if "usage" in odd else {})
    with Server(said) as server:
        crowd = load_pool("single", server.url, dict(strong="m"), tmp_path / "a.sqlite", "sk-x", retries=1)
        labels = annotate(crowd, make_pairs(1))
        again = annotate(crowd, make_pairs(1))
        assert server.requests == 1
    assert labels["preference"].notna().all() and labels["failure"].isna().all(), labels["failure"].tolist()
    pd.testing.assert_series_equal(labels["preference"], again["preference"])


def test_a_model_that_only_reasoned_is_said_to_have(tmp_path):
    def said(body):
        whole = completion("", body, reasoning_content="Output (a) is ripe.")
        whole["choices"][0]["message"]["content"] = None
        return whole
    with Server(said) as server:
        crowd = load_pool("single", server.url, dict(strong="m"), tmp_path / "a.sqlite", "sk-x", retries=1)
        labels = annotate(crowd, make_pairs(1))
    assert "only reasoned" in labels["failure"][0] and labels["preference"].isna().all()


DAMAGE = {
    "a letter": "update answers set answer = replace(answer, ': a', ': b')",
    "no JSON": "update answers set answer = substr(answer, 1, 9)",
    "bytes": "update answers set answer = x'00ff'",
    "nothing": "update answers set answer = null",
    "the price": "update answers set price = 99",
    "the place": "update parts set position = 1 - position, size = 2",
    "the answer of a part": "update parts set answer = (select max(key) from answers)",
    "a high bit": "update answers set answer = replace(answer, ': a', cast(x'3acf61' as text))",
}
NONE = ["[1, 2]", "null", "5", '"x"', '{"bogus": 1}', '{"text": 5}', '{"text": null, "arguments": [5]}',
        '{"text": "1: a", "logprobs": [[1]]}', '{"text": "1: a", "tokens_in": "x"}', '{"tokens_out": -1}']


@pytest.mark.parametrize("answer", NONE)
def test_what_no_server_answered_is_missing_where_it_has_no_digest(tmp_path, answer):
    pairs, path = make_pairs(6), tmp_path / "a.sqlite"
    with Server(longer) as server:
        labels = annotate(pool(server, path), pairs)
        with closing(sqlite3.connect(path)) as db:
            db.execute("delete from digests")
            db.execute("update answers set answer = ? where key = (select min(key) from answers)", (answer,))
            db.commit()
        asked, said = server.requests, "is not as it was written"
        with pytest.warns(UserWarning, match=said): missing = pool(server, path).estimate(pairs).requests
        with pytest.warns(UserWarning, match=said): again = pool(server, path).annotate_pairs(pairs)
        pd.testing.assert_series_equal(labels["preference"], again["preference"])
        assert server.requests - asked == missing == 1


@pytest.mark.parametrize("damage", ["answer = '[1]'", "answer = '{'", "request = '{'", "request = cast(x'cf' as text)",
                                    "answer = '{\"given\": 1, \"preference\": 1}'"])
@pytest.mark.parametrize("digests", [True, False])
def test_a_damaged_label_of_a_person_is_missing_and_said(tmp_path, damage, digests):
    labels = LabelStore(tmp_path / "a.sqlite")
    for i in range(2): labels.put("ann", dict(instruction=f"q{i}", input="", output_1="x", output_2="y"), 1.)
    if not digests: labels.cache._write(("delete from digests", ()))
    labels.cache._write((f"update answers set {damage} where request like '%q1%'", ()))
    with pytest.warns(UserWarning, match="is not as it was written"): table = labels.table()
    assert table["instruction"].tolist() == ["q0"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_row_is_missing_is_said_and_is_asked_for_again(tmp_path, kind):
    pairs, path = make_pairs(12), tmp_path / "a.sqlite"
    with Server(longer) as server:
        annotate(pool(server, path), pairs)
        assert check_cache(path).good
        with closing(sqlite3.connect(path)) as db: db.execute(DAMAGE[kind]); db.commit()
        found = check_cache(path)
        assert found.damaged or found.loose
        asked = server.requests
        with pytest.warns(UserWarning, match="answers check"): labels = pool(server, path).annotate_pairs(pairs)
        assert server.requests > asked
        np.testing.assert_array_equal(labels["preference"], truth(pairs))
        healed = server.requests
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pool(server, path).annotate_pairs(pairs)
        assert server.requests == healed   # what was asked again is whole
    assert not check_cache(path).damaged


def check(path):
    "What the command says, and its exit code."
    command = [sys.executable, "-m", "alpacafarm_nb", "answers", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_command_counts_and_fails_where_a_row_is_damaged(tmp_path):
    path = tmp_path / "a.sqlite"
    with closing(AnnotationCache(path)) as kept:
        for i in range(5): kept.put(f"k{i}", dict(text="1: a"), parts=[f"p{i}"])
        kept.put_failure("f", "http 500", "down")
        assert check(path) == (0, f"{path}: layout 3, 5 answers, 1 failures\nEvery answer with a digest is as it was "
                                  "written, and so is its place. Failures and the ledger have no digests, and a row "
                                  "that was deleted together with its digest leaves no trace.\n")
        kept._write(("update answers set answer = '{}' where key in ('k1', 'k3')", ()))
    code, said = check(path)
    assert code == 1 and "2 answers are damaged: k1, k3" in said and "again" in said
    code, said = check(tmp_path / "none.sqlite")
    assert code == 1 and "there is no such file" in said


def test_a_file_that_is_torn_is_said_to_be(tmp_path):
    path = tmp_path / "a.sqlite"
    with closing(AnnotationCache(path)) as kept:
        for i in range(300): kept.put(f"k{i}", dict(text="1: a" * 50))
    data = bytearray(path.read_bytes())
    data[8192:20480] = b"\xff" * 12288
    path.write_bytes(data)
    found = check_cache(path)
    assert not found.good and found.problem and "recover" in repr(found)


def test_a_file_of_an_earlier_version_is_read_and_its_broken_rows_are_missing(tmp_path):
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("""
            create table answers (key text primary key, judge text, model text, server text, draw integer,
                attempt integer, made text, request text, answer text, price real, seconds real) without rowid;
            create table failures (number integer primary key, key text, judge text, model text, server text,
                draw integer, made text, kind text, detail text, request text, price real);
            create table parts (key text primary key, answer text, position integer, size integer) without rowid;
            insert into answers values ('k', 'j', 'm', 's', 0, 1, 't', 'null', '{"text": "1: a"}', .1, 1);
            insert into answers values ('l', 'j', 'm', 's', 0, 1, 't', 'null', '{"text": ', .1, 1);
            insert into parts values ('p', 'k', 0, 1), ('q', 'l', 0, 1); pragma user_version = 2;""")
    found = check_cache(path)
    assert (found.unchecked, found.damaged, found.layout) == (2, ("l",), 2)
    with closing(AnnotationCache(path)) as kept, pytest.warns(UserWarning, match="not as it was written"):
        assert set(kept.get_parts(["p", "q"])) == {"p"}
        assert kept.table()["answer"].tolist() == [{"text": "1: a"}, None]
        kept.put("l", dict(text="1: b"), parts=["q"])
        assert set(kept.get_parts(["p", "q"])) == {"p", "q"}
    assert check_cache(path).unchecked == 1


@pytest.mark.parametrize("limit", ["max_new_tokens", "max_tokens_to_sample", "max_output_tokens"])
def test_limits_of_other_clients_are_sent_and_the_rest_is_named(tmp_path, limit):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "prompt.txt").write_text("Which?\n{instruction}\n{output_1}\n{output_2}")
    kwargs = {"model_name": "x", limit: 70, "temperature": 0, "top_k": 5, "stop_sequences": ["\n"]}
    (folder / "configs.yaml").write_text(json.dumps({"mine": dict(
        prompt_template="mine/prompt.txt", completions_kwargs=kwargs, fn_completion_parser="lmsys_parser")}))
    with pytest.warns(UserWarning, match=": top_k in completions_kwargs") as said: judge, = load_judges(folder)
    assert len(said) == 1 and judge.ignored == ["top_k"]
    assert judge.settings == dict(max_tokens=70, temperature=0, stop=["\n"])


def test_names_of_outputs_that_cannot_be_told_apart_are_refused():
    judge = dict(frame=[dict(user="{pairs}")], block="{instruction}{output_1}{output_2}")
    for settings in (dict(names={1: "a", 2: "a"}), dict(names={1: "a", 2: ""}), dict(names={1: 1, 2: 2}),
                     dict(nouns="(")):
        with pytest.raises(ConfigError, match="names"):
            load_judges(dict(judges=dict(j=judge | dict(parser=dict(kind="reasoned") | settings))))
