"""The package from outside: quick to import, its names resolve, its floors hold, its wheel carries all and works."""

import ast
import builtins
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest
from conftest import ROOT

import alpacafarm_nb
from alpacafarm_nb.widgets.base import FOLDER, script

TYPED = ("load_farm make_farm load_base load_model ask sample_pairs repeat train_sft train_reward_model best_of_n "
         "train_expert_iteration train_ppo train_dpo train_quark train_feedme train_reward_conditioning leaderboard "
         "explore label agreement agreement_board curves training_board farm_panel win_rate "
         "length_controlled_win_rate").split()
HEAVY = ["torch", "transformers", "peft", "datasets", "openai", "pandas", "numpy", "plotly", "ipywidgets"]


def python(code, **env):
    "What `code` prints as JSON in a fresh interpreter."
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("modules", ["alpacafarm_nb", "alpacafarm_nb.core", "alpacafarm_nb.cli"])
def test_importing_loads_nothing_heavy(modules):
    code = f"import json, sys, {modules}; dir(alpacafarm_nb); print(json.dumps(sorted(sys.modules)))"
    assert not set(HEAVY) & set(python(code))


def test_the_lower_floors_do_without_torch():
    floors = "core records prompts fingerprints sources pocket farmyard evaluation servers".split()
    found = [m.name for m in pkgutil.walk_packages(alpacafarm_nb.__path__, "alpacafarm_nb.")]
    low = [m for m in found if m.split(".")[1] in floors]
    code = (f"import importlib, json, sys\nloaded = []\nfor m in {low}:\n    importlib.import_module(m)\n"
            "    if 'torch' in sys.modules: loaded.append(m); break\nprint(json.dumps(loaded))")
    assert "alpacafarm_nb.core" in low and python(code) == []


def test_every_name_resolves():
    missing = [name for name in alpacafarm_nb.__all__ if not hasattr(alpacafarm_nb, name)]
    assert not missing, "the dictionary of alpacafarm_nb/__init__.py names what its module has not"
    space = {}
    exec("from alpacafarm_nb import *", space)
    assert set(alpacafarm_nb.__all__) <= set(space) and set(alpacafarm_nb.__all__) <= set(dir(alpacafarm_nb))
    with pytest.raises(AttributeError, match="no_such_name"): alpacafarm_nb.no_such_name  # noqa: B018


@pytest.mark.parametrize("code, known", [
    ("import alpacafarm_nb\nalpacafarm_nb.", ["train_ppo", "PPOConfig", "leaderboard", "explore"]),
    ("from alpacafarm_nb import Backbone\nBackbone.", ["inference", "logps", "merged_copy", "checkpointing"]),
    ("from alpacafarm_nb import Learner\nLearner.", ["step", "fit", "optimizer_step"]),
    ("from alpacafarm_nb import PPOConfig\nPPOConfig().", ["steps", "kl_coef", "advantage", "paper"]),
    ("from alpacafarm_nb import PPOConfig\nPPOConfig(", ["steps=", "kl_coef=", "advantage="]),
    ("from alpacafarm_nb.evaluation import win_rate\nwin_rate(", ["annotations="])])
def test_an_editor_completes_names(code, known, tmp_path):
    "Without running anything, from the stubs and the classes alone."
    jedi = pytest.importorskip("jedi")
    found = jedi.Script(code, path=tmp_path / "x.py", project=jedi.Project(ROOT)).complete()
    assert set(known) <= {completion.name for completion in found}


WIDGETS = [("label",), ("curves",), ("pairs", "explorer"), ("pairs", "agreement_board"), ("run", "training_board"),
           ("pairs", "run", "farm_panel"), ("goodhart_panel",)]   # the files of each script, after the shared one


@pytest.mark.parametrize("names", [pytest.param(names, id=names[-1]) for names in WIDGETS])
def test_a_script_is_a_module(names, tmp_path):
    if shutil.which("node") is None: pytest.skip("node is not on the PATH: the script's syntax is not checked")
    module = tmp_path / f"{names[-1]}.mjs"
    module.write_text(script(*names), encoding="utf-8")
    done = subprocess.run(["node", "--check", module], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_file_of_a_script_asks_for_types():
    files = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")}
    assert set(files) == {"common"}.union(*WIDGETS), "a file that no script of WIDGETS has, or one that is missing"
    assert [name for name, text in files.items() if not text.startswith("// @ts-check\n")] == []


def test_a_class_stands_whole():
    "No method is attached to a class from elsewhere: editors and readers would not find it."
    modules = sorted((ROOT / "alpacafarm_nb").rglob("*.py"))
    attached = [f"{path.relative_to(ROOT)}: {ast.unparse(node)}" for path in modules
                for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)
                for target in ast.walk(ast.Tuple(node.targets, ast.Load())) if isinstance(target, ast.Attribute)]
    assert not attached


