"""Execute lessons for committing (`make lessons`, or `python nbs/make/lessons.py NOTEBOOK...` for some of them).

Without progress bars and with nothing that differs from run to run on one machine. Each plotly figure is kept twice: as
plotly's own data, which JupyterLab shows alive, and as a picture, which every other viewer shows. A lesson in which a
cell fails or warns stays as it was.
"""

import base64
import os
import sys
from pathlib import Path

import kaleido
import nbformat
from nbclient import NotebookClient

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/png"
WIDTH, MOST = 860, 3_000_000  # of pictures, in pixels: JupyterLab shows them as they are; of a notebook, in bytes

# One thread: sums of floats depend on their number. Without MathJax the pictures need no network.
KERNEL = {"PLOTLY_RENDERER": "plotly_mimetype", "ALPACAFARM_QUIET": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
          "ALPACAFARM_STATIC": "1"}


def execute(path: Path) -> nbformat.NotebookNode:
    "The notebook with fresh outputs; raises nbclient's `CellExecutionError` where a cell fails."
    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(nb, timeout=3600, record_timing=False, resources={"metadata": {"path": str(path.parent)}})
    return client.execute(env={**os.environ, **KERNEL})


def picture(figure: dict) -> bytes:
    "A plotly figure as PNG, in the height that it asks for."
    size = {"width": WIDTH, "height": figure["layout"].get("height", 400)}
    return kaleido.calc_fig_sync(figure, opts={"format": "png", **size})


def with_pictures(nb: nbformat.NotebookNode) -> int:
    "Add a picture to each figure; returns the number of figures."
    outputs = [o for cell in nb.cells if cell.cell_type == "code" for o in cell.outputs if PLOTLY in o.get("data", {})]
    for output in outputs:
        output.data[PICTURE] = base64.b64encode(picture(output.data[PLOTLY])).decode()
    return len(outputs)


def clean(nb: nbformat.NotebookNode) -> None:
    "Leave what a reader needs: outputs, tags, and which language it is."
    nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    for cell in nb.cells: cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}


def complaints(nb: nbformat.NotebookNode) -> list[str]:
    "What was printed to standard error: a lesson that warns is not ready."
    return [o.text for cell in nb.cells if cell.cell_type == "code" for o in cell.outputs if o.get("name") == "stderr"]


def readme(nb: nbformat.NotebookNode) -> str:
    "The index notebook as the README: Markdown, its code marked as Python."
    from nbconvert import MarkdownExporter
    nb = nbformat.from_dict({**nb, "metadata": {**nb.metadata, "language_info": {"name": "python"}}})
    return MarkdownExporter().from_notebook_node(nb)[0].rstrip() + "\n"


def main(paths: list[Path]) -> None:
    "Execute the lessons one after the other and write each back; of the index, the README too."
    kaleido.start_sync_server(mathjax=False)
    for path in paths:
        print(f"== {path.name}", flush=True)
        nb = execute(path)
        if said := complaints(nb): sys.exit(f"{path.name} is not written, since it warned:\n{''.join(said)}")
        n_figures = with_pictures(nb)
        clean(nb)
        text = nbformat.writes(nb, indent=1) + "\n"
        if len(text) > MOST: sys.exit(f"{path.name} is not written: {len(text) / 1e6:.1f} MB are too many")
        path.write_text(text, encoding="utf-8")
        if path.name == "index.ipynb": path.parents[1].joinpath("README.md").write_text(readme(nb), encoding="utf-8")
        print(f"   {n_figures} figures, {len(text) / 1e6:.2f} MB", flush=True)
    kaleido.stop_sync_server()


if __name__ == "__main__": main([Path(p) for p in sys.argv[1:]] or sorted(LESSONS.glob("*.ipynb")))
