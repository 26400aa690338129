"""Every widget in JupyterLab in a real browser: by mouse, by keyboard, light and dark, and under attack."""

import pytest
from lab import becomes, expect, shot, value
from payloads import PAYLOADS
pytestmark = pytest.mark.slow

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
        becomes(page, "x.query['relation']", "disagree")
        n = value(page, "len(x.find())")
        expect(count).to_have_text(f"{n} of 60 pairs")
        assert 0 < n < 60
        root.get_by_label("compared with").select_option("strong_3")
        becomes(page, "x.query['b']", "strong_3")
        expect(count).to_have_text(f"{value(page, 'len(x.find())')} of 60 pairs")
        root.get_by_label("show").select_option("all")
        root.get_by_label("data set").select_option("cows")
        expect(count).to_have_text("40 of 60 pairs")
        root.get_by_label("data set").select_option("")
        root.get_by_label("lengths differ by").fill("60")
        expect(count).to_have_text(f"{value(page, 'int((abs(x.table.longer) >= 60).sum())')} of 60 pairs")
        root.get_by_label("lengths differ by").fill("0")
        root.get_by_label("contains").fill("COWS")
        cows = value(page, "sum('cows' in t for t in x.table.texts)")
        expect(count).to_have_text(f"{cows} of 60 pairs")
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


