"""Lessons as they are committed: executed in one go, every figure a picture too; their tables escape model text."""

import ast
import base64
import html
import inspect
import json
import re

import notebooks
import pandas as pd
import pytest
from conftest import ROOT

from alpacafarm_nb.servers.cache import AnnotationCache

LESSONS = sorted((ROOT / "nbs/lessons").glob("*.ipynb"))
PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/png"
each_lesson = pytest.mark.parametrize("lesson", [pytest.param(p, id=p.stem) for p in LESSONS])


def code(lesson): return [c for c in notebooks.read(lesson)["cells"] if c["cell_type"] == "code"]


def prose(lesson):
    return "\n".join("".join(c["source"]) for c in notebooks.read(lesson)["cells"] if c["cell_type"] == "markdown")


@each_lesson
def test_is_committed_executed(lesson):
    cells = code(lesson)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs, "committed without outputs: `make lessons` executes it"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "not executed in one go"
    assert not [o for o in outputs if o.get("name") == "stderr"], "warnings, or a progress bar"
    kinds = [set(o["data"]) for o in outputs if "data" in o]
    assert not [k for k in kinds if "application/vnd.jupyter.widget-view+json" in k], "a widget: blank without a kernel"
    assert all(PICTURE in k for k in kinds if PLOTLY in k), "a figure that most viewers cannot show: `make lessons`"
    pictures = [base64.b64decode(o["data"][PICTURE]) for o in outputs if PICTURE in o.get("data", {})]
    widths = {int.from_bytes(picture[16:20], "big") for picture in pictures}
    assert max(widths, default=0) <= 860, "JupyterLab shows pictures in their own size, and cuts off what does not fit"
    assert not [k for k in kinds if "application/javascript" in k]
    assert lesson.stat().st_size < 3_000_000


INSTALL = """# In Colab this installs the package; anywhere else it does nothing.
import sys
if "google.colab" in sys.modules:
    %pip install -q "alpacafarm_nb @ git+https://github.com/alpacafarm-nb/alpacafarm_nb\""""


@each_lesson
def test_has_what_every_lesson_has(lesson):
    "A badge for itself, the cell that installs in Colab, what one learns, questions, failures to explain, a way on."
    cells = ["".join(c["source"]) for c in notebooks.read(lesson)["cells"]]
    assert f"(open_in_colab.svg)](https://colab.research.google.com/github/alpacafarm-nb/alpacafarm_nb/blob/main/nbs/" \
           f"lessons/{lesson.name})" in cells[1]
    assert cells[2] == INSTALL
    for part in ("**What you learn here**", "## Questions", "Explain:", "## Where to go next"):
        assert part in prose(lesson), part


