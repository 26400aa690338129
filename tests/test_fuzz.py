"""Anything at all, given to every function of the evaluation and to every reader: what comes back is a result, or a
`FarmError` with a sentence."""

import csv
import dataclasses
import datetime
import decimal
import fractions
import functools
import gzip
import html
import io
import json
import random
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpacafarm_nb import evaluation, prompts, records, sources
from alpacafarm_nb.annotators.judges import load_evaluator, load_judges
from alpacafarm_nb.servers.cache import AnnotationCache
from alpacafarm_nb.core import ConfigError, FarmError, RecordError, data_path
from alpacafarm_nb.display import figure_text, plain_cell
from alpacafarm_nb.evaluation.scoreboards import board_figures
from alpacafarm_nb.evaluation.overoptimization import plot_overoptimization
from alpacafarm_nb.evaluation.rankings import scatter
from alpacafarm_nb.evaluation.rates import cluster_ids, share_interval

NAN, INF = float("nan"), float("inf")
ODD = [None, True, False, "", "x", "1", "hen \ud83d", "\0", b"x", -1, 0, 3, 10**19, 10**400, 1.5, -.5, NAN, INF, -INF,
       1e308, -1e308, 5e-324, 2j, pd.NA, pd.NaT, pd.Timestamp("2024-01-01"), datetime.date(2024, 1, 1),
       decimal.Decimal("1.5"), fractions.Fraction(3, 2), [1, 2], [[1], [1, 2]], (1, 2), {"a": 1}, {1},
       np.array([1., 2.]),
       np.float32(1.5), np.int8(1), np.bool_(True), object(), len, int, range(3)]
POOLS = {"instruction": ["What does the hen eat?", "Name a fruit.", "Why?"], "input": ["", "", "of the garden", None],
         "output_1": ["Corn.", "A fig.", ""], "output_2": ["Oats and corn.", "A pear.", "- a\n- b"],
         "preference": [1, 2, 1.5, 1.2, 1.9, 0, None], "generator_1": ["a", "b", "c"], "generator_2": ["b", "c", "d"],
         "annotator": ["ann", "bob", "cat"], "item": [0, 1, 2], "draw": [0, 1, 2, 3], "presented_first": [1, 2, None],
         "utility": [.5, 1., -2.], "index": [0, 1, 2], "dataset": ["x", "y"], "score": [.1, .2]}
SETTINGS = settings(derandomize=True, deadline=None, database=None, max_examples=30,
                    suppress_health_check=list(HealthCheck))

FEWER = settings(SETTINGS, max_examples=12)

odd = st.sampled_from(ODD)


@st.composite
def mostly(draw, good, one_in=9):
    "What `good` draws, and now and then anything else."
    return draw(odd) if draw(st.integers(1, one_in)) == one_in else draw(good)


def some(*values, one_in=9): return mostly(st.sampled_from(values), one_in)


seeds, levels, flags = some(0, 1, 7), some(.95, .5, .999), some(True, False)
ties, numbers = some("half", "label", "drop"), some(.5, 1., 3., 20., 1e-9, 1e9, 10**30, one_in=5)
names = mostly(st.one_of(st.none(), st.sampled_from([*POOLS, "nowhere"]),
                         st.lists(some(*POOLS, "nowhere", one_in=20), max_size=2)))


# Names that are nearly the same: as texts, to NumPy, or once they are joined with those of figures.
NEAR = [1, "1", 1., True, "a", "a\0", "a ", "A", "x", "base_x", "win_rate", "=1", "a;=1", "hen \ud83d", 10**30, (1, 2)]


def objects(values):
    "A column of anything."
    made = pd.Series(index=range(len(values)), dtype=object)
    for k, value in enumerate(values): made.at[k] = value
    return made


@st.composite
def columns(draw, values):
    "A column of another type, or with anything in it."
    kind = draw(st.sampled_from(["category", "object", "string", "float", "Int64", "odd", "odd", "none", "one",
                                 "near"]))
    if kind == "near": return objects([draw(st.sampled_from(NEAR)) for _ in values])
    if kind == "odd": return objects([draw(mostly(st.just(value), 3)) for value in values])
    if kind == "none": return pd.Series([None] * len(values), dtype=draw(st.sampled_from([object, float])))
    made = pd.Series(values[:1] * len(values) if kind == "one" else values, dtype=object)
    try: return made.astype(kind) if kind != "one" else made
    except (ValueError, TypeError): return made.astype("category")


