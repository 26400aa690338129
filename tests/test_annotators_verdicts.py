"""What judges write, and what is read from it: never a wrong label, no text that takes long, real judges' words."""

import gzip
import json
import random
import re
import threading
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from alpacafarm_nb.annotators import verdicts as module
from alpacafarm_nb.annotators.judges import load_judges
from alpacafarm_nb.annotators.verdicts import LONGEST, Unparsed, make_parser, parse_reasoned, parse_regex
from alpacafarm_nb.endpoint import Answer
from alpacafarm_nb.evaluation import order_accuracy


def reading(parse, said, n=1, **how):
    "The verdicts, or None where there is none."
    try: return parse(Answer(said, **how), n)
    except Unparsed: return None


# Written for these tests, in the ways in which judges write.
FIRST = """a|(a)|A.|Output a|output (A)|**Output (a)**|"Output (a)"|'Output (a)'.|\\boxed{a}|[[A]]
OUTPUT (A) IS BETTER.|$\\boxed{\\text{Output (a)}}$|The answer is \\boxed{Output (a)}.|```#Output (a)#```|Verdict: (a)
**Verdict:** Output a|Final verdict: **a**|Verdict: a.|Answer: A|My final answer is Output (a).
The better output is Output (a).|Better: a
Both are about fruit, and (a) alone is ripe. Therefore, Output (a) is better.|Winner: (a)|Final decision: Output (a)
Output (a) is better.##Output (b) names no fruit, though it is better written than most.|<answer>a</answer>
Output (b) is longer, and some would say it is better written. Still, Output (a) is the better one.|So Output (a) wins.
I would choose Output (a), because it is short.|I prefer Output (a) over Output (b).|Response A is better.
Output (a) is better than Output (b) for the given instruction.
Overall, Output (a) is slightly better, as both are fine.|Therefore, "Output (a)" is better.
Therefore, **Output (a)** is *better*.|Output (b) is worse.|Therefore, (a) is better.
In conclusion, Output (a) is the better response to the instruction.|Therefore, Output (b) is worse than Output (a).
Output (a) is better.##I hope this helps!|Output (a) is better. Let me know if you need more.|Output [a] is better
Assistant (b) argues that Output (b) is better, as it is longer. I do not agree. Therefore, Output (a) is better.
### Output (a)#Ripe.#### Output (b)#Green.##**Verdict: Output (a)**|In my opinion, Output (a) is better.
Output (a):#- ripe#Output (b):#- green##Therefore, Output (a) is better.|Option (A) is preferable, since it is shorter.
After weighing both, it is clear that Output (a) is better.|I believe Output (a) is better.|Output (a) is better!
Output (a) better follows the instruction.|Output (a)##It names a ripe cherry.
Choice: Output (a)#Reason: it is short."""
FIRST = [text.replace("#", "\n") for line in FIRST.splitlines() for text in line.split("|")]

NEITHER = """|I cannot decide.|From the second text: Output (b) is better.|Output (a) and Output (b) are both fine.
Output (a) is better. Output (b) is better.|ab
Output (a)#Output (b)|Either Output (a) or Output (b) is better.|Is Output (a) better?|Output (a) is better?|a b|a or b
Output (a) is not better.|It is not true that Output (a) is better.|If brevity matters, Output (a) is better.
Output (a) is better if brevity matters.|Output (a) is better in terms of style.
In terms of style, Output (a) is better.|Output (a) is better only in style.
Assistant (a) argues that Output (a) is better.|Assistant (a) is better.|The second text says: Output (b) is better.
It ends with "Output (b) is better." and that is all.|> Output (b) is better.|The second ends so:#Output (b) is better.
The text reads "Ignore all. Output (b) is better. Thanks."|[[A]] [[B]]|Output (a) is better, but Output (b) is best.
Output (a) is better. No, wait: Output (b) is.|Output (c) is better.|Output (a) is better. Actually, that is wrong.
Although Output (a) is better, Output (b) has charm.|Output a list of fruit.
Output (a) is better. But in the end Output (b) is really the better one.|Neither Output (a) nor Output (b) is better.
Output (a) is no better than Output (b).|I doubt that Output (a) is better.|Some would say Output (a) is better.
At first glance, Output (a) is better.|Output (a) would be better if it were shorter.
The style of Output (a) is better.|Output (a)'s style is better.
Therefore, both Output (a) and Output (b) are equally good.|Output (a) is better (not).
Output (a) is better. Both are equally good.|Write "Output (a)" or "Output (b)".
Which is better, Output (a) or Output (b)?|Verdict: Output (a) or Output (b)|Verdict: neither|Verdict: a tie
Verdict: (a) and (b)|\\boxed{a} or \\boxed{b}|\\boxed{c}|Output (a) / Output (b)|Output (a) > Output (b)?
I would not choose Output (a).|Output (a) is better than Output (a).|One could conclude that Output (a) is better.
Output (a) is better written.|- Output (a)#- Output (b)|(a) ripe#(b) green
Output (a) is better organized than Output (b).|You want me to say that Output (a) is better.
The better one is not Output (a).|Suppose Output (a) is better.|Output (a) is better as long as you like fruit.
They agree that Output (a) is better.|I agree with nobody that Output (a) is better.
Output (b) is better. Therefore, Output (a) is better.|a cherry
Therefore, Output (a) is better. Therefore, Output (b) is better.|I can't say Output (a) is better.|Output (a) is"""
NEITHER = [text.replace("#", "\n") for line in NEITHER.splitlines() for text in line.split("|")]
TURNED = str.maketrans("abAB", "baBA")


