"""Whatever the files of a model folder say is taken, left out or refused in a sentence: nothing of it chooses code."""

import json
import shutil
import socket
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import PreTrainedTokenizerFast, modeling_utils  # noqa: E402
from transformers.integrations import hub_kernels  # noqa: E402

from alpacafarm_nb.models import compatibility as kinds, loading as models  # noqa: E402
from alpacafarm_nb.core import ConfigError, FarmError, ModelError  # noqa: E402
from alpacafarm_nb.models.reward_model import RewardModel, scalar_head  # noqa: E402
from alpacafarm_nb.models.loading import load_backbone, new_backbone  # noqa: E402
from alpacafarm_nb.prompts import ChatFormat  # noqa: E402
from alpacafarm_nb.models.policy import Model, load_base, load_model  # noqa: E402

TEXTS = ["What do hens lay?", "Eggs.", "Who has wool?", "The sheep."]
ASKED = pd.DataFrame({"instruction": TEXTS[::2], "input": "", "output": TEXTS[1::2]})
TURNS = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
         "{% if add_generation_prompt %}<|assistant|>{% endif %}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "A tiny base, and an adapter and a reward model of it, as folders."
    base, place = Model(new_backbone(TEXTS, vocab=300, hidden=32, context=80, seed=3)), tmp_path_factory.mktemp("saved")
    base.export(place / "base")
    base = load_base(place / "base")
    base.branch("policy").save(place / "policy")
    head = scalar_head(base.backbone)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    RewardModel(base.backbone, base.branch("reward").adapter, head, "reward", None, .5, 2.).save(place / "reward")
    return SimpleNamespace(base=place / "base", policy=place / "policy", reward=place / "reward")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    "A folder on this machine gives no reason to ask another."
    def refuse(*args, **how): pytest.fail(f"a connection was asked for: {args}")
    for name in ("getaddrinfo", "create_connection"): monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def changed(place, source, file, **settings):
    "A copy of a folder with other settings in one of its files."
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)
    path = place / file
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(found | settings), encoding="utf-8")
    return place