@st.composite
def frames(draw, most=8):
    "A table that is mostly right."
    rows = draw(st.one_of(st.integers(0, most), st.sampled_from([1, 2])))
    rng = random.Random(draw(st.integers(0, 10**6)))
    cells = {name: rng.choices(pool, k=rows) for name, pool in POOLS.items()}
    if draw(st.booleans()): cells["instruction"] = [f"Question {k}?" for k in range(rows)]
    if draw(st.booleans()): cells["draw"] = list(range(rows))
    table = pd.DataFrame(cells, index=range(rows))
    for name in draw(st.lists(st.sampled_from(list(POOLS)), max_size=2)): table[name] = draw(columns(cells[name]))
    if draw(st.integers(0, 2)): return table
    for change in draw(st.lists(st.sampled_from(
            ["drop", "drop", "twice", "levels", "index", "rename", "transpose", "rows"]), min_size=1, max_size=2)):
        lost = draw(st.sampled_from(list(POOLS)))
        if change == "drop" and lost in table: table = table[[c for c in table if c != lost]]
        elif change == "twice" and lost in table: table = pd.concat([table, table[[lost]]], axis=1)
        elif change == "levels": table.columns = pd.MultiIndex.from_product([table.columns, ["x"]])
        elif change == "index": table.index = pd.MultiIndex.from_tuples([(0,
                                                                          k // 2) for k in range(len(table) + 1)])[1:]
        elif change == "rename": table = table.rename(columns={lost: draw(st.sampled_from([0, 1.5, None, "Input"]))})
        elif change == "transpose": table = table.T
        elif change == "rows": table = pd.concat([table, table])
    return table


@st.composite
def tables(draw, most=8):
    "A table, its records, or what is none."
    if draw(st.integers(0, 14)) == 7: return draw(st.one_of(odd, st.just("nowhere.csv"), st.lists(odd, max_size=3)))
    table = draw(frames(most))
    if draw(st.integers(0, 4)) == 3 and table.columns.is_unique: return table.to_dict("records")
    return table


@st.composite
def arrays(draw, *good, least=0, most=8, ndim=1, length=None):
    "Numbers in a list, array or Series, mostly of the kind wanted."
    if draw(st.integers(0, 14)) == 7: return draw(odd)
    size, dirty = draw(st.integers(least, most)) if length is None else length, draw(st.integers(0, 4)) == 3
    one = st.lists(some(*good, one_in=5) if dirty else st.sampled_from(good), min_size=size, max_size=size)
    if ndim == 2: one = st.lists(one, min_size=(rows := draw(st.integers(least, 6))), max_size=rows)
    values = draw(one)
    if dirty: return values
    how = draw(st.sampled_from([list, np.array, np.array, pd.Series, pd.DataFrame, tuple]))
    if how is not pd.Series: return how(values)
    if ndim == 2: return values
    made = pd.Series(values, dtype=draw(st.sampled_from([None, object, "category"])))
    return made.set_axis(draw(st.permutations(range(len(values))))) if draw(st.booleans()) else made


lengths = st.sampled_from([6, 6, 6, 3, 1, 0])


@st.composite
def alike(draw, *makers):
    "Several lists of numbers, mostly of one length."
    length = draw(lengths)
    if draw(st.booleans()):
        return tuple(draw(st.lists(st.sampled_from(g), min_size=length, max_size=length)) for g in makers)
    return tuple(draw(arrays(*good, length=None if draw(st.integers(0, 7)) == 5 else length)) for good in makers)


REAL, UNSURE, VERDICTS = (0., 1., .5, -3., 2.5, 47.), (0., 1., .5, 12., NAN), (1, 2, 1.5, 1.3, NAN)
scores, sane, verdicts = arrays(*UNSURE), arrays(*REAL), arrays(*VERDICTS)
matrix = arrays(*REAL, ndim=2, least=1)


def call(function, *args, **kwargs):
    "Arguments for a function: those by place (a strategy of several is spread), and some of those by name."
    return st.tuples(st.just(function), st.tuples(*args), st.fixed_dictionaries({}, optional=kwargs))


def spread(function, several, **kwargs):
    "As `call`, for arguments that are drawn together."
    return st.tuples(st.just(function), several, st.fixed_dictionaries({}, optional=kwargs))


def joined(several, *more):
    "Arguments drawn together, and further ones."
    return st.tuples(several, *more).map(lambda drawn: (*drawn[0], *drawn[1:]))


@st.composite
def two_matrices(draw):
    "Proxy and gold, mostly of one shape."
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    made = [np.array(draw(st.lists(st.sampled_from(REAL), min_size=rows * width, max_size=rows * width))).reshape(rows,
                                                                                                                  width)
            for _ in range(2)]
    return tuple(draw(matrix) if draw(st.integers(0, 9)) == 5 else m for m in made)


@st.composite
def curves(draw):
    "Distances and scores: rows of scores, or their means."
    k, rows = draw(st.integers(3, 6)), draw(st.integers(4, 7))
    kl = draw(st.lists(st.sampled_from([0., .5, 1., 2., 4., 9.]), min_size=k, max_size=k, unique=draw(st.booleans())))
    cells = st.lists(st.sampled_from(REAL), min_size=k, max_size=k)
    values = draw(st.one_of(cells, st.lists(cells, min_size=rows, max_size=rows)))
    return draw(mostly(st.just(kl), 12)), draw(st.one_of(st.just(values), st.just(np.array(values)), arrays(*REAL)))


@st.composite
def comparisons(draw):
    "Two sides to be compared: tables, or lists of one length."
    return draw(st.one_of(st.tuples(tables(), tables()), alike(VERDICTS, VERDICTS), st.tuples(tables(), verdicts),
                          st.just(None).flatmap(lambda _: frames().map(lambda t: (t, t)))))


@st.composite
def published(draw):
    "A leaderboard's table."
    rows = draw(st.integers(0, 4))
    made = {"win_rate": [1.5, 50, 98, NAN], "avg_length": [100, 2000],
            "standard_error": [.4, 0, NAN]}
    table = {c: [draw(some(*good, one_in=20)) for _ in range(rows)] for c,
             good in made.items() if draw(st.integers(0, 7)) != 5}
    table = {"": list("abcd")[:rows], **table}
    return pd.DataFrame({c: pd.Series(v, dtype=object) for c, v in table.items()})


@st.composite
def orders(draw):
    "A table with a verdict in each order."
    table = draw(frames())
    verdicts = lambda: draw(st.lists(some(1, 2, 1.5, NAN, one_in=30), min_size=len(table), max_size=len(table)))
    for name in ("preference_1_first", "preference_2_first"):
        if draw(st.integers(0, 9)): table = table.assign(**{name: pd.Series(verdicts(), dtype=object).to_numpy()})
    return draw(mostly(st.just(table)))


E = evaluation
CALLS = {
    "clustered_error": spread(E.clustered_error, alike(UNSURE, (0, 1, 2, "a", "a\0", None))),
    "instruction_ids": call(E.instruction_ids, tables()),
    "win_rate": call(E.win_rate, tables(), cluster=names),
    "win_rate_interval": call(E.win_rate_interval, tables(), method=some("wilson", "t", "bootstrap"), level=levels,
                              cluster=names, replicates=some(100), seed=seeds),
    "win_rates": call(E.win_rates, tables(), st.one_of(some("dataset", "annotator", "utility"),
                                                       st.just(["dataset", "item"]), names),
                      cluster=names, level=levels),
    "unit_scores": call(E.unit_scores, tables()),
    "score_matrix": call(E.score_matrix, mostly(st.one_of(st.lists(tables(3), max_size=3),
                                                          frames(3).map(lambda t: [t, t])))),
    "paired_difference": spread(E.paired_difference, st.one_of(comparisons(), alike(UNSURE, UNSURE))),
    "power_of": call(E.power_of, some(2, 10, 805), numbers, numbers, level=levels),
    "instructions_needed": call(E.instructions_needed, numbers, numbers, power=levels, level=levels),
    "bootstrap": call(E.bootstrap, st.one_of(scores, sane, matrix), replicates=some(2, 20), level=levels, seed=seeds,
                      statistic=mostly(st.sampled_from([None, np.tanh, len, lambda m: m[:1], lambda m: m - 1]))),
    "crossed_error": call(E.crossed_error, matrix),
    "order_weights": call(E.order_weights, matrix, some(1, 2, 3)),
    "best_of_n_curve": spread(E.best_of_n_curve, joined(two_matrices(), st.one_of(some([1, 2], 1), arrays(1, 2, 3)))),
    "best_of_n_kl": call(E.best_of_n_kl, mostly(arrays(1, 2, 16))),
    "agreement_rate": spread(E.agreement_rate, comparisons(), expected=flags),
    "calibration": spread(E.calibration, joined(st.one_of(alike(REAL, VERDICTS), alike(VERDICTS, VERDICTS)),
                                                some(1, 2)),
                          probabilities=flags),
    "length_controlled_win_rate": call(
        E.length_controlled_win_rate, tables(), difficulty=mostly(st.one_of(scores, st.dictionaries(
            st.sampled_from([*POOLS["instruction"], 0, 1, 2]), st.sampled_from([.1, .7, NAN, "x"])))),
        baselines=tables(), penalty=some("cv", None, 1., .01), cluster=names, level=levels, replicates=some(50),
        seed=seeds),
    "label_table": call(E.label_table, tables(), ties=ties, keep=names),
    "agreement": call(E.agreement, tables(), ties=ties, level=levels, replicates=some(100), seed=seeds),
    "cohen_kappa": spread(E.cohen_kappa, alike(VERDICTS, VERDICTS), ties=ties, level=levels, replicates=some(100),
                          seed=seeds),
    "judge_agreement": call(E.judge_agreement, tables(), tables(), ties=ties, level=levels, cluster=names),
    "bias_and_variance": call(E.bias_and_variance, tables(), tables(), ties=ties, level=levels),
    "preference_biases": call(E.preference_biases, tables(), level=levels, apart=some(0, 3)),
    "order_accuracy": call(E.order_accuracy, orders(), mostly(st.one_of(st.just("preference"), arrays(1, 2, 1.5))),
                           missing=some("drop", "wrong"), level=levels),
    "bradley_terry": call(E.bradley_terry, tables(), level=levels, cluster=names, prior=numbers, replicates=some(50),
                          seed=seeds),
    "elo": call(E.elo, tables(), level=levels, k=numbers, orders=some(2), seed=seeds),
    "rank_correlation": spread(E.rank_correlation, st.one_of(alike(REAL, REAL), alike(UNSURE, UNSURE),
                                                             alike(REAL, REAL, (.1, 1., 0.), (.1, 2.))),
                               level=levels, draws=some(100), seed=seeds),
    "paper_results": call(E.paper_results),
    "corrected_win_rate": st.one_of(
        call(E.corrected_win_rate, tables(), tables(), level=levels, weight=some(None, 0, .5, 1), folds=some(2, 5),
             seed=seeds),
        spread(E.corrected_win_rate, alike(VERDICTS, VERDICTS, (1, 2)), level=levels, weight=some(None, 1),
               seed=seeds)),
    "labels_needed": call(E.labels_needed, numbers, some(0, .5, -.9, 1), some(0, 5000, 10**400), deviation=numbers,
                          level=levels),
    "fit_overoptimization": spread(
        E.fit_overoptimization, curves(), errors=mostly(st.one_of(st.none(), st.just(.5), arrays(.1, 1., length=5))),
        form=some("rl", "best_of_n"),
        level=levels, draws=some(100), seed=seeds),
    "measured_fall": call(E.measured_fall, curves().map(lambda c: c[1]),
                          peak=some(None, 0, 3, 99), level=levels),
    "scoreboard": call(E.scoreboard, mostly(st.one_of(tables(), st.lists(tables(3), max_size=3))), name=some("mine"),
                       level=levels),
    "load_published": call(E.load_published, mostly(published()), annotator=some("a judge")),
}


# What results are: their fields are looked at for every function that makes them.
RESULTS = {"Estimate", "WinRate", "PairedDifference", "Bootstrap", "BestOfNCurve", "Agreement", "Calibration",
           "LengthControl",
           "AgreementReport", "RankCorrelation", "Ratings", "CorrectedWinRate", "OverOptimization", "MeasuredFall",
           "Scoreboard"}
CONSTANTS = {"INSTRUCTION_KEY", "PAIR_KEY"}
# Where nothing can be known from so few, nan stands, and the documentation says so.
UNKNOWN = ("standard_error", "correlation", "over_annotators", "over_items", "low", "high", "variance", "bias",
           "agreement",
           "share", "utility", "replicates", "win_rate", "n_wins", "n_wins_base", "n_draws", "discrete_win_rate")
MAY_BE_UNKNOWN = {
    "clustered_error": ("",), "unit_scores": ("",), "score_matrix": ("",), "cohen_kappa": ("value",),
    "rank_correlation": ("value",), "agreement": ("value", "chance"), "calibration": ("accuracy",),
    "paper_results": ("human",),
    "load_published": ("avg_length",), "win_rates": ("avg_length",)}
ALWAYS_KNOWN = {"win_rate": ("win_rate", "n_wins"), "win_rate_interval": ("value", "low", "high"),
                "elo": ("rating", "low"),
                "length_controlled_win_rate": ("win_rate", "unpenalized"),
                "corrected_win_rate": ("value", "low", "high")}


def unknown_fields(value, name=""):
    "Names of the fields of a result that hold nan or infinity."
    if dataclasses.is_dataclass(value):
        return {x for f in dataclasses.fields(value) for x in unknown_fields(getattr(value, f.name), f.name)}
    if isinstance(value, pd.DataFrame): return {x for c in value for x in unknown_fields(value[c].to_numpy(), c)}
    if isinstance(value, pd.Series): value = value.to_numpy()
    if isinstance(value, (float, np.ndarray, np.floating)) and np.asarray(value).dtype.kind == "f":
        if not np.isfinite(value).all(): return {f"{name} is infinite" if np.isinf(value).any() else name}
    return set()


def test_every_exported_name_is_fuzzed():
    made = {name for name in evaluation.__all__ if isinstance(getattr(evaluation, name), type)}
    assert made == RESULTS
    assert set(evaluation.__all__) - RESULTS - CONSTANTS == set(CALLS), "a new function needs a strategy in CALLS"


def show(result):
    "Every way in which a result shows itself, and all that is worked out of it."
    repr(result), str(result)
    if not dataclasses.is_dataclass(result): return
    for name in ("_repr_html_", "to_pandas", "to_dict", "to_markdown", "to_csv", "to_html", "sure"):
        if hasattr(result, name): getattr(result, name)()
    for name, value in vars(type(result)).items():
        if isinstance(value, (property, functools.cached_property)): getattr(result, name)


def check_uncertainty(result):
    "No error of zero where the interval is not known, and no interval without any width around a share."
    if not dataclasses.is_dataclass(result): return
    if {"standard_error", "low", "high"} <= vars(result).keys() and not np.ndim(result.low):
        assert np.isnan(result.low) == np.isnan(result.high) and not result.low > result.high, result
        assert np.isnan(result.standard_error) or not np.isnan(result.low), f"an error without an interval: {result!r}"
        sure = isinstance(result, E.LengthControl) or getattr(result, "method", "") in (
            "wilson", "items", "items alone", "items and annotators")
        assert not (sure and result.low == result.high), f"an interval of no width: {result!r}"
    for f in dataclasses.fields(result): check_uncertainty(getattr(result, f.name))


def tried(function, args, kwargs=None):
    "The result, or None where a `FarmError` with a sentence came; warnings of numpy and pandas are errors."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UserWarning)
        try:
            result = function(*args, **kwargs or {})
            show(result)
            return result
        except FarmError as error: assert len(str(error).split()) > 3, f"no sentence: {error}"


@pytest.mark.parametrize("name", CALLS)
def test_a_result_or_a_sentence(name):
    results = []

    @SETTINGS
    @given(CALLS[name])
    def run(drawn):
        if (result := tried(*drawn)) is None: return
        results.append(result)
        check_uncertainty(result)
        allowed = {*UNKNOWN, *MAY_BE_UNKNOWN.get(name, ())} - {*ALWAYS_KNOWN.get(name, ())}
        lost = {x for x in unknown_fields(result) if x not in allowed and not x.endswith("_error")}
        assert not lost, f"nan or infinity in {lost}"
    run()
    assert results, "the strategy never draws anything that can be used"


GOOD = [{"instruction": "What does the hen eat?", "input": "", "output": "Corn.", "output_1": "Corn.",
         "output_2": "- oats",
         "preference": 1.5, "item": k, "score": -2e3} for k in range(3)]
CHAT = [{"conversations": [{"from": "human", "value": "Hm?"}], "chosen": {"from": "gpt", "value": "a"},
         "rejected": {"from": "gpt", "value": "b"}}]
HH = [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}]
TASKS = [{"instruction": "Sort.", "instances": [{"input": "b, a", "output": "a, b"}]}]
PROMPTS = {"prompt_inputs": "{instruction} {input}", "prompt_noinputs": "{instruction}"}
SNIPPETS = [b"", b"\n", b'"', b",", b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e999", b"9" * 5000, b"\\ud83d",
            b"\xff", b"\0",
            b"true", b"-0", b": ", b"\r", b"\xe2\x80\xa8", b"'", b"&a", b"*a", b"!!python/name:os.system", b"<<: ",
            b"{x}", b"- "]


@st.composite
def broken(draw, *contents):
    "A file's content with some pieces lost, doubled or replaced."
    data = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(0, 3))):
        i, j = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        j = draw(st.sampled_from([i, min(i + 1, len(data)), j]))
        piece = draw(st.one_of(st.sampled_from(SNIPPETS), st.just(data[i:j] * 2), st.binary(max_size=4)))
        data = data[:i] + piece + data[j:]
    return data