DESK = PAIRS + """
from alpacafarm_nb import label
desk = label(pairs.head(6), "Ada", [farm.gold, farm.simulated])
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_desk(lab, theme):
    for file in [*lab.folder.glob("annotations*"), *lab.folder.glob("labels*")]: file.unlink()
    with lab.open(DESK, "desk", theme=theme) as page:
        root = page.locator(".af-desk")
        status, work = root.locator(".af-status[role=status]"), root.locator(".af-work")
        labeled = lambda: value(page, "desk.labels()[['annotator', 'preference']].values.tolist()")
        expect(status).to_have_text("0 of 6 pairs labeled")
        left, first = root.locator(".af-output .af-text").nth(0).text_content(), root.locator("h3").text_content()
        root.get_by_role("button", name="left is better").click()            # mouse
        expect(status).to_have_text("1 of 6 pairs labeled")
        row = value(page, "desk.labels().iloc[0].to_dict()")
        assert row["instruction"] == first and row[f"output_{row['preference']:.0f}"] == left
        work.focus()                                                         # keyboard
        for key, n in zip("201u00", (2, 3, 4, 3, 4, 5)):
            page.keyboard.press(key)
            expect(status).to_have_text(f"{n} of 6 pairs labeled")
        assert [p for _, p in labeled()[2:4]] == [1.5, 1.5]
        shown = root.locator("h3").text_content()
        page.keyboard.press("s")                                             # the only one left: it comes again
        becomes(page, "desk.heard", 8)                                       # by then the page has heard of it
        expect(root.locator("h3")).to_have_text(shown)
        expect(root.locator("tbody tr")).to_have_count(2)
        shot(page, f"desk-{theme}")
        page.keyboard.press("2")
        expect(root.get_by_text("You have labeled every pair.")).to_be_visible()
        expect(root.locator(".af-outputs")).to_be_hidden()
        root.get_by_role("button", name="undo").click()
        expect(status).to_have_text("5 of 6 pairs labeled")
        root.get_by_label("your name").focus()                               # another person; typing is no labeling
        for key in ("Control+a", *"Stu", "Enter"): page.keyboard.press(key)
        expect(status).to_have_text("0 of 6 pairs labeled")
        work.focus()
        page.keyboard.press("1")
        expect(status).to_have_text("1 of 6 pairs labeled")
        expect(root.locator("tbody tr")).to_have_count(3)
        root.get_by_label("labelers so far").select_option("Ada")
        expect(status).to_have_text("5 of 6 pairs labeled")
        root.get_by_role("button", name="export").click()
        expect(root.locator(".af-note").last).to_contain_text("labels-1.json")
        page.ask("from alpacafarm_nb import AnnotationCache")
        kept = value(page, "AnnotationCache('annotations.sqlite').table()[['judge', 'model']].values.tolist()")
        assert sorted(kept) == [["Ada", "person"]] * 5 + [["Stu", "person"]]
        assert page.problems == []


def test_desk_labels_what_is_meant_and_nothing_else(lab):
    "Text can be selected and long outputs scrolled, by mouse and keyboard; neither is a label, and arrows never are."
    long = "pairs = pairs.assign(output_1=pairs['output_1'] + '\\n.' * 99, output_2='A long one. ' * 999)\n"
    made = long + DESK.removeprefix(PAIRS).replace('"Ada"', '"Ute"')
    with lab.open(PAIRS, made, "desk") as page:
        root = page.locator(".af-desk")
        expect(root.locator(".af-output")).to_have_count(2)
        for k in range(2):
            output = root.locator(".af-output").nth(k)
            output.scroll_into_view_if_needed()
            box = output.locator(".af-text").bounding_box()
            page.mouse.move(box["x"] + 5, box["y"] + 8)                      # a stroke of the mouse over some words
            page.mouse.down()
            page.mouse.move(box["x"] + 150, box["y"] + 30)
            page.mouse.up()
            assert len(page.evaluate("getSelection().toString()")) > 5
            output.locator(".af-text").dblclick(position=dict(x=20, y=8))
            output.focus()
            for key in ("ArrowDown", "PageDown", "ArrowDown"): page.keyboard.press(key)
            page.wait_for_function("e => e.scrollTop > 60", arg=output.element_handle())
            for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "Enter", "Backspace", "Space", "Control+1", "Alt+2"):
                page.keyboard.press(key)
        root.locator(".af-work").focus()
        for key in "ArrowLeft ArrowRight ArrowUp ArrowDown Enter Space Tab".split(): page.keyboard.press(key)
        assert value(page, "[desk.heard, len(desk.labels()), desk.view['done']]") == [0, 0, 0]
        page.keyboard.press("1")                                             # the same place: a key that is meant
        expect(root.locator(".af-status[role=status]")).to_have_text("1 of 6 pairs labeled")
        assert root.locator(".af-output").evaluate_all("all => all.map(e => e.scrollTop)") == [0, 0], "a new pair"
        assert page.problems == []


BOARD = PAIRS + """
from alpacafarm_nb import agreement_board
board = agreement_board([farm.gold, *farm.simulated.annotators[:4]], pairs, draws=2)
"""


def test_figures_have_the_decimals_of_their_errors(lab):
    "The page rounds as Python does."
    from alpacafarm_nb.display import figure_text
    from alpacafarm_nb.widgets.base import script
    code = script()
    code = code[code.index("const fixed ="):code.index("const rounded =")]
    cases = [(53.04, 1.04), (61.237, .96), (8.4712, .0951), (40.4, 11.6), (.03127, .0004), (-2.66, .88), (3.1, 9.96),
             (75., None), (.25, None), (0., 0.), (1.234e-7, 2.1e-9), (-3e-8, 4.5e-7), (4.56e-5, None), (2e12, 3.1e10),
             (9.9999e9, 1.), (1e-5, 0.), (1e300, 1e299), (.1 + .2 - .3, None)]
    page = lab.browser.new_page()
    shown = page.evaluate("cases => {" + code + "; return cases.map(([v, e]) => plusMinus(v, e)) }", cases)
    page.close()
    assert shown == [figure_text(*case) for case in cases]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_agreement_board(lab, theme):
    with lab.open(BOARD, "board", theme=theme) as page:
        root = page.locator(".af-board")
        cell = lambda i, j: root.locator(f'.af-cell[data-key="{i} {j}"]')
        matrix = lambda: value(page, "board.to_pandas().round().values.tolist()")
        expect(root.locator(".af-cell")).to_have_count(20)
        assert float(cell(0, 1).text_content()) == pytest.approx(matrix()[0][1], abs=1)
        cell(0, 2).click()                                                   # mouse
        expect(root.locator(".af-count")).to_have_text(f"{value(page, 'len(board.find())')} of 60 pairs")
        query = value(page, "board.query")
        assert (query["a"], query["b"], query["relation"]) == ("gold", "strong_2", "disagree")
        shot(page, f"board-{theme}")
        cell(0, 1).focus()                                                   # keyboard
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"): page.keyboard.press(key)   # 1 1 is no cell: 2 1, 3 1, 3 2
        expect(cell(3, 2)).to_be_focused()
        page.keyboard.press("Enter")
        expect(root.locator("h4", has_text="disagree")).to_have_text("Where strong_3 and strong_2 disagree")
        slider, calm = root.get_by_label("labels flipped"), cell(0, 1).text_content()
        slider.focus()
        for _ in range(10): page.keyboard.press("ArrowRight")
        expect(root.locator(".af-field output")).to_have_text("50 %")
        expect(cell(0, 1)).not_to_have_text(calm)
        becomes(page, "board.flip", .5)
        assert abs(sum(matrix()[0][1:]) / 4 - 50) < 10, "half of the labels turned round is chance"
        dots = root.locator(".af-chart .af-dot[role=img]")
        assert dots.count() == 4
        dots.first.hover()                                                   # mouse on the plot, then arrows
        expect(root.locator(".af-said")).to_contain_text("strong_1: bias")
        dots.first.focus()
        page.keyboard.press("ArrowDown")
        expect(root.locator(".af-said")).to_contain_text("strong_2: bias")
        assert page.problems == []


def test_board_chart_stays_while_labels_are_turned_round(lab):
    "Fourteen annotators: names beside points, no two alike, axes that stay, and a line from where each point was."
    whole = BOARD.replace("[farm.gold, *farm.simulated.annotators[:4]]", "[farm.gold, farm.simulated]")
    with lab.open(whole, "board") as page:
        root = page.locator(".af-board")
        dots, ticks = root.locator(".af-dot[role=img]"), root.locator(".af-chart > svg > g > text:not(.af-name)")
        expect(dots).to_have_count(13)
        names = root.locator(".af-name")
        assert sorted(names.all_text_contents()) == sorted(value(page, "board.board['names'][1:]"))
        assert names.evaluate_all(OVERLAPS) == []
        looks = dots.evaluate_all("""all => all.map(d => getComputedStyle(d).fill + d.lastChild.outerHTML)""")
        assert len(set(looks)) == 13
        teal = page.evaluate("getComputedStyle(document.querySelector('.af')).getPropertyValue('--af-0').trim()")
        assert teal == "#228899" and not [look for look in looks if look.startswith("rgb(34, 136, 153)")], "gold's own"
        axes, at = ticks.all_text_contents(), dots.first.get_attribute("transform")
        assert root.locator(".af-trail").count() == 0
        slider = root.get_by_label("labels flipped")
        for _ in range(3):
            slider.press("ArrowRight")
            expect(dots.first).not_to_have_attribute("transform", at)
            assert ticks.all_text_contents() == axes
            assert root.locator(".af-trail").count() == 13
            x, y = (float(v) for v in at.removeprefix("translate(").removesuffix(")").split())
            ring = root.locator(".af-trail circle").first
            assert [float(ring.get_attribute(a)) for a in ("cx", "cy")] == pytest.approx([x, y], abs=.1)
        dots.first.hover()
        expect(root.locator(".af-said")).to_contain_text("; without noise: bias")
        shot(page, "board-noise")
        assert page.problems == []


OVERLAPS = """all => { const boxes = all.map(e => e.getBoundingClientRect());
    return boxes.flatMap((a, i) => boxes.slice(i + 1).map((b, j) => [all[i].textContent, all[i + 1 + j].textContent,
        Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)]))
        .filter(([, , x, y]) => x > 2 && y > 5) }"""
RUNS = """
import pandas as pd
from alpacafarm_nb import explore
asked, hens = "Which eggs do the hens lay on this farm?", "The hens lay brown eggs every day of the week."
answers = dict(sft=hens.replace("brown", "white"), dpo="Ask the vet (soon); nobody else knows.", ppo=hens + " Often.")
texts = [dict(instruction=asked, generator_1="reference", generator_2=m, output_1=hens, output_2=o)
         for m, o in answers.items()]
