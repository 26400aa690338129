"""Adapters that peft wrote, in all its variations: read as peft reads them, or refused with the base untouched."""

import hashlib
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file

import alpacafarm_nb as af
from alpacafarm_nb.models.backbone import Backbone
from alpacafarm_nb.models.loading import new_tokenizer
from alpacafarm_nb.prompts import PLAIN

TEXTS = ["The farm has a red cow and two old horses.", "What does the hen eat? The hen eats corn and grass."] * 3
TOKENIZER = new_tokenizer(TEXTS, 300, 64)
IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, vocab_size=len(TOKENIZER), bos_token_id=1, eos_token_id=2, pad_token_id=0)
DEMOS = [{"instruction": "Name an animal.", "output": "A cow."}, {"instruction": "What eats corn?", "output": "A hen."}]

pytestmark = [pytest.mark.filterwarnings(f"ignore:.*:{kind}") for kind in
              ("UserWarning", "RuntimeWarning", "FutureWarning")]   # of peft and transformers, among themselves


def made(folder, config, net=None):
    "A random model in a folder, with weights that tell tokens apart."
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = net or T.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for p in net.parameters(): p.mul_(4 if p.dim() > 1 else 1)
    net.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return made(tmp_path_factory.mktemp("llama"), T.LlamaConfig(**SIZES))


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mixtral"), T.MixtralConfig(num_local_experts=4, **SIZES))


@pytest.fixture
def base(llama):
    return af.load_base(llama, prompts="plain")