def weights(place, change):
    "Other weights in a folder."
    path = next(place / x for x in ("head.safetensors", "model.safetensors") if (place / x).exists())
    save_file({k: change(v).contiguous() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    return place


# code

@pytest.mark.parametrize("name", ["someone/evil", "someone/evil@main", "kernels-community/flash-attn2",
                                  "flash_attention_2", "paged|sdpa", "nonsense", "eager", 5])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_no_folder_chooses_its_attention(saved, tmp_path, monkeypatch, key, name):
    asked = []
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", lambda *a, **how: asked.append(a))
    monkeypatch.setattr(modeling_utils, "is_kernels_available", lambda *a: True)
    backbone = load_backbone(changed(tmp_path / "m", saved.base, "config.json", **{key: name}))
    assert asked == [] and backbone.net.config._attn_implementation == "sdpa"
    assert backbone.encode_prompt("Hi") == load_backbone(saved.base).encode_prompt("Hi")


@pytest.mark.parametrize("more", [dict(experts_implementation="sonicmoe"), dict(use_kernels=True), dict(
    fusion_config={"patch_embeddings": True}), dict(kernel_config={"x": "someone/evil:Layer"}),
    dict(custom_generate="x/y"), dict(distributed_config={"tp_size": 2}),
    dict(text_config={"_attn_implementation": "someone/evil"}),
    dict(auto_map={"AutoModelForCausalLM": "someone/evil--a.B"})],
    ids=lambda more: next(iter(more)))
def test_no_other_setting_chooses_code(saved, tmp_path, more):
    try: backbone = load_backbone(changed(tmp_path / "m", saved.base, "config.json", **more))
    except ModelError: return
    assert not any(getattr(backbone.net.config, name, None) for name in more.keys() - {"text_config"})


def test_while_loading_no_kernel_comes_from_the_hub(saved, monkeypatch):
    seen, asked = [], []
    monkeypatch.setattr(hub_kernels, "get_kernel", fetch := lambda *a, **how: asked.append(a) or hub_kernels)
    for name in ("is_kernels_available", "_kernels_enabled"): monkeypatch.setattr(hub_kernels, name, lambda *a: True)
    meanwhile = lambda backbone: seen.append(hub_kernels.lazy_load_kernel("sonic-moe", mapping={}))
    monkeypatch.setattr(models, "check_reading", meanwhile)
    load_backbone(saved.base)
    assert (seen, asked) == ([None], []) and hub_kernels.get_kernel is fetch
    assert hub_kernels.lazy_load_kernel("sonic-moe", mapping={}) is hub_kernels   # elsewhere, as it was


def test_an_error_for_want_of_kernels_gives_no_advice_to_install_them(saved, monkeypatch):
    def fails(*args, **how): raise ImportError("`kernels` is not installed: pip install kernels")
    with pytest.raises(ModelError, match="native code from elsewhere") as caught:
        models._named(fails, "weights", saved.base, {}, saved.base)
    assert "pip" not in str(caught.value)


# precision

@pytest.mark.parametrize("stored, want", [("float64", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16"),
                                          ("float16", "float32")])
@pytest.mark.parametrize("said", ["int8", "complex64", "bool", 5, "float64", "bfloat16", "float16", "float8_e4m3fn",
                                  None])
def test_the_precision_is_that_of_the_weights(saved, tmp_path, monkeypatch, stored, want, said):
    monkeypatch.setattr(models, "fast_half", lambda device: torch.bfloat16)
    place = changed(tmp_path / "m", saved.base, "config.json", dtype=said)
    weights(place, lambda w: w.to(getattr(torch, stored)))
    try: assert load_backbone(place, device="cpu").dtype == getattr(torch, want)
    except ModelError as error: assert said not in ("float32", "bfloat16", "float16", None), error


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn,
                                  torch.complex64])
def test_weights_that_are_no_floats_are_refused(saved, tmp_path, kind):
    place = weights(changed(tmp_path / "m", saved.base, "config.json"), lambda w: w.to(kind) if w.dim() > 1 else w)
    with pytest.raises(ModelError, match="stored in|cannot be read"): load_backbone(place)


def test_layers_without_weights_are_refused_before_they_are_built(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_load_net", lambda *a: pytest.fail("built"))
    with pytest.raises(ModelError, match="names 2000 layers, but its files hold 20 tensors"):
        load_backbone(changed(tmp_path / "m", saved.base, "config.json", num_hidden_layers=2000))


# tokenizers

def test_a_vocabulary_with_holes(saved, tmp_path):
    core = json.loads((saved.base / "tokenizer.json").read_text(encoding="utf-8"))
    word = max(core["model"]["vocab"], key=core["model"]["vocab"].get)
    core["model"]["vocab"][word] = 5000
    place = changed(tmp_path / "m", saved.base, "tokenizer.json", **core)
    with pytest.warns(UserWarning, match=r"numbers 1 tokens \(such as .*\) beyond the \d+ embeddings"):
        backbone = load_backbone(place)
    text = backbone.tokenizer.convert_tokens_to_string([word])
    with pytest.raises(ModelError, match="knows .*, token 5000, but the model has"): backbone.encode_output(text)
    assert backbone.encode_prompt("x")


def bomb(text, times): return [{"type": "Replace", "pattern": {"String": text}, "content": 10 * text}] * times


RULES = {
    "normalizer": {"normalizer": {"type": "Sequence", "normalizers": bomb("a", 9)}},
    "of a rare letter": {"normalizer": {"type": "Sequence", "normalizers": bomb("ß", 9)}},
    "decoder": {"decoder": {"type": "Sequence", "decoders": bomb("e", 9)}},
    "long": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
    "backtracking": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "^(q|q|qq)+$"}, "behavior": "Isolated",
                                       "invert": False}},
}


@pytest.mark.parametrize("name", RULES)
def test_rules_without_end_are_refused_before_the_tokenizer_is_made(saved, tmp_path, monkeypatch, name):
    monkeypatch.setattr(models, "_load_tokenizer", lambda *a: pytest.fail("made"))
    with pytest.raises(ModelError, match="tokenizer.json cannot be run within bounds"):
        load_backbone(changed(tmp_path / "m", saved.base, "tokenizer.json", **RULES[name]))


