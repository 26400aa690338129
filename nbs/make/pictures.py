"""The README's pictures: its ten lines, run in JupyterLab, with the leaderboard and the explorer that they show.

`python nbs/make/pictures.py` writes `nbs/pictures/leaderboard.png` and `explorer.png`; it needs Chromium, playwright.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lab import CHROMIUM, FLAGS, jupyterlab, sync_api  # noqa: E402

LINES = """from alpacafarm_nb import *
farm = load_farm("farmyard")
base = load_base(farm.model)
sft = train_sft(base, farm.sft)
pairs = sample_pairs(sft, farm.preference)
prefs = farm.simulated.annotate_pairs(pairs, p_label_flip=0.25)
rm = train_reward_model(sft, prefs)
ppo = train_ppo(sft, rm, farm.unlabeled)
bon = best_of_n(sft, rm, n=16)
board = leaderboard([sft, ppo, bon], farm.eval, annotators=[farm.simulated, farm.gold])"""
MINUTES = 30   # at most, for training on a slow machine
DISPUTED = "x = explore(board); x.query = {**x.query, 'order': 'disagreement'}; x"


def main() -> None:
    "Run the lines and keep what the last two cells show."
    with sync_api.sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        quiet = {"ALPACAFARM_QUIET": "1"}
        with jupyterlab(Path(folder), browser, env=quiet) as lab:
            with lab.open(f"{LINES};", "board", DISPUTED, width=1180, height=1500) as page:
                for name, what in {"leaderboard": ".leaderboard", "explorer": ".af-explorer"}.items():
                    shown = page.locator(what).first
                    shown.wait_for(timeout=MINUTES * 60_000)
                    page.wait_for_timeout(1000)
                    shown.screenshot(path=ROOT / "nbs" / "pictures" / f"{name}.png")
        browser.close()


if __name__ == "__main__": main()
