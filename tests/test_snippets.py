"""Every piece of Python that prose shows: it runs on a small farm, and its names are those of the reader's notebook."""

import ast
import builtins
import functools
import re
from dataclasses import replace

import alpacafarm_nb
from alpacafarm_nb import teaching
import notebooks
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from servers import InShape, Server

LESSONS = sorted((ROOT / "nbs/lessons").glob("*.ipynb"))
FENCED, INLINE = re.compile(r"```python\n(.*?)```", re.DOTALL), re.compile(r"`([^`\n]+)`")
FORMS = ("backbone.using", "foreign.", "best_of_n(sft, rm", "ppo.at(")   # said of a function, not to be typed
ELSEWHERE = ("# AlpacaFarm\n",)   # needs data and a GPU: test_lessons.py checks its calls against the signatures


@pytest.fixture(autouse=True)
def nothing_goes_on():
    "A board that prose shows trains in a thread: it ends with its test."
    yield
    notebooks.end_boards()


def fenced(path):
    "The blocks of Python in a page or a notebook's prose, in order."
    if path.suffix == ".md": return FENCED.findall(path.read_text(encoding="utf-8"))
    prose = ["".join(c["source"]) for c in notebooks.read(path)["cells"] if c["cell_type"] == "markdown"]
    return [block for text in prose for block in FENCED.findall(text)]


def parsed(code):
    "Code as a tree, or None for what is no Python or calls nothing."
    try: tree = ast.parse(code.strip())
    except SyntaxError: return None
    return tree if any(isinstance(n, ast.Call) for n in ast.walk(tree)) else None


OWN_ROOM = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)   # names in there stay there

def stored(tree):
    "Names that code gives a meaning outside of functions and comprehensions."
    found, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): found.add(node.id)
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, *OWN_ROOM)): todo += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_names_of_what_a_lesson_shows(lesson):
    "A reader who types it into the lesson gets no NameError, and a function of the library is still that function."
    library, given, unknown, shadowed = {*alpacafarm_nb.__all__, *teaching.__all__}, set(dir(builtins)), [], []
    for cell in notebooks.read(lesson)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            given |= stored(ast.parse(re.sub(r"(?m)^(\s*)%.*$", r"\1pass", text)))
            continue
        for code in [*FENCED.findall(text), *INLINE.findall(FENCED.sub("", text))]:
            if code.startswith(ELSEWHERE) or (tree := parsed(code)) is None: continue
            used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            given |= stored(tree)
            example = code.startswith(FORMS)
            unknown += [f"{name} in {code}" for name in used - given - library if not example]
            shadowed += [f"{name} in {code}" for name in calls & library & given]
    assert not unknown and not shadowed, (unknown, shadowed)


@pytest.fixture(scope="module")
def farm():
    "The farmyard with a handful of rows in each of its tables."
    whole = alpacafarm_nb.load_farm("farmyard")
    sizes = dict(sft=24, preference=16, unlabeled=16, val=6, eval=8)
    return replace(whole, **{name: getattr(whole, name).head(n) for name, n in sizes.items()})


@pytest.fixture
def reader(farm, tmp_path, monkeypatch):
    "A folder to work in, and a library whose runs are short."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alpacafarm_nb, "load_farm", lambda name: farm, raising=False)
    short = dict(train_sft=dict(epochs=1), train_reward_model=dict(epochs=1),
                 train_ppo=dict(rollout_batch_size=2, minibatch_size=2, ppo_epochs=1, max_new_tokens=4))
    for name, settings in short.items():
        whole = getattr(alpacafarm_nb, name)

        @functools.wraps(whole)
        def few(*given, _whole=whole, _settings=settings, **more): return _whole(*given, **{**_settings, **more})
        monkeypatch.setattr(alpacafarm_nb, name, few, raising=False)
    return {}


def run(code, names):
    "Run a block as a cell, whole."
    exec(compile(code, "snippet", "exec"), names)


def evaluated(farm):
    "Files and names that README's lines on evaluation take for granted."
    asked = farm.eval[["instruction", "input"]]
    judge = farm.simulated.annotators[0]
    drawn = lambda k: farm.val["output"].sample(8, replace=True, random_state=k).to_numpy()
    pairs = [asked.assign(output_1=farm.eval["output"], output_2=drawn(k), generator_1="reference",
                          generator_2=f"model-{m}") for k, m in enumerate("ab")]
    pairs = pd.concat(pairs, ignore_index=True)
    judged = pd.concat([judge.annotate_pairs(pairs, seed=k).assign(annotator=f"judge {k}") for k in range(2)])
    judged[judged["annotator"] == "judge 0"].to_json("annotations.json", orient="records")
    truth = farm.gold.annotate_pairs(pairs[:6])
    judged["item"] = judged.index
    scores = 50 + np.random.default_rng(0).normal([0, 3, 5, 6, 5, 3, 0], size=(20, 7))
    return dict(labels=judged, few_true_labels=truth, many_judge_labels=judge.annotate_pairs(pairs),
                kl=np.arange(1., 8)**2, scores=scores)


@pytest.mark.slow
def test_readme(reader, farm):
    "All blocks one after the other, as somebody would type them; paths and addresses are replaced by real ones."
    blocks = fenced(ROOT / "README.md")
    written = fenced(ROOT / "nbs/index.ipynb")          # README has the code cells as blocks, too
    assert blocks[:len(written)] == written
    ran = 0
    with Server(InShape()) as server:
        for block in blocks:
            if "annotations.json" in block: reader |= evaluated(farm)
            for shown, real in {"path/to/llama-7b": str(farm.model), "http://localhost:8000/v1": server.url}.items():
                block = block.replace(shown, real)
            board = reader.get("board")
            run(block, reader)
            if "scoreboard(" in block: reader["board"] = board        # README's two boards have one name
            ran += 1
    from alpacafarm_nb.widgets.background import Run
    Run._last.wait()
    assert ran == len(blocks) >= 6 and reader["board"].models and len(reader["ppo"].history)


@pytest.mark.slow
def test_lessons(reader, farm):
    "Blocks in the lessons' prose, with the names that the lesson has by then."
    base = alpacafarm_nb.load_base(farm.model)
    sft = alpacafarm_nb.train_sft(base, farm.sft)
    pairs = alpacafarm_nb.sample_pairs(sft, farm.preference, max_new_tokens=8)
    rm = alpacafarm_nb.train_reward_model(sft, farm.simulated.annotate_pairs(pairs))
    ran = []
    for lesson in LESSONS:
        for block in fenced(lesson):
            if block.startswith(ELSEWHERE): continue
            names = dict(farm=farm, base=base, sft=sft, rm=rm, rewards={"biased": rm})
            run("from alpacafarm_nb import *", names)
            run(block, names)
            ran.append(lesson.name[:2])
    assert ran == ["11", "13"]