def test_of_the_package_s_own_folders_nothing_is_tried(saved, monkeypatch):
    tried = []
    monkeypatch.setattr(kinds, "_run_probe", tried.append)
    kinds.check_tokenizer(kinds.data_path("farmyard", "model"), "the farm's")
    assert tried == []
    kinds.check_tokenizer(saved.base, "another")
    assert len(tried) == 1


def test_what_a_tokenizer_raises_in_use_is_a_sentence():
    backbone = new_backbone(TEXTS, vocab=300, hidden=32)
    core = json.loads(backbone.tokenizer.backend_tokenizer.to_str())
    core |= RULES["backtracking"]
    core = Tokenizer.from_str(json.dumps(core))
    backbone.codec.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    with pytest.raises(ModelError, match="PanicException"): backbone.codec.encode_outputs(["q" * 30 + "!"])


# chat templates

@pytest.mark.parametrize("said", ["{{ messages[0].items }}", "{{ (messages[0].items | string)[-9:] }}", "{{ range }}",
                                  "{{ lipsum() }}", "{{ range(99999) | random }}"])
def test_a_prompt_is_the_same_in_each_process(said):
    tokenizer = new_backbone(["x"]).tokenizer
    tokenizer.chat_template = said + TURNS
    with pytest.raises(ConfigError, match="another prompt each time"): ChatFormat(tokenizer)


@pytest.mark.parametrize("template, said", [("{{ '\\ud83d' }}" + TURNS, "no text"), (5, "a int, not a text"),
                                            ([{"name": "x"}], "a list, not a text"),
                                            ({"x": 1}, "no plain")])
def test_a_template_that_is_no_text_or_writes_none(template, said):
    tokenizer = new_backbone(["x"]).tokenizer
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=said): ChatFormat(tokenizer)


# settings of wrong kinds

@pytest.mark.parametrize("named, left", [("2", "'2'"), ([[2]], r"\[2\]"), ({"a": 1}, "'a': 1"), ([2, "x"], "'x'"),
                                         (-1, "-1"), (1.5, "1.5"), (True, "True"), (2**70, "1180591620717411303424")])
def test_end_tokens_are_numbers_of_tokens(saved, tmp_path, named, left):
    place = changed(tmp_path / "m", saved.base, "generation_config.json", eos_token_id=named)
    with pytest.warns(UserWarning, match=f"are not all tokens of the model: .*{left}.*; left out"):
        backbone = load_backbone(place)
    assert backbone.codec.stop_ids == (2,) and all(type(i) is int for i in backbone.codec.stop_ids)


@pytest.mark.parametrize("decoding", [
    dict(control=5), dict(control=None), dict(max_new_tokens="x"), dict(max_new_tokens=2.5), dict(max_new_tokens=0),
    dict(max_new_tokens=10**30), dict(temperature="x"), dict(temperature=10**400), dict(temperature=True),
    dict(top_p=0), dict(zzz=1), [1], "x"])
@pytest.mark.parametrize("whose", ["base", "policy"])
def test_decoding_of_a_folder_is_checked_when_it_is_loaded(saved, tmp_path, decoding, whose):
    place = changed(tmp_path / "m", getattr(saved, whose), "alpacafarm.json", decoding=decoding)
    with pytest.raises(ModelError, match="m: decoding in its alpacafarm.json is not understood"): load_model(
        place, None if whose == "base" else load_backbone(saved.base))


NO_NUMBERS = ("x", "2", None, float("nan"), float("inf"), [1], True, 10**400)


@pytest.mark.parametrize("key, value", [(k, v) for k in ("mean", "scale") for v in NO_NUMBERS] +
                         [("scale", 0), ("scale", -1), ("scale", 1e-320)])
def test_mean_and_scale_of_a_reward_model_are_finite_numbers(saved, tmp_path, key, value):
    place = changed(tmp_path / "m", saved.reward, "alpacafarm.json", **{key: value})
    base = load_base(saved.base)
    with pytest.raises(ModelError, match="the scale above 0"): load_model(place, base)
    assert base.backbone.adapters.names == []


