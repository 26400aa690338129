"""The time that each parser takes for long answers of judges: texts written to stall it, and realistic ones.

    python benchmarks/parsers.py                 # 50,000 characters, 200,000 (the longest that is read) and 1 MB
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_annotators_verdicts import HOSTILE, PARSERS, both_ways  # noqa: E402

from alpacafarm_nb.annotators.judges import load_judges  # noqa: E402
from alpacafarm_nb.annotators.parsers import LONGEST, ParseError, make_parser  # noqa: E402
from alpacafarm_nb.servers.endpoint import Answer  # noqa: E402

MORE = ["The second is green, and longer. ", '{"better": "a"}, ', "1: a\n", "Verdict: (a)\n"]


def seconds(parse, text):
    start = time.thread_time()
    try: parse(Answer(text), 1)
    except ParseError: pass
    return time.thread_time() - start


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[LONGEST // 4, LONGEST - 1, 1_000_000])
    sizes = options.parse_args().sizes
    parsers = {kind: make_parser(kind, **settings) for kind, settings in PARSERS.items()}
    parsers |= {judge.name + how: parse for name in ("alpaca_farm", "single") for judge in load_judges(name)
                if judge.parser["kind"] == "regex" for how, parse in zip(("", ", cut"), both_ways(judge))}
    rows = []
    for name, parse in parsers.items():
        for size in sizes:
            times = {piece: seconds(parse, (piece * size)[:size]) for piece in HOSTILE + MORE}
            worst = max(times, key=times.get)
            rows.append(dict(parser=name, characters=size, slowest=repr(worst), seconds=times[worst],
                             mean=sum(times.values()) / len(times)))
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__": main()
