"""Widgets beside a kernel that stops, computes, dies, or is long gone; and a page that stays where it is."""

import contextlib
import json
import os
import re
import signal

import pytest
from conftest import ROOT
from lab import expect, shot, value
from test_widgets_browser import BOARD, CURVES, DESK, PAIRS
pytestmark = pytest.mark.slow

START = "code => { jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code}) }"   # no waiting
HANGS = "import ctypes, time; time.sleep(.5); ctypes.PyDLL(None).usleep(9_000_000)"   # not even its threads run then
GONE, BUSY = re.compile("No answer from the kernel"), re.compile("The kernel is busy")
LOST = re.compile("has no effect and is not kept")                       # a wish is refused from here on


def test_silence_is_noticed_in_time():
    "Beats come every second; what the page waits, and how often it looks, leave it under three seconds."
    from alpacafarm_nb.widgets.base import HEART, script
    late, tick = (int(re.search(rf"{name} = (\d+)", script()).group(1)) for name in ("LATE", "TICK"))
    assert 1000 * HEART.every + 500 < late and late + tick < 3000


@pytest.mark.skipif(os.name == "nt", reason="stops the kernel by a signal")
def test_a_label_is_never_swallowed(lab):
    "A kernel that hangs, computes, comes back or is shut down: the banner says so, and no label seems kept."
    with lab.open(DESK.replace('"Ada"', '"Kim"'), "desk") as page:
        root = page.locator(".af-desk")
        banner, problem, note = map(root.locator, (".af-banner", ".af-problem", ".af-keys .af-note"))
        status = root.locator(".af-status[role=status]")
        label = root.get_by_role("button", name="left is better")
        expect(status).to_have_text("0 of 6 pairs labeled")
        expect(banner).to_be_hidden()
        pid = value(page, "__import__('os').getpid()")
        os.kill(pid, signal.SIGSTOP)
        try:
            expect(banner).to_have_text(LOST)
            label.click()
            expect(problem).to_have_text("Not kept: the kernel does not answer.")
            shot(page, "desk-gone")
        finally: os.kill(pid, signal.SIGCONT)
        expect(banner).to_be_hidden()                                        # it is back
        expect(problem).to_be_hidden()
        assert value(page, "desk.heard") == 0
        label.click()
        expect(status).to_have_text("1 of 6 pairs labeled")
        page.evaluate(START, HANGS)
        expect(banner).to_have_text(BUSY)
        label.click()                                                # busy: the label waits, and the page says so
        expect(note).to_have_text("not kept yet: waiting for the kernel …")
        assert status.text_content() == "1 of 6 pairs labeled"
        page.keyboard.press("0")                                 # no second label for a pair that waits for its own
        expect(status).to_have_text("2 of 6 pairs labeled")
        expect(note).to_have_text("")
        expect(banner).to_be_hidden()
        assert value(page, "desk.heard") == 2
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        expect(banner).to_have_text(GONE)
        root.locator(".af-work").focus()
        page.keyboard.press("1")
        expect(problem).to_have_text("Not kept: the kernel does not answer.")
        assert status.text_content() == "2 of 6 pairs labeled"


@pytest.mark.skipif(os.name == "nt", reason="stops the kernel by a signal")
def test_a_stall_refuses_no_label(lab):
    "Neither a page nor a kernel that has stood still for a while means that the kernel is gone."
    with lab.open(DESK.replace('"Ada"', '"Lee"'), "desk") as page:
        root = page.locator(".af-desk")
        banner, status = root.locator(".af-banner"), root.locator(".af-status[role=status]")
        label = root.get_by_role("button", name="left is better")
        expect(status).to_have_text("0 of 6 pairs labeled")
        label.evaluate("e => { const end = Date.now() + 8000; while (Date.now() < end); e.click() }")
        expect(status).to_have_text("1 of 6 pairs labeled")
        pid = value(page, "__import__('os').getpid()")
        os.kill(pid, signal.SIGSTOP)
        try:
            expect(banner).to_have_text(GONE)
            label.click()
        finally: os.kill(pid, signal.SIGCONT)
        expect(status).to_have_text("2 of 6 pairs labeled")
        expect(banner).to_be_hidden()