def written(folder, source, stir=True, **settings):
    "An adapter as peft writes it after some training, and the network with it."
    config = dict(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"]) | settings
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = peft.get_peft_model(T.AutoModelForCausalLM.from_pretrained(source), peft.LoraConfig(**config))
        with torch.no_grad():
            for p in net.parameters():
                if stir and p.requires_grad: p.add_(.1 * torch.randn_like(p))
    net.save_pretrained(folder, save_embedding_layers=False)
    return net.eval()


def digest(net):
    "Of every number of a base: of its tensors but those of adapters, in the order of their names."
    found = hashlib.sha256()
    for name, t in sorted(net.state_dict().items()):
        if ".lora_" in name: continue
        found.update(name.replace(".base_layer", "").encode() + t.contiguous().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def logits(net): return net(input_ids=IDS).logits


def read(backbone, adapter):
    "Logits as they are sampled from, and as they are trained on."
    with backbone.inference(adapter) as net: folded = logits(net)
    with backbone.using(adapter, train=True) as net: return folded, logits(net)


RIGHT = {
    "plain": {},
    "dropout": dict(lora_dropout=.5),   # of its training, not of ours
    "rslora": dict(use_rslora=True),
    "ranks": dict(rank_pattern={"layers.1.mlp.up_proj": 2, "q_proj": 8}, alpha_pattern={"1.mlp.up_proj": 16}),
    "ranks_of_rslora": dict(use_rslora=True, rank_pattern={"q_proj": 9},
                            alpha_pattern={"^model.layers.0.mlp.up_proj": 1}),
    "expression": dict(target_modules=r"model\.layers\.[02]\..*_proj"),
    "all": dict(target_modules="all-linear"),
    "some_layers": dict(layers_to_transform=[0, 2]),
    "one_layer": dict(layers_to_transform=1, layers_pattern="layers"),
    "excluded": dict(exclude_modules=["layers.1.mlp.up_proj"]),
    "excluded_expression": dict(exclude_modules=r".*\.1\..*"),
    "gaussian": dict(init_lora_weights="gaussian"),
    "orthogonal": dict(init_lora_weights="orthogonal"),
    "mica": dict(init_lora_weights="mica"),
    "random": dict(init_lora_weights=False),
    "head": dict(target_modules=["lm_head", "v_proj"]),
    "no_task": dict(task_type=None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_read_as_peft_reads_it(name, llama, base, tmp_path):
    want = logits(written(tmp_path, llama, **RIGHT[name]))
    before, other = digest(base.backbone.net), base.branch("other")
    torch.manual_seed(7)
    state = torch.get_rng_state()
    model = af.load_model(tmp_path, base)
    assert torch.equal(torch.get_rng_state(), state)
    for mine in read(base.backbone, model.adapter): torch.testing.assert_close(mine, want, atol=2e-5, rtol=0)
    assert (want - read(base.backbone, other.adapter)[0]).abs().max() > .01   # it does something, and to itself alone
    assert digest(base.backbone.net) == before
    model.save(tmp_path / "again")
    for mine in read(base.backbone, af.load_model(tmp_path / "again", base).adapter):
        torch.testing.assert_close(mine, want, atol=2e-5, rtol=0)
    again = peft.PeftModel.from_pretrained(T.AutoModelForCausalLM.from_pretrained(llama), tmp_path / "again").eval()
    torch.testing.assert_close(logits(again), want, atol=2e-5, rtol=0)


REFUSED = {
    "pissa": dict(init_lora_weights="pissa"),
    "pissa_fast": dict(init_lora_weights="pissa_niter_2"),
    "olora": dict(init_lora_weights="olora"),
    "modules_to_save": dict(modules_to_save=["lm_head"]),
    "use_dora": dict(use_dora=True),
    "bias": dict(bias="all"),
    "lora_bias": dict(lora_bias=True),
    "trainable_token_indices": dict(trainable_token_indices=[5, 6]),
    "layer_replication": dict(layer_replication=[[0, 2], [1, 3]]),
    "alora_invocation_tokens": dict(alora_invocation_tokens=[5, 6]),
    "lora_embedding_A": dict(target_modules=["embed_tokens", "q_proj"]),
}
NAMED = {"pissa": "init_lora_weights", "pissa_fast": "init_lora_weights", "olora": "init_lora_weights"}


@pytest.fixture(scope="module")
def shared(llama):
    "One base on which all that is refused is tried, one after the other."
    base = af.load_base(llama, prompts="plain")
    return base, digest(base.backbone.net)


def check_untouched(base, before, roles=()):
    net = base.backbone.net
    assert digest(net) == before and base.backbone.adapters.names == list(roles)
    inside = [m for m in net.modules() if isinstance(m, (peft.tuners.lora.LoraLayer, peft.utils.ModulesToSaveWrapper))]
    assert bool(inside) == bool(roles) and hasattr(net, "peft_config") == bool(roles)
    assert not any(p.requires_grad for name, p in net.named_parameters() if ".lora_" not in name)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_is_left(name, llama, shared, tmp_path):
    written(tmp_path, llama, **REFUSED[name])
    base, before = shared
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with pytest.raises(af.ModelError, match=NAMED.get(name, name)) as caught: af.load_model(tmp_path, base)
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).endswith(".")
    assert torch.equal(torch.get_rng_state(), state)
    check_untouched(base, before)


def test_after_what_was_refused_the_base_trains_and_samples(llama, tmp_path):
    base = af.load_base(llama, prompts="plain")
    fresh = af.train_sft(af.load_base(llama, prompts="plain"), DEMOS, batch_size=2, epochs=1)
    for name in ("pissa", "modules_to_save", "bias"):
        written(tmp_path / name, llama, **REFUSED[name])
        with pytest.raises(af.ModelError): af.load_model(tmp_path / name, base)
    model = af.train_sft(base, DEMOS, batch_size=2, epochs=1)
    mine, want = (m.backbone.adapters.state(m.adapter) for m in (model, fresh))
    assert all(torch.equal(mine[k], want[k]) for k in want)
    assert len(model.sample(["Name an animal."], max_new_tokens=3)) == 1


def test_a_converted_pissa_adapter_is_one_of_the_plain_base(llama, base, tmp_path):
    net = written(tmp_path / "start", llama, stir=False, init_lora_weights="pissa")
    net.peft_config["default"].init_lora_weights = True
    net.save_pretrained(tmp_path / "start")   # what it began as, and is told not to begin again
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name: p.add_(.05 * torch.sin(torch.arange(p.numel())).view(p.shape))
    net.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    model = af.load_model(tmp_path / "plain", base)
    for mine in read(base.backbone, model.adapter): torch.testing.assert_close(mine, logits(net), atol=1e-4, rtol=0)


EDITED = {   # what is changed in the configuration, in the weights, and what is said
    "loftq": (dict(init_lora_weights="loftq"), None, "init_lora_weights is 'loftq'"),
    "lora_ga": (dict(init_lora_weights="lora_ga"), None, "path_initial_model_for_weight_conversion"),
    "list": (dict(init_lora_weights=["pissa"]), None, "init_lora_weights"),
    "megatron": (dict(megatron_config={"a": 1}), None, "megatron_config"),
    "tomorrow": (dict(use_something_new={"x": 1}), None, "use_something_new"),
    "classifier": (dict(task_type="SEQ_CLS"), None, "train_reward_model"),
    "ia3": (dict(peft_type="IA3"), None, "not LoRA"),
    "unknown_layer": (dict(target_modules=["q_proj", "up_proj", "c_attn"]), None, "'c_attn', which this base does not"),
    "few_named": (dict(target_modules=["q_proj"]), None, "do not name model.layers.0.mlp.up_proj"),
    "many_named": (dict(target_modules=["q_proj", "up_proj", "k_proj"]), None, "lacks the weights of 3 layers"),
    "norm": (dict(target_modules=["q_proj", "up_proj", "input_layernorm"]), None, "lacks the weights of 3 layers"),
    "hostile": (dict(rank_pattern={"(a+)+$": 4}), None, "'(a+)+$', which is not a linear layer"),
    "rank": (dict(r=8), None, "the rank is to be 8"),
    "rank_text": (dict(r="4"), None, "not a rank"),
    "alpha": (dict(lora_alpha=float("nan")), None, "not a number"),
    "pattern": (dict(alpha_pattern={"nowhere": 2}), None, "'nowhere', which is not a linear layer"),
    "lost": ({}, lambda w: w.pop(min(w)), "it has only B"),
    "lost_map": ({}, lambda w: [w.pop(k) for k in list(w) if "layers.0.mlp" in k], "lacks the weights of 1 layers"),
    "more": ({}, lambda w: w.update({"base_model.model.lm_head.weight": torch.ones(2)}), "which has no place"),
    "magnitude": ({}, lambda w: w.update({min(w)[:-8] + "magnitude_vector": torch.ones(2)}), "which has no place"),
    "deeper": ({}, lambda w: w.update({k.replace("s.0.", "s.7."): x.clone() for k, x in w.items()}), "no such linear"),
    "wide": ({}, lambda w: w.update({min(w): torch.ones(4, 33)}), "do not fit"),
    "nan": ({}, lambda w: w[min(w)].fill_(float("nan")), "not a matrix of numbers"),
    "empty": ({}, lambda w: w.clear(), "holds no weights"),
}


@pytest.mark.parametrize("name", EDITED)
def test_edited_files_are_refused(name, llama, shared, tmp_path):
    settings, change, said = EDITED[name]
    written(tmp_path, llama)
    file, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    if change:
        change(state := load_file(weights))
        save_file(state, weights)
    with pytest.raises(af.ModelError) as caught: af.load_model(tmp_path, shared[0])
    assert said in str(caught.value)
    check_untouched(*shared)


def test_files_that_cannot_be_read(llama, shared, tmp_path):
    written(tmp_path, llama)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    text, data = config.read_text(), weights.read_bytes()
    for broken in ("", "[1]", "[" * 100_000, text[:-5]):
        config.write_text(broken)
        with pytest.raises(af.ModelError, match="cannot be loaded as an adapter"): af.load_model(tmp_path, shared[0])
    config.write_text(text)
    weights.write_bytes(data[:-9])
    with pytest.raises(af.ModelError, match="cannot be loaded as an adapter"): af.load_model(tmp_path, shared[0])
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(af.ModelError, match="a pickle .*, which is never opened"): af.load_model(tmp_path, shared[0])
    check_untouched(*shared)


def test_an_expression_from_a_file_is_never_run(llama, base, tmp_path):
    want = logits(written(tmp_path, llama))
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": r"(\w+\.?)+#"}))   # would take years
    torch.testing.assert_close(read(base.backbone, af.load_model(tmp_path, base).adapter)[0], want, atol=2e-5, rtol=0)


def test_what_peft_breaks_off_is_taken_back(llama, tmp_path):
    base = af.load_base(llama, prompts="plain")
    before, bare = digest(base.backbone.net), read(base.backbone, None)
    for roles in ([], ["first"]):   # q_proj has its adapter when the norm, which can have none, is met
        with pytest.raises(af.ModelError, match="cannot be adapted so"):
            base.backbone.adapters.add("half", targets=["q_proj", "post_attention_layernorm"])
        check_untouched(base, before, roles)
        for mine, want in zip(read(base.backbone, None), bare): assert torch.equal(mine, want)
        if not roles: base.backbone.adapters.add("first", targets=["k_proj"])
    assert [path for path in base.backbone.adapters.layers if "q_proj" in path] == []
    af.load_model(Path(base.branch("second").save(tmp_path / "second")), base)


def test_no_handle_comes_alive_again(base):
    before = base.branch("policy")
    before.free()
    after = base.branch("policy")
    assert after.adapter != before.adapter and after.name == before.name == "policy"
    with pytest.raises(af.ModelError, match="there is no adapter 'policy'"): before.sample(["Hi"], max_new_tokens=2)
    with pytest.raises(af.ModelError, match="there is no adapter 'policy'"): before.free()
    assert len(after.sample(["Hi"], max_new_tokens=2)) == 1
    base.backbone.adapters.remove(after.adapter)
    assert base.branch("policy").adapter not in ("policy", after.adapter)


@pytest.mark.parametrize("maps", [["q_proj"], ["q_proj", "w1", "w2", "w3"]], ids=["attention", "experts"])
def test_mixtures_of_experts(maps, mixtral, tmp_path):
    want = logits(written(tmp_path, mixtral, target_modules=maps))
    base = af.load_base(mixtral, prompts="plain")
    before, model = digest(base.backbone.net), af.load_model(tmp_path, base)
    torch.testing.assert_close(read(base.backbone, model.adapter)[0], want, atol=2e-5, rtol=0)
    assert digest(base.backbone.net) == before
    again = af.load_model(model.save(tmp_path / "again"), base)
    torch.testing.assert_close(read(base.backbone, again.adapter)[0], want, atol=2e-5, rtol=0)


def test_experts_that_do_not_fit_leave_nothing(mixtral, tmp_path):
    written(tmp_path, mixtral, target_modules=["q_proj", "w1", "w2", "w3"])
    save_file({k: w for k, w in load_file(tmp_path / "adapter_model.safetensors").items() if "layers.0" not in k},
              tmp_path / "adapter_model.safetensors")
    base = af.load_base(mixtral, prompts="plain")
    before, bare = digest(base.backbone.net), read(base.backbone, None)[0]
    with pytest.raises(af.ModelError, match="do not fit"): af.load_model(tmp_path, base)
    check_untouched(base, before)
    assert torch.equal(read(base.backbone, None)[0], bare)


def test_transposed_maps(tmp_path):
    ids = {k: v for k, v in SIZES.items() if k.endswith("_id") or k == "vocab_size"}
    source = made(tmp_path / "base", T.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids))
    want = logits(written(tmp_path / "adapter", source, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True))
    base = af.load_base(source, prompts="plain")
    for mine in read(base.backbone, af.load_model(tmp_path / "adapter", base).adapter):
        torch.testing.assert_close(mine, want, atol=2e-5, rtol=0)


def test_of_a_revision_that_nobody_fetched(llama, tmp_path):
    written(tmp_path, llama, revision="v2")
    with pytest.raises(af.ModelError, match="made for revision 'v2'"): af.load_model(tmp_path)
    assert af.load_model(tmp_path, af.load_base(llama, prompts="plain")).adapter


@pytest.mark.parametrize("family", [T.FalconConfig, T.Llama4TextConfig], ids=["falcon", "llama4"])
def test_maps_that_are_an_architecture_s_own(family):
    "Falcon's maps are linear by another name; Llama 4's router is one by its class, and gives two things."
    extra = dict(num_local_experts=2, interleave_moe_layer_step=1, intermediate_size_mlp=64, head_dim=8)
    config = family(**SIZES, **extra) if family is T.Llama4TextConfig else family(
        **{k: v for k, v in SIZES.items() if k not in ("intermediate_size", "num_key_value_heads")})
    base = af.Model(Backbone(T.AutoModelForCausalLM.from_config(config), TOKENIZER, PLAIN))
    adapter = base.branch("policy").adapter
    assert any("mlp" in p or "feed_forward" in p for p in base.backbone.adapters.layers)
    assert not any(p.endswith("router") for p in base.backbone.adapters.layers)
    model = af.train_sft(base, DEMOS, batch_size=2, epochs=1)
    assert base.backbone.adapters.state(model.adapter).keys() == base.backbone.adapters.state(adapter).keys()


def test_a_reward_model_with_a_spoiled_head_leaves_nothing(llama, tmp_path):
    reward = af.RewardModel(af.load_base(llama, prompts="plain").branch("x").backbone, "x")
    reward.save(tmp_path)
    base = af.load_base(llama, prompts="plain")
    before = digest(base.backbone.net)
    save_file({"weight": torch.zeros(1, 5)}, tmp_path / "head.safetensors")
    with pytest.raises(af.ModelError, match="head of a reward model"): af.load_model(tmp_path, base)
    check_untouched(base, before)
    for marks in ([], {"hash": 1}, {"hash": "a", "embeddings": ["x"] * 16}, {"hash": "a", "embeddings": [[1.]] * 16}):
        (tmp_path / "alpacafarm.json").write_text(json.dumps({"kind": "reward", "base": marks}))
        with pytest.raises(af.ModelError, match="does not say which base"): af.load_model(tmp_path, base)
    check_untouched(base, before)
