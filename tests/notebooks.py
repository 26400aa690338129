"""Reading and running notebooks for the tests: in this process, so that torch is imported once, not once a notebook."""

import atexit
import gc
import importlib
import json
import logging
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from pkgutil import walk_packages

NEVER = re.compile(r"^#\|\s*(eval:\s*false|notest)\b", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def read(notebook):
    "The notebook's JSON."
    return json.loads(Path(notebook).read_text(encoding="utf-8"))


def code_cells(notebook):
    "(number, id, source) of the code cells that are to be run; numbers count all cells from 1, as editors show them."
    for number, cell in enumerate(read(notebook)["cells"], 1):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.strip() and not NEVER.search(source):
            yield number, cell.get("id", ""), source


def _modules():
    "The package's modules, all loaded."
    import alpacafarm_nb
    for module in walk_packages(alpacafarm_nb.__path__, "alpacafarm_nb."): importlib.import_module(module.name)
    return [m for name, m in list(sys.modules.items()) if name.startswith("alpacafarm_nb.")]


def _classes(modules):
    "The package's classes: a notebook that defines a class's methods apart from it changes these."
    return {c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__}


def _registries(modules):
    "The package's tables of what is known (losses, marks of classes): notebooks enter functions of their own there."
    return {id(t): t for m in modules for name, t in vars(m).items()
            if isinstance(t, (dict, list, set)) and not name.startswith("__")}.values()


def _drop_filters():
    "Take a notebook's own filters from all loggers: they would live on without the names that they use."
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for own in [f for f in getattr(logger, "filters", ()) if type(f).__module__ == "__main__"]:
            logger.removeFilter(own)


def end_boards():
    "Stop a training that a board still shows: its thread would draw from the generators of what comes next."
    from alpacafarm_nb.widgets.background import Run
    if Run._last is not None and Run._last.running:
        Run._last.stop()
        Run._last.wait()


def _restore(known, registries):
    "Give classes the attributes and tables the entries that they had."
    for table, entries in registries:
        table.clear()
        table.extend(entries) if isinstance(table, list) else table.update(entries)
    for cls, attributes in known.items():
        for name in set(vars(cls)) - set(attributes): delattr(cls, name)
        for name, value in attributes.items():
            if vars(cls)[name] is not value: setattr(cls, name, value)


@contextmanager
def _undisturbed(folder):
    "Run in `folder`, and give the next notebook the process as this one found it."
    cwd, env, path, main = os.getcwd(), dict(os.environ), list(sys.path), sys.modules["__main__"]
    modules = _modules()
    known = {cls: dict(vars(cls)) for cls in _classes(modules)}
    registries = [(table, table.copy()) for table in _registries(modules)]
    os.chdir(folder)
    try: yield
    finally:
        os.chdir(cwd)
        end_boards()   # before what they are known by is put back
        _restore(known, registries)
        _drop_filters()
        os.environ.clear()
        os.environ.update(env)
        sys.path[:], sys.modules["__main__"] = path, main
        if torch := sys.modules.get("torch"):
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
            torch.use_deterministic_algorithms(False)
        gc.collect()


def run(notebook):
    "Run a notebook in its own folder as Jupyter would; None, or a text that shows the cell that failed and why."
    from execnb.shell import CaptureShell
    notebook = Path(notebook).resolve()
    with _undisturbed(notebook.parent):
        shell = CaptureShell(mpl_format="png")
        try:
            for number, id_, source in code_cells(notebook):
                outputs = shell.run(source)
                if shell.exc: return _report(notebook, number, id_, source, outputs)
        finally:
            shell.reset(new_session=False)
            _end(shell)
    return None


def _end(shell):
    "Let go of a shell's thread, of its files and of what would keep it until the process ends."
    history = shell.history_manager
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)
    if history.save_thread: history.save_thread.stop()
    history.db.close()


def _report(notebook, number, id_, source, outputs):
    "The cell that failed, with what it printed; IPython prints the traceback there too."
    said = ANSI.sub("", "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream"))
    cell = "\n".join(f"    {line}" for line in source.splitlines())
    return f"{notebook.name}, cell {number} (id {id_}):\n\n{cell}\n\n{said[-10_000:]}"