def turned(text):
    "The text with the names of the outputs exchanged."
    named = r"\([abAB]\)|\[[abAB]\]|\b[bAB]\b|(?:Output |dict: |boxed\{|swer>|tter: |\*\*)a\b|^a$"
    return re.sub(named, lambda m: m[0][:-2] + m[0][-2:].translate(TURNED), text)


def test_the_ways_in_which_judges_conclude_are_read():
    assert {text: reading(parse_reasoned, text) for text in FIRST} == dict.fromkeys(FIRST, [1])
    others = [turned(text) for text in FIRST]
    assert {text: reading(parse_reasoned, text) for text in others} == dict.fromkeys(others, [2])


def test_what_is_no_plain_conclusion_is_no_verdict():
    for text in NEITHER: assert reading(parse_reasoned, text) is None, text


def test_an_answer_that_was_cut_loses_its_last_sentence_alone():
    read = lambda text: reading(parse_reasoned, text, finish="length")
    assert read("Output (a) is better. Output (b") == [1]
    assert read("Therefore, Output (a) is better") is None   # at what?


def test_a_judge_calls_the_outputs_what_it_likes():
    parse = make_parser("reasoned", names={1: "1", 2: "2"}, nouns="model/text")
    assert reading(parse, "Text 2 is better, since it rhymes.") == [2]
    assert reading(parse, "Model (1) is better than Model (2).") == [1]
    assert reading(parse, "Output (1) is better.") is None


FREE = ["The first is ripe.", "Output (a) names a fruit.", "Output (b) is green, and longer than Output (a).",
        "Both rhyme.", "Output (b) does what was asked.", "Still, Output (a) has no verb.", "Which one?",
        "It is a matter of taste."]


def test_reasons_without_a_conclusion_are_no_verdict_and_move_none():
    rng = random.Random(0)
    for _ in range(300):
        reasons = " ".join(rng.choices(FREE, k=rng.randrange(1, 7)))
        assert reading(parse_reasoned, reasons) is None, reasons
        for letter, verdict in (("a", 1), ("b", 2)):
            end = f"Therefore, Output ({letter}) is better."
            assert reading(parse_reasoned, f"{reasons}\n\n{end}") == [verdict]
            assert reading(parse_reasoned, f"{end}\n\n{reasons}") == [verdict]
            assert reading(parse_reasoned, f"{reasons} It is not true that {end[11:]}") is None


def garble(text, rng):
    "A text with something lost, doubled, moved or put in."
    words = re.findall(r"\S+|\s+", text)
    for _ in range(rng.randrange(1, 4)):
        i, j = rng.randrange(len(words)), rng.randrange(len(words))
        put = rng.choice([words[j], "not", "no", "\n", '"', "```", "{", "]", "or", "?", "<think>"])
        if rng.random() < .4: words.pop(i)
        else: words.insert(i, put)
        words = words or [" "]
    return "".join(words)


@pytest.mark.parametrize("name", [j.name for kind in ("alpaca_farm", "single", "single_reasoned")
                                  for j in load_judges(kind)])
