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
from conftest import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()
QUIET = {   # settings of JupyterLab: no news, no look for updates, nothing beside the notebook
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
PATIENCE = 40_000   # ms; a busy machine takes its time

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
            if theme == "dark": page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
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
        page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" and not _known(m) else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((self.base, self.base.replace("http", "ws", 1), "data:", "blob:"))
                else page.problems.append(f"asked for {r.url}"))
        page.goto(f"{self.base}/lab/tree/{notebook}?token={self.token}&reset")
        page.wait_for_function(READY, timeout=PATIENCE)
        page.ask = lambda code: page.evaluate(ASK, code).strip()
        return page


def _known(message):
    "What JupyterLab itself says on any notebook."
    return "favicon" in message.text or "/api/me" in message.text


@contextmanager
def jupyterlab(folder: Path, browser):
    "JupyterLab with its settings, workspaces and kernels' files in `folder`; ended at the end."
    home, root = folder / "home", folder / "root"
    (home / "config/labconfig").mkdir(parents=True)
    root.mkdir()
    (home / "config/labconfig/default_setting_overrides.json").write_text(json.dumps(QUIET))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, bin = secrets.token_hex(16), Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "IPYTHONDIR": f"{home}/ipython", "PYTHONPATH": str(ROOT),
           **{f"JUPYTER_{kind.upper()}_DIR": f"{home}/{kind}" for kind in ("config", "data", "runtime")},
           "JUPYTERLAB_SETTINGS_DIR": f"{home}/settings", "JUPYTERLAB_WORKSPACES_DIR": f"{home}/workspaces"}
    command = [bin / "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
               "--expose-app-in-browser"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(server, f"{base}/api?token={token}", home / "log")
        yield Lab(root, browser, base, token)
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()


def _wait(server, address, log, seconds=120):
    "Until the server answers."
    end = time.monotonic() + seconds
    while True:
        try: return urllib.request.urlopen(address, timeout=5).close()
        except OSError: pass
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(.25)
