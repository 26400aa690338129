"""Data as people really get them wrong: each mistake has an error that names the file, the row and the column."""

import gzip
import json
import os
import re

import numpy as np
import pandas as pd
import pytest

from alpacafarm_nb.core import ConfigError, FarmError, RecordError
from alpacafarm_nb.prompts import PromptFormat
from alpacafarm_nb.records import (
    as_table, check_demonstrations, check_instructions, check_outputs, check_pairs, check_preferences, save_table,
    training_pairs,
)
from alpacafarm_nb.sources import load_alpaca_farm, load_chat_pairs, load_hh

GOOD = {"instruction": "What does the hen eat?", "input": "", "output_1": "Corn.", "output_2": "Hens.", "preference": 1}
LINE = json.dumps(GOOD)
PACKED = gzip.compress(LINE.encode())


def lines(*changes):
    "JSON Lines of good preferences, changed as given; None takes a key out."
    rows = [{k: v for k, v in (GOOD | change).items() if v is not KeyError} for change in changes]
    return "\n".join(json.dumps(row) for row in rows)


HEAD = "instruction,output_1,output_2,preference\n"
FILES = [  # name, content, what the error must say after the file's name
    ("malformed.jsonl", f"{LINE}\n\n{LINE[:-1]}\n{LINE}", ": line 3 is not valid JSON: Expecting ',' delimiter"),
    ("nonsense.jsonl", f"{LINE}\nnot json", ": line 2 is not valid JSON: Expecting value at character 1."),
    ("quotes.jsonl", LINE.replace('"', "'"), ": line 1 is not valid JSON: Expecting property name enclosed in double"),
    ("malformed.json", f"[{LINE},\n{LINE}\n{LINE}]", ": line 3 is not valid JSON: Expecting ',' delimiter at"),
    ("open.jsonl", LINE[:-3], ": line 1 is not valid JSON: "),
    ("text.jsonl", '{"input": "What', ": line 1 is not valid JSON: Unterminated string starting at character 11."),
    ("cut.json", f"[{LINE},\n{LINE}", ": line 2 is not valid JSON: Expecting ',' delimiter"),
    ("twice.jsonl", f'{LINE}\n{LINE[:-1]}, "input": "again"}}', ': line 2 is not valid JSON: the key "input" appears'),
    ("deep.json", "[" * 200_000, ": this is not valid JSON: maximum recursion depth exceeded"),
    ("empty.jsonl", "", ": the file is empty."),
    ("blank.json", " \n\n", ": the file is empty."),
    ("none.json", "[]", ": has no rows."),
    ("header.csv", HEAD, ": has a header and no rows."),
    ("object.json", '{"data": []}', ": holds one object with the keys ['data'] where a list of records is needed"),
    ("number.json", "3", ": holds one int where a list of records is needed"),
    ("texts.json", '["a", "b"]', ": row 0 is str 'a', not a record; row 1 is str 'b', not a record (rows counted"),
    ("texts.jsonl", f'{LINE}\n"b"', ": line 2 is str 'b', not a record"),
    ("utf16.jsonl", LINE.encode("utf-16"), ": line 1 is not UTF-8 text (byte 0xff). Save the file"),
    ("latin1.jsonl", f"{LINE}\n{LINE}\n{LINE.replace('Corn', 'Körner')}".encode("latin-1"),
     ": line 3 is not UTF-8 text (byte 0xf6)."),
    ("column.jsonl", lines({"output_2": KeyError}), ": has no column 'output_2'; it has ['instruction', 'input', 'ou"),
    ("case.csv", HEAD.title() + "a,b,c,1\n", ": has no column 'instruction', 'output_1', 'output_2'; it has ['Ins"),
    ("semicolons.csv", HEAD.replace(",", ";") + "a;b;c;1\n", ": has no column 'instruction'"),
    ("absent.jsonl", lines({}, {}, {"output_1": KeyError}), ", column 'output_1': line 3 is missing."),
    ("null.jsonl", lines({}, {"instruction": None}), ", column 'instruction': line 2 is missing."),
    ("number.jsonl", lines({}, {"output_2": 42}, {"output_2": ["a"]}),
     ", column 'output_2': line 2 is int 42, not text; line 3 is list ['a'], not text."),
    ("input.jsonl", lines({"input": None}, {}, {"input": 5}), ", column 'input': line 3 is int 5, not text."),
    ("blank.jsonl", lines({}, {"instruction": " \n"}), ", column 'instruction': line 2 is blank, and so is its input."),
    ("half.jsonl", lines({}, {"output_1": "\ud83d"}), ", column 'output_1': line 2 holds half a surrogate pair"),
    ("probability.jsonl", lines({}, {"preference": 0.3}), ", column 'preference': line 2 is 0.3, which is neither"),
    ("three.jsonl", lines({"preference": 3}),
     ", column 'preference': line 1 is 3, which is neither 0 nor between 1 and 2. A preference is 1 or 2 for the"),
    ("negative.jsonl", lines({"preference": -1}), ", column 'preference': line 1 is -1, which is neither"),
    ("infinite.jsonl", lines({"preference": float("inf")}), ", column 'preference': line 1 is inf, which is neither"),
    ("huge.jsonl", lines({"preference": 10**400}), ", column 'preference': line 1 is 1000"),
    ("text.jsonl", lines({}, {"preference": "1"}), ", column 'preference': line 2 is the text '1', not a number."),
    ("winner.jsonl", lines({"preference": "output_2"}), ", column 'preference': line 1 is the text 'output_2', not"),
    ("truth.jsonl", lines({}, {"preference": True}), ", column 'preference': line 2 is True, a truth value and not"),
    ("list.jsonl", lines({"preference": [1, 2]}), ", column 'preference': line 1 is list [1, 2], not a number."),
    ("many.jsonl", lines({}, *[{"preference": .1 * k} for k in range(1, 8)]),
     "line 2 is 0.1, which is neither 0 nor between 1 and 2; line 3 is 0.2, which is neither 0 nor between 1 and 2; "
     "line 4 is 0.30000000000000004, which is neither 0 nor between 1 and 2; and 4 more such rows."),
    ("field.csv", HEAD + 'a,"b\nb",c,1\na,b,c,better\n', ", column 'preference': line 4 is the text 'better', not"),
    ("range.csv", HEAD + "a,b,c,1\na,b,c,0.3\n", ", column 'preference': line 3 is 0.3, which is neither"),
    ("truth.csv", HEAD + "a,b,c,True\n", ", column 'preference': line 2 is the text 'True', not a number."),
    ("ragged.csv", HEAD + "a,b,c,1\na,b,c\na,b,c,1,2\n", ": line 3 has 3 fields; line 4 has 5 fields. The header has"),
    ("quote.csv", HEAD + 'a,"b,c,1\n', " is not valid CSV: unexpected end of data."),
    ("twice.csv", "instruction,output_1,output_1,output_2,preference\na,b,b,c,1\n",
     ": the columns ['output_1'] appear twice."),
    ("packed.jsonl.gz", LINE.encode(), ": cannot be unpacked (Not a gzipped file"),
    ("cut.jsonl.gz", PACKED[:-12], ": cannot be unpacked (Compressed file ended"),
    ("hurt.jsonl.gz", PACKED[:15] + bytes(6) + PACKED[21:], ": cannot be unpacked"),
    ("false.parquet", LINE.encode(), ": is not a readable parquet file:"),
    ("table.xlsx", b"PK", ": cannot tell the format. Name the file .json, .jsonl, .csv or .parquet"),
    ("noname", LINE.encode(), ": cannot tell the format."),
]


