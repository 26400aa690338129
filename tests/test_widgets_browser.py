"""Every widget in JupyterLab in a real browser: by mouse, by keyboard, light and dark, and under attack."""

import json

import pytest
from conftest import ROOT
from lab import CHROMIUM, FLAGS, jupyterlab

if CHROMIUM is None: pytest.skip("needs Chromium (Debian: apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
pytest.importorskip("jupyterlab", reason="needs JupyterLab (the extra `lab`)")
expect = sync_api.expect
expect.set_options(timeout=30_000)
pytestmark = pytest.mark.slow

SHOTS = ROOT / "runs" / "screenshots"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "One JupyterLab and one browser for all tests here."
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        with jupyterlab(tmp_path_factory.mktemp("lab"), browser) as lab: yield lab
        browser.close()


def shot(page, name):
    "A picture of the widget, kept for people to look at."
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".af").first.screenshot(path=SHOTS / f"{name}.png")


def value(page, expression):
    "What an expression is in the kernel."
    return json.loads(page.ask(f"import json; print(json.dumps({expression}))"))


PAIRS = """
import pandas as pd
from alpacafarm_nb import explore, load_farm
farm = load_farm("farmyard")
asked = farm.val.head(60)
pairs = pd.DataFrame(dict(instruction=asked["instruction"], input=asked["input"], output_1=asked["output"],
                          output_2=farm.eval["output"].head(60).to_numpy(), dataset=["hens"] * 20 + ["cows"] * 40))
labels = {a.name: a.annotate_pairs(pairs) for a in [farm.gold, *farm.simulated.annotators[:3]]}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_explorer(lab, theme):
    with lab.open(PAIRS, "x = explore(labels); x", theme=theme) as page:
        root = page.locator(".af-explorer")
        count, pair = root.locator(".af-count"), root.locator(".af-pair")
        expect(count).to_have_text("60 of 60 pairs")
        shot(page, f"explorer-{theme}")
        root.get_by_label("show").select_option("disagree")
        n = value(page, "len(x.find())")
        expect(count).to_have_text(f"{n} of 60 pairs")
        assert 0 < n < 60 and value(page, "x.query['relation']") == "disagree"
        root.get_by_label("beside").select_option("strong_3")
        expect(count).to_have_text(f"{value(page, 'len(x.find())')} of 60 pairs")
        root.get_by_label("show").select_option("all")
        root.get_by_label("data set").select_option("cows")
        expect(count).to_have_text("40 of 60 pairs")
        root.get_by_label("data set").select_option("")
        root.get_by_label("lengths differ by").fill("60")
        expect(count).to_have_text(f"{value(page, 'int((abs(x.table.longer) >= 60).sum())')} of 60 pairs")
        root.get_by_label("lengths differ by").fill("0")
        root.get_by_label("contains").fill("COWS")
        expect(count).to_have_text(f"{value(page, 'sum(chr(99) + chr(111) + chr(119) + chr(115) in t for t in x.table.texts)')} of 60 pairs")
        root.get_by_label("contains").fill("")
        root.get_by_label("order").select_option("disagreement")
        expect(pair).to_contain_text(f"pair {value(page, 'int(x.table.disagreement.argmax())')} ")
        root.get_by_role("button", name="next").click()   # mouse
        expect(root.locator(".af-pager span")).to_have_text("page 2 of 5")
        root.locator(".af-list li").nth(3).click()
        expect(root.locator(".af-list li").nth(3)).to_have_attribute("aria-selected", "true")
        root.locator(".af-list").focus()                  # keyboard
        page.keyboard.press("ArrowUp")
        expect(root.locator(".af-list li").nth(2)).to_have_attribute("aria-selected", "true")
        for _ in range(3): page.keyboard.press("ArrowUp")
        expect(root.locator(".af-pager span")).to_have_text("page 1 of 5")
        expect(root.locator(".af-list li").nth(11)).to_have_attribute("aria-selected", "true")
        page.keyboard.press("ArrowDown")
        expect(root.locator(".af-pager span")).to_have_text("page 2 of 5")
        assert page.problems == []
