"""How far assertions about learned behavior are from failing, over seeds and imitated processors.

    python benchmarks/margins.py nbs/api/60_methods/14_quark.ipynb nbs/api/60_methods/08_dpo.ipynb
    python benchmarks/margins.py tests/test_methods_precision.py          # optionally, pytest's -k after a colon

Each notebook or test file is run five times: with other seeds, and on a processor that appears to have fewer features
than it has (without AVX-512, without AVX2). Comparisons in an `assert` and `test_close` are evaluated, not enforced,
and their distance from the threshold is recorded; other assertions are recorded if they fail. The table shows the
smallest distance, the largest, and the spread (standard deviation) over the runs. A distance of less than three spreads
is marked THIN: such an assertion fails sooner or later. The numbers depend on the machine; one thread is used.
Comparisons that do not vary are not shown.
"""

import argparse
import ast
import builtins
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
OLD = {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
RUNS = [(0, {}), (1, AVX2), (2, OLD), (3, {}), (4, AVX2)]   # salt of the seeds, environment
SPREADS = 3
ROOT = Path(__file__).resolve().parents[1]   # the modules of this folder are measured, even if others are installed


class Watched(ast.NodeTransformer):
    "Replaces assertions by calls that record how far each comparison is from its threshold."

    def __init__(self, cell): self.cell, self.asserted = cell, False

    def call(self, name, node, *arguments, **keywords):
        about = [ast.Constant(self.cell), ast.Constant(ast.unparse(node)), *arguments]
        called = ast.Call(ast.Name(name, ast.Load()), about, list(keywords.get("keywords", ())))
        return ast.fix_missing_locations(ast.copy_location(called, node))

    def visit_Assert(self, node):
        whole, self.asserted = ast.parse(ast.unparse(node)).body[0], True
        test = self.visit(node.test)
        self.asserted = False
        return ast.copy_location(ast.Expr(self.call("_note_assert", whole, test)), node)

    def visit_Compare(self, node):
        text = ast.parse(ast.unparse(node)).body[0]
        self.generic_visit(node)
        orders = all(isinstance(op, (ast.Lt, ast.Gt, ast.LtE, ast.GtE)) for op in node.ops)
        if not (self.asserted and orders): return node
        signs = tuple(1 if isinstance(op, (ast.Gt, ast.GtE)) else -1 for op in node.ops)
        values = ast.List([node.left, *node.comparators], ast.Load())
        strict = any(isinstance(op, (ast.Lt, ast.Gt)) for op in node.ops)
        return ast.copy_location(
            self.call("_note_margin", text, values, ast.Constant(signs), ast.Constant(strict)), node)

    def visit_Expr(self, node):
        called = node.value
        if not (isinstance(called, ast.Call) and isinstance(called.func, ast.Name)): return node
        if not called.func.id.startswith("test_"): return node
        call = self.call("_note_test", called, called.func, *called.args, keywords=called.keywords)
        return ast.copy_location(ast.Expr(call), node)


def note(cell, text, margin): print("\nMARGIN", json.dumps([cell, text, margin]), file=sys.__stdout__, flush=True)


def note_margin(cell, text, values, signs, strict):
    "Record the smallest distance of a comparison, and return whether it holds."
    found = []
    for left, right, sign in zip(values, values[1:], signs):
        try: found += [float(x) for x in _flat(sign * (left - right))]
        except (TypeError, ValueError): return left > right if sign > 0 else left < right   # sets, not numbers
    if found: note(cell, text, min(found))
    left, right = values[:2]
    if hasattr(left, "all"): return left > right if signs[0] > 0 else left < right   # tables: with methods
    least = min(found, default=1)
    return least > 0 if strict else least >= 0


def note_assert(cell, text, holds):
    if not holds: note(cell, "failed: " + text, None)


def note_test(cell, text, test, *args, **kwargs):
    "Run one of fastcore's tests; record how far `test_close` is from its tolerance, and failures."
    try: test(*args, **kwargs)
    except AssertionError: note(cell, "failed: " + text, None)
    if test.__name__ != "test_close": return
    import numpy as np
    try: note(cell, text, kwargs.get("eps", args[2] if len(args) > 2 else 1e-5)
              - float(np.max(np.abs(np.asarray(args[0], dtype=float) - np.asarray(args[1], dtype=float)))))
    except (TypeError, ValueError, RuntimeError): pass   # not numbers, or tensors with a gradient


def _flat(x):
    if hasattr(x, "to_numpy"): x = x.to_numpy()
    return x.reshape(-1).tolist() if hasattr(x, "reshape") else [x]


NAMES = dict(_note_margin=note_margin, _note_assert=note_assert, _note_test=note_test)


def salt_seeds(salt):
    "Change every seed that is derived."
    from alpacafarm_nb import core
    plain = core._dumps
    is_seed = lambda obj: type(obj) is list and obj and type(obj[0]) is str and obj[0] == "seed"
    if salt: core._dumps = lambda obj: plain(["seed", salt, *obj[1:]] if is_seed(obj) else obj)


def watch_notebook(notebook, salt, until):
    "Run a notebook's code with other seeds; print one JSON line per comparison and per failed cell."
    os.chdir(notebook.parent)
    sys.path.insert(0, str(ROOT / "tests"))
    from notebooks import code_cells

    salt_seeds(salt)
    names = {**NAMES, "__name__": "__main__", "display": lambda *a, **k: None}
    for _, cell, source in code_cells(notebook):
        if source.lstrip().startswith(("%", "!")): continue
        try: exec(compile(Watched(cell).visit(ast.parse(source)), cell, "exec"), names)
        except Exception as error: note(cell, f"{type(error).__name__}: {error}"[:150], None)
        if cell == until: break


def watch_tests(tests, salt):
    "Do the same with a file of tests; pytest's own rewriting of assertions is replaced."
    import pytest
    from _pytest.assertion import rewrite
    vars(builtins).update(NAMES)
    rewrite.rewrite_asserts = lambda module, source, path=None, *_: (
        Watched(Path(path or "").name).visit(module) and ast.fix_missing_locations(module))
    rewrite._read_pyc, rewrite._write_pyc = lambda *a, **k: None, lambda *a, **k: False
    file, _, chosen = tests.partition(":")
    salt_seeds(salt)

    class Failures:
        def pytest_runtest_logreport(self, report):
            if report.failed: note(report.nodeid, f"{report.longreprtext.splitlines()[-1]}"[:150], None)

    pytest.main([file, "-q", "-s", "-p", "no:cacheprovider", *(["-k", chosen] if chosen else [])], plugins=[Failures()])


def measure(what, until=None):
    "Smallest distances of all runs: {(cell, text): [distance or None for each run]}."
    margins = {}
    for salt, environment in RUNS:
        command = [sys.executable, __file__, what, "--watch", str(salt), *(["--until", until] if until else [])]
        done = subprocess.run(command, text=True, capture_output=True,
                              env={"OMP_NUM_THREADS": "1", "ALPACAFARM_QUIET": "1", **os.environ, **environment,
                                   "PYTHONPATH": str(ROOT)})
        if done.returncode: print(done.stderr[-1000:])
        smallest = {}
        for line in done.stdout.splitlines():
            if not line.startswith("MARGIN "): continue
            cell, text, margin = json.loads(line[7:])
            if margin is not None: margin = min(margin, smallest.get((cell, text), margin))
            smallest[cell, text] = margin
        for key, margin in smallest.items(): margins.setdefault(key, []).append(margin)
    return margins


def show(margins):
    for (cell, text), found in margins.items():
        numbers = [m for m in found if m is not None]
        spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.
        thin = not numbers or min(numbers) < SPREADS * spread or min(numbers) < 0
        shown = [f"{x:9.3g}" for x in (min(numbers), max(numbers), spread)] if numbers else [f"{len(found)} of 5 runs"]
        if spread or thin: print(f"{'THIN' if thin else '    '} {' '.join(shown):29}  {cell}: {text[:110]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="notebooks, files of tests")
    parser.add_argument("--until", metavar="CELL", help="stop a notebook after the cell with this id")
    parser.add_argument("--watch", type=int, metavar="SALT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for what in args.what:
        notebook = what.endswith(".ipynb")
        if args.watch is None:
            print(f"== {what}\n{'':4} {'smallest':>9} {'largest':>9} {'spread':>9}", flush=True)
            show(measure(str(Path(what).resolve()) if notebook else what, args.until))
        elif notebook: watch_notebook(Path(what), args.watch, args.until)
        else: watch_tests(what, args.watch)