greet = dict(instruction="Greet me.", generator_1="reference", generator_2="sft", output_1="Hello.", output_2="Hello.")
texts.insert(1, greet)
words = ["<b>Brown</b> is right: (a).", None, "(b), since " + "it is so, " * 2000, None]
x = explore(pd.concat([pd.DataFrame(texts).assign(annotator=a, preference=[1, 2, 1.5, 2], raw_completion=w)
                       for a, w in (("gpt", words), ("other", [None] * 4))]))
"""


def test_explorer_tells_pairs_apart_and_marks_calmly(lab):
    with lab.open(RUNS, "x") as page:
        root = page.locator(".af-explorer")
        lines, own = root.locator(".af-list li"), root.locator(".af-pair mark.af-own")
        expect(lines).to_have_count(4)
        assert root.locator(".af-list .af-asked").all_text_contents() == [value(page, "asked"), "Greet me."]   # grouped
        told = [line.inner_text() for line in lines.all()]
        assert "reference | sft 10 | 10 words" in told[0] and "reference | dpo 10 | 7 words" in told[1]
        assert "…the week. Often." in told[2] or "Often." in told[2], told[2]
        assert own.all_text_contents() == ["brown ", "white "]                   # alike: what differs is marked …
        root.get_by_label("mark words that differ").uncheck()                    # … unless it is not wanted
        shown = "e => getComputedStyle(e).textDecorationLine"
        assert own.first.evaluate(shown) == "none"
        root.get_by_label("mark words that differ").check()
        assert own.first.evaluate(shown) == "underline"
        assert int(own.first.evaluate("e => getComputedStyle(e).fontWeight")) < 600, "calmly"
        reasons = root.locator(".af-reasons details")
        expect(reasons).to_have_count(1)
        reasons.locator("summary").click()
        expect(reasons).to_contain_text("<b>Brown</b> is right: (a).")           # as text
        assert reasons.locator("b").count() == 0
        lines.nth(1).click()                                                     # hardly a word in common: no marks
        expect(root.locator(".af-pair")).to_contain_text("too few words in common to mark what differs")
        assert own.count() == 0
        root.get_by_label("contains").fill("HENS LAY BROWN EGGS EVERY")          # hits cross marked words, in any case
        expect(root.locator(".af-count")).to_have_text("3 of 4 pairs")
        hits = root.locator(".af-pair .af-output mark.af-hit")
        expect(hits.first).to_be_visible()
        lines.nth(0).click()
        expect(own).to_have_count(2)
        joined = root.locator(".af-output").first.locator("mark.af-hit").all_text_contents()
        assert "".join(joined) == "hens lay brown eggs every" and len(joined) == 3
        assert root.locator(".af-list mark.af-hit").all_text_contents()[0] == joined[0] + joined[1] + joined[2]
        root.get_by_label("contains").fill("Greet")
        expect(root.locator(".af-pair")).to_contain_text("both outputs are the same")
        root.get_by_label("contains").fill("(soon); [")                          # no pattern, but text
        expect(root.locator(".af-count")).to_have_text("0 of 4 pairs")
        root.get_by_label("contains").fill("(SOON)")
        expect(hits).to_have_text(["(soon)"])
        shot(page, "explorer-hits")
        assert page.problems == []


def test_layout_follows_the_widget_and_not_the_window(lab):
    with lab.open(RUNS, "x") as page:
        root = page.locator(".af-explorer")
        columns = lambda part: len(root.locator(part).evaluate("e => getComputedStyle(e).gridTemplateColumns").split())
        assert (columns(".af-columns"), columns(".af-outputs")) == (2, 2)
        root.evaluate("e => { e.style.width = '700px'; }")         # the window is as wide as before
        assert (columns(".af-columns"), columns(".af-outputs")) == (1, 2)
        root.evaluate("e => { e.style.width = '420px'; }")
        assert (columns(".af-columns"), columns(".af-outputs")) == (1, 1)
        assert root.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "wider than its place"
        shot(page, "explorer-narrow")


CURVES = """
import numpy as np, pandas as pd
from alpacafarm_nb import curves
step = np.arange(0, 21, 5)
at = dict(method="ppo", step=step, kl=step / 10)
line = lambda judge, value, **more: pd.DataFrame(dict(at, judge=judge, value=value, **more))
best = pd.DataFrame(dict(method="best of n", judge="gold", n=[1, 4, 16], value=[50, 54, 55], standard_error=1.2))
points = pd.concat([best, line("gold", [50, 55, 56, 53, 50], standard_error=1.),
                    line("simulated", [50, 54, 58, 60, 61], standard_error=.8),
                    line("", [0, 1, 2, 3, 4], measure="reward"), line("", [12, 13, 15, 18, 22], measure="words")])
