"""Pairs per second compared with AlpacaEval 0.6.6, on one local server that answers after 100 ms.

    python benchmarks/annotators.py --alpaca-eval /path/to/its/python   # of an environment with alpaca-eval==0.6.6

The server runs in its own process and imitates a judge that prefers the longer output. Both sides judge the same pairs,
one per request, and store their answers as they do by default (a SQLite file; a JSON file). Every number comes from a
fresh process on fresh files, with the libraries imported before the clock starts; the two sides take turns. Also
measured: the share of the ideal rate (concurrency / latency), a rerun on stored answers, and the memory as the number
of pairs grows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
OURS = textwrap.dedent("""
    import json, resource, sys, time
    sys.path.insert(0, sys.argv[5])
    from types import SimpleNamespace
    from test_annotators_faults import JUDGES, make_pairs, pool
    url, path, n, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    judge = pool(SimpleNamespace(url=url), path, judges=JUDGES[:1], concurrency=concurrency, timeout=30.)
    pairs = make_pairs(n)
    import openai   # as in the other code: before the clock starts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    labels = judge.annotate_pairs(pairs)
    seconds = time.perf_counter() - start
    assert labels["preference"].notna().all()
    table = judge.report.table
    print(json.dumps(dict(seconds=seconds, asked=int(table["calls"].sum()), before=before / 1024,
                          peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
""")
THEIRS = textwrap.dedent('''
    import json, os, sys, time
    url, path, n, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.environ.update(OPENAI_API_KEY="none", OPENAI_API_BASE=url, OPENAI_BASE_URL=url,
                      OPENAI_MAX_CONCURRENCY=str(concurrency))
    from alpaca_eval.annotators import PairwiseAnnotator
    from alpaca_eval import constants
    pairs = json.loads(open(path + ".pairs.json").read())
    os.makedirs(path + "/judge", exist_ok=True)
    open(path + "/judge/prompt.txt", "w").write(
        "<|im_start|>user\\n{instruction}\\n(a) {output_1}\\n(b) {output_2}\\nWhich is better?\\n<|im_end|>\\n")
    open(path + "/judge/configs.yaml", "w").write(f"""judge:
      prompt_template: "{path}/judge/prompt.txt"
      fn_completions: openai_completions
      completions_kwargs: {{model_name: gpt-4, max_tokens: 9, temperature: 1.0, num_procs: {concurrency}}}
      completion_parser_kwargs: {{outputs_to_match: {{1: "1: a", 2: "1: b"}}}}
      batch_size: 1
    """)
    judge = PairwiseAnnotator(annotators_config=path + "/judge/configs.yaml", is_avoid_reannotations=True,
                              caching_path=path + "/cache.json")
    start = time.perf_counter()
    labels = judge.annotate_pairs(pairs)
    seconds = time.perf_counter() - start
    assert sum(r["preference"] in (1, 2) for r in labels) == n, "some have no label"
    print(json.dumps(dict(seconds=seconds)))
''')


def start_server(latency):
    server = subprocess.Popen([sys.executable, str(HERE.parent / "tests/servers.py"), "--latency", str(latency)],
                              stdout=subprocess.PIPE, text=True)
    return server, f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"


def measure(python, code, *arguments):
    done = subprocess.run([python, "-c", code, *map(str, arguments), str(HERE.parent / "tests")], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode: raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().split("\n")[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--alpaca-eval", help="Python executable of an environment with alpaca-eval")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=.1)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from test_annotators_faults import make_pairs
    server, url = start_server(options.latency)
    rates, n = {}, options.pairs
    try:
        with tempfile.TemporaryDirectory() as here:
            sides = [("ours", c) for c in (16, 64)] + [("theirs", c) for c in (5, 16, 64) if options.alpaca_eval]
            for turn in range(options.rounds):
                for side, concurrency in sides:
                    path = f"{here}/{side}-{concurrency}-{turn}"
                    if side == "theirs":
                        Path(path + ".pairs.json").write_text(make_pairs(n).to_json(orient="records"))
                        os.makedirs(path, exist_ok=True)
                    python, code = (sys.executable, OURS) if side == "ours" else (options.alpaca_eval, THEIRS)
                    took = measure(python, code, url, path, n, concurrency)["seconds"]
                    rates.setdefault((side, concurrency), []).append(n / took)
                    print(f"turn {turn}: {side:6} at {concurrency:2}: {n / took:6.1f} pairs/s", flush=True)
            for (side, c), found in rates.items():
                print(f"{side} at {c}: median {statistics.median(found):.1f} pairs/s, "
                      f"{statistics.median(found) / (c / options.latency):.0%} of the ideal rate")
            for many, concurrency in ((1000, 64), (options.many, 64), (options.many, 16)):
                path = f"{here}/many-{many}-{concurrency}.sqlite"
                first, again = (measure(sys.executable, OURS, url, path, many, concurrency) for _ in range(2))
                rate = many / first["seconds"]
                ideal = rate * options.latency / concurrency
                print(f"{many} pairs at {concurrency}: {rate:.0f} pairs/s, {ideal:.0%} of the ideal rate, memory "
                      f"{first['before']:.0f} to {first['peak']:.0f} MB; from the file: {again['seconds']:.2f} s, "
                      f"{again['asked']} asked", flush=True)
            if options.alpaca_eval:   # AlpacaEval with many pairs, once, at its best concurrency
                best = max((c for side, c in rates if side == "theirs"),
                           key=lambda c: statistics.median(rates["theirs", c]))
                path = f"{here}/theirs-many"
                Path(path + ".pairs.json").write_text(make_pairs(options.many).to_json(orient="records"))
                os.makedirs(path, exist_ok=True)
                took = measure(options.alpaca_eval, THEIRS, url, path, options.many, best)["seconds"]
                print(f"theirs, {options.many} pairs at {best}: {options.many / took:.0f} pairs/s", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__": main()