def as_file(rows, kind):
    "Records as the bytes of a file."
    frame = pd.DataFrame(rows)
    if kind == "json": return json.dumps(rows).encode()
    if kind == "jsonl": return "\n".join(map(json.dumps, rows)).encode()
    if kind == "csv": return frame.to_csv(index=False).encode()
    if kind == "parquet": return frame.to_parquet(index=False)
    return gzip.compress(as_file(rows, "jsonl"), mtime=0)


CHECKS = [records.as_table, records.check_instructions, records.check_demonstrations, records.check_pairs,
          records.check_outputs,
          records.check_preferences, records.training_pairs, E.win_rate, E.scoreboard, E.load_published]


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "jsonl.gz"])
def test_files_that_are_broken(kind, tmp_path):
    path, results = tmp_path / f"table.{kind}", []

    @SETTINGS
    @given(broken(as_file(GOOD, kind)), st.sampled_from(CHECKS))
    def run(content, check):
        path.write_bytes(content)
        results.append(tried(check, (path,)))
    run()
    assert any(r is not None for r in results)


SOURCES = {"chat": (sources.load_chat_pairs, CHAT), "hh": (sources.load_hh, HH),
           "tasks": (sources.load_seed_tasks, TASKS),
           "chosen": (sources.preferences_from_chosen, [HH[0] | {"instruction": "Say a letter."}])}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name, tmp_path):
    load, rows = SOURCES[name]
    path = tmp_path / "rows.jsonl"

    @SETTINGS
    @given(st.one_of(broken(as_file(rows, "jsonl")), tables(), st.lists(st.dictionaries(st.sampled_from(
        ["chosen", "rejected", "prompt", "conversations", "instruction", "instances"]), odd), min_size=1, max_size=2)))
    def run(content):
        if isinstance(content, bytes): path.write_bytes(content)
        tried(load, (path if isinstance(content, bytes) else content,))
    run()
    path.write_bytes(as_file(rows, "jsonl"))
    assert tried(load, (path,)) is not None