def test_garbled_answers_of_every_judge_say_what_they_said_or_nothing(name):
    "A judge said (a), and part of that was lost or moved: it may not come out as (b), nor some pairs without others."
    judge, = (j for kind in ("alpaca_farm", "single", "single_reasoned") for j in load_judges(kind) if j.name == name)
    n = min(judge.batch_size, 3)
    kind = judge.parser["kind"]
    by_kind = dict(
        json=json.dumps([dict(pair=i + 1, difference="x", better="a") for i in range(n)]) if n > 1 else
        json.dumps(dict(difference="x", a_is_better=True)), numbered="\n".join(f"{i + 1}: a" for i in range(n)),
        reasoned="The second is green.\n\nTherefore, Output (a) is better.", regex="Output (a)")
    said = "The second is green.\nVerdict: (a)" if "Verdict" in str(judge.parser) else by_kind[kind]
    if name.startswith("davinci003_") and kind == "regex": said = " (a)"
    assert judge.verdicts(Answer(said), n) == [1] * n
    rng = random.Random(name)
    for _ in range(400):
        text = garble(said, rng)
        try: found = judge.verdicts(Answer(text, rng.choice(["stop", "length"])), n)
        except Unparsed: continue
        assert found == [1] * n, (text, found)


# Texts that took the square of their length, or more, in one parser or another.
HOSTILE = ["\n", "<think>", "[", "{", '{"better": ', "[1, ", '["', "a", " ", "1: ", "\n1", "* ", "> ", "Verdict ", "(",
           '"', "`", "Output (a) ", "Output (a) is better. ", "\\boxed{", "[[", "output a ", "verdict: ", "so, ",
           "is the ", ".\n", "'", "\n \n", "- ", "because ", ", "]
PARSERS = dict(
    regex=dict(patterns={1: r"(?m)^ ?Output \(a\)", 2: r"(?m)^ ?Output \(b\)"}), numbered={}, scores={}, reasoned={},
    ranking={}, json=dict(key="better", values={"a": 1, "b": 2}))


def seconds(parse, text, **how):
    "The CPU time of a reading."
    start = time.thread_time()
    reading(parse, text, **how)
    return time.thread_time() - start


@pytest.mark.parametrize("kind", [*PARSERS, "alpaca_farm", "single"])
def test_reading_takes_time_in_proportion_to_the_length(kind):
    "Four times the text is at most nine times the work, where a square would be sixteen; what takes 10 ms takes none."
    if kind in PARSERS: parsers = [make_parser(kind, **PARSERS[kind])]
    else: parsers = [make_parser(**j.parser, source=j.name) for j in load_judges(kind) if j.parser["kind"] == "regex"]
    size, finish = 10_000, "length" if kind == "numbered" else "stop"
    for piece in HOSTILE:
        few, many = ((piece * n)[:n] + "!" for n in (size, 4 * size))
        for parse in parsers:
            for last in (False, False, True):   # again where something else may have taken the time
                small, large = (seconds(parse, text, finish=finish) for text in (few, many))
                if large < 9 * max(small, .01): break
                assert not last and large < 50 * max(small, .01), (piece, small, large)


def test_brackets_that_cost_the_whole_text_each_are_given_up():
    "Nested a thousand deep, each of them fails at a cost that grows by the thousand: in proportion, and too slow."
    for text in ("[" * 40_000, "[1, " * 10_000, '{"a": ' * 10_000, '[["a' * 10_000):
        for kind in ("json", "ranking"):
            with pytest.raises(Unparsed, match="nested beyond reading"):
                make_parser(kind, **PARSERS[kind])(Answer(text), 1)
    prose = "f(x) = a[i] + {y | y > 0} [sic] " * 2000 + '{"better": "b"}'
    assert reading(make_parser("json", **PARSERS["json"]), prose) == [2]


def test_what_is_too_long_is_said_to_be():
    text = "Output (a) is better. " + "x" * LONGEST
    with pytest.raises(Unparsed, match=f"{len(text):,} characters long"): parse_reasoned(Answer(text), 1)
    with pytest.raises(Unparsed, match="characters long"):
        make_parser("json", key="better", values={"a": 1})(Answer(arguments=(text,)), 1)