HEADS = {"nan": lambda w: w * float("nan"), "int": lambda w: (9 * w).long(), "complex": lambda w: w.to(torch.complex64),
         "large": lambda w: w.double() * 1e300}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_holds_finite_floats(saved, tmp_path, kind):
    place = weights(changed(tmp_path / "m", saved.reward, "alpacafarm.json"), HEADS[kind])
    with pytest.raises(ModelError, match="not all finite floats"): load_model(place, load_base(saved.base))


WRONG = ("x", 2.5, -1, ["x"], {"x": 1}, None)
CONFIG = """architectures model_type dtype torch_dtype bos_token_id eos_token_id pad_token_id hidden_size
    intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act
    max_position_embeddings vocab_size
    rope_parameters rope_scaling rope_theta rms_norm_eps tie_word_embeddings attention_bias attention_dropout mlp_bias
    initializer_range pretraining_tp use_cache sliding_window layer_types logit_scale logits_scaling
    final_logit_softcapping is_encoder_decoder is_decoder quantization_config text_config transformers_version
    n_positions max_seq_len n_ctx seq_length output_hidden_states output_attentions return_dict torchscript
    chunk_size_feed_forward id2label num_labels problem_type _attn_implementation experts_implementation auto_map
    transformers_weights""".split()
TOKENS = """tokenizer_class model_max_length chat_template bos_token eos_token pad_token unk_token padding_side
    truncation_side extra_special_tokens additional_special_tokens added_tokens_decoder clean_up_tokenization_spaces
    split_special_tokens add_bos_token add_eos_token add_prefix_space model_input_names max_length stride truncation
    backend is_local auto_map fast_tokenizer_files name_or_path model_specific_special_tokens""".split()
GENERATION = """eos_token_id bos_token_id pad_token_id max_length max_new_tokens do_sample temperature top_p top_k
    num_beams use_cache cache_implementation transformers_version custom_generate""".split()
CORE = "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model".split()
READ = [("base", "config.json", CONFIG), ("base", "tokenizer_config.json", TOKENS),
        ("base", "generation_config.json", GENERATION), ("base", "tokenizer.json", CORE),
        ("base", "special_tokens_map.json", TOKENS[3:7]),
        ("base", "model.safetensors.index.json", ["weight_map", "metadata"]),
        ("base", "alpacafarm.json", "name decoding prompts chat".split()),
        ("policy", "alpacafarm.json", "name kind decoding history chat base mean scale".split()),
        ("reward", "alpacafarm.json", "name kind decoding history chat base mean scale".split()),
        ("policy", "adapter_config.json", """peft_type task_type r lora_alpha use_rslora rank_pattern alpha_pattern
            target_modules target_parameters exclude_modules layers_to_transform layers_pattern init_lora_weights
            lora_dropout base_model_name_or_path revision auto_mapping bias modules_to_save""".split())]


def used(place, base=None):
    "Loaded, and used in all ways that depend on settings."
    model = load_model(place, base)
    if isinstance(model, RewardModel): return model.score(ASKED)
    model.sample(ASKED[["instruction", "input"]], max_new_tokens=2)
    model.sample("Hi", n=2)
    model.save(place.parent / "again")
    if base is not None: model.free()


@pytest.mark.parametrize("whose, file, keys", READ, ids=lambda x: x if isinstance(x, str) else "")
def test_a_setting_of_a_wrong_kind_is_left_out_or_refused(saved, tmp_path, monkeypatch, whose, file, keys):
    monkeypatch.setattr(kinds, "_run_probe", lambda asked: None)   # a process each; what it holds back is tried above
    base, bare = None if whose == "base" else load_backbone(saved.base), []
    for k, key in enumerate(keys):
        for wrong in WRONG if "alpacafarm" in file else WRONG[k % 3::3]:
            place = changed(tmp_path / "m", getattr(saved, whose), file, **{key: wrong})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try: used(place, base)
                except FarmError as error: assert str(error)
                except Exception as error: bare.append(f"{key}={wrong!r}: {type(error).__name__}: {error}"[:200])
    assert not bare, "\n".join(bare)
