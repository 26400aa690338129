"""`dtype="auto"` takes what is fast where it runs; a GGUF file is converted once and kept."""

import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from alpacafarm_nb.models import kernels, loading as models
from alpacafarm_nb.core import ModelError
from alpacafarm_nb.models.kernels import bf16_units, fast_half
from alpacafarm_nb.training.learner import make_accelerator
from alpacafarm_nb.training.start import precision_for
from alpacafarm_nb.methods.memory import shape_of
from alpacafarm_nb.models.loading import load_backbone, new_backbone
from alpacafarm_nb.models.backbone import sequence_logps
from alpacafarm_nb.models.saving import save_backbone
from alpacafarm_nb.models.batches import pad_batch

TEXTS = ["The farm has a red cow and two old horses.", "What does the hen eat? The hen eats corn and grass."]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "The same small base, stored in single precision and in half."
    made, place = new_backbone(TEXTS, vocab=300, hidden=64, context=96), tmp_path_factory.mktemp("stored")
    save_backbone(made, place / "fp32")
    for dtype in ("bf16", "fp16"): save_backbone(made, place / dtype, dtype=dtype)
    return place


@pytest.fixture(params=[True, False], ids=["with bf16 units", "without"])
def units(request, monkeypatch):
    "A processor with units for bf16, or one without."
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: request.param)
    slow = {torch.bfloat16: .5 if request.param else 55., torch.float32: 1.}
    monkeypatch.setattr(kernels, "_product_seconds", slow.get)
    bf16_units.cache_clear()
    yield request.param
    bf16_units.cache_clear()


def test_auto_is_fast(folders, units, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {d: load_backbone(folders / d, device="cpu").dtype for d in ("fp32", "fp16", "bf16")}
    assert found == {"fp32": torch.float32, "fp16": torch.float32, "bf16": torch.bfloat16 if units else torch.float32}
    said = capsys.readouterr().out
    assert said.count("\n") == (0 if units else 1) and ("no units for bf16" in said) == (not units)
    assert units or str(folders / "bf16") in said
    assert fast_half(torch.device("cpu")) == (torch.bfloat16 if units else None)


def test_what_follows_from_it(folders, units):
    "Training's precision, the memory estimate, and what a base in 4 bits computes in."
    backbone = load_backbone(folders / "bf16", device="cpu")
    assert precision_for(backbone) == ("bf16" if units else "no")
    assert shape_of(backbone).itemsize == (2 if units else 4)
    size = sum(p.numel() for p in backbone.net.parameters()) * (2 if units else 4)
    assert shape_of(backbone).base == size + sum(b.nbytes for b in backbone.net.buffers())
    pytest.importorskip("bitsandbytes")
    four = load_backbone(folders / "bf16", device="cpu", quantize="nf4")
    assert four.dtype == backbone.dtype
    assert four.net.model.layers[0].mlp.up_proj.compute_dtype == backbone.dtype


def test_what_is_asked_for_is_done_and_warned_of(folders, units):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        backbone = load_backbone(folders / "fp32", dtype="bf16", device="cpu")
        make_accelerator(precision_for(backbone))
        assert load_backbone(folders / "bf16", dtype=torch.float32, device="cpu").dtype == torch.float32
    assert backbone.dtype == torch.bfloat16
    slow = [str(w.message) for w in said if "units for" in str(w.message)]
    assert len(slow) == (0 if units else 2), slow
    make_accelerator("no")


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="imitates a processor with AVX2")
def test_a_processor_with_avx2_alone(folders):
    "No patch: torch is held to what such a processor can do, and finds out by itself."
    env = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
           "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    load = f"load_base({str(folders / 'bf16')!r}, device='cpu')"
    code = f"from alpacafarm_nb import load_base; print({load}.backbone.dtype)"
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    said, dtype = out.stdout.strip().splitlines()
    assert "no units for bf16" in said and dtype == "torch.float32"