TABLE_CHECKS = [*CHECKS[:7], lambda t: records.located_pairs(t, "half"), records.preference_probability]


@SETTINGS
@given(tables(), st.sampled_from(TABLE_CHECKS))
def test_tables_at_the_door(table, check): tried(check, (table,))


@SETTINGS
@given(tables(), st.sampled_from(["json", "jsonl", "csv", "parquet", "csv.gz", "xls"]), flags)
def test_tables_are_written_or_not(tmp_path_factory, table, kind, formulas):
    path = tmp_path_factory.getbasetemp() / f"written.{kind}"
    tried(records.save_table, (table, path), {"formulas": formulas})


@SETTINGS
@given(st.one_of(broken(json.dumps(PROMPTS).encode()), st.just(None)), odd, odd)
def test_prompts(tmp_path_factory, content, one, two):
    path = tmp_path_factory.getbasetemp() / "prompts.json"
    if content is not None:
        path.write_bytes(content)
        tried(prompts.PromptFormat.load, (path,))
    tried(prompts.PromptFormat, (one, two))
    tried(prompts.as_prompts, (one,))
    tried(prompts.ALPACA.format, (one, two))


@SETTINGS
@given(some("tatsu/x", "."), some("alpaca_instructions", "x"), some("sft", None), st.one_of(odd, st.just("main")))
def test_names_of_data_sets(tmp_path_factory, source, config, split, revision):
    folder = tmp_path_factory.getbasetemp() / "data"
    folder.mkdir(exist_ok=True)
    source = folder if source == "." else "no folder/at/all" if source == "tatsu/x" else source
    tried(sources.load_alpaca_farm, (source, config, split, revision))
    tried(sources.load_cross_annotations, (source,))
    tried(sources.load_llmfao, (source, config))


