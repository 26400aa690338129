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

from alpacafarm_nb.annotators import parsers as module
from alpacafarm_nb.annotators.judges import load_judges
from alpacafarm_nb.annotators.parsers import LONGEST, ParseError, make_parser, parse_reasoned, parse_regex
from alpacafarm_nb.core import ConfigError
from alpacafarm_nb.servers.endpoint import Answer
from alpacafarm_nb.evaluation import order_accuracy


def reading(parse, said, n=1, **how):
    "The verdicts, or None where there is none."
    try: return parse(Answer(said, **how), n)
    except ParseError: return None


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
        except ParseError: continue
        assert found == [1] * n, (text, found)


# What denies a conclusion, takes it back or only mentions it, in many places and words: the line says where it stands.
DENIED = """It is not the case that, overall, @|I can't conclude that, overall, @|I disagree that, overall, @
I doubt that, all in all, @|It is a mistake to conclude, therefore, @|By no means, @|It is false, that, @
Wrong conclusion: @|I cannot agree that#@|It is wrong to say the following.#@|A tempting verdict: @
I can't conclude that, overall, I prefer Output (a).|It is not so, therefore, that is, @|I do not think#@
Nothing in the text supports the view that, on the whole, @|Were the question about fruit, @
Another judge's verdict: @|It would take a miracle for me to hold, as the text demands, that @
What the text wants is this line.#It reads,#@
The conclusion that follows would be unfair.#@|Let's assume the opposite. Then @"""
LATER = """EDIT: I misread. It should be the other one.|Oops, I swapped them.|Hold on, I mixed up the labels.|NOT.
False!|… not!|Apologies, I meant the other one.|(I mean Output (b).)|Note: I reversed the labels above.
I retract that.|Best: Output (b)|That would be the wrong conclusion, though.
Let me reconsider. The second one answers correctly.|Final: (b)|Revised: (b)|Preferred: (b)|Selected output: (b)
Answer: 2|**Final answer:** the second|2|B|It's the second.|Output 2 is better.
Overall, the second output is the better choice.|All in all, the other output is preferable.
In short, the second wins.|→ changed to (b) after a recount|Strike that: the order was wrong.|The labels are reversed.
Or is it Output (b)?|P.S. On rereading, the order was wrong.|Output (b), actually.|~~Done~~ Correction: (b)
Except that it isn't.|The judge mixed up the columns."""
WITHIN = """Output (a) is better: wrong!|Output (a) is better; this is not true.|Output (a) is better (false).
@ (withdrawn)|Output (a) is better (according to the text in it).|Output (a) is better... in a world without verbs.
~~@~~|Output (a) is better: a claim that I reject.|Output (a) is better ❌|Verdict: Output (a) (withdrawn, see below)"""
MENTIONED = r"""The model answers [[A]] in its text, which is a trick.|The text ends with <answer>a</answer>. So what?
Output (a) tries to trick me by writing \boxed{a}. The second is right.|The second ends in this line:#[[A]]
Output (a) includes <answer>a</answer> as asked. Output (b) does not, which is what the instruction wanted.
The second one ends „@“|The second one ends, «@»|The second one ends, « @ »|The second one ends, 「@」
The second one ends, ‘@’|The second one ends, '@'|The second one ends, ``@''|The second one ends, `@`
Ranking: 1. Output (b) 2. Output (a)|**Output (a)**##It has three mistakes.##**The second output**##It is right.
(a)##- Wrong sum.##(b) has the right sum and so it is what I take.
Output (a)#Wrong sum.##Output (b) analysis#Right sum.
Accuracy#@##Helpfulness#the second output is far ahead, so I pick it.|Accuracy#@|**Output (a)**##- Strengths: ripe
Output (a)#It does not rhyme."""
PLAIN = """Therefore, @</s>|Therefore, @<|im_end|>|Therefore, @ 🎉|Therefore, Output (a) is better 🎉|@\u200b|✅ @
<answer>(a)</answer>|<answer>#Output (a)#</answer>|<thinking>Output (b) is better.</thinking>@
The first output is better.|Output (a) > Output (b)|The better answer is Output (a), not Output (b).|I'd say @
I'd go with Output (a).|{"verdict": "Output (a)"}
{"reason": "Output (b) is green, and Output (a) is ripe.", "verdict": "Output (a)"}
```json#{"better_output": "(a)", "why": "It rhymes."}#```|My final verdict is: [[A]]|It rhymes. [[A]]|A is better.
While it is not perfect, @|Output (b) does not answer the question, so @|Neither is perfect, but @|Clearly, @
Output (a) should be preferred over Output (b).|Output (a) is preferable to Output (b).|### Verdict#Output (a)
Considering style, tone and length, @|@##Reasons:#1. It is ripe.#2. It is red.|I conclude that, overall, @
@##I hope this helps!|@ I chose it because it rhymes.|Not Output (b). Therefore, @"""
PLAIN = PLAIN.replace("<|", "<¦").replace("|>", "¦>")   # the stroke divides the list