def test_no_submodule_bears_the_name_of_a_function():
    modules = {m.name for m in pkgutil.iter_modules(alpacafarm_nb.__path__)}
    assert not modules & ({*TYPED, *alpacafarm_nb.__all__})


def test_one_version():
    config = ConfigParser()
    config.read(ROOT / "settings.ini")
    assert alpacafarm_nb.__version__ == config["DEFAULT"]["version"]


def lint_imports(folder):
    # without the compiled cache, and with the folder's own package before the installed one
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()"
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_floors_import_only_downwards(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "alpacafarm_nb", tmp_path / "alpacafarm_nb", ignore=shutil.ignore_patterns("__pycache__"))
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "alpacafarm_nb/core.py").open("a") as f: f.write("\ndef f():\n    import alpacafarm_nb.records\n")
    assert "core is not allowed to import alpacafarm_nb.records" in lint_imports(tmp_path).stdout


def test_nothing_dangerous_is_imported():
    for file in (ROOT / "alpacafarm_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "joblib", "cloudpickle"} & set(names), file
            remote = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
            assert not remote or ast.unparse(node.value) == "False", file


def test_the_wheel_carries_data_and_lessons(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    src = wheel.parent / "src"
    for outside, inside in [("data", "alpacafarm_nb/data"), ("nbs/lessons", "alpacafarm_nb/lessons")]:
        files = [p.relative_to(src / outside).as_posix() for p in (src / outside).rglob("*") if p.is_file()]
        assert {f"{inside}/{f}" for f in files} <= names
    modules = {p.relative_to(src).as_posix() for p in (src / "alpacafarm_nb").rglob("*.py")}
    assert modules <= names
    assert {n.split("/")[0] for n in names} == {"alpacafarm_nb", f"alpacafarm_nb-{alpacafarm_nb.__version__}.dist-info"}
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_wheel_asks_for_ranges(wheel):
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()
    needs = re.findall(r"^Requires-Dist: ([^;\n]+)$", text, re.MULTILINE)
    assert "Requires-Python: >=3.11" in text and any(n.startswith("torch>=") for n in needs)
    assert not [n for n in needs if "==" in n or n.startswith(("nbdev", "pytest", "execnb"))]


def test_what_is_imported_is_required():
    "Not by way of another package alone, which may drop it."
    config = ConfigParser()
    config.read(ROOT / "settings.ini", encoding="utf-8")
    named = {re.split(r"[<>=\[]", r)[0].lower().replace("-", "_") for r in config["DEFAULT"]["requirements"].split()}
    named |= {"alpacafarm_nb", "yaml", "IPython", "google"}   # PyYAML; in notebooks; in Colab alone
    nodes = [(path.name, node) for path in (ROOT / "alpacafarm_nb").rglob("*.py")
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    found = {(alias.name.split(".")[0], file) for file, node in nodes if isinstance(node, ast.Import)
             for alias in node.names}
    found |= {(node.module.split(".")[0], file) for file, node in nodes if isinstance(node, ast.ImportFrom)
              and not node.level}
    assert not {name for name in found if name[0] not in {*sys.stdlib_module_names, *named}}


def test_the_wheel_works_outside_the_repository(installed):
    code = ("import alpacafarm_nb, pathlib; from alpacafarm_nb.core import data_path, lessons_path\n"
            "from alpacafarm_nb.runs import git_state\n"
            "print(pathlib.Path(alpacafarm_nb.__file__).parent, data_path(), lessons_path(), git_state(), sep='\\n')")
    done = installed("python", "-c", code)
    assert done.returncode == 0, done.stderr
    package, data, lessons, git = done.stdout.split("\n")[:4]
    assert str(ROOT) not in done.stdout and git == "None"
    assert (data, lessons) == (f"{package}{os.sep}data", f"{package}{os.sep}lessons")
    assert installed("alpacafarm", "--version").stdout == f"alpacafarm_nb {alpacafarm_nb.__version__}\n"
    done = installed("alpacafarm", "lab", "mine", "--no-open")
    assert done.returncode == 0 and "files copied to mine" in done.stdout
    mine = installed("python", "-c", "import os; print(sorted(os.listdir('mine')))").stdout
    assert mine.strip() == str(sorted(p.name for p in (ROOT / "nbs/lessons").iterdir() if p.is_file()))


@pytest.mark.slow
def test_the_installed_demo_runs(installed):
    done = installed("alpacafarm", "demo", "--fast", "--folder", "run")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "report.html" in done.stdout


def test_the_readme_uses_names_that_exist():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    calls = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    missing = {*calls} - {*alpacafarm_nb.__all__} - imported - {*dir(builtins)}
    assert calls and not missing
