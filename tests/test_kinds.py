"""Model folders of unlike kinds: sizes, bits and ends of answers as they are; a sentence for what is no such model."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as T

import alpacafarm_nb as af
from alpacafarm_nb.training.start import precision_for, forward_in_training_precision
from alpacafarm_nb.methods.memory import shape_of
from alpacafarm_nb.methods.value import ValueHead
from alpacafarm_nb.models.loading import check_reading, own_gpu
from alpacafarm_nb.models.reward_model import scalar_head

TEXTS = ["The farm has a red cow and two old horses.", "What does the hen eat? The hen eats corn and grass."] * 3
SPECIAL = ("<pad>", "<s>", "</s>")
DEMOS = [{"instruction": "Name an animal.", "output": "A cow."}, {"instruction": "What eats corn?", "output": "A hen."}]
PAIRS = [{"instruction": "Name an animal.", "output_1": "A cow.", "output_2": "x", "preference": 1}] * 2


def tokenizer(special=SPECIAL, bos="<s>", eos="</s>", pad="<pad>", template=None):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    core, ways = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer, core.decoder = ways, decoders.ByteLevel()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=list(special),
                                                        show_progress=False, initial_alphabet=ways.alphabet()))
    if bos: core.post_processor = processors.TemplateProcessing(single=f"{bos} $A",
                                                                special_tokens=[(bos, core.token_to_id(bos))])
    made = T.PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad)
    made.chat_template = template
    return made


PLAIN = tokenizer()
IDS = dict(vocab_size=len(PLAIN), bos_token_id=1, eos_token_id=2, pad_token_id=0)
SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=64)
LLAMA = dict(SMALL, num_key_value_heads=2, **IDS)


def folder(path, config, words=PLAIN, kind=T.AutoModelForCausalLM):
    "A random model as a user has it."
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        with torch.no_grad():
            for p in net.parameters(): p.mul_(4 if p.dim() > 1 else 1)
    net.save_pretrained(path)
    words.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory): return folder(tmp_path_factory.mktemp("llama"), T.LlamaConfig(**LLAMA))


# sizes

def opt(**more):
    sizes = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
    return T.OPTConfig(**(sizes | dict(ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False) | IDS | more))


def test_heads_are_as_wide_as_the_states(tmp_path):
    base = af.load_base(folder(tmp_path, opt()), prompts="plain")   # as OPT-350m: states of half the inner width
    backbone = base.backbone
    assert (backbone.width, backbone.net.config.hidden_size) == (16, 32)
    assert scalar_head(backbone).in_features == ValueHead(backbone, None).net[0].in_features == 16
    reward = af.train_reward_model(base, PAIRS, epochs=1)
    again = af.load_model(reward.save(tmp_path / "reward"), base)
    np.testing.assert_allclose(again.score(DEMOS), reward.score(DEMOS), rtol=1e-6)
    prompt, answer = backbone.encode_prompt("Name an animal."), backbone.encode_output("A cow.")
    with backbone.using(reward.adapter) as net, torch.no_grad():   # the states by hand: what the head of words is given
        seen = []
        with net.lm_head.register_forward_pre_hook(lambda m, given: seen.append(given[0])):
            net(torch.tensor([prompt + answer]))
        by_hand = (reward.head(seen[0][0, -1]).item() - reward.mean) / reward.scale
    np.testing.assert_allclose(reward.score_ids([prompt], [answer])[0], by_hand, atol=1e-5)
    ones = lambda table: np.ones(len(table))
    for value in ("head", "adapter"):
        af.train_ppo(base, ones, DEMOS, steps=1, rollout_batch_size=4, minibatch_size=2, max_new_tokens=4, value=value)


@pytest.mark.parametrize("config, want", [
    (T.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=48, **IDS), 48),
    (T.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=40, **IDS), 40),
    (T.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **IDS), 2048),   # it knows none, and the tokenizer neither
], ids=["mpt", "gpt2", "bloom"])
def test_the_context_by_its_many_names(config, want, tmp_path):
    assert af.load_base(folder(tmp_path, config), prompts="plain").backbone.max_length == want


# tokens beyond the embeddings

def added(*tokens, **roles):
    words = tokenizer(pad=None)
    words.add_special_tokens(roles)
    words.add_tokens(list(tokens))
    return words


def test_a_padding_token_without_an_embedding_is_never_read(tmp_path):
    base = af.load_base(folder(tmp_path / "own", T.LlamaConfig(**LLAMA), added(pad_token="[PAD]")), prompts="plain")
    plain = af.load_base(folder(tmp_path / "plain", T.LlamaConfig(**LLAMA)), prompts="plain")
    assert base.backbone.tokenizer.pad_token_id == len(PLAIN) and base.backbone.codec.pad_id < len(PLAIN)
    asked = ["Name an animal.", "What does the hen eat? Corn and grass and"]
    mine, want = (m.sample(asked, n=2, max_new_tokens=5)["output"].tolist() for m in (base, plain))
    assert mine == want
    mine, want = (af.train_sft(m, DEMOS, batch_size=2, epochs=1).history.rows[-1]["loss"] for m in (base, plain))
    assert mine == want


def test_other_tokens_without_an_embedding_are_named_where_they_are_used(tmp_path):
    config = T.LlamaConfig(**LLAMA)
    base = af.load_base(folder(tmp_path / "unused", config, added("<image>", pad_token="[PAD]")), prompts="plain")
    base.sample(["Name an animal."], max_new_tokens=2)
    with pytest.raises(af.ModelError, match=f"knows '<image>', token {len(PLAIN) + 1}, but the model has {len(PLAIN)}"):
        base.backbone.codec.encode_outputs(["An <image> of a cow."])
    words = added("<|turn|>")
    words.chat_template = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
    with pytest.raises(af.ModelError, match="knows '<|turn|>'"): af.load_base(folder(tmp_path / "chat", config, words))
    words = added(eos_token="[END]")
    base = af.load_base(folder(tmp_path / "end", config, words), prompts="plain")
    assert base.backbone.codec.stop_ids == (2,)   # the model's own end is left


# the end of a turn

GEMMA = ("{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
         "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
         "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")
PHI = ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
       "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}")
LLAMA3 = ("{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role + "
          "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
          "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
LLAMA2 = ("{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
          "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}")
HARMONY = ("{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}"
           "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
           "{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}")
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}assistant: "
TURNS = {   # template, special tokens, the tokenizer's end, the turn's
    "gemma": (GEMMA, ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>",
              "<end_of_turn>"),
    "phi": (PHI, ("<pad>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"), None, "<|endoftext|>", "<|end|>"),
    "llama3": (LLAMA3, ("<pad>", "<|begin|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                        "<|eot_id|>"), "<|begin|>", "<|end_of_text|>", "<|eot_id|>"),
    "chatml": (CHATML, ("<pad>", "<|im_start|>", "<|im_end|>"), None, "<|im_end|>", "<|im_end|>"),
    "llama2": (LLAMA2, SPECIAL, "<s>", "</s>", "</s>"),
    "harmony": (HARMONY, ("<pad>", "<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|stop|>"), None, "<|stop|>",
                "<|return|>"),
    "bare": (BARE, SPECIAL, "<s>", "</s>", "</s>"),
}


@pytest.mark.parametrize("name", TURNS)
def test_an_answer_ends_as_the_template_ends_it(name, tmp_path):
    template, special, bos, eos, end = TURNS[name]
    words = tokenizer(special, bos, eos, template=template)
    config = T.LlamaConfig(**(LLAMA | dict(vocab_size=len(words), eos_token_id=words.convert_tokens_to_ids(eos))))
    backbone = af.load_base(folder(tmp_path, config, words)).backbone
    ids = words.convert_tokens_to_ids([end, eos])
    assert backbone.codec.eos_id == ids[0] and set(ids) <= set(backbone.codec.stop_ids)
    mine = backbone.encode_prompt("Name an animal.") + backbone.encode_output("A cow.")
    if name not in ("bare", "llama2"):   # of which the template surrounds the answer with blanks
        turns = [dict(role="user", content="Name an animal."), dict(role="assistant", content="A cow.")]
        whole = words.apply_chat_template(turns, tokenize=True, return_dict=False)
        assert mine == whole[:len(mine)] and words.decode(whole[len(mine):]).strip() in ("", eos)
    assert backbone.codec.decode(backbone.encode_output("A cow.")) == "A cow."
    plain = af.load_base(tmp_path, prompts="plain").backbone
    assert plain.codec.eos_id == ids[1]   # without the template, the tokenizer's


def test_sampling_stops_at_the_turn_s_end(tmp_path):
    template, special, bos, eos, end = TURNS["gemma"]
    words = tokenizer(special, bos, eos, template=template)
    base = af.load_base(folder(tmp_path, T.LlamaConfig(**(LLAMA | dict(vocab_size=len(words), eos_token_id=1))), words))
    table = pd.DataFrame(DEMOS * 8)
    taught = af.train_sft(base, table, batch_size=8, epochs=12, lr=1e-2)
    found = taught.sample(["Name an animal."], greedy=True, max_new_tokens=30, return_ids=True)
    assert found["finished"][0] and found["output_ids"][0][-1] == words.convert_tokens_to_ids(end)
    assert found["output"][0] == "A cow."


# bits

BITS = {
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float16),
    "int8": dict(load_in_8bit=True),
}


@pytest.mark.parametrize("bits", BITS)
def test_folders_that_are_stored_in_few_bits(bits, tmp_path):
    path = folder(tmp_path / "plain", T.LlamaConfig(**(LLAMA | dict(hidden_size=64, intermediate_size=128))))
    stored = T.AutoModelForCausalLM.from_pretrained(path, quantization_config=T.BitsAndBytesConfig(**BITS[bits]))
    stored.save_pretrained(tmp_path / bits)
    PLAIN.save_pretrained(tmp_path / bits)
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad(): want = stored(ids).logits
    base = af.load_base(tmp_path / bits, prompts="plain")
    assert base.backbone.quantize == bits and bits in repr(base)
    with torch.no_grad(), base.backbone.inference(None) as net: found = net(ids).logits
    assert (found - want).norm() < .02 * want.norm()
    model = af.train_sft(base, DEMOS * 4, batch_size=8, epochs=8, lr=1e-2)
    losses = [row["loss"] for row in model.history.rows]
    assert losses[-1] < .7 * losses[0], losses
    said = f"stored in {bits}.* stored in 16 or 32 bits"
    for way in (lambda: model.export(tmp_path / "e"), model.merge, lambda: base.export(tmp_path / "e")):
        with pytest.raises(af.ModelError, match=said): way()
    assert not (tmp_path / "e").exists()
    again = af.load_model(model.save(tmp_path / "adapter"), base)
    assert again.sample(["Name an animal."], greedy=True)["output"][0] == \
        model.sample(["Name an animal."], greedy=True)["output"][0]
    if bits == "nf4": assert af.load_base(tmp_path / bits, quantize="nf4", prompts="plain").backbone.quantize == "nf4"
    else:
        with pytest.raises(af.ModelError, match=f"in {bits} already"): af.load_base(tmp_path / bits, quantize="nf4")


@pytest.mark.parametrize("bits", BITS)
def test_memory_of_a_configuration_counts_the_bits_that_it_names(bits):
    config = T.LlamaConfig(**(LLAMA | dict(hidden_size=64, intermediate_size=128)))
    plain = shape_of(config, dtype=torch.float32)
    config.quantization_config = T.BitsAndBytesConfig(**BITS[bits]).to_dict()
    stored, maps = shape_of(config, dtype=torch.float32), sum(i * o for i, o in plain.linear_layers)
    saved = (4 - (1 if bits == "int8" else .5)) * maps   # bytes a number, but for the scales
    assert stored.quantized and .95 * saved < plain.base - stored.base < saved


def edited(path, source, **settings):
    "A folder with other words in its configuration."
    shutil.copytree(source, path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return path


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "mxfp4", "compressed-tensors", "of tomorrow"])
def test_other_ways_to_store_are_named(method, llama, tmp_path):
    path = edited(tmp_path / "stored", llama, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(af.ModelError, match=f"is stored in {method}, .*16 or in 32 bits"): af.load_base(path)


# what is no causal language model

OTHERS = {
    "bert": (T.BertConfig(**SMALL, **IDS), T.BertForMaskedLM, "reads both ways"),
    "roberta": (T.RobertaConfig(**SMALL, **IDS), T.AutoModelForCausalLM, "reads both ways"),
    "bert decoder": (T.BertConfig(is_decoder=True, **SMALL, **IDS), T.AutoModelForCausalLM,
                     "BertLMHeadModel does something to its logits"),   # its head is more than one map
    "t5": (T.T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=len(PLAIN)),
           T.T5ForConditionalGeneration, "an encoder with a decoder"),
    "classifier": (T.LlamaConfig(num_labels=1, **LLAMA), T.LlamaForSequenceClassification, "is a classifier"),
    "vit": (T.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
            T.ViTModel, "no causal language model for"),
    "mamba": (T.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **IDS), T.AutoModelForCausalLM,
              "a MambaForCausalLM cannot be read"),
    "rwkv": (T.RwkvConfig(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64, **IDS),
             T.AutoModelForCausalLM, "a RwkvForCausalLM cannot be read"),
    "xlm": (T.XLMConfig(emb_dim=32, n_layers=2, n_heads=4, n_words=len(PLAIN), bos_index=1, eos_index=2, pad_index=0),
            T.AutoModelForCausalLM, "reads both ways"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_sentence_for_what_is_no_causal_language_model(name, tmp_path):
    config, kind, said = OTHERS[name]
    with pytest.raises(af.ModelError, match=said) as caught: af.load_base(folder(tmp_path, config, kind=kind))
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).endswith(".")


@pytest.mark.parametrize("config", [
    T.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **IDS),
    T.Llama4TextConfig(head_dim=8, num_local_experts=2, interleave_moe_layer_step=1, intermediate_size_mlp=64, **LLAMA),
    T.Gemma3TextConfig(head_dim=8, sliding_window=16, **LLAMA),
    T.JambaConfig(num_experts=2, use_mamba_kernels=False, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4,
                  **LLAMA)], ids=lambda config: config.model_type)
def test_what_writes_from_left_to_right_is_taken(config, tmp_path):
    base = af.load_base(folder(tmp_path, config), prompts="plain")
    base.sample(["Name an animal.", "What does the hen eat? Corn"], n=2, max_new_tokens=4)
    if config.model_type == "llama4_text":
        model = af.train_sft(base, DEMOS * 4, batch_size=8, epochs=4, lr=1e-2)
        losses = [row["loss"] for row in model.history.rows]
        assert losses[-1] < .9 * losses[0], losses
        af.train_reward_model(base, PAIRS, epochs=1).score(DEMOS)


EYES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=14)


def gemma3():
    text = T.Gemma3TextConfig(head_dim=8, sliding_window=16, **LLAMA)
    return T.Gemma3ForConditionalGeneration(T.Gemma3Config(
        text_config=text.to_dict(), vision_config=T.SiglipVisionConfig(**EYES).to_dict(), mm_tokens_per_image=4,
        image_token_index=5, boi_token_index=6, eoi_token_index=7))


def llama4():
    text = T.Llama4TextConfig(head_dim=8, num_local_experts=2, interleave_moe_layer_step=1, intermediate_size_mlp=64,
                              **LLAMA)
    eyes = EYES | dict(intermediate_size=128, vision_output_dim=32, projector_input_dim=32, projector_output_dim=32)
    return T.Llama4ForConditionalGeneration(T.Llama4Config(text_config=text.to_dict(), vision_config=eyes))


@pytest.mark.parametrize("make", [gemma3, llama4])
def test_of_a_model_that_sees_the_words_are_adapted_alone(make, tmp_path):
    make().save_pretrained(tmp_path)
    PLAIN.save_pretrained(tmp_path)
    base = af.load_base(tmp_path, prompts="plain")
    assert base.backbone.codec.stop_ids == (2,) and base.backbone.max_length == 64
    model = af.train_sft(base, DEMOS, batch_size=2, epochs=1)
    assert len(base.backbone.adapters.layers) == 14 and not any("vision" in p for p in base.backbone.adapters.layers)
    model.sample(["Name an animal."], max_new_tokens=2)


def test_half_precision_is_no_reason_to_refuse(tmp_path):
    for config in (T.LlamaConfig(**LLAMA), T.Gemma3TextConfig(head_dim=8, sliding_window=16, **LLAMA)):
        path = folder(tmp_path / config.model_type, config)
        for dtype in ("bf16", "fp16"): af.load_base(path, dtype=dtype, prompts="plain")


def test_a_network_that_looks_ahead_is_found_whatever_its_configuration_says(llama, monkeypatch):
    check_reading(backbone := af.load_base(llama, prompts="plain").backbone)
    for layer in backbone.net.model.layers: layer.self_attn.is_causal = False
    monkeypatch.setattr(backbone.net.model, "forward", partial(backbone.net.model.forward, is_causal=False))
    with pytest.raises(af.ModelError, match="a LlamaForCausalLM reads both ways"): check_reading(backbone)


# tied heads

@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_the_head_leaves_the_embeddings_alone(tied, tmp_path):
    import peft
    path = folder(tmp_path / "base", T.LlamaConfig(tie_word_embeddings=tied, **LLAMA))
    net = peft.get_peft_model(T.AutoModelForCausalLM.from_pretrained(path),
                              peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"]))
    with torch.no_grad(): net.base_model.model.lm_head.lora_B["default"].weight.normal_()
    net.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.tensor([[1, 40, 50, 60]])
    base = af.load_base(path, prompts="plain")
    model = af.load_model(tmp_path / "adapter", base)
    exported = T.AutoModelForCausalLM.from_pretrained(model.export(tmp_path / "whole"))
    with torch.no_grad():
        want = net(ids).logits
        for found in (exported, model.merge().backbone.net): torch.testing.assert_close(found(ids).logits, want)
    plain = T.AutoModelForCausalLM.from_pretrained(path)
    assert torch.equal(base.backbone.net.get_input_embeddings().weight, plain.get_input_embeddings().weight)


# precision and device

def test_a_base_in_fp16_is_not_trained_in_another_half(llama):
    base = af.load_base(llama, dtype="fp16", prompts="plain")
    for precision, said in (("auto", "dtype='fp32'"), ("no", "dtype='fp32'"), ("bf16", "a base in fp16.*dtype='fp32'")):
        with pytest.raises(af.ConfigError, match=said) as caught:
            af.train_sft(base, DEMOS, batch_size=2, epochs=1, precision=precision)
        assert "use precision" not in str(caught.value)
    assert base.backbone.adapters.names == []
    with forward_in_training_precision(base.backbone, None) as net:
        assert net(torch.tensor([[1, 5]])).logits.dtype == torch.float16
    on_gpu = SimpleNamespace(dtype=torch.float16, device=torch.device("cuda"))
    assert precision_for(on_gpu) == precision_for(on_gpu, "fp16") == "fp16"
    for precision in ("no", "bf16"):
        with pytest.raises(af.ConfigError): precision_for(on_gpu, precision)
    half = SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cpu"))
    assert [precision_for(half, x) for x in ("auto", "bf16", "no")] == ["bf16", "bf16", "no"]
    with pytest.raises(af.ConfigError, match="a base in bf16"): precision_for(half, "fp16")


@pytest.mark.parametrize("variables, count, want", [
    ({}, 4, "cuda"), ({"LOCAL_RANK": "3"}, 4, "cuda:3"), ({"LOCAL_RANK": "0"}, 4, "cuda:0"),
    ({"LOCAL_RANK": "3"}, 1, "cuda:0"), ({"OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 2, "cuda:1"),
    ({"LOCAL_RANK": "x"}, 2, "cuda"),
])
def test_each_process_of_a_launcher_has_its_own_gpu(variables, count, want):
    assert own_gpu(variables, count) == torch.device(want)


def test_more_processes_than_gpus():
    with pytest.raises(af.ModelError, match="process 2 on a machine that shows 2 GPUs"): own_gpu({"LOCAL_RANK": "2"}, 2)