@pytest.mark.skipif(os.name == "nt", reason="kills the kernel by a signal")
def test_a_killed_kernel_is_noticed_by_every_widget(lab):
    cells = [PAIRS, "explore(labels)", BOARD.removeprefix(PAIRS) + "board", CURVES, "c",
             "from alpacafarm_nb import farm_panel, training_board\nfarm_panel()",
             "training_board({'sft': [dict(step=1, loss=2.), dict(step=2, loss=1.)]})"]
    with lab.open(*cells) as page:
        expect(page.locator(".af-banner")).to_have_count(5)
        os.kill(value(page, "__import__('os').getpid()"), signal.SIGKILL)
        for k in range(5): expect(page.locator(".af-banner").nth(k)).to_have_text(GONE)
        page.wait_for_timeout(6000)                              # it is started again: these are its widgets no more
        for k in range(5): expect(page.locator(".af-banner").nth(k)).to_have_text(GONE)


def _seen(page): return page.evaluate("document.querySelector('.jp-Notebook').innerText")


def test_a_notebook_that_was_saved_and_reopened(lab):
    "Without a kernel the static views are there, as of the last change; with one, they stand back."
    training = "training_board({'sft': [dict(step=1, loss=2.5), dict(step=2, loss=1.25)]})"
    cells = (PAIRS, "x = explore(labels); x", BOARD.removeprefix(PAIRS) + "board", CURVES + "c",
             "from alpacafarm_nb import label\ndesk = label(pairs.head(6), 'Eve', farm.gold, cache=':memory:'); desk",
             "from alpacafarm_nb import farm_panel, training_board\n" + training, "farm_panel()")
    with lab.open(*cells) as page:
        path = lab.folder / f"notebook-{lab.count}.ipynb"
        expect(page.locator(".af")).to_have_count(6)
        assert page.locator("[data-af-kept]").count() == 6 and not page.locator("[data-af-kept]:visible").count()
        page.locator(".af-explorer").first.get_by_label("show").select_option("disagree")
        page.locator(".af-desk").get_by_role("button", name="tie").click()
        kept = page.locator("[data-af-kept]", has_text="1 of 6 pairs labeled")
        expect(kept).to_have_count(1)                                        # what is kept follows
        page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    with _reopened(lab, path.name) as page:
        said = _seen(page)
        assert "model not found" not in said and page.locator(".af").count() == 0
        assert page.locator("[data-af-kept]:visible").count() == 6
        for text in ("Agreement, %", "for output 1:", "ppo by gold: highest 56.0", "1 of 6 pairs labeled", "1.25"):
            assert text in said, text
        page.screenshot(path=ROOT / "runs/screenshots/reopened.png")
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        expect(page.locator(".af")).to_have_count(6)
        assert not page.locator("[data-af-kept]:visible").count()
    notebook = json.loads(path.read_text())                                  # from somebody else: not trusted
    notebook["cells"][0]["source"] = "# changed"
    (lab.folder / "untrusted.ipynb").write_text(json.dumps(notebook))
    with _reopened(lab, "untrusted.ipynb") as page:
        said = _seen(page)
        assert "model not found" not in said and "ppo by gold: highest 56.0" in said
        assert "Explorer: run this cell to use it." in said and page.locator("[data-af-kept] style").count() == 0


@contextlib.contextmanager
def _reopened(lab, name):
    "The notebook in a new page with a new kernel, nothing run."
    page = lab.page(name)
    try:
        page.wait_for_timeout(3000)                                  # by then JupyterLab has looked for the widgets
        yield page
    finally:
        page.evaluate("jupyterapp.shell.currentWidget?.sessionContext?.shutdown()")
        page.context.close()


