"""The demo on an idle machine and next to busy processes: CPU seconds, wall seconds, and whether results are the same.

    python benchmarks/busy.py                                  # the package's own limit: idle, then next to two others
    python benchmarks/busy.py --spins default 1000 5000 20000  # other limits of how long a thread waits actively
    python benchmarks/busy.py --work sft --busy 2              # a training run of seconds instead of a demo of minutes

Run it on a machine that does nothing else; otherwise the idle runs are not idle. A limit is given as `GOMP_SPINCOUNT`;
`default` is GNU's own, `package` is the limit that importing the package sets, `one thread` is OMP_NUM_THREADS=1. The
busy processes run an endless loop, one core each. `default` can take a hundred times as long next to them: --limit ends
a run after that many wall seconds.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SFT = """
from alpacafarm_nb import load_base, load_farm, train_sft
farm = load_farm("farmyard")
train_sft(load_base(farm.model), farm.sft.head(160), epochs=1).save("adapter")
"""


def environment(spin):
    "The environment of a run, without OpenMP settings other than this one."
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    plain |= {"PYTHONPATH": str(ROOT), "ALPACAFARM_QUIET": "1"}
    if spin == "package": return plain
    if spin == "one thread": return plain | {"OMP_NUM_THREADS": "1"}
    return plain | {"GOMP_SPINCOUNT": "300000" if spin == "default" else spin}


def run(work, spin, busy, limit):
    "CPU and wall seconds of one run next to `busy` processes, and a digest of its results."
    command = [sys.executable, "-c", SFT] if work == "sft" else [sys.executable, "-m", "alpacafarm_nb", "demo"]
    command += ["--fast"] if work == "fast" else []
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            start, done = time.perf_counter(), subprocess.Popen(command, cwd=folder, env=environment(spin),
                                                                stdout=subprocess.DEVNULL)
            ended, cpu = wait(done, start + limit)
        finally:
            for other in others: other.kill(), other.wait()
        row = dict(work=work, spin=spin, busy=busy, cpu=cpu, wall=time.perf_counter() - start, ended=ended)
        return row | {"found": digest(folder) if ended else None}


def wait(process, until):
    "Whether a process ended successfully in time, and its CPU seconds; it is killed if it runs too long."
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid: return status == 0, used.ru_utime + used.ru_stime
        if time.perf_counter() > until: process.kill()
        time.sleep(.2)


def digest(folder):
    "A digest of every table and every adapter of a run, from which the leaderboard is computed."
    kinds = ("table.jsonl", "adapter_model.safetensors", "head.safetensors")
    files = sorted(p for p in Path(folder).rglob("*") if p.name in kinds)
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12] if files else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["demo", "fast", "sft"], default="demo")
    parser.add_argument("--spins", nargs="+", default=["package"], help="package, default, 'one thread', or a number")
    parser.add_argument("--busy", type=int, default=2, help="number of processes that run an endless loop")
    parser.add_argument("--limit", type=float, default=1800, help="wall seconds after which a run is ended")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args, rows = parser.parse_args(), []
    for spin in args.spins:
        for busy in (0, args.busy):
            rows.append(row := run(args.work, spin, busy, args.limit))
            print(f"{spin:>10}, {busy} busy: {row['cpu']:7.1f} CPU s, {row['wall']:7.1f} s"
                  f"{'' if row['ended'] else ', ended early'}, results {row['found']}", flush=True)
        idle, beside = rows[-2:]
        print(f"{spin:>10}: {beside['cpu'] / idle['cpu']:.2f} times the CPU seconds next to {args.busy} others; "
              f"results {'the same' if idle['found'] == beside['found'] else 'DIFFER'}", flush=True)
    if args.out: args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__": main()