@pytest.mark.parametrize("name, content, said", FILES, ids=[name for name, *_ in FILES])
def test_file(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for check in (check_preferences, training_pairs):
        with pytest.raises(RecordError) as caught: check(path)
        assert str(caught.value).startswith(str(path)), "the error begins with the file"
        assert said in str(caught.value)
        assert caught.value.source == str(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name], "nothing is written"


def test_a_small_file_that_holds_too_much_is_not_read(tmp_path, monkeypatch):
    "A gzip file is unpacked up to a limit; a parquet file says how much it holds."
    import tracemalloc

    import pyarrow as pa
    import pyarrow.parquet as pq

    from alpacafarm_nb import records
    rows = pa.table({k: pa.repeat(v, 3_000_000).dictionary_encode() for k, v in GOOD.items()})
    pq.write_table(rows, tmp_path / "bomb.parquet", compression="zstd")
    monkeypatch.setattr(records, "_MOST_VALUES", 10_000_000)
    monkeypatch.setattr(records, "_MOST_BYTES", 1_000_000)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(bytes(100_000_000)))
    tracemalloc.start()
    for name, said in (("bomb.jsonl.gz", "more than 0.0 GB in 0.1 MB"), ("bomb.parquet", "3,000,000 rows of 5 ")):
        assert (tmp_path / name).stat().st_size < 200_000
        with pytest.raises(RecordError, match=said): check_preferences(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    monkeypatch.undo()
    path = tmp_path / "good.jsonl.gz"
    path.write_bytes(gzip.compress(LINE.encode()))
    assert len(check_preferences(path)) == 1


def test_the_error_carries_its_place():
    with pytest.raises(RecordError) as caught: check_preferences([GOOD, GOOD, GOOD | {"preference": 0.3}], what="crowd")
    error = caught.value
    assert (error.source, error.row, error.column) == ("crowd", 2, "preference")
    assert isinstance(error, FarmError) and isinstance(error, ValueError)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(RecordError, match=r"none\.jsonl: there is no such file \(looked from "):
        as_table(tmp_path / "none.jsonl")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(RecordError, match=r"folder\.json: cannot be read: "): as_table(tmp_path / "folder.json")


def test_a_file_that_may_not_be_read(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(f"[{LINE}]")
    secret.chmod(0)
    if os.access(secret, os.R_OK): pytest.skip("this user may read every file: permissions cannot be tried")
    with pytest.raises(RecordError, match=r"secret\.json: cannot be read: Permission denied"): as_table(secret)


def test_what_looks_odd_and_is_right(tmp_path):
    "The neighbours of the mistakes above, which must not be refused."
    path = tmp_path / "fine.jsonl"
    rows = [lines({"preference": None}), "", lines({"preference": 0}), lines({"preference": 1.5, "input": KeyError}),
            LINE.replace("1}", "NaN}"), lines({"output_1": "", "extra": {"a": [1]}})]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    table = check_preferences(path)
    np.testing.assert_array_equal(table["preference"], [np.nan, 1.5, 1.5, np.nan, 1])
    assert table["output_1"].tolist() == ["Corn."] * 4 + [""] and table["input"].tolist() == [""] * 5
    csv = tmp_path / "fine.csv"
    csv.write_text('\ufeff' + HEAD + 'a,NA,null,\n\n"a ""b""",,"c,\nd",1.25\n', encoding="utf-8")
    table = check_preferences(csv)
    assert table["output_1"].tolist() == ["NA", ""] and table["output_2"].tolist() == ["null", "c,\nd"]
    assert table["instruction"].tolist() == ["a", 'a "b"'] and table["preference"].tolist()[1] == 1.25
    long = tmp_path / "long.csv"
    save_table(pd.DataFrame([{"instruction": "a", "output": "x" * 300_000}]), long)
    assert check_demonstrations(long)["output"].str.len().tolist() == [300_000]


@pytest.mark.parametrize("column", [
    pd.Series([True, False]), pd.Series(["1", "2"]), pd.Series(["1", "2"], dtype="category"), pd.Series([1, 2j]),
    pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"])), pd.Series([1, "2"], dtype=object)])
def test_columns_of_wrong_types(column):
    with pytest.raises(RecordError, match="preferences, column 'preference': row [01] is "):
        check_preferences(pd.DataFrame([GOOD, GOOD]).assign(preference=column))


@pytest.mark.parametrize("column", [
    pd.Series([1, None], dtype="Int64"), pd.Series([1, np.nan], dtype="float32"),
    pd.Series([np.int8(1), None], dtype=object), pd.Series([1, pd.NA], dtype=object)])
def test_columns_of_other_right_types(column):
    table = check_preferences(pd.DataFrame([GOOD, GOOD]).assign(preference=column))
    assert table["preference"].dtype == float
    np.testing.assert_array_equal(table["preference"], [1, np.nan])


@pytest.mark.parametrize("source, said", [
    (None, "table: is NoneType None: give a table"), (3.5, "table: is float 3.5"), ([], "table: has no rows."),
    (GOOD, "table: is a dict, not a table. Put a single record into a list."),
    (iter([GOOD]), "table: is list_iterator"), ([GOOD, None], "table: row 1 is NoneType None, not a record"),
    ([[1, 2]], "table: row 0 is list [1, 2], not a record")])
def test_things_that_are_no_tables(source, said):
    with pytest.raises(RecordError, match=re.escape(said)): as_table(source)


def test_each_check_asks_for_its_columns():
    two = ["output_1", "output_2"]
    for check, columns in [(check_instructions, []), (check_demonstrations, ["output"]), (check_outputs, ["output"]),
                           (check_pairs, two), (check_preferences, [*two, "preference"])]:
        row = {"instruction": "a"} | {column: 1 if column == "preference" else "b" for column in columns}
        check([row])
        for column in ["instruction", *columns]:
            with pytest.raises(RecordError, match=f"has no column '{column}'"):
                check(pd.DataFrame([{k: v for k, v in row.items() if k != column} | {"other": 1}]))


def test_a_bad_download_of_alpaca_farm(tmp_path):
    (tmp_path / "alpaca_instructions").mkdir()
    file = tmp_path / "alpaca_instructions/sft.json"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    for page in ("<!doctype html><title>Sign in</title>", pointer):
        file.write_text(page)
        with pytest.raises(RecordError, match=r"sft\.json: line 1 is not valid JSON"):
            load_alpaca_farm(tmp_path, split="sft")


def test_dialogues_that_are_none(tmp_path):
    good = {"conversations": [{"from": "human", "value": "Hm?"}], "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"}}
    path = tmp_path / "chat.jsonl"
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(good | {'conversations': []})}")
    with pytest.raises(RecordError, match=r"chat\.jsonl: line 3 has no question from the user before the answers"):
        load_chat_pairs(path)
    path.write_text('{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "b"}')
    with pytest.raises(RecordError, match=r"chat\.jsonl: line 1 does not begin with Human: but with 'b'"): load_hh(path)


def test_a_bad_prompt_dictionary(tmp_path):
    path = tmp_path / "prompts.json"
    def pair(inputs): return json.dumps({"prompt_inputs": inputs, "prompt_noinputs": "{instruction}"}).encode()
    for content, said in [(b'{"prompt_inputs": "{instruction}{input}"}', "has the key prompt_noinputs"),
                          (pair("{instruction}"), "no placeholder {input}"), (pair(1), "prompt_inputs is int, not"),
                          (pair("{instruction}{input}{x}"), "the placeholder {x}"),
                          (pair("{instruction}{"), "prompt_inputs is not a template"),
                          (b"\xff\xfe", "is not a prompt dictionary in JSON")]:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape(said)) as caught: PromptFormat.load(path)
        assert str(caught.value).startswith(str(path))


@pytest.fixture(scope="module")
def tiny():
    "A tiny untrained model with room for 64 tokens."
    pytest.importorskip("torch")
    from alpacafarm_nb.models.loading import new_backbone
    from alpacafarm_nb.models.policy import Model
    return Model(new_backbone([LINE], vocab=270, hidden=16, layers=1, context=64), name="tiny")


def test_a_prompt_longer_than_the_context_is_found_in_its_file(tiny, tmp_path):
    from alpacafarm_nb.methods.dpo import train_dpo
    from alpacafarm_nb.methods.reward import train_reward_model
    from alpacafarm_nb.methods.sft import train_sft
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n" + lines({"preference": 0}, {}, {"instruction": "hen " * 90}))  # line 2, a tie, is left out
    for train in (train_reward_model, train_dpo):
        with pytest.raises(RecordError, match=r"pairs\.jsonl, column 'instruction': line 4 makes a prompt of"):
            train(tiny, path)
    path = tmp_path / "demos.csv"
    path.write_text("instruction,output\nWho?,Me.\n" + "hen " * 90 + ",Corn.\n")
    with pytest.raises(RecordError, match=r"demos\.csv, column 'instruction': line 3 makes a prompt of"):
        train_sft(tiny, path)
    assert tiny.backbone.adapters.names == []


def test_pairs_that_differ_only_in_what_is_cut_off(tiny):
    from alpacafarm_nb.methods.dpo import train_dpo
    long = "hen " * 60
    pairs = [GOOD | {"output_1": f"{long}corn", "output_2": f"{long}oats"}, GOOD]
    with pytest.warns(UserWarning, match="1 of 2 pairs differ only in what was cut off"):
        train_dpo(tiny, pairs, epochs=1).free()


def test_weights_that_do_not_fit_their_configuration(tiny, tmp_path):
    from safetensors.torch import load_file, save_file
    from alpacafarm_nb.core import ModelError
    from alpacafarm_nb.models.policy import load_base
    file = tiny.export(tmp_path / "model") / "model.safetensors"
    whole = load_file(file)
    name = next(k for k in whole if "q_proj" in k)
    save_file({k: v for k, v in whole.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing \(.*q_proj"): load_base(tmp_path / "model")
    save_file(whole | {"model.layers.7.odd.weight": whole[name].clone()}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="no place in the model"): load_base(tmp_path / "model")
    file.write_bytes(b"cut short")
    with pytest.raises(ModelError, match="weights cannot be read"): load_base(tmp_path / "model")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_saved_models_can_be_read_by_others(tiny, tmp_path):
    before = os.umask(0o022)
    try: folder = tiny.export(tmp_path / "model")
    finally: os.umask(before)
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in folder.iterdir() if p.stat().st_mode & 0o777 != 0o644} == {}


def test_a_board_of_outputs_whose_model_is_not_named():
    board = pytest.importorskip("alpacafarm_nb.farm.leaderboard")
    outputs = pd.DataFrame({"instruction": ["Who?", "Who?"], "output": ["a", "b"], "generator": ["sft", None]})
    with pytest.raises(ConfigError, match="column 'generator': row 1 is missing"): board.named_sources(outputs)
