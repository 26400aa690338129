"""The time that widgets take: 10,000 pairs with 14 annotators in the explorer, the noise slider of the agreement board.

    python benchmarks/widgets.py [--browser]

In the kernel: medians of seven. With --browser, JupyterLab in headless Chromium (as in the tests): from the call to the
first row on the page, and from the selection of a filter to the filtered list.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from alpacafarm_nb import agreement_board, explore
from alpacafarm_nb.widgets.explorer import explorer_view

WORDS = np.array("hens cows lay eat give corn milk eggs barley in the of a to on red brown early late often".split())
MAKE = """
import sys; sys.path.insert(0, {folder!r})
from widgets import labels
from alpacafarm_nb import explore
import time
made = labels()
"""
SMALL = "explore({'x': made['annotator 0'].head(3)})"
WRITE = "text => jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.setSource(text)"


def labels(pairs=10_000, annotators=14, seed=0):
    "Labels of pairs of texts that consist of random words, 40 on average."
    rng = np.random.default_rng(seed)
    text = lambda: [" ".join(rng.choice(WORDS, n)) for n in rng.integers(10, 70, pairs)]
    named = rng.choice(["a", "b"], pairs)
    table = pd.DataFrame(dict(instruction=text(), output_1=text(), output_2=text(), dataset=named))
    sides = 1 + (rng.random((annotators, pairs)) < rng.random(pairs))
    return {f"annotator {k}": table.assign(preference=s) for k, s in enumerate(sides)}


def median(act, times=7):
    "Median seconds of a call."
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def kernel():
    "Measure the time in the kernel."
    made = labels()
    widget = explore(made)
    print(f"explore: 10,000 pairs x 14 annotators  {median(lambda: explore(made)):.2f} s")
    queries = {"relation=disagree": dict(relation="disagree"), "text (found in part)": dict(text="brown eggs"),
               "text (found nowhere)": dict(text="zebra"), "order=disagreement": dict(order="disagreement"),
               "all at once": dict(relation="agree", text="corn", apart=50, dataset="a", order="length")}
    for name, query in queries.items():
        taken = median(lambda: explorer_view(widget.table, query))
        print(f"  filter {name:24s} {1000 * taken:.1f} ms")
    few = agreement_board({n: t.head(300) for n, t in made.items()})
    def slide(): few.flip = .25 if few.flip == 0 else 0.
    print(f"agreement board: 300 pairs x 14, slider  {median(slide):.2f} s")


def browser():
    "Measure the time from the call to the page."
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from lab import CHROMIUM, FLAGS, jupyterlab
    from playwright.sync_api import expect, sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        with jupyterlab(Path(tempfile.mkdtemp()), chromium) as lab:
            opened, filtered = zip(*(_once(lab, expect) for _ in range(5)))
            print(f"in the browser, medians of 5: opened after {statistics.median(opened):.2f} s, "
                  f"filtered after {statistics.median(filtered):.2f} s")
        chromium.close()


def _once(lab, expect):
    "Seconds until the explorer is shown, and until it is filtered; a small one is shown before to warm the page up."
    with lab.open(MAKE.format(folder=str(Path(__file__).parent)), SMALL) as page:
        page.evaluate("jupyterapp.commands.execute('notebook:insert-cell-below')")
        page.evaluate(WRITE, "x = explore(made); x")
        start = time.perf_counter()
        page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
        count = page.locator(".af-explorer .af-count").nth(1)
        expect(count).to_have_text("10,000 of 10,000 pairs", timeout=60_000)
        there = time.perf_counter()
        page.locator(".af-explorer").nth(1).get_by_label("show").select_option("disagree")
        expect(count).not_to_have_text("10,000 of 10,000 pairs")
        return there - start, time.perf_counter() - there


if __name__ == "__main__":
    kernel()
    if "--browser" in sys.argv: browser()