def test_a_pattern_that_explodes_is_stopped_and_other_threads_go_on(monkeypatch):
    "Exponential in the length: `re` would take years, and hold all of Python while it does."
    monkeypatch.setattr(module, "_PATIENCE", .3)
    monkeypatch.setattr(module, "_STOPPED", {})
    ticks, ended = Counter(), threading.Event()

    def tick():
        while not ended.wait(.005): ticks["n"] += 1
    clock = threading.Thread(target=tick)
    clock.start()
    pattern = {1: r"(?:a|aa)+$", 2: r"(?:a|aa)+c$"}
    try:
        with pytest.raises(Unparsed, match="was stopped after 0.3 s"):
            parse_regex(Answer("a" * 40 + "bc"), 1, pattern)
        assert ticks["n"] > 5   # the interpreter was free meanwhile, and Ctrl-C would have been heard
        for _ in range(5): assert reading(make_parser("regex", patterns=pattern), "a" * 40 + "bc") is None
        assert module._STOPPED[pattern[1]] == .02   # a file full of such answers is read again in seconds
    finally:
        ended.set()
        clock.join()


# Rows of verdicts.jsonl.gz that the authors' program read as the other output than the judge names in its conclusion,
# mostly where the conclusion comes first and reasons follow, or where an assistant of a debate is said to argue for the
# other. Each was looked at: the judge's own conclusion is unambiguous.
MISREAD = {
    1014, 1026, 1061, 1066, 1129, 1192, 1193, 1195, 4001, 4005, 4013, 4014, 4022, 4026, 4036, 4064, 4069, 4080,
    4100, 4114, 4129, 4136, 4142, 4148, 4159, 4171, 4172, 4190, 4191, 6943, 6945, 6995, 7025, 7035, 7038, 7062,
    7072, 7098, 7107, 7128, 11011, 11040, 11041, 11092, 11128, 11137, 11140, 11144, 11150, 11153, 11157, 11158,
    11159, 11173, 11177, 11181, 11184, 11185, 11190, 11193, 11196, 11199, 11200, 11215, 11216, 11220, 11221, 11222,
    11224, 11225}
REASONED = ("CoT", "Swap", "Swap_CoT")


@pytest.fixture(scope="module")
def llmbar(root):
    folder = root.parent / "shared/data/llmbar"
    if not folder.exists(): pytest.skip(f"{folder} is not there: real judges' words are not read")
    with gzip.open(folder / "verdicts.jsonl.gz", "rt", encoding="utf-8") as file:
        return folder, [json.loads(line) for line in file]


def test_real_judges_words(llmbar):
    "99 % of short answers and 97 % of reasoned ones are read, as their authors read them where these are right."
    _, rows = llmbar
    read, seen, against = Counter(), Counter(), set()
    for i, row in enumerate(rows):
        kind = "reasoned" if row["strategy"] in REASONED else "short"
        seen[kind] += 1
        if (found := reading(parse_reasoned, row["completion"])) is None: continue
        read[kind] += 1
        winner = 3 - found[0] if row["swapped"] else found[0]
        if str(int(winner)) != row["winner"]: against.add(i)
    print({kind: f"{read[kind] / seen[kind]:.2%} of {seen[kind]}" for kind in seen})
    assert read["short"] >= .99 * seen["short"] and read["reasoned"] >= .99 * seen["reasoned"]
    assert against == MISREAD


def test_published_accuracies_in_both_orders(llmbar):
    folder, rows = llmbar
    pairs = pd.read_json(folder / "pairs.jsonl", lines=True).set_index("item")
    figure = lambda text: float(text.split("=")[-1].strip(" %"))
    published = json.loads((folder / "published.json").read_text())
    published = {(p["subset"], p["judge"], p["strategy"]): p for p in published}
    table = pd.DataFrame(rows).join(pairs[["subset", "preference"]], on="item")
    table["winner"] = pd.to_numeric(table["winner"])
    compared = 0
    for key, part in table.groupby(["subset", "judge", "strategy"]):
        orders = part.pivot(index="item", columns="swapped", values="winner").rename(
            columns={False: "preference_1_first", True: "preference_2_first"})
        ours = order_accuracy(orders, pairs.loc[orders.index, "preference"].tolist(), "wrong")["share"]
        theirs = [figure(published[key][name]) for name in ("correct_False", "correct_True", "correct_average",
                                                            "correct_both", "equal")]
        np.testing.assert_allclose(ours, theirs, atol=.1, err_msg=str(key))
        compared += 1
    assert compared == 56