samples = pd.DataFrame([dict(method="ppo", step=s, instruction="What do hens eat?", output=f"Corn. (step {s})")
                        for s in step])
c = curves(points, samples)
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves(lab, theme):
    with lab.open(CURVES, "c", theme=theme) as page:
        root = page.locator(".af-curves")
        chart = lambda k: root.locator(".af-chart").nth(k)
        expect(root.locator(".af-chart")).to_have_count(3)
        expect(chart(0).locator(".af-band")).to_have_count(2)
        expect(root.locator(".af-peaks")).to_contain_text("ppo by gold: highest 56.0 ± 1.0 at step = 10")
        line, colour = "g[data-series='ppo by {}'] .af-line", "e => getComputedStyle(e).stroke"
        colours = [chart(0).locator(line.format(judge)).evaluate(colour) for judge in ("gold", "simulated")]
        assert colours == ["rgb(34, 136, 153)", "rgb(221, 119, 17)"], "teal and orange, as in every figure"
        dots = chart(0).locator("g[data-series='ppo by gold'] .af-dot")
        dots.nth(1).click()                                                  # mouse
        expect(root.locator("td").nth(1)).to_have_text("Corn. (step 5)")
        expect(dots.nth(1)).to_have_attribute("aria-pressed", "true")
        for key in ("ArrowRight", "ArrowRight", "Enter"): page.keyboard.press(key)
        expect(root.locator("td").nth(1)).to_have_text("Corn. (step 15)")
        expect(chart(0).locator(".af-said")).to_contain_text("53.0 ± 1.0")
        dots.nth(4).hover()                                                  # resting is enough
        expect(root.locator("td").nth(1)).to_have_text("Corn. (step 20)")
        shot(page, f"curves-{theme}")
        chart(0).locator("g[data-series='ppo by simulated'] .af-dot").nth(3).hover()
        expect(root.locator("td").nth(1)).to_have_text("Corn. (step 15)")      # drawn anew, and what is said stays
        expect(chart(0).locator(".af-said")).to_contain_text("60.00 ± 0.80")   # as many decimals as its error is worth
        root.get_by_label("± one standard error").uncheck()
        expect(chart(0).locator(".af-band")).to_have_count(0)
        root.get_by_role("checkbox", name="simulated").focus()               # keyboard
        page.keyboard.press("Space")
        expect(chart(0).locator("g[data-series]")).to_have_count(1)
        becomes(page, "c.shown['judges']", ["gold"])
        root.get_by_label("x axis").select_option("n")
        expect(chart(0).locator("g[data-series]")).to_have_attribute("data-series", "best of n by gold")
        expect(root.locator(".af-chart")).to_have_count(1)
        root.get_by_label("x axis").select_option("kl")
        root.get_by_role("checkbox", name="best of n").uncheck()
        expect(root.locator(".af-peaks li")).to_have_count(1)
        becomes(page, "[c.shown['axis'], c.shown['methods']]", ["kl", ["ppo"]])
        assert page.problems == []


