"""Threads that wait for each other sleep soon, unless the user has settled that otherwise."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import alpacafarm_nb

SETTLED = ("OMP_", "GOMP_", "KMP_")


def said(code, **env):
    "What a fresh interpreter prints, and what OpenMP says of itself, in an environment without settings but these."
    plain = {k: v for k, v in os.environ.items() if not k.startswith(SETTLED)}
    done = subprocess.run([sys.executable, "-c", code], env={**plain, "PYTHONPATH": str(ROOT), **env},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("env", [{}, {"OMP_NUM_THREADS": "1"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "1"},
                                 {"OMP_WAIT_POLICY": "ACTIVE"}], ids=str)
def test_never_over_a_setting_of_the_user(env):
    code = "import json, os, alpacafarm_nb, alpacafarm_nb.cli; print(json.dumps(dict(os.environ)))"
    seen = json.loads(said(code, **env)[0])
    found = {k: v for k, v in seen.items() if k.startswith(SETTLED)}
    assert found == (env or {"GOMP_SPINCOUNT": alpacafarm_nb.SPIN})


def test_not_where_torch_is_loaded_already():
    pytest.importorskip("torch")
    code = "import sys; sys.modules['torch'] = sys; import alpacafarm_nb, os; print('GOMP_SPINCOUNT' in os.environ)"
    assert said(code)[0].strip() == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is torch's on Linux")
def test_openmp_reads_it():
    "What the library itself shows when torch loads it."
    pytest.importorskip("torch")
    count = "import torch; print(torch.get_num_threads())"
    out, shown = said("import alpacafarm_nb, os; os.environ['OMP_DISPLAY_ENV'] = 'VERBOSE'; " + count)
    if "GOMP_SPINCOUNT" not in shown: pytest.skip("this build of torch has another OpenMP")
    assert f"GOMP_SPINCOUNT = '{alpacafarm_nb.SPIN}'" in shown
    assert int(out) == int(said(count)[0])   # as many threads as ever


def test_every_run_of_a_study_has_a_process_with_one_thread():
    pytest.importorskip("torch")
    code = "\n".join([
        "import json, os, torch", "from pathlib import Path",
        "from alpacafarm_nb.studies.repeat_seeds import StudyRuns",
        "def one(part, seed): return part, seed, os.getpid() != parent, torch.get_num_threads()",
        "parent = os.getpid()", "torch.set_num_threads(2)",
        "runs = StudyRuns(Path(), Path(), [], [1, 3], workers=2)",
        "print(json.dumps(runs.run(one, dict(seeds=[1, 2], worlds=[3]))))"])
    assert json.loads(said(code)[0]) == [["seeds", 1, True, 1], ["worlds", 3, True, 1]]
