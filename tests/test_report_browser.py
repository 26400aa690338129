"""The report in a real browser: it opens offline, draws its figures, and runs nothing that a model wrote."""

import functools
import shutil

import pandas as pd
import pytest
from payloads import PAYLOADS

from alpacafarm_nb.farm.leaderboard import leaderboard
from alpacafarm_nb.farm.figures import agreement_figure, overoptimization_figure, training_figure
from alpacafarm_nb.farm.report import outputs_side_by_side, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()

if CHROMIUM is None: pytest.skip("needs Chromium (Debian: apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")

class Judge:
    name = PAYLOADS[1]

    def utility(self, table): return table["output"].str.len().to_numpy(float)

    def expected(self, pairs): return pairs.assign(preference=1.25)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    "A report in which every text that may come from outside is an attack."
    asked = pd.DataFrame({"instruction": PAYLOADS, "input": PAYLOADS[::-1], "output": PAYLOADS[3:] + PAYLOADS[:3]})
    models = {PAYLOADS[0]: asked.assign(output=PAYLOADS), PAYLOADS[3]: asked.assign(output=PAYLOADS[::-1])}
    board = leaderboard(models, asked, Judge(), baseline=PAYLOADS[0])
    agreements = pd.DataFrame({"annotator": PAYLOADS, "agreement": 60., "standard_error": 1., "group": PAYLOADS})
    curve = pd.DataFrame({"labeler": PAYLOADS[1], "judge": PAYLOADS[0], "n": [1, 2, 4], "value": [1., 2, 3]})
    figures = [board.plot(), agreement_figure(agreements, dict.fromkeys(PAYLOADS, 60.), title=PAYLOADS[1]),
               overoptimization_figure(curve, y_title=PAYLOADS[1]),
               training_figure({PAYLOADS[1]: [{"step": k, PAYLOADS[0]: k} for k in range(40)]})]
    texts = [outputs_side_by_side(board, 99), agreements.rename(columns={"group": PAYLOADS[2]})]
    sections = [(p, p, None) for p in PAYLOADS[1:]] + [(PAYLOADS[0], "", [board, *figures, *texts])]
    return write_report(tmp_path_factory.mktemp("report") / "report.html", PAYLOADS[2], sections, lead=PAYLOADS[1])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser, report):
    "Opens the report offline, once for each kind of screen; collects what it says and what it asks for."

    @functools.cache
    def open_page(width=1200, scheme="light", use="to look at"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.set_default_timeout(180_000)   # a busy machine takes its time
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.said.append(f"error: {error}"))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_function("[...document.querySelectorAll('.figure')].every(d => d.querySelector('.main-svg'))")
        page.wait_for_timeout(200)   # an attack that runs late, after its image failed to load, should be caught too
        return page

    return open_page


@pytest.mark.parametrize("width, scheme", [(1200, "light"), (1200, "dark"), (390, "light")])
def test_opens_offline_and_runs_nothing_foreign(opened, report, width, scheme):
    page = opened(width, scheme)
    math = "MathJax is not loaded"     # said of the attack in dollars, which therefore stays a text
    assert [line for line in page.said if math not in line] == []
    assert page.asked == [report.as_uri()]
    assert page.evaluate("window.pwned") is None
    assert page.locator(".figure").count() == 4
    assert page.locator(".figure .main-svg").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"


def test_attacks_are_shown_as_they_were_written(opened):
    page = opened()
    outs = page.locator(".side .out").all_text_contents()
    assert set(PAYLOADS) <= set(outs)
    assert {*PAYLOADS} <= set(page.locator(".side .ask p").all_text_contents())
    assert page.title() == PAYLOADS[2]
    assert page.locator("main script, main img, main iframe, main base, main style, main [onclick]").count() == 0
    assert page.locator("nav a").count() == len(PAYLOADS)
    ticks = "".join(page.locator(".figure .ytick").all_text_contents())   # names in figures
    written = next(p for p in PAYLOADS if p.startswith("&lt;"))     # an attack that is escaped already stays so
    assert PAYLOADS[1] in ticks and "&lt;" not in ticks.replace(written, "") and "&quot;" not in ticks


def test_a_forgotten_escape_would_still_not_run(opened):
    page = opened(use="to break into")
    page.evaluate("""payloads => {
        for (const html of payloads) {
            const div = document.createElement('div');
            div.innerHTML = html;
            document.body.append(div);
        }
        const script = document.createElement('script');
        script.textContent = 'window.pwned=2';
        document.body.append(script);
    }""", PAYLOADS)
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in line for line in page.said)
    assert any("https://example.com/x.png" in line for line in page.said)   # refused before it was fetched


def test_light_and_dark(opened):
    page = opened(scheme="light")
    paper = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = lambda: page.evaluate("document.querySelector('.figure .xtick text').style.fill")
    before = paper(), ink()
    page.locator("#theme").click()
    page.wait_for_function("old => document.querySelector('.figure .xtick text').style.fill !== old", arg=before[1])
    assert (paper(), ink()) != before and paper() != before[0]
    page.locator("#theme").click()
    page.wait_for_function("old => document.querySelector('.figure .xtick text').style.fill === old", arg=before[1])
    assert paper() == before[0]