GOODHART = """
from alpacafarm_nb import goodhart_panel
xs, gold = dict(best_of_n=[1, 4, 16, 64, 256], ppo=[0, 4, 8, 12, 16]), dict(off=[40, 46, 50, 50, 51],
                                                                           label_noise=[40, 45, 48, 46, 42])
value = lambda condition, judge, k: dict(gold=gold[condition][k], own=40. + k, proxy=k / 2 - 1)[judge]
rows = [dict(condition=c, method=m, judge=j, x=xs[m][k], kl=None, value=value(c, j, k), standard_error=.8, n_seeds=10)
        for c in gold for m in xs for j in ("gold", "own", "proxy") for k in range(5)]
fall = dict(rise=8., rise_error=.9, n_seeds=10)
falls = [dict(fall, condition=c, method=m, peak=xs[m][2], last=xs[m][4], fall=f, fall_error=1.1, low=f - 2.5,
              high=f + 2.5) for c, f in (("off", -1.), ("label_noise", 6.)) for m in xs]
end = [dict(fall, condition=c, method=m, judge=j, peak=xs[m][4], last=xs[m][4], fall=0., fall_error=0., low=0., high=0.)
       for c in gold for m in xs for j in ("own", "proxy")]
g = goodhart_panel(dict(seeds=dict(curves=rows, falls=falls, falls_by_others=end)))
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_goodhart_panel(lab, theme):
    with lab.open(GOODHART, "g", theme=theme) as page:
        root = page.locator(".af-goodhart")
        chart, status = lambda k: root.locator(".af-chart").nth(k), root.locator("[role=status]")
        guess = lambda text: root.get_by_role("button", name=text, exact=True)
        dots = lambda name: chart(0).locator(f"g[data-series='{name}'] .af-dot")
        expect(dots("all off")).to_have_count(1)                             # where it starts, and no more
        root.get_by_label("switch").select_option("label_noise")
        expect(root.get_by_text("45 % of the labels are flipped.")).to_be_visible()
        expect(dots("label noise")).to_have_count(1)
        expect(dots("all off")).to_have_count(5)
        expect(root.locator(".af-chart")).to_have_count(1)
        expect(status).to_have_text("")
        shot(page, f"goodhart-asked-{theme}")
        guess("levels off").click()                                          # mouse
        expect(dots("label noise")).to_have_count(5)
        expect(chart(0).locator(".af-band")).to_have_count(2)
        expect(chart(0).locator("text.af-mark")).to_have_text("peak")
        expect(root.locator(".af-chart")).to_have_count(2)                   # the proxy has an axis of its own
        expect(status).to_contain_text("You guessed “levels off”, but it falls.")
        expect(status).to_contain_text("Gold's win rate falls by 6.0 ± 1.1 [3.5, 8.5] points from its peak at n = 16")
        expect(guess("levels off")).to_have_attribute("aria-pressed", "true")
        expect(guess("falls")).to_have_attribute("aria-disabled", "true")
        guess("falls").click(force=True)                                     # the first guess counts
        becomes(page, "g.to_pandas().values.tolist()", [["label_noise", "best_of_n", "gold", "levels off", "falls"]])
        dots("label noise").nth(2).hover()
        expect(chart(0).locator(".af-said")).to_have_text("label noise: candidates (n) 16, win rate, % 48.00 ± 0.80")
        shot(page, f"goodhart-shown-{theme}")
        root.get_by_label("method").focus()                                  # keyboard
        page.keyboard.press("ArrowDown")
        becomes(page, "g.chosen['method']", "ppo")
        expect(root.locator(".af-question")).to_contain_text("With more and more steps, what does gold's win rate do")
        page.keyboard.press("Tab")
        expect(root.get_by_label("judged by", exact=True)).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(root.locator(".af-question")).to_contain_text("the win rate by the labeler itself")
        guess("rises").focus()
        page.keyboard.press("Enter")
        expect(status).to_contain_text("You guessed “rises”, and that is what was measured.")
        expect(guess("rises")).to_be_focused()
        root.get_by_label("guess first").focus()
        page.keyboard.press("Space")
        becomes(page, "g.first", False)
        root.get_by_label("switch").select_option("off")
        expect(status).to_contain_text("there is no fall to measure")
        expect(guess("rises")).to_be_hidden()
        root.get_by_label("judged by", exact=True).select_option("proxy")
        expect(chart(0).locator("g[data-series]")).to_have_count(1)
        root.get_by_label("switch").select_option("label_noise")
        expect(root.locator(".af-chart")).to_have_count(2)                   # two proxies never share an axis
        dots("label noise").first.focus()
        page.keyboard.press("ArrowRight")
        expect(chart(0).locator(".af-said")).to_contain_text("training step 4, proxy -0.50 ± 0.80")
        root.get_by_label("guess first").check()
        expect(guess("falls")).to_be_visible()
        page.ask("g._hear(dict(do='guess', guess='sideways'))")
        expect(root.locator(".af-problem")).to_contain_text("guess is 'sideways': give rises, levels off, falls")
        assert page.problems == []


ATTACKS = """
import numpy as np, pandas as pd
from dataclasses import replace
from alpacafarm_nb import (AnnotationCache, agreement_board, curves, explore, farm_panel, goodhart_panel, label,
                           leaderboard, load_farm, training_board)