def spread(lines, end="Output (a) is better."):
    "The texts of a list, and the same ones with the outputs exchanged."
    texts = [t for line in lines.splitlines() for t in line.split("|")]
    texts = [t.replace("#", "\n").replace("@", end).replace("¦", "|") for t in texts]
    return texts, [other_way_round(text) for text in texts]


def other_way_round(text):
    "The text with the outputs exchanged, whatever they are called."
    names = dict(zip("first second 1 2 A B a b".split(), "second first 2 1 B A b a".split()))
    named = r"(?i)\bfirst\b|\bsecond\b|(?<=Answer: )2|(?<=Output )2|^2$|(?<=[(\[{>])[ab](?=[)\]}<])|\bB$|^A(?= is)"
    return re.sub(named, lambda m: names[m[0]], text)


@pytest.mark.parametrize("texts", [DENIED, WITHIN, MENTIONED], ids=["denied", "within", "mentioned"])
def test_a_conclusion_that_is_denied_or_mentioned_is_no_verdict(texts):
    for side in spread(texts):
        for text in side: assert reading(parse_reasoned, text, finish="stop") is None, text
    for text in ("# Output (a)\nIt names a fruit.", "> Output (a) is better.", "Output (a)\n\nThis is wrong."):
        assert reading(parse_reasoned, text) is None, text


def test_what_is_said_after_the_conclusion_is_heard():
    for mine, later in zip(("Output (a)", "Output (b)"), spread(LATER)):
        for text in later:
            for gap in (" ", "\n", "\n\n"):
                said = f"Therefore, {mine} is better.{gap}{text}"
                assert reading(parse_reasoned, said) is None, said


def test_plain_answers_in_more_shapes_are_read():
    for verdict, side in enumerate(spread(PLAIN), 1):
        assert {t: reading(parse_reasoned, t, finish="stop") for t in side} == dict.fromkeys(side, [verdict])


NAMED = """Output (a)|**Output (a)**|Output (a).|output (a)|"Output (a)"|`Output (a)`|Output(a)|Output  (a)|OUTPUT (a)
Output (a) is better.|Answer: Output (a)|**Answer:** Output (a)|Output (a)</s>|<think>Output (b)</think>Output (a)
#Output (a)#"""
UNNAMED = """Output (a)#Output (b)|Output (a), no wait, Output (b)|Output (a). No, Output (b).
Output (a), Output (b): tie|Output (a)##Wait, Output (b) is better.|Output (a): 0/10. Output (b): 10/10
Output (a): ❌ Output (b): ✅|Output (a) ❌|Output (a) – neither|Output (a)#This is wrong.|Output (a). Both are fine.
Output (a): wrong|Output (a): it is ripe|Output (a), not really.|Output (a) or Output (b)
Output (a), because Output (b) is not| (a), (b)| (a), no (b)| (a) – neither| (a): 0, (b): 1| (a)# (b)
 (a)##### Output (b)"""
CUT = """Output (a): This response correctly answers|Output (a)#- Strengths: clear, concise|Output (a)##It is
Output (a), since it|Output (a) is better|Output (a).| (a), since it| (a) and"""


def test_judges_of_one_word_say_a_name_or_nothing():
    judges = {j.name: j for kind in ("alpaca_farm", "single") for j in load_judges(kind)}
    short = [judges[name] for name in ("single", "chatgpt_1", "davinci003_2", "davinci003_4")]
    for verdict, side in enumerate(spread(NAMED), 1):
        for judge in short[:2]:
            assert {t: reading(judge.verdicts, t, finish="stop") for t in side} == dict.fromkeys(side, [verdict])
    for judge in short:
        for text in sum(spread(UNNAMED), []): assert reading(judge.verdicts, text, finish="stop") is None, text
        for text in sum(spread(CUT), []): assert reading(judge.verdicts, text, finish="length") is None, text
        assert reading(judge.verdicts, "Output (b)", finish="length") == [2]   # the limit was just enough
        assert reading(judge.verdicts, "# Output (a)\nThis is wrong.") is None
    for text in (" (b)\n\n### Instruction", " (b), since it rhymes.", "(b), because it is the only fruit"):
        assert [reading(j.verdicts, text) for j in short[2:]] == [[2], [2]], text
    assert reading(short[2].verdicts, " (b)\n\n### Instruction", finish="length") == [2]
    assert reading(short[1].verdicts, "Output (b), since it rhymes.") == [2]


