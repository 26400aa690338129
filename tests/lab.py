"""JupyterLab on 127.0.0.1 in headless Chromium, for tests of what a notebook shows and does there."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
expect = sync_api.expect
expect.set_options(timeout=60_000)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()
QUIET = {   # settings of JupyterLab: no news, no look for updates, nothing beside the notebook
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
SHOTS = ROOT / "runs" / "screenshots"
PATIENCE = 40_000   # ms; a busy machine takes its time

THEME = "t => jupyterapp.commands.execute('apputils:change-theme', {theme: `JupyterLab ${t}`})"   # the last one is kept
READY = """() => { const w = window.jupyterapp?.shell.currentWidget;
    return w?.context?.isReady && w.sessionContext?.session?.kernel?.connectionStatus == 'connected' }"""
ASK = """async code => {
    const asked = jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code});
    let said = '';
    asked.onIOPub = m => { if (m.header.msg_type == 'stream') said += m.content.text;
                           if (m.header.msg_type == 'error') said += m.content.traceback.join('\\n'); };
    await asked.done;
    return said }"""


class Lab:
    "A running JupyterLab; `.open(cells)` runs a notebook in it and gives the page."

    def __init__(self, folder, browser, base, token):
        self.folder, self.browser, self.base, self.token, self.count = folder, browser, base, token, 0

    @contextmanager
    def open(self, *cells, theme="light", width=1300, height=1000):
        "A page with a notebook of these cells, all run; what it says and asks for beyond the server is in `.problems`."
        self.count += 1
        path = self.folder / f"notebook-{self.count}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=dict(
            kernelspec=dict(display_name="Python 3", language="python", name="python3"))), path)
        page = self.page(path.name, width, height)
        try:
            page.evaluate(THEME, theme.title())
            page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
            page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")   # resolves when all cells ran
            yield page
        finally:
            page.evaluate("jupyterapp.shell.currentWidget?.sessionContext?.shutdown()")
            page.context.close()

    def page(self, notebook, width=1300, height=1000):
        "The notebook opened, its kernel connected, nothing run."
        page = self.browser.new_context(viewport=dict(width=width, height=height)).new_page()
        page.set_default_timeout(PATIENCE)
        page.problems = []
        page.on("console", lambda m: page.problems.append(_told(m)) if m.type == "error" and not _known(m) else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        own = (self.base, self.base.replace("http", "ws", 1), "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else page.problems.append(f"asked for {r.url}"))
        page.goto(f"{self.base}/lab/tree/{notebook}?token={self.token}&reset")
        page.wait_for_function(READY, timeout=PATIENCE)
        page.ask = lambda code: page.evaluate(ASK, code).strip()
        return page


def _told(message): return f"{message.text} {message.location.get('url', '')}"


def _known(message):
    "What JupyterLab itself says on any notebook."
    return "favicon" in message.text or "/api/me" in message.text


@contextmanager
def jupyterlab(folder: Path, browser, command=None, root=None, **more):
    """JupyterLab with its settings, workspaces and kernels' files in `folder`; ended at the end. `command` starts it,
    `root` is the folder that it opens, `more` goes to `subprocess.Popen`."""
    home, root = folder / "home", root or folder / "root"
    (home / "config/labconfig").mkdir(parents=True)
    root.mkdir(parents=True, exist_ok=True)
    port, token = _free_port(), secrets.token_hex(16)
    server = dict(ip="127.0.0.1", port=port, port_retries=0, allow_root=True, open_browser=False)
    config = {"ServerApp": server, "IdentityProvider": {"token": token},
              "LabApp": {"expose_app_in_browser": True, "open_browser": False}}
    (home / "config/jupyter_server_config.json").write_text(json.dumps(config))
    (home / "config/labconfig/default_setting_overrides.json").write_text(json.dumps(QUIET))
    bin = Path(sys.executable).parent
    env = {"PATH": f"{bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | more.pop("env", {})
    env = {**os.environ, **env, "IPYTHONDIR": f"{home}/ipython",
           **{f"JUPYTER_{kind.upper()}_DIR": f"{home}/{kind}" for kind in ("config", "data", "runtime")},
           "JUPYTERLAB_SETTINGS_DIR": f"{home}/settings", "JUPYTERLAB_WORKSPACES_DIR": f"{home}/workspaces"}
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command or [bin / "jupyter", "lab", root], env=env, stdout=log,
                                  stderr=subprocess.STDOUT, **more)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(server, f"{base}/api?token={token}", home / "log")
        yield Lab(root, browser, base, token)
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()


def _free_port():
    "A port of 127.0.0.1 that nobody listens on."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait(server, address, log, seconds=120):
    "Until the server answers."
    end = time.monotonic() + seconds
    while True:
        try: return urllib.request.urlopen(address, timeout=5).close()
        except OSError: pass
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(.25)


def shot(page, name):
    "A picture of the widget, kept for people to look at."
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".af").first.screenshot(path=SHOTS / f"{name}.png")


def value(page, expression):
    "What an expression is in the kernel."
    return json.loads(page.ask(f"import json; print(json.dumps({expression}))"))


def becomes(page, expression, wanted):
    "The kernel hears of what the page did within a while: JupyterLab holds changes back until the last is dealt with."
    for _ in range(100):
        if (found := value(page, expression)) == wanted: return
        page.wait_for_timeout(100)
    assert found == wanted
