"""A lesson as a user meets it: from the wheel, outside the repository, through `alpacafarm lab`, in a browser."""

import os
import sys
from pathlib import Path

import pytest
from lab import CHROMIUM, FLAGS, jupyterlab

if CHROMIUM is None: pytest.skip("needs Chromium (Debian: apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
pytest.importorskip("jupyterlab", reason="needs JupyterLab (the extra `lab`)")

ERRORS = """() => jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type == 'code').flatMap(c =>
    c.model.outputs.toJSON().filter(o => o.output_type == 'error').map(o => `${c.model.id}: ${o.ename} ${o.evalue}`))"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="starts the server as it is started elsewhere")
def test_a_lesson_from_the_wheel(installed, tmp_path):
    share = Path(sys.prefix) / "share/jupyter"      # the environment's own JupyterLab is lent, and so are its pages
    env = {"PYTHONPATH": "", "PATH": f"{installed.bin}:{os.environ['PATH']}", "JUPYTER_PATH": str(share),
           "JUPYTERLAB_DIR": str(share / "lab"), "JUPYTER_CONFIG_PATH": str(Path(sys.prefix) / "etc/jupyter"),
           "ALPACAFARM_FAST": "1"}
    folder = installed.cwd / "lessons"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        with jupyterlab(tmp_path, browser, [installed.bin / "alpacafarm", "lab", "lessons"], folder, env=env,
                        cwd=installed.cwd) as lab:
            page = lab.page("02_simulated_annotators.ipynb")
            where = page.ask("import alpacafarm_nb; print(alpacafarm_nb.__file__)")
            assert where.startswith(str(installed.bin.parent)), where
            page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
            assert page.evaluate(ERRORS) == []
            sync_api.expect(page.locator(".af-board")).to_be_visible()
            assert page.locator(".js-plotly-plot").count() > 0
            assert page.problems == []
        browser.close()