def test_a_numbered_line_that_goes_on_to_the_other_letter_is_none():
    parse = make_parser("numbered")
    for text in ("1: a; actually b", "1: a - wrong, b", "1: a, b equal", "1: a, or b", "1: a – tie", "1: a. No, b.",
                 "1: b, no a", "1: b; a is better", "1: b – (a)", "1: b, wait", "1: b, a and b are fine"):
        assert reading(parse, text) is None, text
    for text in ("1: a, ", "1: a - sho"): assert reading(parse, text, finish="length") is None, text
    read = {"1: a": [1], "1: b, since (a) names no fruit": [2], "1: a because b is green": [1], "1: b – shorter": [2],
            "1: b – a shorter text": [2], "1: (b). It is shorter.": [2], "1: a, the shorter one": [1]}
    assert {text: reading(parse, text) for text in read} == read
    assert reading(parse, "1: a\n2: b, since it is", 2, finish="length") == [1, 2]


@pytest.mark.parametrize("pattern", ["(?:(?:a{200}){200}){200}", "((a{1,99}b){99}|c){0,99}", "(?:[a}]{999}){999}",
                                     r"(?:\({5000}){5000}", "(?:a{2}){99999999999999}"])
def test_a_pattern_that_is_vast_when_written_out_is_refused_before_it_is_compiled(pattern):
    for name in ("patterns", "cut"):
        settings = {"patterns": {1: "a", 2: "b"}} | {name: {1: pattern, 2: "b"}}
        with pytest.raises(ConfigError, match="repeats repetitions: written out it has"):
            make_parser("regex", **settings)


def test_usual_patterns_are_small_when_written_out():
    for pattern, size in (("abc", 3), ("a{3}b", 4), ("(ab){2,5}", 10), (r"\{9}", 3), ("[a{9}]", 1), ("x{,4}y*", 5),
                          ("(?:ab){2,5}(?P<x>c)(?<!d)", 12), ("((ab){2}c){3}", 15), ("", 0), ("a)b{2}", 4)):
        assert module._written_out(pattern) == size, pattern
    assert reading(make_parser("regex", patterns={1: r"\W{0,1000}x", 2: "y"}), "x") == [1]


# Texts that took the square of their length, or more, in one parser or another.
HOSTILE = ["\n", "<think>", "[", "{", '{"better": ', "[1, ", '["', "a", " ", "1: ", "\n1", "* ", "> ", "Verdict ", "(",
           '"', "`", "Output (a) ", "Output (a) is better. ", "\\boxed{", "[[", "output a ", "verdict: ", "so, ",
           "is the ", ".\n", "'", "\n \n", "- ", "because ", ", ", " 'a", " ‘a", "~~a", "[[a]] ", "<answer>a</answer> ",
          "Output (a) is better; " * 5 + "\n", "Output (a) is better (x); " * 5 + "\n", "Output (a) > ", "the second ",
          "1: a - ", "my final ", "A is ", "Output (a) is better.\n(b), ", "</s>", "\n\"a\"\n", "Output (a) because "]
PARSERS = dict(
    regex=dict(patterns={1: r"(?m)^ ?Output \(a\)", 2: r"(?m)^ ?Output \(b\)"}), numbered={}, scores={}, reasoned={},
    ranking={}, json=dict(key="better", values={"a": 1, "b": 2}))


def seconds(parse, text, **how):
    "The CPU time of a reading."
    start = time.thread_time()
    reading(parse, text, **how)
    return time.thread_time() - start


def both_ways(judge):
    "The parsers of a judge with patterns: of an answer that ended, and of one that was cut."
    patterns = [judge.parser[name] for name in ("patterns", "cut") if name in judge.parser]
    return [make_parser("regex", patterns=p, source=judge.name) for p in patterns]


@pytest.mark.parametrize("kind", [*PARSERS, "alpaca_farm", "single"])
def test_reading_takes_time_in_proportion_to_the_length(kind):
    "Four times the text is at most nine times the work, where a square would be sixteen; what takes 10 ms takes none."
    if kind in PARSERS: parsers = [make_parser(kind, **PARSERS[kind])]
    else: parsers = [parse for j in load_judges(kind) if j.parser["kind"] == "regex" for parse in both_ways(j)]
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
            with pytest.raises(ParseError, match="nested beyond reading"):
                make_parser(kind, **PARSERS[kind])(Answer(text), 1)
    prose = "f(x) = a[i] + {y | y > 0} [sic] " * 2000 + '{"better": "b"}'
    assert reading(make_parser("json", **PARSERS["json"]), prose) == [2]


def test_what_is_too_long_is_said_to_be():
    text = "Output (a) is better. " + "x" * LONGEST
    with pytest.raises(ParseError, match=f"{len(text):,} characters long"): parse_reasoned(Answer(text), 1)
    with pytest.raises(ParseError, match="characters long"):
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
        with pytest.raises(ParseError, match="was stopped after 0.3 s"):
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
