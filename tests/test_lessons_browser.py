"""A lesson as a user meets it: from the wheel, outside the repository, through `alpacafarm lab`, in a browser."""

import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from lab import CHROMIUM, FLAGS, expect, jupyterlab, sync_api

if CHROMIUM is None: pytest.skip("needs Chromium (Debian: apt-get install chromium)", allow_module_level=True)
pytest.importorskip("jupyterlab", reason="needs JupyterLab (the extra `lab`)")

ERRORS = """() => jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type == 'code').flatMap(c =>
    c.model.outputs.toJSON().filter(o => o.output_type == 'error').map(o => `${c.model.id}: ${o.ename} ${o.evalue}`))"""


# One is enough where the dependencies are lent; all of them in an environment that has its own (`make wheel-check`).
LESSONS = [p.name for p in sorted((ROOT / "nbs/lessons").glob("*.ipynb"))] if "ALPACAFARM_ENVIRONMENT" in os.environ \
    else ["02_simulated_annotators.ipynb"]


@pytest.fixture(scope="module")
def from_the_wheel(installed, tmp_path_factory):
    "JupyterLab as `alpacafarm lab` of an installation starts it, and the place of that installation."
    env = {"PYTHONPATH": "", "PATH": f"{installed.bin}:{os.environ['PATH']}", "ALPACAFARM_FAST": "1"}
    if installed.lent:    # the tests' own JupyterLab is, too, and so are its pages
        share = Path(sys.prefix) / "share/jupyter"
        env |= {"JUPYTER_PATH": str(share), "JUPYTERLAB_DIR": str(share / "lab"),
                "JUPYTER_CONFIG_PATH": str(Path(sys.prefix) / "etc/jupyter")}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        with jupyterlab(tmp_path_factory.mktemp("lab"), browser, [installed.bin / "alpacafarm", "lab", "lessons"],
                        installed.cwd / "lessons", env=env, cwd=installed.cwd) as lab:
            yield lab, installed.bin.parent
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="starts the server as it is started elsewhere")
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_from_the_wheel(from_the_wheel, lesson):
    lab, place = from_the_wheel
    page = lab.page(lesson)
    try:
        where = page.ask("import alpacafarm_nb; print(alpacafarm_nb.__file__)")
        assert where.startswith(str(place)), where
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        assert page.evaluate(ERRORS) == []
        assert page.locator(".js-plotly-plot").count() > 0
        if lesson.startswith("02"): expect(page.locator(".af-board")).to_be_visible()
        assert page.problems == []
    finally:    # its kernel would run beside the next lesson's
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.context.close()