from alpacafarm_nb.widgets.farm_panel import PanelSettings, Row
evil = PAYLOADS
turned = lambda k: evil[k:] + evil[:k]
texts = pd.DataFrame(dict(instruction=evil, input=evil[::-1], output_1=turned(3), output_2=turned(7), dataset=evil,
                          generator_1=turned(1), generator_2=turned(2)))
labels = pd.concat([texts.assign(annotator=name, preference=1 + k % 2) for k, name in enumerate(evil)])
class Judge:
    def __init__(self, name): self.name = name
    def utility(self, table): return table["output"].str.len().to_numpy(float)
    def expected(self, pairs): return pairs.assign(preference=1.25)
    def annotate_pairs(self, pairs, p_label_flip=0., seed=0): return self.expected(pairs)
asked = texts[["instruction", "input"]].assign(output=texts["output_1"])
points = pd.DataFrame([dict(method=e, judge=evil[-1 - k], measure=m, step=s, value=s, standard_error=1.)
                       for k, e in enumerate(evil) for m in ("win rate, %", e) for s in (0, 1)])
samples = pd.DataFrame([dict(method=e, instruction=e, output=e, step=s) for e in evil for s in (0, 1)])
def live():
    rows = lambda column: [{"step": 1, column: 1.}, {"step": 2, column: 2.}]
    board = training_board({e: rows(evil[-1 - k]) for k, e in enumerate(evil)})
    board.watch.looks.update({s: texts.assign(output=turned(s)) for s in (0, 1)})
    return board
