"""Training board and farm panel in a real browser, while they run: by mouse and keyboard, light and dark."""

import re

import pytest
from lab import expect, shot, value

from alpacafarm_nb.display import figure_text

pytestmark = pytest.mark.slow

TRAINED = """
from alpacafarm_nb import load_base, load_farm, train_ppo, train_sft, training_board
farm = load_farm("farmyard")
sft = train_sft(load_base(farm.model), farm.sft.head(320), epochs=1)
"""
EVIL = "<img src=x onerror='window.attacked = 1'>"
PPO = TRAINED + """
board = training_board(train_ppo, sft, lambda table: farm.gold.utility(table), farm.unlabeled, steps=STEPS,
                       rollout_batch_size=16, minibatch_size=16, max_new_tokens=30, sample=3, every=2)
board
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_training_board_stops(lab, theme):
    with lab.open(PPO.replace("STEPS", "300"), theme=theme) as page:
        root = page.locator(".af-live")
        status, charts = root.locator(".af-status"), root.locator(".af-chart")
        stop = root.get_by_role("button", name="stop")
        expect(status).to_have_text("▶ ppo is running")
        expect(root.locator(".af-steps")).to_have_text(re.compile(r"step \d+ of 300, about"))
        expect(charts).to_have_count(4)
        assert charts.locator("figcaption").all_text_contents() == ["reward", "kl", "entropy", "response_length"]
        assert value(page, "board.run.running") and value(page, "2 + 2") == 4              # the kernel is free
        root.get_by_role("checkbox", name="entropy").click()                                   # mouse
        expect(charts).to_have_count(3)
        root.get_by_role("checkbox", name="kl_coef").focus()                                               # keyboard
        page.keyboard.press("Space")
        expect(charts).to_have_count(4)
        assert value(page, "board.view['chosen']") == ["reward", "kl", "kl_coef", "response_length"]
        expect(root.locator(".af-looks tbody tr")).to_have_count(3)
        page.wait_for_function("document.querySelectorAll('.af-place')[0].querySelectorAll('.af-dot[role]').length > 6")
        slider = root.get_by_label("answers after step")
        slider.focus()
        page.keyboard.press("Home")
        expect(root.locator(".af-looks thead th").nth(2)).to_have_text("after step 0")
        page.keyboard.press("ArrowRight")
        expect(root.locator(".af-looks thead th").nth(2)).to_have_text("after step 2")
        expect(root.locator(".af-field output")).to_have_text("2")
        dot = root.locator(".af-dot[role]").first                                          # points, while it runs
        dot.focus()
        page.keyboard.press("ArrowRight")
        expect(root.locator(".af-said").first).to_have_text(re.compile("step 2: reward"))
        shot(page, f"live-running-{theme}")
        stop.focus() if theme == "dark" else stop.click()
        page.keyboard.press("Enter")                                                       # a second time does nothing
        expect(status).to_have_text(re.compile(r"■ stopped after \d+ steps; what was trained is kept"))
        expect(stop).to_be_disabled()
        assert value(page, "[board.wait().history.interrupted, len(board.result.history) < 300]") == [True, True]
        assert value(page, "len(board.result.sample(farm.eval.head(2)))") == 2
        slider.focus()
        page.keyboard.press("End")
        expect(root.locator(".af-field output")).to_have_text(re.compile("newest"))
        shot(page, f"live-stopped-{theme}")
        assert page.problems == []



@pytest.mark.parametrize("theme", ["light", "dark"])
def test_training_board_ends(lab, theme):
    asked = f"asked = ['What do hens eat?', {EVIL!r}]\n"
    run = "board = training_board(train_sft, sft, farm.sft, epochs=1, batch_size=4, sample=asked, every=20); board"
    with lab.open(TRAINED, asked + run, "board.wait()", theme=theme) as page:
        root = page.locator(".af-live")
        expect(root.locator(".af-status")).to_have_text("✓ sft: 175 steps")
        expect(root.locator(".af-chart figcaption")).to_have_text(["loss"])
        expect(root.locator(".af-place.af-crowded")).to_have_count(1)
        points = root.locator(".af-dot[role]").count()
        assert 75 < points <= 150 and value(page, "[board.view['state'], len(board.result.history)]") == ["done", 175]
        expect(root.get_by_role("button", name="stop")).to_be_disabled()
        root.locator(".af-dot[role]").nth(20).hover(force=True)
        expect(root.locator(".af-said")).to_have_text(re.compile(r"step \d+: loss [\d.]+, from [\d.]+ to [\d.]+"))
        expect(root.locator(".af-looks")).to_contain_text(EVIL)
        assert root.locator("img").count() == 0 and not page.evaluate("window.attacked")
        shot(page, f"live-done-{theme}")
        assert page.problems == []


def test_training_board_fails(lab):
    broken = "def broken(table): raise ValueError('no <b>reward</b> today')\n"
    with lab.open(TRAINED, broken + "board = training_board(train_ppo, sft, broken, farm.unlabeled); board") as page:
        root = page.locator(".af-live")
        expect(root.get_by_role("alert")).to_have_text("ValueError: no <b>reward</b> today")
        expect(root.locator(".af-status")).to_have_text("✗ ppo failed after 0 steps")
        shot(page, "live-failed")
        assert "no <b>reward</b> today" in page.ask("board.wait()")
        assert page.problems == []


PANEL = """
from alpacafarm_nb import farm_panel
from alpacafarm_nb.widgets.farm_panel import SIZES, Sizes
SIZES["small"] = Sizes(160, 1, 20, 16, 3, 32)
panel = farm_panel()
panel
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_farm_panel(lab, theme):
    with lab.open(PANEL, theme=theme) as page:
        root = page.locator(".af-panel")
        status, rows, run = root.locator(".af-status"), root.locator(".af-rows tbody tr"), root.locator(".af-go")
        expect(status).to_contain_text("choose and press run")
        root.get_by_label("pairs", exact=True).fill("0")                        # a bad value, by Enter
        page.keyboard.press("Enter")
        expect(root.get_by_role("alert")).to_contain_text("n_pairs must be positive, but is 0")
        root.get_by_label("pairs", exact=True).fill("60")
        root.get_by_label("n", exact=True).fill("4")
        run.click()                                                             # mouse
        expect(root.get_by_role("alert")).to_be_hidden()
        expect(root.locator(".af-steps")).to_have_text(re.compile(r"part \d of 8: "))
        expect(rows).to_have_count(2)
        expect(status).to_have_text("✓ best_of_n: done")
        assert value(page, "[list(panel.models), panel.settings.n_pairs]") == [["sft", "best_of_n"], 60]
        root.get_by_label("method").focus()                                     # keyboard
        page.keyboard.type("dpo")
        expect(root.get_by_label("n", exact=True)).to_be_disabled()
        page.keyboard.press("Tab")                                              # over what DPO does not use
        page.keyboard.type("0.05")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        for _ in range(5): page.keyboard.press("ArrowLeft")                     # noise down to nothing
        page.keyboard.press("Enter")
        expect(rows).to_have_count(3)
        expect(status).to_have_text("✓ dpo: done")
        expect(root.locator(".af-rows")).to_contain_text("beta 0.05 · labels simulated · 60 pairs · seed 0")
        sent = value(page, "[panel.settings.method, panel.settings.kl_strength, panel.settings.p_label_flip]")
        assert sent == ["dpo", .05, 0]
        rate = "panel.board.win_rate('dpo')"
        gold = figure_text(*value(page, f"[round({rate}.win_rate, 2), round({rate}.standard_error, 2)]"))
        expect(rows.filter(has_text="beta 0.05")).to_contain_text(gold)
        root.get_by_role("button", name="open dpo").click()
        pairs = root.locator(".af-explorer .af-count")
        expect(pairs).to_have_text("20 of 20 pairs")
        root.locator(".af-explorer").get_by_label("show").select_option("tie")
        expect(pairs).not_to_have_text("20 of 20 pairs")
        expect(pairs).to_have_text(f"{value(page, 'panel.pairs')['found']} of 20 pairs")
        shot(page, f"panel-{theme}")
        root.get_by_label("method").select_option("ppo")
        root.get_by_role("button", name="open sft").focus()
        page.keyboard.press("Enter")
        expect(root.locator("h4").filter(has_text="compared with the reference's")).to_be_visible()
        run.click()
        root.get_by_text("curves of the last training").click()
        expect(root.locator(".af-small figcaption").first).to_have_text("reward")
        shot(page, f"panel-running-{theme}")
        root.get_by_role("button", name="stop").click()
        expect(status).to_have_text("■ stopped: no row was added")
        assert value(page, "[panel.wait(), list(panel.models)]") == [None, ["sft", "best_of_n", "dpo"]]
        root.get_by_role("button", name="remove dpo").click()
        expect(rows).to_have_count(2)
        root.get_by_role("button", name="remove all rows").focus()
        page.keyboard.press("Space")
        expect(rows).to_have_count(1)
        assert page.problems == []