PLACES = """root => { const found = [scrollX, scrollY];
    for (let e = root.parentElement; e; e = e.parentElement) found.push(e.scrollTop, e.scrollLeft);
    return found }"""


SETTLED = """() => { const now = [...document.querySelectorAll(".af, .af *")], seen = window.afSeen ?? [];
    const high = now.map(e => e.getBoundingClientRect().height).join();
    const same = now.length === seen.length && now.every((e, k) => e === seen[k]) && high === window.afHigh;
    [window.afSeen, window.afHigh] = [now, high];
    return same && !document.querySelector(".af-banner:not([hidden])") }"""


class Still:
    """What a widget does must leave every place of scrolling around it as it is. It is tried once the widgets stand:
    a banner that goes, or a drawing that the kernel still sends, moves the page by itself."""
    def __init__(self, page, root): self.page, self.root, self.tried = page, root, 0

    def __call__(self, act, done, element):
        self.page.wait_for_function(SETTLED, polling=300)
        element.scroll_into_view_if_needed()
        element.evaluate("e => e.focus({preventScroll: true})")
        before = self.root.evaluate(PLACES)
        act()
        done()
        self.page.wait_for_timeout(300)
        assert self.root.evaluate(PLACES) == before
        self.tried += 1


def test_nothing_in_a_widget_moves_the_page(lab):
    empty = ["# a page to scroll\n" + "\n" * 60]
    cells = [*empty, PAIRS, "x = explore(labels); x", BOARD.removeprefix(PAIRS) + "board", CURVES + "c", *empty]
    with lab.open(*cells, height=620) as page:
        keys = page.keyboard
        root = page.locator(".af-board")
        still = Still(page, root)
        slider, told = root.get_by_label("labels flipped"), root.locator(".af-field output").first
        said = root.locator("p[role=status]").first
        for share in ("5 %", "10 %", "15 %", "10 %"):
            move = "ArrowLeft" if still.tried == 3 else "ArrowRight"
            figures = said.text_content()
            still(lambda: keys.press(move), lambda: expect(told).to_have_text(share), slider)
            expect(said).not_to_have_text(figures)                   # the kernel has counted: the board is drawn again
        heading = root.locator("h4", has_text="disagree")
        for k in (0, 7, 19):
            cell = root.locator(".af-cell").nth(k)
            names = re.match("(.*) and (.*) agree", cell.get_attribute("aria-label")).groups()
            still(cell.click, lambda: expect(heading).to_have_text(f"Where {names[0]} and {names[1]} disagree"), cell)
        dot, told = root.locator(".af-dot[role]").first, root.locator(".af-said")
        still(lambda: keys.press("ArrowDown"), lambda: expect(told).to_contain_text("bias"), dot)
        root = page.locator(".af-explorer").first
        still.root = root
        chosen = lambda k: lambda: expect(root.locator(".af-list li").nth(k)).to_have_attribute("aria-selected", "true")
        listed = root.locator(".af-list")
        for k in range(1, 11): still(lambda: keys.press("ArrowDown"), chosen(k), listed)
        assert listed.evaluate("e => e.scrollTop") > 0, "the list itself scrolls"
        for key, k in (("ArrowUp", 9), ("ArrowDown", 10), ("ArrowDown", 11), ("ArrowDown", 0)):
            still(lambda: keys.press(key), chosen(k), listed)
        for relation, has in (("disagree", "of 60"), ("all", "60 of 60")):
            show, count = root.get_by_label("show"), root.locator(".af-count")
            still(lambda: show.select_option(relation), lambda: expect(count).to_contain_text(has), show)
        root = page.locator(".af-curves")
        still.root = root
        dot = root.locator(".af-dot[role]").nth(1)
        still(dot.click, lambda: expect(root.locator("td").nth(1)).to_contain_text("Corn."), dot)
        axis, drawn = root.get_by_label("x axis"), root.locator(".af-chart").first
        still(lambda: axis.select_option("kl"), lambda: expect(drawn).to_contain_text("KL"), axis)
        assert still.tried > 20 and page.problems == []