def valid(rows=12, seed=0):
    "Verdicts of two judges on three models' outputs, some of them missing."
    rng = np.random.default_rng(seed)
    table = pd.DataFrame([dict(instruction=f"Question {k}?", input="", output_1="Corn. " * (k % 3 + 1),
                               output_2="Oats. " * (k % 4 + 1),
                               generator_1="base", generator_2=m, annotator=a,
                               item=k) for k in range(rows) for m in "xyz"
                          for a in ("ann", "bob")])
    return table.assign(preference=rng.choice([1, 2, 1.5, 1.2, np.nan], len(table), p=[.3, .4, .1, .1, .1]))


ONE = valid()
METHODS = {
    "PairedDifference.interval": (E.paired_difference([1., 2, 4], [0., 1, 1]).interval, [levels]),
    "Ratings.probability": (E.elo(ONE, orders=2).probability, [some("x", "base"), some("y")]),
    "OverOptimization.predict": (E.fit_overoptimization([0, 1, 2, 4], [1., 2, 2.2, 1], [.1] * 4, draws=100).predict,
                                 [scores]),
    "Scoreboard.to_pandas": (E.scoreboard(ONE).to_pandas, [some("ann", None)]),
    "Scoreboard.verdicts": (E.scoreboard(ONE).verdicts, [some("x"), some("ann", None)]),
    "Scoreboard.compare": (E.scoreboard(ONE).compare, [some("x"), some("y"), some("ann", None)]),
    "Scoreboard.correlation": (E.scoreboard(ONE).correlation, [some("ann"), some("bob")]),
    "Scoreboard.add": (lambda *a: E.scoreboard(ONE).add(*a), [tables(), some("mine", None)]),
    "Scoreboard.remove": (lambda *a: E.scoreboard(ONE).remove(*a), [some("x")]),
    "Scoreboard.to_markdown": (E.scoreboard(ONE).to_markdown, [some("ann", None)]),
    "Scoreboard.to_csv": (E.scoreboard(ONE).to_csv, [some("ann", None), flags]),
    "plot_overoptimization": (lambda *a: plot_overoptimization(E.fit_overoptimization(
        [0, 1, 2, 4], [1., 2, 2.2, 1], [.1] * 4, draws=100), *a), [scores]),
    "scatter": (scatter, [tables()]),
    "share_interval": (share_interval, [some(0., .3, 1.), numbers, some(1, 20), levels]),
    "board_figures": (board_figures, [tables(), levels]),
    "cluster_ids": (cluster_ids, [frames(), names]),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    method, arguments = METHODS[name]

    @FEWER
    @given(st.tuples(*arguments))
    def run(drawn): tried(method, drawn)
    run()


def swapped(table):
    "The same verdicts with the two outputs in each other's place."
    return table.assign(output_1=table["output_2"], output_2=table["output_1"], preference=3 - table["preference"])


seeded = st.integers(0, 10**6)


@FEWER
@given(seeded)
def test_what_must_not_matter(seed):
    "Order of rows, place of the outputs, doubled seeds: known consequences for every figure."
    table = valid(8, seed).query("generator_2 == 'x'")
    rate, other = E.win_rate(table), E.win_rate(swapped(table))
    assert rate.win_rate + other.win_rate == pytest.approx(100)
    assert rate.standard_error == pytest.approx(other.standard_error)
    assert (rate.n_wins, rate.n_draws, rate.n_missing) == (other.n_wins_base, other.n_draws, other.n_missing)
    mixed = table.sample(frac=1, random_state=seed)
    assert E.win_rate(mixed).win_rate == pytest.approx(rate.win_rate)
    alpha, again = (E.agreement(t, replicates=100).alpha.value for t in (table, mixed))
    assert again == pytest.approx(alpha, nan_ok=True)
    twice = pd.concat([table.assign(draw=0), table.assign(draw=1)])       # a copy of each verdict is no new evidence
    assert E.win_rate(twice).win_rate == pytest.approx(rate.win_rate)
    assert E.win_rate(twice).standard_error == pytest.approx(rate.standard_error)
    assert E.paired_difference(table, table).difference == 0
    one = table.drop_duplicates("instruction")
    assert E.agreement_rate(one, one).agreement == 100
    category = table.astype({c: "category" for c in ("instruction", "output_1", "annotator", "generator_2")})
    assert E.win_rate(category) == rate


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from([1, 2, 1.5]), st.sampled_from([1, 2, 1.5])), min_size=2, max_size=9))
def test_two_judges_in_either_order(pairs):
    a, b = ([p[k] for p in pairs] for k in (0, 1))
    there, back = E.cohen_kappa(a, b, replicates=100), E.cohen_kappa(b, a, replicates=100)
    assert there.value == pytest.approx(back.value, nan_ok=True)
    turned = E.cohen_kappa([3 - x for x in a], [3 - x for x in b], replicates=100)
    assert turned.value == pytest.approx(there.value, nan_ok=True)
    assert E.agreement_rate(a, b).agreement == E.agreement_rate(b, a).agreement


@FEWER
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=8), st.integers(1, 9),
       st.integers(-9, 9))
def test_figures_in_another_unit(pairs, scale, shift):
    "Ranks, differences and best-of-n follow a change of unit."
    a, b = (np.array([p[k] for p in pairs], float) for k in (0, 1))
    moved = a * scale + shift
    with warnings.catch_warnings(action="ignore"):
        for name in ("spearman", "kendall", "pearson"):
            found = [getattr(E.rank_correlation(x, b, draws=100), name).value for x in (a, moved)]
            assert found[0] == pytest.approx(found[1], nan_ok=True)
    apart = E.paired_difference(a, b).difference
    assert E.paired_difference(moved, b * scale + shift).difference == pytest.approx(scale * apart)
    assert apart == -E.paired_difference(b, a).difference
    curve, other = (E.best_of_n_curve([x], [b], [1, 2, len(a)]) for x in (a, moved))
    np.testing.assert_allclose(curve.gold, other.gold)
    assert curve.gold[0] == pytest.approx(b.mean()) and curve.proxy[-1] == a.max()


