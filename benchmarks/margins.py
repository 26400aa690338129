"""How far the notebooks' assertions about learned behavior are from failing, over seeds and imitated processors.

    python benchmarks/margins.py nbs/api/15b_quark.ipynb nbs/api/14_dpo.ipynb

Each notebook is run five times: with other seeds, and on a processor that looks smaller than it is (without AVX-512,
without AVX2). Every comparison in an `assert` is evaluated, not enforced, and its distance from the threshold noted.
The table shows the smallest distance and the spread over the runs; a distance of less than two spreads is marked: such
an assertion fails somewhere, sometime. Results depend on the machine; one thread is used.
"""

import ast
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
OLD = {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
RUNS = [(0, {}), (1, AVX2), (2, OLD), (3, {}), (4, AVX2)]   # salt of the seeds, environment


class Watched(ast.NodeTransformer):
    "Turns assertions into notes of how far each comparison is from its threshold."

    def __init__(self, cell): self.cell, self.asserted = cell, False

    def visit_Assert(self, node):
        self.asserted = True
        test = self.visit(node.test)
        self.asserted = False
        return [ast.copy_location(ast.Expr(test), node)]

    def visit_Compare(self, node):
        self.generic_visit(node)
        orders = all(isinstance(op, (ast.Lt, ast.Gt, ast.LtE, ast.GtE)) for op in node.ops)
        if not (self.asserted and orders): return node
        signs = [1 if isinstance(op, (ast.Gt, ast.GtE)) else -1 for op in node.ops]
        parts = ast.List([node.left, *node.comparators], ast.Load())
        about = [ast.Constant(self.cell), ast.Constant(ast.unparse(node)), parts, ast.Constant(tuple(signs))]
        call = ast.Call(ast.Name("_note_margin", ast.Load()), about, [])
        return ast.fix_missing_locations(ast.copy_location(call, node))


def watch(notebook, salt):
    "Run a notebook's code with other seeds; one JSON line a comparison, and one a cell that failed."
    os.chdir(notebook.parent)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from notebooks import code_cells

    from alpacafarm_nb import core
    plain = core._dumps
    salted = lambda obj: ["seed", salt, *obj[1:]] if type(obj) is list and obj[:1] == ["seed"] else obj
    if salt: core._dumps = lambda obj: plain(salted(obj))

    def note(cell, text, values, signs):
        found = []
        for left, right, sign in zip(values, values[1:], signs):
            try: found.append(min(float(x) for x in _flat(sign * (left - right))))
            except (TypeError, ValueError): return True
        print("MARGIN", json.dumps([cell, text, min(found)]), flush=True)
        return min(found) > 0

    names = {"_note_margin": note, "__name__": "__main__", "display": lambda *a, **k: None}
    for _, cell, source in code_cells(notebook):
        if source.lstrip().startswith(("%", "!")): continue
        try: exec(compile(Watched(cell).visit(ast.parse(source)), cell, "exec"), names)
        except Exception as error: print("MARGIN", json.dumps([cell, f"{type(error).__name__}: {error}"[:150], None]))


def _flat(x):
    return x.reshape(-1).tolist() if hasattr(x, "reshape") else [x]


def main(notebooks):
    for notebook in map(Path, notebooks):
        print(f"== {notebook}")
        margins = {}
        for salt, environment in RUNS:
            done = subprocess.run([sys.executable, __file__, "--watch", str(salt), str(notebook.resolve())], text=True,
                                  capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
            if done.returncode: print(done.stderr[-1000:])
            for line in done.stdout.splitlines():
                if not line.startswith("MARGIN "): continue
                cell, text, margin = json.loads(line[7:])
                margins.setdefault((cell, text), []).append(margin)
        for (cell, text), found in margins.items():
            numbers = [m for m in found if m is not None]
            spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.
            thin = not numbers or min(numbers) <= 2 * spread
            shown = f"{min(numbers):9.3g} {spread:9.3g}" if numbers else f"{len(found)} times"
            if spread or not numbers: print(f"{'THIN' if thin else '    '} {shown}  {cell}: {text[:110]}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--watch": watch(Path(sys.argv[3]), int(sys.argv[2]))
    else: main(sys.argv[1:])
