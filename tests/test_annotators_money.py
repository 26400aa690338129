"""A server on this machine that bills: limits of money and calls hold, and no question is paid twice.

What is compared is what the server charged, which the client never sees.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
from contextlib import closing

import pytest
from servers import Server, longer, transient
from test_annotators_faults import JUDGES, annotate, make_pairs, pool

from alpacafarm_nb.servers.cache import AnnotationCache, check_cache
from alpacafarm_nb.core import ConfigError, FarmError
from alpacafarm_nb.servers.endpoint import BudgetSpent, Endpoint, EndpointError
from alpacafarm_nb.servers.ledger import Bill, Habit, Ledger

PRICES = (2., 10.)
PAID = ("dropped", "html", "malformed", "slow", "no choices", "gateway", "filtered")   # computed, billed, and lost


def lost(share):
    "Answers that are lost on the way back, in many ways, a share of all."
    chosen = transient(share)
    return lambda number, body: PAID[number % len(PAID)] if chosen(number, body) else None


def run(server, path, pairs, **limits):
    "What a run came to: its error, if there was one, and what the file says was spent."
    crowd = pool(server, path, judges=JUDGES, prices={"m": PRICES}, **limits)
    error = None
    with warnings.catch_warnings(action="ignore"):
        try: crowd.annotate_pairs(pairs)
        except FarmError as found: error = found
    return error, Ledger(crowd.cache).bill()


@pytest.mark.parametrize("share", [0., .27, 1.])
def test_the_limit_is_a_ceiling_for_answers_that_are_lost(tmp_path, share):
    with Server(longer, faults=lost(share), slow=.5, prices=PRICES) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(120), max_cost=.005, retries=3,
                          timeout=.3 if share else 60.)
        assert .0015 < server.billed <= bill.dollars + 1e-9 <= .005 + 1e-9, (server.billed, bill, error)
        assert share == 1. or type(error) is BudgetSpent
    assert bill.held == 0 and (bill.unsure > 0) == (share > 0)


@pytest.mark.parametrize("hidden", [lambda body: 200, lambda body: 60 + hash(str(body)) % 200], ids=["same", "varied"])
def test_the_limit_is_a_ceiling_where_reasoning_is_hidden(tmp_path, hidden):
    "Some 20 times as many tokens are written as the judge allows."
    with Server(longer, latency=.01, prices=PRICES, hidden=hidden) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(200), max_cost=.05)
        assert type(error) is BudgetSpent and .04 < server.billed <= .05, (server.billed, error)
        assert bill.dollars == pytest.approx(server.billed) and bill.unsure == 0


def test_limits_hold_over_reruns(tmp_path):
    pairs = make_pairs(150)
    with Server(longer, prices=PRICES, hidden=lambda body: 150) as server:
        for times in range(1, 4):
            error, bill = run(server, tmp_path / "a.sqlite", pairs, max_cost=.03)
            assert type(error) is BudgetSpent and server.billed <= .03, (times, server.billed)
        assert "those of earlier runs and of other processes included" in str(error)
        asked = server.requests
        error, bill = run(server, tmp_path / "a.sqlite", pairs, max_calls=asked)
        assert "max_calls is reached" in str(error) and server.requests == asked == bill.calls
        error, bill = run(server, tmp_path / "a.sqlite", pairs)   # a limit that is taken away is none
        assert error is None and server.counts()["repeated"] == 0


def test_a_file_from_before_the_ledger_counts(tmp_path):
    AnnotationCache(tmp_path / "a.sqlite").put("x", 1, model="m", price=.5)
    with Server(longer, prices=PRICES) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(5), max_cost=.5)
        assert type(error) is BudgetSpent and server.requests == 0 and (bill.calls, bill.dollars) == (1, .5)


ASK = textwrap.dedent("""
    import json, sys, warnings
    from types import SimpleNamespace
    sys.path.insert(0, sys.argv[3])
    from test_annotators_faults import make_pairs, pool
    from alpacafarm_nb.servers.endpoint import BudgetSpent
    crowd = pool(SimpleNamespace(url=sys.argv[1]), sys.argv[2], concurrency=8, prices={"m": (2., 10.)},
                 **json.loads(sys.argv[4]))
    pairs = make_pairs(int(sys.argv[5]))
    print("ready", flush=True); sys.stdin.readline()
    warnings.simplefilter("ignore")
    try: print(crowd.annotate_pairs(pairs)["preference"].tolist())
    except BudgetSpent: print("spent")
    print(crowd.report.table["calls"].sum(), crowd.report.table["kept"].sum())