def test_swapped_games_give_the_same_ratings():
    games = pd.DataFrame({"generator_1": list("aabbcc") * 5, "generator_2": list("bcacab") * 5,
                          "preference": [1, 2, 1.5, 2, 1, 1.2] * 5})
    back = games.set_axis(["generator_2", "generator_1", "preference"],
                          axis=1).assign(preference=3 - games["preference"])
    one, two = (E.bradley_terry(g, replicates=50).table["rating"] for g in (games, back))
    pd.testing.assert_series_equal(one, two, rtol=1e-6)
    assert one.sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [10**5000, 10**400, 1e308, -1, True, None, "3", NAN],
                         ids=["5,000 digits", "400 digits", "1e308", "-1", "True", "None", "text", "nan"])
def test_numbers_that_are_none(value):
    "Settings that no sentence could print, or that would take all memory."
    for function, args, setting in ((E.bootstrap, [[1., 2.]], "replicates"), (E.agreement, [ONE], "replicates"),
                                    (E.elo, [ONE], "orders"), (E.win_rate_interval, [ONE, "bootstrap"], "replicates"),
                                    (E.preference_biases, [ONE], "apart")):
        if setting == "apart" and value in (10**400, 10**5000): continue   # a distance that no two lengths have
        with pytest.raises(ConfigError, match="whole number"): function(*args, **{setting: value})
    if value not in (10**400, 10**5000):   # of a seed, any size will do
        with pytest.raises(ConfigError, match="seed is"): E.bootstrap([1., 2.], seed=value)


HOSTILE = ["[x](javascript:alert(1))", "<img src=x onerror=alert(1)>", "a|b", "`code`", "two\nlines",
           "![i](https://x.org/p.png)",
           "https://x.org", "$x$", "=HYPERLINK(1)", "@SUM(1)", "+1+1", "-2+3", "\t=1", "# head", "a\u202eb", "**bold**"]


def test_names_are_text_in_every_export():
    "Markdown as a Markdown parser reads it: one table, each name as it was, nothing else."
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark",
                                                           {"html": True}).enable(["table", "strikethrough"])
    of_one = ONE.query("annotator == 'ann' and generator_2 == 'x'")
    table = pd.concat([of_one.assign(generator_2=name) for name in HOSTILE])
    board = E.scoreboard(table)
    page = parser.render(board.to_markdown())
    assert page.count("<table>") == 1 and page.count("<tr>") == 1 + len(HOSTILE)
    for tag in ("<a ", "<img", "<code", "<strong", "<h1", "<em", "<br"): assert tag not in page
    names = {html.unescape(x) for x in re.findall(r"<tr>\n<td>(.*?)</td>", page)}
    assert names == {re.sub(r"\s+", " ", n).strip().replace("\u202e", "") for n in HOSTILE}
    assert "https://" not in board.to_markdown(), "GitHub makes a link of a bare address"
    assert not [row[0] for row in csv.reader(io.StringIO(board.to_csv())) if row[0].startswith(tuple("=+-@\t\r"))]
    assert {row[0] for row in csv.reader(io.StringIO(board.to_csv(formulas=True)))} >= set(HOSTILE)


def test_numbers_are_no_formulas(tmp_path):
    table = pd.DataFrame({"instruction": ["-1", "+2.5e3", "-a", "=1"], "score": [-1, -2.5, 3, NAN]})
    with pytest.warns(UserWarning, match="2 fields begin like a formula"): records.save_table(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split() == ["instruction,score", "-1,-1.0", "+2.5e3,-2.5", "'-a,3.0",
                                                        "'=1,"]
    with warnings.catch_warnings(action="error"): records.save_table(table, tmp_path / "t.csv", formulas=True)
    assert "\n=1," in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize("figures, text", [
    ((61.2473, 3.12, 54.9, 67.1), "61.2 ± 3.1 [54.9, 67.1]"), ((.3125, .0478, .2188, .4062),
                                                               "0.312 ± 0.048 [0.219, 0.406]"),
    ((12.4, 13.1, -13., 38.), "12 ± 13 [-13, 38]"), ((100., 0., 72.2, 100.), "100.0 ± 0.0 [72.2, 100.0]"),
    ((0.5, NAN, NAN, NAN), "0.500 ± nan [nan, nan]"), ((99.96, .0996, 99.8, 100.), "99.96 ± 0.10 [99.80, 100.00]")])
def test_decimals_are_those_of_the_error(figures, text): assert str(E.Estimate(*figures, n=9)) == text


def test_an_alpha_is_legible():
    report = E.agreement(valid(40, 3).query("generator_2 == 'x'"), replicates=200)
    line = next(x for x in repr(report).splitlines() if x.startswith("alpha"))
    assert len(line.split()[2].replace("0.", "").lstrip("0")) == 2, line    # two digits of the error
    assert len(line.split()[1].split(".")[1]) == len(line.split()[2].split(".")[1])


BY_TABLE = {
    "win_rate": lambda t, c: E.win_rate(t), "win_rate_interval": lambda t, c: E.win_rate_interval(t),
    "unit_scores": lambda t, c: E.unit_scores(t),
    "win_rate of clusters": lambda t, c: E.win_rate(t, cluster=c), "win_rates": lambda t, c: E.win_rates(t, c),
    "paired_difference": lambda t, c: E.paired_difference(t, t), "agreement_rate": lambda t, c: E.agreement_rate(t, t),
    "length_controlled_win_rate": lambda t, c: E.length_controlled_win_rate(t, replicates=50, penalty=None),
    "label_table": lambda t, c: E.label_table(t, keep=c), "agreement": lambda t, c: E.agreement(t, replicates=100),
    "judge_agreement": lambda t, c: E.judge_agreement(t.query("annotator != 'bob'"), t),
    "bias_and_variance": lambda t, c: E.bias_and_variance(t, t),
    "preference_biases": lambda t, c: E.preference_biases(t),
    "elo": lambda t, c: E.elo(t, orders=2), "scoreboard": lambda t, c: E.scoreboard(t),
    "bradley_terry": lambda t, c: E.bradley_terry(t, prior=1., replicates=50), "cluster_ids": cluster_ids,
    "corrected_win_rate": lambda t, c: E.corrected_win_rate(t[:9], t), "board_figures": lambda t, c: board_figures(t),
    "load_published": lambda t, c: E.load_published(t[[c]].drop_duplicates().assign(win_rate=5.), "j")}


@pytest.mark.parametrize("name", BY_TABLE)
def test_half_a_character_in_any_column(name):
    "Such a text can be neither grouped by nor written: a sentence says where it stands, or the column is not needed."
    function, table = BY_TABLE[name], ONE.query("generator_2 == 'x'").reset_index(drop=True).assign(dataset="d", draw=0)
    assert tried(function, (table, "dataset")) is not None
    for column in ("instruction", "output_2", "generator_1", "generator_2", "annotator", "item", "dataset", "draw"):
        bad = table.assign(**{column: objects(["hen \ud83d" if k == 3 else v for k, v in enumerate(table[column])])})
        found = tried(function, (bad, column))
        if column in ("generator_1", "generator_2", "annotator", "item"): assert found is None, f"{column} was taken"


@pytest.mark.parametrize("setting", [lambda: E.scoreboard(ONE.query("generator_2 == 'x'"), "hen \ud83d"),
                                     lambda: E.win_rates(ONE, "hen \ud83d"), lambda: E.win_rate(ONE, cluster="\ud83d"),
                                     lambda: E.load_published(pd.DataFrame({"": ["a"], "win_rate": [1.]}), "\ud83d"),
                                     lambda: E.judge_agreement(ONE, ONE, name="\ud83d")])
def test_half_a_character_in_a_setting(setting):
    with pytest.raises(ConfigError, match="half a surrogate pair"): setting()


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from([*REAL, 1e-9]), st.sampled_from([0, 1, "1", "a", "a\0", (1,)])), max_size=9))
def test_an_error_over_units_by_its_definition(pairs):
    scores, units = [p[0] for p in pairs], [p[1] for p in pairs]
    if not pairs: return
    found, sums = E.clustered_error(scores, units), {}
    for x, unit in pairs: sums[unit] = sums.get(unit, 0.) + x - np.mean(scores)
    n = len(sums)
    if n < 2: assert np.isnan(found)
    else: assert found == pytest.approx((n / (n - 1) * sum(s**2 for s in sums.values()))**.5 / len(scores), abs=1e-4)
    with pytest.raises(ConfigError, match="missing"): E.clustered_error([*scores, NAN], [*units, 0])
    with pytest.raises(ConfigError, match="missing"): E.clustered_error([*scores, 1.], [*units, None])