def panel():
    judges = [Judge(evil[0]), Judge(evil[1])]
    made = farm_panel(replace(load_farm("farmyard"), gold=judges[0], simulated=judges[1]))
    for k, e in enumerate(evil):
        board = leaderboard({e: asked.assign(output=turned(k))}, asked, judges)
        made._add(Row(e, None, board, PanelSettings(labels=evil[-1 - k]), None if k == 0 else evil[0]))
    return made
def goodhart():
    rows = [dict(condition=e, method=m, judge=j, x=x, value=x, standard_error=1.)
            for e in evil for m in evil[:2] for j in evil[-2:] for x in (1, 2)]
    fall = dict(peak=1, last=2, rise=0., rise_error=0., fall=1., fall_error=.1, low=.8, high=1.2, n_seeds=9)
    return goodhart_panel(dict(seeds=dict(curves=rows, falls_by_others=[
        dict(fall, condition=e, method=evil[0], judge=evil[-2]) for e in evil])))
"""
WIDGETS = {   # how each is made, and what shows every text in it
    "explorer": ("explore(labels)", "w.query = w.query | dict(page={k} // 12, at={k} % 12)"),
    "desk": ("label(texts, evil[0], {e: Judge(e) for e in evil}, cache=AnnotationCache(':memory:'))",
             "w.on_label(w.view['pair']['number'], 'left'); w.on_sit(evil[{k}])"),
    "board": ("agreement_board(labels, reference=evil[1])",
              "w.query = w.query | dict(a=evil[{k}], b=evil[0], relation='odd')"),
    "curves": ("curves(points, samples)", "w.on_look(str(4 * {k}))"),
    "live": ("live()", "w.on_choose([evil[{k}]]); w.on_look({k} % 2)"),
    "panel": ("panel()", "w.on_open(evil[{k}])"),
    "goodhart": ("goodhart()", "w.on_choose(condition=evil[{k}]); w.on_guess('falls')"),
}


@pytest.mark.parametrize("widget", WIDGETS)
def test_nothing_foreign_runs_in_a_widget(lab, widget):
    "Every payload as every text of the widget, alive and static; what is not escaped does run."
    make, show = WIDGETS[widget]
    with lab.open(f"PAYLOADS = {PAYLOADS!r}", ATTACKS, f"w = {make}; w", "w.show_static()") as page:
        expect(page.locator(f".af-{widget}")).to_be_visible()
        for k in range(len(PAYLOADS)): assert page.ask(show.format(k=k)) == "", page.ask(show.format(k=k))
        page.wait_for_timeout(500)
        assert page.evaluate("window.pwned") is None
        assert page.locator(f".af-{widget} :is(script, img, iframe, base, style, object, embed, link)").count() == 0
        assert page.problems == []
        options = page.locator(f".af-{widget} option").all_inner_texts()
        shown = "".join([page.locator(f".af-{widget}").inner_text(), *options])
        assert any(p in shown for p in PAYLOADS), "no payload is to be seen: the test shows nothing"
        _control(page)


def _control(page):
    "The same page, an unescaped text: it runs."
    page.evaluate("jupyterapp.commands.execute('notebook:insert-cell-below')")
    code = f"from IPython.display import HTML; HTML({PAYLOADS[1]!r})"
    page.evaluate("code => jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.setSource(code)", code)
    page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
    page.wait_for_function("window.pwned == 1")


def test_nothing_foreign_runs_in_a_leaderboard(lab):
    made = "leaderboard({e: asked.assign(output=turned(k)) for k, e in enumerate(evil)}, asked, Judge(evil[1]))"
    cells = (f"board = {made}; board", "board.plot()", "explore(board)")
    with lab.open(f"PAYLOADS = {PAYLOADS!r}", ATTACKS, *cells) as page:
        expect(page.locator(".af-explorer")).to_be_visible()
        page.wait_for_timeout(500)
        assert page.evaluate("window.pwned") is None
        assert page.problems == []
        assert PAYLOADS[1] in page.inner_text("body")
        _control(page)


CONTRAST = """root => {
    const rgb = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = colour => colour.reduce((sum, v, i) => sum + linear(v / 255) * [.2126, .7152, .0722][i], 0);
    const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
    const up = e => e ? [...up(e.parentElement), e] : [];
    const back = e => rgb(getComputedStyle(e).backgroundColor);
    const paper = e => up(e).map(back).reduce((below, top) => over(top, below), [255, 255, 255]);
    const faded = e => up(e).filter(x => root.contains(x)).reduce((o, x) => o * getComputedStyle(x).opacity, 1);
    const low = [];
    for (const e of root.querySelectorAll('*')) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.getClientRects().length || e.closest(':disabled, option')) continue;
        const style = getComputedStyle(e), below = paper(e);
        const ink = rgb(e instanceof SVGElement ? style.fill : style.color);
        const text = over([...ink.slice(0, 3), ink[3] * faded(e)], below);
        const [a, b] = [light(text), light(below)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
        if (ratio < 4.5) low.push(`${e.tagName} ${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`);
    }
    return low }"""
NAMELESS = """root => [...root.querySelectorAll('input, select, button, [tabindex]')].filter(e => ![
    e.getAttribute('aria-label'), e.textContent, e.closest('label')?.textContent].some(t => t?.trim()))
    .map(e => e.outerHTML)"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_can_be_read_and_named(lab, theme):
    "Contrast of at least 4.5 (WCAG AA) for every text, and a name for whatever takes the focus."
    cells = [PAIRS, "explore(labels)", DESK, "desk", BOARD, "board", CURVES, "c",
             "from alpacafarm_nb import farm_panel, training_board\nfarm_panel()",
             "training_board({'sft': [dict(step=1, loss=2.), dict(step=2, loss=1.)]})",
             GOODHART, "g.on_choose(condition='label_noise'); g.on_guess('falls'); g"]
    with lab.open(*cells, theme=theme) as page:
        for widget in ("explorer", "desk", "board", "curves", "panel", "goodhart", "live"):
            root = page.locator(f".af-{widget}").first
            expect(root).to_be_visible()
            assert root.evaluate(CONTRAST) == [], widget
            assert root.evaluate(NAMELESS) == [], widget
        root.evaluate("e => { e.style.color = '#777'; }")
        assert root.evaluate(CONTRAST), "what cannot be read is not noticed"