def write_gguf(path, made):
    "A small Llama as a GGUF file, with the weights as they are and a vocabulary of its own."
    gguf = pytest.importorskip("gguf")
    net, config, file = made.net, made.net.config, gguf.GGUFWriter(str(path), "llama")
    file.add_context_length(config.max_position_embeddings), file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers), file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads), file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps), file.add_rope_dimension_count(config.head_dim)
    file.add_vocab_size(config.vocab_size)
    core = json.loads(made.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)
    file.add_tokenizer_model("gpt2"), file.add_token_list(tokens)
    file.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    file.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in core["merges"]])
    file.add_bos_token_id(1), file.add_eos_token_id(2), file.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, w in net.state_dict().items():
        if key == "lm_head.weight": continue
        stem, _, kind = key.rpartition(".")
        array = w.detach().numpy().copy()
        if stem.endswith(("q_proj", "k_proj")):   # rotary halves lie interleaved in such files
            heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        file.add_tensor(f"{names.get_name(stem)}.{kind}", array)
    file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file()
    file.close()
    return path


def test_a_gguf_file_is_converted_once(tmp_path, monkeypatch):
    made = new_backbone(TEXTS, vocab=300, hidden=64, context=96)
    path, cache = write_gguf(tmp_path / "small.gguf", made), tmp_path / "cache"
    monkeypatch.setenv("ALPACAFARM_CACHE", "")
    direct = load_backbone(path, device="cpu")                    # as transformers reads it, nothing kept
    monkeypatch.setenv("ALPACAFARM_CACHE", str(cache))
    assert not cache.exists()
    first = load_backbone(path, device="cpu")
    reads, gguf = [], models._load_net
    monkeypatch.setattr(models, "_load_net", lambda where, *more: reads.append(Path(where)) or gguf(where, *more))
    again, half = load_backbone(path, device="cpu"), load_backbone(path, "bf16", device="cpu")
    assert len(set(reads)) == 1 and reads[0].parent == cache / "gguf"
    for other in (first, again):
        for (key, a), (_, b) in zip(direct.net.state_dict().items(), other.net.state_dict().items(), strict=True):
            assert torch.equal(a, b), key
        assert other.source == direct.source == str(path)
        read = lambda b: [b.tokenizer.get_vocab(), b.codec.stop_ids, b.encode_prompt("Hi")]
        assert read(other) == read(direct)
    for key, a in half.net.state_dict().items(): assert torch.equal(a, direct.net.state_dict()[key].bfloat16()), key
    np.testing.assert_allclose(*(x.net.model.layers[0].self_attn.q_proj.weight for x in (direct, made)))
    batch = pad_batch([direct.encode_prompt("Hi")], [direct.encode_output("The cow.")])
    with direct.inference(None) as a, again.inference(None) as b:
        assert torch.equal(sequence_logps(direct, a, batch), sequence_logps(again, b, batch))


def test_another_file_is_another_folder_and_a_cache_that_fails_is_none(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ALPACAFARM_CACHE", str(cache))
    path, kept = tmp_path / "small.gguf", set()
    for seed in (0, 1):
        load_backbone(write_gguf(path, new_backbone(TEXTS, vocab=300, hidden=64, context=96, seed=seed)), device="cpu")
        assert len(kept := {*kept, *(cache / "gguf").iterdir()}) == seed + 1
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ALPACAFARM_CACHE", str(tmp_path / "file"))
    assert load_backbone(path, device="cpu").source == str(path)
    monkeypatch.setattr(models, "MOST_KEPT", 1000)
    monkeypatch.setenv("ALPACAFARM_CACHE", str(tmp_path / "unused"))
    assert load_backbone(path, device="cpu").vocab_size and not (tmp_path / "unused").exists()
    path.write_bytes(path.read_bytes()[:900])
    monkeypatch.setenv("ALPACAFARM_CACHE", str(cache))
    with pytest.raises(ModelError, match="small.gguf"): load_backbone(path, device="cpu")
    assert len(list((cache / "gguf").iterdir())) == 2
