"""Every notebook runs, exports what is committed, and is committed clean. One test a notebook."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import notebooks
import pytest
from conftest import ROOT

API = sorted(p for p in (ROOT / "nbs/api").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LESSONS = sorted((ROOT / "nbs/lessons").glob("*.ipynb"))
INDEX = sorted((ROOT / "nbs").glob("index.ipynb"))
EVERY = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)

name = lambda path: path.relative_to(ROOT / "nbs").as_posix()
lessons = [pytest.param(p, marks=pytest.mark.slow, id=name(p)) for p in LESSONS]


@pytest.mark.parametrize("notebook", [*lessons, *(pytest.param(p, id=name(p)) for p in API + INDEX)])
def test_runs(notebook):
    if problem := notebooks.run(notebook): pytest.fail(problem, pytrace=False)


def test_a_failing_cell_is_shown(tmp_path):
    sources = ["#| notest\n1 / 0", "print('said before')\nx = 3\nassert x == 4, 'not four'", "print('never run')"]
    cells = [dict(cell_type="code", id=f"c{i}", metadata={}, outputs=[], source=s) for i, s in enumerate(sources)]
    bad, here = tmp_path / "bad.ipynb", Path.cwd()
    bad.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    report = notebooks.run(bad)
    for part in ("bad.ipynb, cell 2 (id c1)", "x = 3", "said before", "AssertionError", "not four"):
        assert part in report
    assert "never run" not in report and Path.cwd() == here


def test_a_notebook_leaves_nothing_to_the_next(tmp_path):
    "What it enters into the package's tables would call functions of a notebook that is gone."
    source = """import logging
from alpacafarm_nb.fingerprints import KNOWN_FINGERPRINTS
from alpacafarm_nb.methods.dpo import PREFERENCE_LOSSES
from alpacafarm_nb.models.policy import Model
assert len(PREFERENCE_LOSSES) < 20 and KNOWN_FINGERPRINTS[Model] is not print and not hasattr(Model, "left")
PREFERENCE_LOSSES.update({str(i): print for i in range(20)})
KNOWN_FINGERPRINTS[Model] = print
Model.left = print
class Left(logging.Filter):
    def filter(self, record): return len(PREFERENCE_LOSSES) > 0
logging.getLogger("asyncio").addFilter(Left())
import time
from alpacafarm_nb.widgets.background import Run
def go_on(run, nap=time.sleep):   # what it needs outlives the notebook, as in a training
    while not run.stopping: nap(.01)
Run(go_on, "left").start()"""
    threads, logger = threading.active_count(), logging.getLogger("asyncio")
    filters = list(logger.filters)
    cell = dict(cell_type="code", id="enters", metadata={}, outputs=[], source=source)
    book = tmp_path / "book.ipynb"
    book.write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    assert [notebooks.run(book) for _ in range(2)] == [None, None]
    assert logger.filters == filters and threading.active_count() == threads


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "The modules as the API notebooks export them now."
    place = tmp_path_factory.mktemp("export")
    shutil.copy(ROOT / "settings.ini", place)
    shutil.copytree(ROOT / "nbs/api", place / "nbs/api", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    code = ("from pathlib import Path; from nbdev.export import nb_export\n"
            "for nb in sorted(Path('nbs/api').rglob('*.ipynb')): nb_export(str(nb), 'alpacafarm_nb')")
    subprocess.run([sys.executable, "-c", code], cwd=place, check=True, env={**os.environ, "PYTHONPATH": ""})
    return {p.relative_to(place / "alpacafarm_nb"): p.read_text() for p in (place / "alpacafarm_nb").rglob("*.py")}


def test_modules_are_what_the_notebooks_export(exported):
    package = ROOT / "alpacafarm_nb"
    modules = {p.relative_to(package) for p in package.rglob("*.py")} - {Path("_modidx.py")}
    by_hand = {m for m in modules if m.name in ("__init__.py", "__main__.py")}
    assert modules - by_hand == set(exported), "modules and notebooks do not correspond"
    drifted = [str(m) for m in sorted(exported) if exported[m] != (package / m).read_text()]
    assert not drifted, f"{drifted} differ from what their notebooks export: change the notebook, then `make export`"


SECRET = re.compile(r"\bsk-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b")
SOMEONES_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|work)/\w|\b[A-Z]:\\\\?Users")


@pytest.mark.parametrize("notebook", [pytest.param(p, id=name(p)) for p in EVERY])
def test_is_clean(notebook):
    nb, text = notebooks.read(notebook), notebook.read_text(encoding="utf-8")
    assert set(nb["metadata"]) <= {"kernelspec", "language_info"}, "metadata besides the kernel (widget state?)"
    assert not SECRET.search(text), "a key"
    assert not (found := SOMEONES_PATH.search(text)), f"a path of one machine: {found[0]}"
    ids = [cell["id"] for cell in nb["cells"]]
    assert len(set(ids)) == len(ids), "two cells with one id"
    for number, cell in enumerate(nb["cells"], 1):
        assert set(cell["metadata"]) <= {"tags"}, f"cell {number}: metadata {cell['metadata']}"
        if cell["cell_type"] != "code": continue
        assert not any(o["output_type"] == "error" for o in cell["outputs"]), f"cell {number} shows an error"
        if notebook in API: assert not cell["outputs"] and cell["execution_count"] is None, f"cell {number} has outputs"
    assert len(text) < 5_000_000, "over 5 MB: are figures static?"


@pytest.mark.skipif(not INDEX, reason="there is no nbs/index.ipynb")
def test_readme_is_the_index_notebook():
    nbformat = pytest.importorskip("nbformat")
    sys.path.insert(0, str(ROOT / "nbs" / "make"))
    try: from lessons import readme
    finally: sys.path.pop(0)
    text = readme(nbformat.read(INDEX[0], as_version=4))
    assert (ROOT / "README.md").read_text() == text, "README.md is out of date: run `make readme`"


def test_every_mutant_finds_the_expression_that_it_breaks():
    "Else the benchmark of the checks would break nothing, and be content."
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try: import mutants
    finally: sys.path.pop(0)
    for notebook, broken in mutants.MUTANTS.items():
        for _, old, new in broken: mutants.mutated(notebook, old, new)