@SETTINGS
@given(st.lists(st.sampled_from([1, 2, 1.5, 1.25]), min_size=1, max_size=6), st.sampled_from(["half", "label"]))
def test_one_instruction_tells_no_error(verdicts, ties):
    "However often it was judged, by however many."
    n = len(verdicts)
    table = pd.DataFrame(dict(instruction="Why?", input="", output_1=[f"{k}" for k in range(n)], output_2="So. ",
                              generator_1="a", generator_2="b", annotator=[f"ann {k % 3}" for k in range(n)], item=0,
                              draw=range(n), preference=verdicts))
    assert np.isnan([E.win_rate(table).standard_error, E.win_rate_interval(table).standard_error]).all()
    assert E.win_rates(table, "generator_2")["standard_error"].isna().all()
    assert E.scoreboard(table).figures["standard_error"].isna().all()
    assert E.preference_biases(table)["standard_error"].isna().all()
    with warnings.catch_warnings(action="ignore"):   # that both say the same
        both = [E.cohen_kappa(verdicts[:1], verdicts[-1:], ties, replicates=100), E.bootstrap([verdicts[0]]),
                E.bootstrap([[v] for v in verdicts])]
    if n > 1:
        report = E.agreement(table, ties, replicates=100)
        both += [report.pairwise, report.leave_one_out, report.fleiss_kappa, report.alpha]
    if n > 2: both.append(E.corrected_win_rate(table, pd.concat([table, table.assign(output_2="No.")])).estimate)
    for found in both: assert np.isnan(found.standard_error), found
    assert np.isnan([both[1].low, both[2].instruction_error, both[2].z]).all()
    if n > 1:
        rated = E.bradley_terry(table.assign(preference=[1., 2.] + verdicts[2:]), replicates=50)
        assert rated.table["standard_error"].isna().all() and rated.sure().isna().all(axis=None)


@SETTINGS
@given(st.data())
def test_a_board_that_changes(data):
    "Models come and go, of any names and annotators; figures stay those of the verdicts, one column each."
    pool = ["a", "b", "a\0", "1", "=1"]
    def some_verdicts(annotator):
        return pd.DataFrame(dict(instruction=["Q?", "W?"], output_1="x", output_2="yy", generator_1="base",
                                 generator_2=data.draw(st.sampled_from(pool)), annotator=annotator,
                                 preference=data.draw(st.lists(st.sampled_from(VERDICTS[:3]), min_size=2, max_size=2))))
    annotator = st.sampled_from(["x", "base_x", "1", "draws_x"])
    board = E.scoreboard(some_verdicts(data.draw(annotator)))
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()) and board.models: board.remove(data.draw(st.sampled_from(board.models)))
        else: tried(board.add, (some_verdicts(data.draw(annotator)),))
        tried(lambda: board, ())
        shown = board.to_pandas()
        assert shown.columns.is_unique and sorted(shown.index) == sorted(set(board.figures["model"]))
        for row in board.figures.itertuples():
            alone = E.win_rate(board.verdicts(row.model, row.annotator))
            assert (row.win_rate, row.n_wins_base) == (alone.win_rate, alone.n_wins_base)
            assert board.to_pandas(row.annotator).loc[row.model, "n_wins"] == alone.n_wins
            if len(board.annotators) > 1:
                names = [f"n_wins_base: {row.annotator}", f"n_wins_base_{row.annotator}"]   # the first if need be
                assert shown.loc[row.model, next(c for c in names if c in shown)] == alone.n_wins_base
    other = E.scoreboard(some_verdicts("x").assign(generator_2="new"), level=.5)
    with pytest.raises(ConfigError, match="level"): board.add(other)


@pytest.mark.parametrize("column", ["annotator", "generator_1", "generator_2"])
def test_names_that_look_alike(column):
    "A board, or a rating, that shows two names as one text is refused, and says which."
    table = ONE.query("generator_2 == 'x' and annotator == 'ann'")
    mixed = table.assign(**{column: objects([1, "1"] * len(table))[:len(table)].to_numpy()})
    with pytest.raises(RecordError, match="look the same"): E.scoreboard(mixed)
    if column != "annotator":
        with pytest.raises(RecordError, match="look the same"): E.bradley_terry(mixed, prior=1., replicates=50)
    for taken in ("win_rate", "n_total", "high"):
        with pytest.raises(ConfigError, match="name of a figure"): E.win_rates(table.assign(**{taken: 1}), taken)


magnitudes = st.tuples(st.floats(1., 9.99), st.integers(-11, 18)).map(lambda m: m[0] * 10.**m[1])


@settings(SETTINGS, max_examples=300)
@given(magnitudes, st.one_of(st.sampled_from([None, 0., NAN]), st.tuples(st.floats(1., 9.99), st.integers(-7, 2))),
       st.sampled_from([1, -1]))
