"""Sampling, log-probabilities, folding and scoring on small random models of many families, not only Llama."""

import numpy as np
import pytest
import torch
import transformers as T

from alpacafarm_nb.methods.pair_batches import answer_rows, pair_answer_logps, shares_prompts
from alpacafarm_nb.models.backbone import Backbone, token_logps
from alpacafarm_nb.models.loading import new_tokenizer
from alpacafarm_nb.models.reward_model import RewardModel
from alpacafarm_nb.models.batches import pad_batch
from alpacafarm_nb.prompts import PLAIN
from alpacafarm_nb.models.policy import Model
from alpacafarm_nb.models.sampling import sample_ids

TEXTS = ["The farm has a red cow and two old horses.", "What does the hen eat? The hen eats corn and grass."] * 3
TOKENIZER = new_tokenizer(TEXTS, 300, 64)
IDS = dict(vocab_size=len(TOKENIZER), bos_token_id=1, eos_token_id=2, pad_token_id=0)
COMMON = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64, **IDS)
SLIDING = dict(COMMON, sliding_window=12)  # shorter than prompt and response together
HEADS = dict(head_dim=8, query_pre_attn_scalar=8)
MODELS = {
    "llama": T.LlamaConfig(**COMMON),
    "gpt2": T.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **IDS),  # learned positions, Conv1D
    "mistral": T.MistralConfig(**SLIDING),  # a cache that forgets
    "qwen2": T.Qwen2Config(**COMMON),  # biases
    "gemma2": T.Gemma2Config(**SLIDING, **HEADS),  # capped logits, layers of two kinds
    "granite": T.GraniteConfig(logits_scaling=4.0, **COMMON),  # scaled logits
    "bloom": T.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **IDS),  # positions from the mask
    "mixtral": T.MixtralConfig(num_local_experts=4, **COMMON),  # fused experts, which cannot be folded
}

OTHERS = {
    "falcon": T.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **IDS),  # asks by name
    "lfm2": T.Lfm2Config(**COMMON, full_attn_idxs=[1]),  # convolutions, which run on from row to row
}


def network(config):
    "A random network with states that tell tokens apart."
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = T.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for p in net.parameters(): p.mul_(4 if p.dim() > 1 else 1)
    return net


@pytest.fixture(params=MODELS)
def backbone(request):
    return Backbone(network(MODELS[request.param]), TOKENIZER, PLAIN, request.param)


PROMPTS = [[1, *TOKENIZER(t, add_special_tokens=False)["input_ids"]]
           for t in ("The farm", "What does the hen eat? The hen", "a red cow and two", "The hen")]


def test_greedy_sampling_is_generate_and_log_probabilities_are_the_models(backbone):
    net = backbone.net
    with backbone.inference(None) as lent:
        samples = sample_ids(backbone, lent, PROMPTS, n=2, temperature=0, max_new_tokens=16, logps="model")
    for prompt, (ids, again), (logps, _) in zip(PROMPTS, samples.ids, samples.logps):
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        with torch.no_grad():
            want = net.generate(torch.tensor([prompt]), attention_mask=mask, do_sample=False, max_new_tokens=16,
                                pad_token_id=0)
            whole = net(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
        assert ids == again == want[0, len(prompt):].tolist()
        np.testing.assert_allclose(logps, whole[range(len(ids)), ids].numpy(), atol=2e-5)
        row = pad_batch([prompt, PROMPTS[1]], [ids, ids])
        with torch.no_grad(): mine = token_logps(backbone, net, row)[0][row.output_mask[0]]
        np.testing.assert_allclose(mine.numpy(), logps, atol=2e-5)


def test_folding_and_shared_prompts_change_nothing(backbone):
    adapter = Model(backbone).branch("policy").adapter
    noise = torch.Generator().manual_seed(0)
    state = backbone.adapters.state(adapter)
    moved = {k: w + .05 * torch.randn(w.shape, generator=noise) for k, w in state.items()}
    backbone.adapters.load_state(adapter, moved)
    prompts = [p for p in PROMPTS for _ in range(3)]
    outputs = [list(range(10, 14 + k)) for k in range(len(prompts))]
    batch, reward = pad_batch(prompts, outputs), RewardModel(backbone, adapter)
    torch.nn.init.normal_(reward.head.weight, generator=noise)
    with torch.no_grad(), backbone.using(adapter) as live:
        logps, scores = token_logps(backbone, live, batch), reward.raw(live, batch)
    with backbone.inference(None) as net: assert (token_logps(backbone, net, batch) - logps).abs().max() > .01
    with backbone.inference(adapter) as net: folded = token_logps(backbone, net, batch)
    torch.testing.assert_close(folded, logps, atol=2e-5, rtol=0)
    np.testing.assert_allclose(reward.score_ids(prompts, outputs), scores.numpy(), atol=5e-5)


@pytest.mark.parametrize("name", MODELS | OTHERS)
def test_rows_end_to_end_are_read_as_they_are_alone(name):
    net = network((MODELS | OTHERS)[name]).bfloat16()
    with torch.no_grad(): torchs = net.base_model(torch.tensor([PROMPTS[1]]), use_cache=False).last_hidden_state.float()
    backbone = Backbone(net, TOKENIZER, PLAIN, name)
    with torch.no_grad(): mine = backbone.hidden(net, torch.tensor([PROMPTS[1]])).float()
    assert (mine - torchs).norm() < .02 * torchs.norm()   # whichever attention was chosen
    outputs = [[10, 11, 12], [13], [14, 15, 16, 17, 18], [19]]
    read = lambda prompts, outputs: token_logps(backbone, net, pad_batch(prompts, outputs))
    with torch.no_grad():
        rows = read(PROMPTS, outputs)
        for i, (p, o) in enumerate(zip(PROMPTS, outputs)):
            alone = read([p], [o])
            torch.testing.assert_close(rows[i, :alone.shape[1]], alone[0], atol=.1, rtol=.05)
        other = read([PROMPTS[0], [*reversed(PROMPTS[1])], *PROMPTS[2:]], outputs)
    assert not torch.equal(rows[1], other[1])
    assert torch.equal(rows[[0, 2, 3]], other[[0, 2, 3]])
    assert backbone.packs(net) == (name in ("llama", "gpt2", "qwen2", "granite", "mixtral"))
    assert not shares_prompts(backbone) or name not in ("mistral", "gemma2", "bloom", "lfm2")
    if not shares_prompts(backbone): return
    with torch.no_grad():   # two answers in a row, and rows of unlike length
        shared = pair_answer_logps(backbone, net, answer_rows(PROMPTS[:2], [outputs[:2], outputs[2:]]))
        alone = read([*PROMPTS[:2]] * 2, outputs).sum(1)
    torch.testing.assert_close(shared, alone, atol=.1, rtol=.02)
