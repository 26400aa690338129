"""The time that a full leaderboard takes, and length control compared with AlpacaEval 0.6.6.

    python benchmarks/evaluation.py --alpaca-eval /path/to/its/python   # of an environment with alpaca-eval==0.6.6

A board of 100 models x 805 instructions x 3 annotators is computed from one table, with intervals. Length control of
one model uses the annotations in ../shared/data/alpaca_eval if they exist, otherwise synthetic ones. Ours makes 300
refits for its error; AlpacaEval's is used unchanged (`length_controlled_minimal`; the file that it needs from the hub,
whose contents this variant does not use, is synthetic). Results are medians; the sides take turns, AlpacaEval's within
one process, without imports.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from alpacafarm_nb.evaluation import length_controlled_win_rate, scoreboard

DATA = Path(__file__).resolve().parents[2] / "shared/data/alpaca_eval"
THEIRS = textwrap.dedent("""
    import json, sys, time
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate
    table, gamed, turns = pd.read_json(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    glm_winrate.hf_hub_download = lambda **_: gamed
    seconds = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        found = glm_winrate.get_length_controlled_winrate(
            table.copy(), glm_name="length_controlled_minimal", save_weights_dir=None)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(dict(rate=found["length_controlled_winrate"], seconds=seconds[1:])))
""")


def made_up(models, instructions, annotators, seed=0):
    "Synthetic preferences of all annotators on all models, with texts of realistic lengths."
    rng = np.random.default_rng(seed)
    words = np.array(["hen", "barley ", "the cow gives milk. "])
    texts = ["".join(rng.choice(words, rng.integers(5, 90))) for _ in range(instructions)]
    parts = [pd.DataFrame(dict(
        instruction=[f"Instruction {k}" for k in range(instructions)], output_1=texts,
        output_2=[texts[j] for j in rng.permutation(instructions)], generator_1="reference", generator_2=f"model {m}",
        annotator=f"judge {a}", preference=rng.choice([1., 1.5, 2.], instructions, p=[.5, .05, .45])))
        for m in range(models) for a in range(annotators)]
    return pd.concat(parts, ignore_index=True)


def timed(work, turns):
    "Seconds of each turn, except the first."
    seconds = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--alpaca-eval", help="Python executable of an environment with alpaca-eval")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    table = made_up(100, 805, 3)
    took = timed(lambda: scoreboard(table), options.turns)
    print(f"board of 100 models x 805 instructions x 3 annotators: {statistics.median(took):.2f} s")
    warnings.simplefilter("ignore")
    files = sorted(DATA.glob("*/alpaca_eval_gpt4.annotations.json.gz"))
    one = pd.read_json(files[0]) if files else made_up(1, 805, 1)
    took = timed(lambda: length_controlled_win_rate(one), options.turns)
    print(f"length control, ours: {length_controlled_win_rate(one)}; {1000 * statistics.median(took):.0f} ms")
    if not options.alpaca_eval: return
    with tempfile.TemporaryDirectory() as here:
        one.reset_index(drop=True).to_json(f"{here}/one.json", orient="records")
        pd.DataFrame(dict(model="x", index=range(805), instruction_difficulty=0., std_delta_len=0., preference=.5,
                          not_gamed_baseline=False)).to_csv(f"{here}/gamed.csv", index=False)
        call = [options.alpaca_eval, "-W", "ignore", "-c", THEIRS, f"{here}/one.json", f"{here}/gamed.csv",
                str(options.turns)]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode: sys.exit(done.stderr[-2000:])
        theirs = json.loads(done.stdout.strip().splitlines()[-1])
    median = statistics.median(theirs["seconds"])
    print(f"length control, AlpacaEval: {theirs['rate']:.2f} %; {1000 * median:.0f} ms: "
          f"{median / statistics.median(took):.1f} times as long")


if __name__ == "__main__": main()
