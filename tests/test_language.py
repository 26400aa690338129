"""Phrases that read as translated stay out of prose, docstrings, comments and messages."""

import io
import re
import tokenize

import notebooks
import pytest
from conftest import ROOT

PHRASES = {   # a pattern, and what to write in its place
    r"(?<!there )(?<!There )\b(?:is|are) no (?:path|number|text|name|table|list|model|method|file|folder|map|policy)\b":
        "is not a …",
    r"\bstands? there twice\b|\bexists? twice\b": "appears twice",
    r"\b(?:a|one) row an? (?!Colab)\w+|\b(?:samples|answers|tokens|nats|bytes|steps|pairs|rows|labels) an? "
    r"(?:instruction|answer|step|token|prompt|pair|row|epoch|second|parameter)\b": "per",
    r"\bthe way back\b": "the backward pass",
    r"\bof like length\b": "of similar length",
    r"\bin the mean\b": "on average",
    r"\bturned round\b": "flipped",
    r"\banew\b": "again",
    r"\bbeside\b": "next to, compared with, in addition to",
    r"\b(?:no|some|every)body\b|\bwhoever\b": "name who it is",
    r"\bsays so\b|\blikes to be\b|\bby halves\b": "what actually happens",
    r"\bleash(?:ed)?\b": "KL penalty",
    r"\b\w*(?:quantis|optimis|normalis|standardis|initialis|labell|unlabell|behaviour|neighbour|favour)\w*\b":
        "American spelling",
    r"\bwin-rates?\b": "win rate",
}
KEPT = {
    "nbs/lessons/08_ppo_step_by_step.ipynb": ("leash",),   # one image, where the KL penalty is introduced
    "nbs/api/02_files.ipynb": ("nobody",),                 # the name of a user
    "nbs/api/70_annotators/03_judges.ipynb": ("nobody",),  # the name of a judge
    "nbs/api/70_annotators/02_parsers.ipynb": ("nobody",),  # a word that judges use
    "nbs/api/10_farmyard/02_tasks.ipynb": ("nobody",),     # a constraint of the frozen world
}
FOUND = re.compile("|".join(f"(?:{p})" for p in PHRASES), re.IGNORECASE)
PAGES = sorted(page for folder, kind in (("nbs", "**/*.ipynb"), (".", "*.md"), ("nbs/lessons", "*.md"),
                                         ("benchmarks", "*.md"), ("alpacafarm_nb/widgets/static", "*.js"))
               for page in (ROOT / folder).glob(kind))


def texts_of_code(source):
    "Comments and texts of a cell; a text that is one identifier is code."
    source = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n"))
    try: tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError): return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokens:
        if token.type in kinds and not re.fullmatch(r"[rbf]*[\"'][\w-]*[\"']", token.string): yield token.string


def prose(page):
    "Everything that a reader of a page reads, code aside."
    if page.suffix != ".ipynb": return [page.read_text(encoding="utf-8")]
    found = []
    for cell in notebooks.read(page)["cells"]:
        source = "".join(cell["source"])
        found += [source] if cell["cell_type"] == "markdown" else texts_of_code(source)
    return found


@pytest.mark.parametrize("page", [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES])
def test_reads_as_written(page):
    kept = KEPT.get(page.relative_to(ROOT).as_posix(), ())
    hits = [(hit[0], text[max(0, hit.start() - 40):hit.end() + 30].replace("\n", " "))
            for text in prose(page) for hit in FOUND.finditer(text) if hit[0].lower() not in kept]
    assert hits == [], [f"{word!r} in …{around}…" for word, around in hits[:20]]


def test_the_list_finds_what_it_is_for():
    for text in ("is no path", "a row a step", "The way back", "turned round", "anew", "beside", "Nobody", "leashed",
                 "16 samples an instruction", "quantised", "labelled", "win-rates"): assert FOUND.search(text), text
    for text in ("there is no path", "besides", "one row per step", "the method is no worse", "labeled", "a win rate"):
        assert not FOUND.search(text), text
    assert list(texts_of_code("x = 'kl_coef'  # why\ny = f'the {x}'"))[0] == "# why"