def test_figures_are_legible_at_any_size(size, error, sign):
    "Neither rounded to nothing nor written out to twenty digits; the error has two digits, or is rounding."
    error = error[0] * 10.**error[1] * size if isinstance(error, tuple) else error
    text = figure_text(sign * size, error)
    shown = [float(part) for part in text.split(" ± ")]
    assert len(text) < 32, text
    if error and error > max(1e-12, 1e-9 * size, min(1e-6 * size, 5e-7)):
        close = max(.051 * error, 5.1e-7 * (error >= 5e-7))   # never more than six decimals
        assert abs(shown[0] - sign * size) <= close and abs(shown[1] - error) <= close, text
    else: assert shown[0] and abs(shown[0] - sign * size) <= size, text


def test_scores_of_any_size_have_figures():
    scores = np.arange(9) * 1e-9
    assert str(E.paired_difference(scores, scores * 0)) == "+4.00e-09 ± 9.1e-10 (9 instructions)"
    assert str(E.bootstrap(scores)).startswith("4.00e-09 ± 9.")
    assert str(E.bootstrap(scores * 1e29)).startswith("4.00e+20 ± 9.")
    assert (figure_text(1e-5), figure_text(1e20)) == ("1.00e-05", "1.00e+20")


CELLS = st.text(st.sampled_from('a=+-@;\t|\n\r ,"1.'), max_size=9)


def begins_a_formula(cell, separator):
    "Whether a spreadsheet would run this: no number, no rule of a table, and no item of a list on a line of its own."
    cell = cell.strip(" ").split(",")[0] if separator != "," else cell.strip(" ")   # what follows is the next of ours
    if not cell or cell[0] not in "=+-@" or re.match(r"[-+]\s", cell) and separator == "line": return False
    return any(c.isalnum() for c in cell) and not re.fullmatch(r"[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)", cell.strip(' "'))


@settings(SETTINGS, max_examples=400)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3))
def test_no_separator_makes_a_formula(rows):
    "The file as spreadsheets read it that end cells with a comma, a semicolon, a tab or a bar."
    table = pd.DataFrame(rows, columns=["one", "two"], dtype=object)
    text, changed = records.csv_text(table)
    for separator in ",;\t|":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            for k, cell in enumerate(row):
                kind = "line" if not k and separator != "," else separator
                assert not begins_a_formula(cell, kind), (separator, cell, text)
    plain = [str(v) for row in rows for v in row if not re.search(r"[=+\-@]", v)]
    assert [plain_cell(v) for v in plain] == [re.sub(r"^(?= *[\t\r\n])", "'", v) for v in plain]
    assert records.csv_text(table, formulas=True)[0] == table.to_csv(index=False)
    assert changed == sum(plain_cell(v) != v for row in rows for v in row)


@pytest.mark.parametrize("flag", [NAN, None, np.array([1., 2.]), pd.NA, "yes"], ids=str)
def test_switches_are_on_or_off(flag):
    for call in (lambda: E.agreement_rate([1, 2], [1, 2], expected=flag), lambda: E.scoreboard(ONE).to_csv("ann", flag),
                 lambda: E.calibration([1., 2.], [1, 2], 1, probabilities=flag)):
        with pytest.raises(ConfigError, match="give True or False"): call()
    with pytest.raises(ConfigError, match="missing is"): E.order_accuracy(ONE, "preference", missing=flag)


JUDGES = data_path("judges", "single.yaml").read_bytes()
EVALUATOR = b"""my_judge:
  prompt_template: "p/prompt.txt"
  fn_completions: "openai_completions"
  completions_kwargs: {model_name: "gpt-4", max_tokens: 50}
  fn_completion_parser: "regex_parser"
  completion_parser_kwargs: {outputs_to_match: {1: '^A$', 2: '^B$'}}
  batch_size: 1
"""


@SETTINGS
@given(broken(JUDGES))
def test_files_of_judges(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "judges.yaml"
    path.write_bytes(content)
    tried(load_judges, (path,))


@SETTINGS
@given(broken(EVALUATOR))
def test_files_of_evaluators(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "p"
    folder.mkdir(exist_ok=True)
    (folder / "prompt.txt").write_text("<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>\n")
    (folder / "configs.yaml").write_bytes(content)
    tried(load_evaluator, (folder,))


@SETTINGS
@given(st.integers(0, 8191), st.integers(0, 4096), st.sampled_from([b"", b"\0" * 64, b"\xff" * 300, b"{",
                                                                    b"SQLite format 3\0"]),
       st.booleans())
def test_files_of_answers(tmp_path_factory, at, lost, put, cut):
    "A damaged file of answers is read, or refused in a sentence."
    folder = tmp_path_factory.mktemp("answers")
    path, damaged = folder / "a.sqlite", folder / "b.sqlite"
    kept = AnnotationCache(path)
    for k in range(3): kept.put(f"key {k}", {"text": "x" * 200}, judge="j", request={"n": k}, parts=[f"part {k}"])
    kept.close()
    data = path.read_bytes()
    damaged.write_bytes(data[:at] + put + (b"" if cut else data[at + lost:]))

    def read():
        found = AnnotationCache(damaged)
        try: return len(found), found.get(["key 0"]), found.get_parts(["part 2"]), found.table(), found.table(True)
        finally: found.close()
    tried(read, ())


@pytest.mark.parametrize("empty", [NAN, None, pd.NA])
def test_an_input_that_is_never_there(empty):
    "A column of nothing, as JSON and CSV files have it: numbers to pandas, texts to us."
    table = ONE.assign(input=pd.Series([empty] * len(ONE), dtype=float if empty is NAN else object))
    with warnings.catch_warnings(action="error"):
        for figure in (E.win_rate, E.unit_scores, E.instruction_ids):
            assert str(figure(table)) == str(figure(ONE.assign(input="")))


def test_categories_are_plain_values():
    "No group of a category that is not there, and room for values that are new."
    table = ONE.assign(draw=range(len(ONE)))
    names = ["instruction", "output_1", "output_2", "generator_2", "annotator", "item", "draw"]
    category = table.astype(dict.fromkeys(names, "category"))
    assert not any(isinstance(kind, pd.CategoricalDtype) for kind in records.as_table(category).dtypes)
    part = category[category["generator_2"] == "x"]
    assert E.win_rates(part, "generator_2")["generator_2"].tolist() == ["x"]
    assert E.scoreboard(part).models == ["x"]
    pd.testing.assert_frame_equal(E.scoreboard(category).figures, E.scoreboard(table).figures)