""")


def start(server, path, limits="{}", n=200):
    "A process that is ready to ask."
    command = [sys.executable, "-c", ASK, server.url, str(path), os.path.dirname(__file__), limits, str(n)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(*processes):
    "Let them ask at the same time; what each said."
    for process in processes: process.stdin.write("\n"), process.stdin.flush()
    return [process.communicate()[0].splitlines() for process in processes]


def test_two_processes_share_the_work_and_pay_nothing_twice(tmp_path):
    with Server(longer, latency=.02, prices=PRICES) as server:
        one, two = go(*(start(server, tmp_path / "a.sqlite") for _ in range(2)))
        counts = server.counts()
        assert counts["repeated"] == 0 and counts["requests"] == len(AnnotationCache(tmp_path / "a.sqlite"))
        assert one[0] == two[0] and "nan" not in one[0]
        asked = [int(lines[1].split()[0]) for lines in (one, two)]
        assert sum(asked) == counts["requests"] and min(asked) > 0
        assert Ledger(AnnotationCache(tmp_path / "a.sqlite")).bill().dollars == pytest.approx(server.billed)


def test_two_processes_keep_to_one_limit(tmp_path):
    with Server(longer, latency=.02, prices=PRICES, hidden=lambda body: 150) as server:
        said = go(*(start(server, tmp_path / "a.sqlite", '{"max_cost": 0.05}') for _ in range(2)))
        assert [lines[0] for lines in said] == ["spent"] * 2
        assert .04 < server.billed <= .05 and server.counts()["repeated"] == 0


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not known on Windows")
def test_what_a_killed_process_had_under_way_stays_booked_and_its_claims_are_free(tmp_path):
    with Server(longer, latency=.3, prices=PRICES) as server:
        process = start(server, tmp_path / "a.sqlite", n=40)
        process.stdin.write("\n"), process.stdin.flush()
        while server.requests < 12: time.sleep(.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        under_way = server.requests - len(AnnotationCache(tmp_path / "a.sqlite"))
        while server.under_way: time.sleep(.05)   # the server ends what it began, and bills it
        bill = Ledger(AnnotationCache(tmp_path / "a.sqlite")).bill()
        assert under_way > 0 and bill.held > 0 and server.billed <= bill.dollars + bill.held
        server.latency = 0.
        said, = go(start(server, tmp_path / "a.sqlite", n=40))
        assert "nan" not in said[0] and server.counts()["repeated"] <= under_way
        bill = Ledger(AnnotationCache(tmp_path / "a.sqlite")).bill()
        assert server.billed <= bill.dollars + bill.held


def test_an_answer_counts_by_its_usage_when_it_holds_no_choice(tmp_path):
    with Server(longer, faults=lambda n, body: "no choices", prices=PRICES) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(4), retries=1)
        assert bill.dollars == pytest.approx(server.billed) and bill.calls == server.requests and bill.unsure == 0
        failed = AnnotationCache(tmp_path / "a.sqlite").table(failures=True)
        assert failed["price"].sum() == pytest.approx(server.billed)


def test_nothing_is_asked_whose_answer_could_not_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    with Server(longer) as server:
        for path in ("/proc/nowhere/a.sqlite", tmp_path / "file" / "a.sqlite"):
            with pytest.raises(FarmError, match="cannot be used to keep answers"):
                annotate(pool(server, path), make_pairs(50))
        assert server.requests == 0


class Tells(Server):
    "A server that bills what it used, and tells of it what a function makes of the two counts."

    def __init__(self, tell, **settings): super().__init__(longer, prices=PRICES, **settings); self.tell = tell

    def bill(self, usage):
        super().bill(usage)
        told = self.tell(usage["prompt_tokens"], usage["completion_tokens"])
        usage.clear()
        usage.update(told)


TOLD = {
    "only what was written": lambda i, o: dict(completion_tokens=o),
    "no prompt, and the total": lambda i, o: dict(prompt_tokens=0, completion_tokens=o, total_tokens=i + o),
    "only the prompt": lambda i, o: dict(prompt_tokens=i),
    "nothing written": lambda i, o: dict(prompt_tokens=i, completion_tokens=0),
    "the prompt as the total": lambda i, o: dict(prompt_tokens=i, total_tokens=i),
    "only the total": lambda i, o: dict(total_tokens=i + o),
    "the prompt and the total": lambda i, o: dict(prompt_tokens=i, total_tokens=i + o),
    "a huge prompt": lambda i, o: dict(prompt_tokens=10**25, completion_tokens=o),
    "huge counts": lambda i, o: dict(prompt_tokens=1e308, completion_tokens=10**400),
    "a huge float": lambda i, o: dict(prompt_tokens=i, completion_tokens=1e19),
}


@pytest.mark.parametrize("told", TOLD)
def test_the_limit_is_a_ceiling_where_usage_is_told_in_part(tmp_path, told):
    with Tells(TOLD[told]) as server:
        for _ in range(2):
            error, bill = run(server, tmp_path / "a.sqlite", make_pairs(120), max_cost=.005)
            assert type(error) is BudgetSpent and 0 < server.billed <= bill.dollars + 1e-9 <= .005 + 1e-9, error
        sure = told in ("no prompt, and the total", "the prompt and the total")
        assert bill.unsure == pytest.approx(0 if sure else bill.dollars)
        assert len(AnnotationCache(tmp_path / "a.sqlite")) == server.requests


def test_only_the_total_bounds_what_is_hidden(tmp_path):
    with Tells(lambda i, o: dict(total_tokens=i + o), hidden=lambda body: 200) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(120), max_cost=.05)
        assert type(error) is BudgetSpent and 0 < server.billed <= bill.dollars <= .05


@pytest.mark.parametrize("told", ["a huge prompt", "huge counts", "a huge float"])
def test_counts_of_tokens_that_cannot_be_cost_no_answer(tmp_path, told):
    with Tells(TOLD[told]) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(12))
        asked = server.requests
        assert error is None and len(AnnotationCache(tmp_path / "a.sqlite")) == asked
        assert server.billed <= bill.dollars < .1
        assert run(server, tmp_path / "a.sqlite", make_pairs(12))[0] is None and server.requests == asked


@pytest.mark.parametrize("fault", [None, "no choices", "500"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_cannot_be_booked_ends_the_run_and_no_answer_is_lost(tmp_path, monkeypatch, fault, concurrency):
    settle, path, settled = Ledger.settle, tmp_path / "a.sqlite", []
    faults = [lambda number, body: fault if number >= 2 else None]

    def fails(self, *args, **more):
        settled.append(args)
        if len(settled) > 2: raise OverflowError("too large")
        settle(self, *args, **more)

    with Server(longer, faults=lambda *about: faults[0](*about), prices=PRICES) as server:
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "settle", fails)
            error, bill = run(server, path, make_pairs(60), concurrency=concurrency, max_cost=1.)
        assert type(error) is EndpointError and "could not be booked" in str(error)
        assert len(AnnotationCache(path)) == (2 if fault else server.requests) and server.billed <= bill.dollars
        faults[0] = lambda *about: None
        asked = server.requests - len(AnnotationCache(path))
        assert run(server, path, make_pairs(60), max_cost=1.)[0] is None and server.counts()["repeated"] <= asked


COUNTS = ("calls", "dollars", "unsure", "seen", "beyond")
WRONG = [("money", f"update money set {column} = {value}") for value in ("'x'", "-1000", "null", "x'00'")
         for column in COUNTS] + [("money", "update money set per_byte = 'x'")] + [
         ("exposures", f"insert into exposures values (null, 'o', 'm', {value}, 't')") for value in ("'x'", -1, "null")]


@pytest.mark.parametrize("table, damage", WRONG)
def test_a_ledger_that_cannot_be_true_is_said_and_nothing_is_asked(tmp_path, table, damage):
    path = tmp_path / "a.sqlite"
    with closing(AnnotationCache(path)) as kept:
        kept.put("x", 1, model="m", price=.25)
        ledger = Ledger(kept)
        ledger.claim(["k"]), ledger.close()
        assert check_cache(path).good
        kept._write((damage, ()))
        for look in (ledger.bill, lambda: ledger.habit("m"), lambda: ledger.book("m", lambda: 1., lambda *_: True)):
            with pytest.raises(FarmError, match=f"rows of the table {table} hold"): look()
        kept._write(("drop table " + table, ()))   # what the message says
        assert Ledger(kept).book("m", lambda: 1., lambda *_: True) and Ledger(kept).bill() == Bill(2, .25, held=1.)
    assert "invalid amounts" not in repr(check_cache(path))


def test_a_damaged_ledger_ends_a_run_and_the_check_says_it(tmp_path):
    path = tmp_path / "a.sqlite"
    with Server(longer, prices=PRICES) as server:
        assert run(server, path, make_pairs(5), max_cost=1.)[0] is None
        asked = server.requests
        for damage, said in (("update money set seen = -1000", "rows of the table money"),
                             ("drop table money; create table money (x)", "the table money")):
            with closing(sqlite3.connect(path)) as db: db.executescript(damage)
            crowd = pool(server, path, judges=JUDGES, prices={"m": PRICES}, max_cost=1.)
            with pytest.raises(FarmError, match=said): crowd.annotate_pairs(make_pairs(9))
            with pytest.raises(FarmError): crowd.estimate(make_pairs(9))
            assert said in repr(check_cache(path)) and not check_cache(path).good
        for damage in ("drop table money", "drop table exposures", "drop table owners; drop table claims"):
            with closing(sqlite3.connect(path)) as db: db.executescript(damage)
            assert "is missing" in repr(check_cache(path)) and server.requests == asked
            annotate(pool(server, path, judges=JUDGES, prices={"m": PRICES}, max_cost=1.), make_pairs(5))
            with closing(AnnotationCache(path)) as kept: Ledger(kept).claim(["k"])   # makes what is missing
            assert Ledger(AnnotationCache(path)).bill().dollars == pytest.approx(server.billed)


def test_nothing_is_waited_for_where_nothing_is_under_way():
    asked = Endpoint("http://127.0.0.1:9/v1", max_cost=1., prices={"m": PRICES})
    asked._held = 1e-9   # what rounding left
    assert asked._allowed("m", 1., Bill(), Habit()) and not asked._allowed("m", 1., Bill(held=.5, under_way=1), Habit())
    for wrong in (float("inf"), 10**400, -1):
        with pytest.raises(ConfigError, match="the price of"): Endpoint("http://h/v1", prices={"m": (1., wrong)})