@pytest.mark.parametrize("this, following", zip(LESSONS, LESSONS[1:]), ids=lambda path: path.stem)
def test_leads_to_the_next(this, following):
    title = "".join(notebooks.read(following)["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
    assert f"**Next:** [Lesson {int(following.name[:2])}, *{title}*]({following.name})" in prose(this)


def test_the_path_is_whole_and_listed():
    "Lessons are numbered without a gap, and the lists of lessons name them all."
    assert [int(p.name[:2]) for p in LESSONS] == list(range(1, len(LESSONS) + 1))
    for file in ("nbs/lessons/README.md", "nbs/index.ipynb", "README.md"):
        text = (ROOT / file).read_text()
        assert [p.stem for p in LESSONS if p.stem not in text] == [], file


@each_lesson
def test_has_the_one_switch_and_says_when_it_is_on(lesson):
    sources = "\n".join("".join(cell["source"]) for cell in code(lesson))
    assert sources.count("warn_if_fast()") == 1 and "if FAST else" in sources
    assert "ALPACAFARM_FAST=1" in prose(lesson)
    assert not re.search(r"def (say|show)\b", sources), "what every lesson needs is in alpacafarm_nb.teaching"


def test_tables_escape_what_a_model_wrote(monkeypatch):
    "With an attack in a cell, in a column's name and in the index."
    from alpacafarm_nb import teaching
    shown, attack = [], "<img src=x onerror=alert(1)>"
    monkeypatch.setattr(teaching, "display", shown.append)
    table = pd.DataFrame({attack: [f"{attack}\nsecond line", "x" * 200], "figure": [1.005, 2.0]}, index=[attack, "b"])
    teaching.show(table)
    page = shown[-1].data
    assert "<img" not in page and page.count(html.escape(attack)) == 3
    assert "x" * 200 in page and "\nsecond line" in page, "whole texts, with their lines"


LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
OURS = "https://github.com/alpacafarm-nb/alpacafarm_nb/blob/main/"


def test_links_lead_somewhere_from_where_lessons_are_opened(tmp_path):
    "In the folder that `alpacafarm lab` makes there is no repository: what is relative lies beside, the rest is there."
    from alpacafarm_nb.cli import copy_lessons
    copy_lessons(tmp_path / "lessons")
    dead, seen = [], 0
    for page in sorted((tmp_path / "lessons").iterdir()):
        if page.suffix not in (".ipynb", ".md"): continue
        for link in LINK.findall(page.read_text() if page.suffix == ".md" else prose(page)):
            seen += 1
            if link.startswith(OURS): there = (ROOT / link.removeprefix(OURS)).exists()
            elif "://" in link: continue
            else: there = (page.parent / link).resolve().is_relative_to(tmp_path) and (page.parent / link).exists()
            if not there: dead.append(f"{page.name}: {link}")
    assert not dead and seen > 100, dead


def test_what_is_not_executed_fits_the_library():
    "The lines for real data of lesson 13: every function is there and takes what it is given."
    import alpacafarm_nb
    from alpacafarm_nb.annotators.endpoint_pool import EndpointPool
    from alpacafarm_nb.servers.endpoint import Endpoint
    from alpacafarm_nb.models.backbone import Backbone
    from alpacafarm_nb.models.policy import Model
    block, = re.findall(r"```python\n# AlpacaFarm\n(.*?)```", prose(LESSONS[12]), re.DOTALL)
    calls = [c for c in ast.walk(ast.parse(block)) if isinstance(c, ast.Call)]
    methods = {c.func.attr for c in calls if isinstance(c.func, ast.Attribute)}
    assert methods == {"checkpointing", "paper", "annotate_pairs"}
    assert callable(Backbone.checkpointing) and callable(EndpointPool.annotate_pairs)
    passed_on = {"sample_pairs": Model.sample, "load_pool": Endpoint}      # to which functions take other settings on
    calls = [c for c in calls if isinstance(c.func, ast.Name)]
    assert len(calls) >= 9
    for call in calls:
        takes = inspect.signature(getattr(alpacafarm_nb, call.func.id))
        settings = [getattr(alpacafarm_nb, a.func.value.id).paper() for a in call.args
                    if isinstance(a, ast.Call) and isinstance(a.func, ast.Attribute) and a.func.attr == "paper"]
        names = [k.arg for k in call.keywords]
        for config in settings:
            own = [n for n in names if n not in takes.parameters]
            given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in own}
            type(config)(**{**vars(config), **given})
            names = [n for n in names if n not in own]
        if call.func.id in passed_on:
            further = inspect.signature(passed_on[call.func.id]).parameters
            assert set(names) <= {*takes.parameters, *further}, call.func.id
        takes.bind(*call.args, **dict.fromkeys(names))


@pytest.mark.slow
def test_simulated_annotators_with_a_server_instead(tmp_path, monkeypatch):
    "The lesson's one line changed, as it says: the thirteen judges behind a server that answers at random."
    from servers import InShape, Server
    notebook = notebooks.read(ROOT / "nbs/lessons/02_simulated_annotators.ipynb")
    line, changed = "crowd = farm.simulated\n", 0
    monkeypatch.setenv("ALPACAFARM_FAST", "1")
    with Server(InShape()) as server:
        for cell in notebook["cells"]:
            if line in cell["source"]:
                models = "dict(strong='m', medium='m', completion='m')"
                pool = f"load_pool('alpaca_farm', base_url='{server.url}', models={models})\n"
                cell["source"], changed = [s.replace(line, f"crowd = {pool}") for s in cell["source"]], changed + 1
        assert changed == 1
        (tmp_path / "lesson.ipynb").write_text(json.dumps(notebook))
        if problem := notebooks.run(tmp_path / "lesson.ipynb"): pytest.fail(problem, pytrace=False)
        assert server.requests > 300, "the judges were not asked"
    assert len(AnnotationCache(tmp_path / "annotations.sqlite")) == server.requests
