"""A server on this machine that bills: limits of money and calls hold, and no question is paid twice.

What is compared is what the server charged, which the client never sees.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
from servers import Server, longer, transient
from test_annotators_faults import JUDGES, annotate, make_pairs, pool

from alpacafarm_nb.answers import Answers
from alpacafarm_nb.core import FarmError
from alpacafarm_nb.endpoint import BudgetSpent
from alpacafarm_nb.ledger import Ledger

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
    return error, Ledger(crowd.answers).bill()


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
    Answers(tmp_path / "a.sqlite").put("x", 1, model="m", price=.5)
    with Server(longer, prices=PRICES) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(5), max_cost=.5)
        assert type(error) is BudgetSpent and server.requests == 0 and (bill.calls, bill.dollars) == (1, .5)


ASK = textwrap.dedent("""
    import json, sys, warnings
    from types import SimpleNamespace
    sys.path.insert(0, sys.argv[3])
    from test_annotators_faults import make_pairs, pool
    from alpacafarm_nb.endpoint import BudgetSpent
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
        assert counts["repeated"] == 0 and counts["requests"] == len(Answers(tmp_path / "a.sqlite"))
        assert one[0] == two[0] and "nan" not in one[0]
        asked = [int(lines[1].split()[0]) for lines in (one, two)]
        assert sum(asked) == counts["requests"] and min(asked) > 0
        assert Ledger(Answers(tmp_path / "a.sqlite")).bill().dollars == pytest.approx(server.billed)


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
        under_way = server.requests - len(Answers(tmp_path / "a.sqlite"))
        while server.under_way: time.sleep(.05)   # the server ends what it began, and bills it
        bill = Ledger(Answers(tmp_path / "a.sqlite")).bill()
        assert under_way > 0 and bill.held > 0 and server.billed <= bill.dollars + bill.held
        server.latency = 0.
        said, = go(start(server, tmp_path / "a.sqlite", n=40))
        assert "nan" not in said[0] and server.counts()["repeated"] <= under_way
        bill = Ledger(Answers(tmp_path / "a.sqlite")).bill()
        assert server.billed <= bill.dollars + bill.held


def test_an_answer_counts_by_its_usage_when_it_holds_no_choice(tmp_path):
    with Server(longer, faults=lambda n, body: "no choices", prices=PRICES) as server:
        error, bill = run(server, tmp_path / "a.sqlite", make_pairs(4), retries=1)
        assert bill.dollars == pytest.approx(server.billed) and bill.calls == server.requests and bill.unsure == 0
        failed = Answers(tmp_path / "a.sqlite").table(failures=True)
        assert failed["price"].sum() == pytest.approx(server.billed)


def test_nothing_is_asked_whose_answer_could_not_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    with Server(longer) as server:
        for path in ("/proc/nowhere/a.sqlite", tmp_path / "file" / "a.sqlite"):
            with pytest.raises(FarmError, match="cannot be used to keep answers"):
                annotate(pool(server, path), make_pairs(50))
        assert server.requests == 0
