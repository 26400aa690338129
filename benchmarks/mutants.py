"""Break the losses and estimators one line at a time, and check whether the tests in their notebooks notice.

Each mutant replaces one expression in an exported cell of a notebook: a sign, a mask, a direction, a normalization. All
cells of the notebook are then executed in a separate process. A mutant *survives* if no cell fails, which shows that a
test is missing. Run from the repository:

    python benchmarks/mutants.py                        # all mutants, about ten minutes; exit code 1 if any survives
    python benchmarks/mutants.py 60_methods/01_losses   # the mutants of one notebook
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = int(os.environ.get("WORKERS", 2))

# notebook: [(what is broken, the original expression, its replacement)]
MUTANTS = {
    "20_evaluation/01_rates": [
        ("clusters: not summed", "weights=scores - scores.mean())", "weights=abs(scores - scores.mean()))"),
        ("Wilson: center not corrected", "rate + z**2 / (2 * n)", "rate + 0 * z**2 / (2 * n)"),
        ("clusters: number ignored", "clusters - 1 if freedom is None else freedom)", "1e6)"),
        ("missing preferences count as losses",
         "judged = ~np.isnan(scores)\n    if not judged.any(): raise RecordError(f\"none of "
         "its {len(table)} rows has a verdict\", source)\n    x, units = scores[judged], cluster_ids",
         "judged = np.ones(len(scores), bool)\n    scores = np.nan_to_num(scores)\n"
         "    x, units = scores[judged], cluster_ids"),
    ],
    "20_evaluation/02_paired": [
        ("paired test: one-sided", "float(2 * stats.t.sf(abs(self.z)", "float(stats.t.sf(abs(self.z)"),
        ("power: one tail", "stats.nct.cdf(-reach, n - 1, shift)", "0."),
    ],
    "20_evaluation/03_uncertainty": [
        ("crossed error: instructions ignored", "max(ms_seeds + ms_instructions - ms_rest, ms_rest)",
         "max(ms_seeds - ms_rest, ms_rest)"),
        ("crossed error: residual added", "ms_seeds + ms_instructions - ms_rest, ms_rest",
         "ms_seeds + ms_instructions + ms_rest, ms_rest"),
    ],
    "20_evaluation/04_best_of_n": [
        ("best-of-n KL: sign", "np.log(n) - (n - 1) / n", "np.log(n) + (n - 1) / n"),
    ],
    "20_evaluation/05_agreement_rates": [
        ("calibration: chance of half as many", "lots = rng.random((200, len(r))) < p ",
         "lots = rng.random((200, len(r))) < .5 * p "),
    ],
    "20_evaluation/06_length": [
        ("length: sign", "(lengths[0] - lengths[1]).to_numpy", "(lengths[1] - lengths[0]).to_numpy"),
        ("length: no tanh", "features = [np.tanh(x)", "features = [x"),
        ("length: other standard deviation", "difference.std(ddof=1) if", "difference.std(ddof=0) if"),
        ("penalty: doubled", "d, limit = np.zeros_like(w), 1.", "d, limit = np.zeros_like(w), 2."),
        ("folds: shuffled", "np.argsort(np.full(n, 2))[::-1]", "np.argsort(np.full(n, 2))"),
        ("folds: selected on training rows", "each * held).sum(1) / held.sum(1)",
         "each * ~held).sum(1) / (~held).sum(1)"),
        ("refits: not resampled", "drawn * s[extra:]", "np.ones_like(drawn) * s[extra:]"),
        ("equal length: difference not zero", "w[..., 1:] @ X[:, 1:].T", "w @ X.T"),
        ("baselines: full weight", "np.full(len(yb), .1)", "np.full(len(yb), 1.)"),
        ("interval around the penalized rate", "win_rate=100 * float(fitted.mean()), unpenalized=float(rates[0])",
         "win_rate=float(rates[0]), unpenalized=float(rates[0])"),
    ],
    "20_evaluation/07_reliability": [
        ("half: ties match nothing", '.5 if ties == "half" else 0.', "0."),
        ("own label counted among the others", "others = self.counts - np.eye(3)[k]", "others = self.counts"),
        ("split majorities count fully", "leads * self.match[k]).sum(1) / leads.sum(1)",
         "leads * self.match[k]).max(1)"),
        ("alpha: no finite correction", "/ (labels * (labels - 1))", "/ labels**2"),
        ("chance-corrected agreement: not rescaled",
         "(t[:, 1] / items - chance) / (1 - chance)", "(t[:, 1] / items - chance)"),
        ("bias measured against one's own draw", "share(a), share(b), match)", "share(a), share(a), match)"),
        ("variance with its own draw", "others = counts[place] - np.eye(3)[v]", "others = counts[place]"),
        ("preference biases: ties count", "& (scores != .5), instruction_ids", "& (scores == scores), instruction_ids"),
        ("preference biases: the shorter output", "second == (gap > 0)", "second == (gap < 0)"),
        ("annotators ignored", "beyond = max(u - common, 0.)", "beyond = 0."),
    ],
    "20_evaluation/08_rankings": [
        ("winner and loser swapped", "fit(winner.tolist(), loser.tolist()", "fit(loser.tolist(), winner.tolist()"),
        ("ties lost", "np.add.at(beaten, (j, i), 1 - score)", "np.add.at(beaten, (j, i), score == 0)"),
        ("natural logarithm", "400 * np.log10(", "400 * np.log("),
        ("errors ignored", "cloud = _positive(seen - np.diag(variance.mean(0))", "cloud = _positive(seen"),
        ("shifted, not drawn", "mean = centre[:, None] + np.einsum(\"dnij,dnj->dni\", gain, x - centre[:, None])",
         "mean = x + 0 * centre[:, None]"),
        ("tau without ties", "np.sqrt((s * s).sum((-1, -2)) * (t * t).sum((-1, -2)))",
         "(s.shape[-1] * (s.shape[-1] - 1))"),
    ],
    "20_evaluation/09_corrected": [
        ("correction: sign", "lam * rest.mean() + gap.mean()", "lam * rest.mean() - gap.mean()"),
        ("error: judge's part ignored", "np.hypot(lam * judged,", "np.hypot(0 * judged,"),
        ("weight: not shrunk", "((1 + len(y) / N) * spread), 0, 1)", "spread, 0, 1)"),
        ("plan: correlation not squared", "gain = 1 - rho**2 *", "gain = 1 - rho *"),
    ],
    "20_evaluation/10_overoptimization": [
        ("peak of the other form", "at = alpha / (2 * beta) if", "at = alpha / beta if"),
        ("independent points", "np.cov((table @ solve.T).T) / len(table)", "solve @ np.diag(error**2) @ solve.T"),
        ("KL, not its root", "d = np.sqrt(kl)\n", "d = kl\n"),
        ("end of the data ignored", "np.minimum(_turn(coefficients, form), last)",
         "np.minimum(_turn(coefficients, form), 9e9)"),
    ],
    "20_evaluation/11_scoreboards": [
        ("other names skipped", "if twice := [k for k in map(tuple, other.figures[key].to_numpy()) if k in have]:",
         "if twice := []:"),
        ("compared in the wrong direction",
         "paired_difference(self.verdicts(a, annotator), self.verdicts(b, annotator))",
         "paired_difference(self.verdicts(b, annotator), self.verdicts(a, annotator))"),
        ("missing counted", "n_missing=len(at) - n", "n_missing=0"),
        ("names not escaped", "table.to_html(escape=True", "table.to_html(escape=False"),
    ],
    "40_models/01_kernels": [
        ("log-probabilities: sign of the gradient", "(weight[y[:, 0]].float() - mean.float()) * scale",
         "(mean.float() - weight[y[:, 0]].float()) * scale"),
        ("log-probabilities: gradient without scale", "- mean.float()) * scale", "- mean.float())"),
        ("log-probabilities: gradient without the mean", "(weight[y[:, 0]].float() - mean.float())",
         "(weight[y[:, 0]].float())"),
        ("log-probabilities: no sum", "(said - largest + p.gather(1, at).log())", "(said - largest)"),
        ("log-probabilities: logits without scale", "if scale != 1: logits *= scale", "pass"),
        ("log-probabilities: incoming gradient ignored", "(slope[:, None] * slopes)", "(1 * slopes)"),
        ("attention: scores without scale", "_hide(scores.mul_(scale).view(", "_hide(scores.view("),
        ("attention: rounded under autocast", "torch.autocast(q.device.type, enabled=False)", "torch.no_grad()"),
        ("attention: looks ahead", "return scores[..., i - a:].masked_fill_(ahead[:, None], -1e9)", "return scores"),
        ("attention: mask", "return scores.masked_fill_(~mask[:, :, i:j, None, a:j], -1e9)", "return scores"),
        ("attention: gradient without scale", "p.dtype).mul_(ctx.scale)", "p.dtype)"),
        ("attention: keys and queries swapped", "ds.mT @ q[:, :, mine]", "ds.mT @ dq[:, :, mine]"),
        ("attention: gradient of keys only from the last part", "dk[:, :, seen] +=", "dk[:, :, seen] ="),
        ("attention: gradient of values only from the last part", "dv[:, :, seen] +=", "dv[:, :, seen] ="),
        ("attention: gradient of values", "+= p.mT @ dout", "+= p.mT @ -dout"),
        ("parts: rows see each other", "Part(i, min(i + most, end), start)", "Part(i, min(i + most, end), 0)"),
        ("norm: sign of the component along the state", "along, value=-1)", "along, value=1)"),
        ("norm: gradient without root", ".mul_(root).to(normed.dtype), None", ".to(normed.dtype), None"),
        ("norm: gradient without weight", "(dy * weight).float()", "dy.float()"),
        ("norm: sum, not mean", "(slopes * states).mean(-1, keepdim=True)", "(slopes * states).sum(-1, keepdim=True)"),
        ("LoRA layer: rounded twice", "(read @ up.T.to(rows.dtype)).mul_(scale).addmm_(rows, weight.T)",
         "(rows @ weight.T).addmm_(read, up.T.to(rows.dtype), alpha=scale)"),
        ("LoRA layer: without scale", "(read @ up.T.to(rows.dtype)).mul_(scale)", "(read @ up.T.to(rows.dtype))"),
        ("LoRA layer: gradient of the input", "(inner @ a).addmm_(dy_rows, weight)", "dy_rows @ weight"),
        ("packed rows: mask", "(back if mask is None else mask[b, 0])", "back"),
        ("packed rows: positions", "(at if positions is None else positions)[on]", "at[on]"),
    ],
    "40_models/04_batches": [
        ("masked mean: mask of the count", "(x * mask).sum() / mask.sum().clamp_min(1)", "(x * mask).mean()"),
        ("masked mean: mask of the sum", "(x * mask).sum(dim) / mask.sum(dim).clamp_min(1)",
         "x.sum(dim) / mask.sum(dim).clamp_min(1)"),
    ],
    "40_models/07_backbone": [
        ("token log-probabilities: off by one", "batch.ids[:, 1:][on]", "batch.ids[:, :-1][on]"),
        ("states of packed rows: positions of padded rows", "positions = place[positions]",
         "positions = positions % place.max()"),
        ("token log-probabilities: sign", "return -F.cross_entropy(", "return F.cross_entropy("),
        ("token log-probabilities: temperature", "logits = logits / temperature", "logits = logits * temperature"),
        ("token log-probabilities: temperature of large batches", "tokens, scale / temperature)",
         "tokens, scale * temperature)"),
    ],
    "40_models/11_reward_model": [
        ("reward: state one position early",
         "device=states.device), lengths - 1]", "device=states.device), lengths - 2]"),
        ("reward: not centered", "dtype=float) - self.mean) / self.scale", "dtype=float)) / self.scale"),
    ],
    "60_methods/01_losses": [
        ("sft: sign", "return -(logps * mask).sum(-1)", "return (logps * mask).sum(-1)"),
        ("sft: mask", "return -(logps * mask).sum(-1)", "return -logps.sum(-1)"),
        ("sft: normalization", "return -(logps * mask).sum(-1)", "return -(logps * mask).mean(-1)"),
        ("Bradley-Terry: sign", "margin = chosen - rejected\n", "margin = rejected - chosen\n"),
        ("Bradley-Terry: soft target", "(1 - target) * F.logsigmoid(-margin)", "(1 - target) * F.logsigmoid(margin)"),
        ("Bradley-Terry: target ignored", "return -target * F.logsigmoid(margin) - (1 - target)",
         "return -F.logsigmoid(margin) - 0 * (1 - target)"),
        ("implicit reward: sign", "return beta * (logps - ref_logps)", "return beta * (ref_logps - logps)"),
        ("implicit reward: no reference", "return beta * (logps - ref_logps)", "return beta * logps"),
        ("implicit reward: no beta", "return beta * (logps - ref_logps)", "return logps - ref_logps"),
        ("DPO: rejected against the chosen's reference", "implicit_rewards(rejected, ref_rejected, beta), target)",
         "implicit_rewards(rejected, ref_chosen, beta), target)"),
        ("DPO: target dropped", "implicit_rewards(rejected, ref_rejected, beta), target)",
         "implicit_rewards(rejected, ref_rejected, beta))"),
        ("either way: not swapped", "+ (1 - target) * loss(rejected, chosen)",
         "+ (1 - target) * loss(chosen, rejected)"),
        ("IPO: sign", "(c - r - 1 / (2 * beta)) ** 2", "(r - c - 1 / (2 * beta)) ** 2"),
        ("IPO: normalization", "(c - r - 1 / (2 * beta)) ** 2", "(c - r - 1 / beta) ** 2"),
        ("KTO: sign of the bad answer", ".5 * torch.sigmoid(beta * (z - bad))", ".5 * torch.sigmoid(beta * (bad - z))"),
        ("KTO: no kl_baseline", "z = kl_baseline.detach()", "z = 0 * kl_baseline.detach()"),
        ("SimPO: sign of the margin", "F.logsigmoid(beta * (c - r) - margin)", "F.logsigmoid(beta * (c - r) + margin)"),
        ("SimPO: margin scaled", "F.logsigmoid(beta * (c - r) - margin)", "F.logsigmoid(beta * (c - r - margin))"),
        ("ORPO: sign of the odds", "F.logsigmoid(mean_log_odds(c) - mean_log_odds(r))",
         "F.logsigmoid(mean_log_odds(r) - mean_log_odds(c))"),
        ("ORPO: likelihood dropped", "lambda c, r: -c - beta", "lambda c, r: -beta"),
        ("ORPO: odds are probabilities", "return means - torch.log1p(-torch.exp(means.clamp_max(-1e-6)))",
         "return means"),
        ("KL: direction", "rho = (logps - ref_logps) * mask", "rho = (ref_logps - logps) * mask"),
        ("KL: mask", "rho = (logps - ref_logps) * mask", "rho = logps - ref_logps"),
        ("KL: k2 not halved", "return rho.square() / 2", "return rho.square()"),
        ("KL: k3 with the wrong sign", "return torch.expm1(-rho) + rho", "return torch.expm1(rho) - rho"),
        ("reward to go: from the start", "return x.flip(-1).cumsum(-1).flip(-1)", "return x.cumsum(-1)"),
        ("KL surrogate: sign", "* ahead * mask", "* -ahead * mask"),
        ("KL surrogate: only the own token", "ahead = reward_to_go(kl_estimate(old_logps, ref_logps, mask)).detach()",
         "ahead = kl_estimate(old_logps, ref_logps, mask).detach()"),
        ("KL surrogate: direction", "to_go(kl_estimate(old_logps, ref_logps, mask))",
         "to_go(kl_estimate(ref_logps, old_logps, mask))"),
        ("KL surrogate: mask", "return torch.exp((logps - old_logps) * mask) * ahead * mask",
         "return torch.exp(logps - old_logps) * ahead"),
        ("full KL: direction", "return (other.exp() * (other - own)).sum(-1)",
         "return (own.exp() * (own - other)).sum(-1)"),
        ("full KL: normalization", "return (other.exp() * (other - own)).sum(-1)",
         "return (other.exp() * (other - own)).mean(-1)"),
        ("adaptive KL: direction", "kl / target - 1", "1 - kl / target"),
        ("adaptive KL: no limit", "max(-1., min(1., kl / target - 1))", "(kl / target - 1)"),
        ("last token: one position early", "is_last = mask & ~F.pad(mask[:, 1:], (0, 1))",
         "is_last = F.pad(mask & ~F.pad(mask[:, 1:], (0, 1)), (0, 1))[:, 1:]"),
        ("token rewards: sign of the KL", "at_last_token(scores, mask) - kl_coef",
         "at_last_token(scores, mask) + kl_coef"),
        ("GAE: mask", "ahead = (delta + gamma * gae_lambda * ahead) * mask[:, t]",
         "ahead = delta + gamma * gae_lambda * ahead"),
        ("GAE: no lambda", "ahead = (delta + gamma * gae_lambda * ahead)", "ahead = (delta + gamma * ahead)"),
        ("GAE: discount of the value", "delta = rewards[:, t] + gamma * next_value",
         "delta = rewards[:, t] + next_value"),
        ("GAE: sign of the value", "+ gamma * next_value - values[:, t]", "- gamma * next_value + values[:, t]"),
        ("GAE: return without value", "return advantages, advantages + values", "return advantages, advantages"),
        ("whitening: mask of the mean", "mean = masked_mean(x, mask)", "mean = x.mean()"),
        ("whitening: variance instead of deviation", "torch.rsqrt(variance + small)", "(1 / (variance + small))"),
        ("whitening: rounding error taken as the unit",
         ".where(_varies(variance.sqrt(), (x * mask).abs().max()), 0)", ""),
        ("whitening: epsilon exceeds tiny variances", "(1e-4 * variance).clamp_max(1e-8)", "1e-8"),
        ("whitening: mask of the result", "return (centred if shift_mean else centred + mean) * mask",
         "return centred if shift_mean else centred + mean"),
        ("RLOO: own reward in the baseline", "(by_group.sum(1, keepdim=True) - by_group) / (group - 1)",
         "by_group.sum(1, keepdim=True) / group"),
        ("RLOO: sign", "return (by_group - others).flatten()", "return (others - by_group).flatten()"),
        ("RLOO: normalization", "- by_group) / (group - 1)", "- by_group) / group"),
        ("GRPO: no spread", "/ (spread + eps)", "/ 1"),
        ("GRPO: spread over all groups", "spread = by_group.std(1, keepdim=True)",
         "spread = by_group.std() + 0 * by_group[:, :1]"),
        ("GRPO: rounding error taken as the unit", "found.where(_varies(spread, own.maximum(all_.clamp_max(1))), 0)",
         "found"),
        ("GRPO: KL divided by its spread", "+ rloo_advantages(penalty, group)", "+ grpo_advantages(penalty, group)"),
        ("PPO: sign", "return -torch.minimum(free, clipped) * mask", "return torch.minimum(free, clipped) * mask"),
        ("PPO: optimistic", "torch.minimum(free, clipped)", "torch.maximum(free, clipped)"),
        ("PPO: mask", "return -torch.minimum(free, clipped) * mask", "return -torch.minimum(free, clipped)"),
        ("PPO: inverted ratio", "ratio = torch.exp((logps - old_logps) * mask)",
         "ratio = torch.exp((old_logps - logps) * mask)"),
        ("PPO: one-sided clip", "ratio.clamp(1 - clip_range, 1 + clip_range)", "ratio.clamp(max=1 + clip_range)"),
        ("value: not halved", "return error * mask / 2", "return error * mask"),
        ("value: mask", "return error * mask / 2", "return error / 2"),
        ("value: smaller of the two errors", "error = torch.maximum(error, (near - returns).square())",
         "error = torch.minimum(error, (near - returns).square())"),
        ("explained variance: mask", "(returns - values)[inside].var", "(returns - values).var"),
        ("explained variance: only the ratio", "return float(1 - (returns", "return float((returns"),
    ],
    "60_methods/04_pair_batches": [
        ("shared rows: answers see each other", "((part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None]))",
         "(part[:, None, :] >= 0)"),
        ("shared rows: not causal", "(at[:, None, :] <= at[:, :, None]) &", "(at[:, None, :] >= 0) &"),
        ("shared rows: positions run on", "torch.where(at < ends[:, -1:], at - before, 0)",
         "torch.where(at < ends[:, -1:], at, 0)"),
        ("shared rows: first token from another position", "for t in (len(prompts[i]) - 1, *range(start,",
         "for t in (start - 1, *range(start,"),
        ("pairs: owner of the tokens", "logps.new_zeros(len(batch.last)).index_add(0, batch.owner, logps)",
         "logps.new_zeros(len(batch.last)).index_add(0, batch.owner.flip(0), logps)"),
    ],
    "60_methods/05_reward": [
        ("reward model: chosen and rejected swapped", "bradley_terry_loss(chosen, rejected, pairs.target[rows]",
         "bradley_terry_loss(rejected, chosen, pairs.target[rows]"),
        ("scores: not standardized", "reward.mean, reward.scale = mean, spread if",
         "reward.mean, reward.scale = 0., 1. if"),
        ("scores: rounding error taken as the unit", "spread if varies(spread, np.abs(scores).max()) else 1.",
         "spread or 1."),
    ],
    "60_methods/08_dpo": [
        ("per-token DPO: wrong lengths", "c.beta * t.rejected_ratio / t.rejected_length, t.target)",
         "c.beta * t.rejected_ratio / t.chosen_length, t.target)"),
        ("IPO per token: whole answers", "t.chosen_ratio / t.chosen_length, t.rejected_ratio / t.rejected_length, c",
         "t.chosen_ratio, t.rejected_ratio / t.rejected_length, c"),
        ("SimPO: whole answers", "simpo_loss(t.chosen_mean, t.rejected_mean", "simpo_loss(t.chosen, t.rejected"),
        ("ORPO: whole answers", "orpo_loss(t.chosen_mean, t.rejected_mean", "orpo_loss(t.chosen, t.rejected_mean"),
        ("no reference", "return self.chosen - self.ref_chosen", "return self.chosen"),
        ("rejected: no reference", "return self.rejected - self.ref_rejected", "return self.rejected"),
        ("KTO: baseline from the same prompt", "after if prompts[after] != prompts[i % n] else other[after]", "after"),
        ("KTO: negative baseline", ".mean().clamp_min(0)", ".mean()"),
        ("KTO: sign of the baseline", "return (own - ref[rows, 2:]).mean()", "return (ref[rows, 2:] - own).mean()"),
        ("target ignored",
         "pairs.target[rows].to(chosen.device), kl_baseline)", "1 + 0 * pairs.target[rows], kl_baseline)"),
    ],
    "60_methods/09_rollout": [
        ("minibatches: of similar length", "config.ppo_epochs, seed, mix=1)", "config.ppo_epochs, seed)"),
        ("minibatches: groups split", "return [groups[rows].ravel() for rows in drawn]",
         "return [groups.T.reshape(groups.shape)[rows].ravel() for rows in drawn]"),
        ("read rows: order lost", "result[torch.as_tensor(rows), :part.shape[1]] = part",
         "result[torch.as_tensor(np.sort(rows)), :part.shape[1]] = part"),
        ("rollout: reference is the policy",
         "with forward_in_training_precision(backbone, reference.adapter, config.precision) as net:",
         "with forward_in_training_precision(backbone, policy.adapter, config.precision) as net:"),
    ],
    "60_methods/10_value": [
        ("values: wrong rows", "torch.cat([self.states[i] for i in rows])",
         "torch.cat([self.states[i] for i in rows[::-1]])"),
    ],
    "60_methods/11_advantages": [
        ("score: not standardized", "scaled = centered / scale[1]", "scaled = centered"),
        ("score: rounding error taken as the unit",
         "spread if spread > _rounding(rewards) * np.abs(rewards).max() else 1.",
         "spread or 1."),
        ("equal scores: whitened", "if not differ: return", "if False: return"),
        ("raw rewards: a model's own scale", "return -own[0] / own[1], 1 / own[1]", "return 0., 1."),
    ],
    "60_methods/13_ppo": [
        ("minibatches: own normalization", "(x * mask).sum() / (len(rows) * rollout.response_length)",
         "masked_mean(x, mask) * (len(part) / len(rows))"),
        ("score: sign of the penalty", "scaled - config.missing_eos_penalty * ~rollout.finished",
         "scaled + config.missing_eos_penalty * ~rollout.finished"),
        ("KL as a loss: sign", "losses = losses + kl_coef / found.unit * kl",
         "losses = losses - kl_coef / found.unit * kl"),
        ("warm-up never ends", "total_steps=config.steps, name=policy.name",
         "total_steps=config.steps, warmup=config.steps, name=policy.name"),
    ],
    "60_methods/14_quark": [
        ("pool: worst quantile", "pool.quantile(config.quantiles) == config.quantiles)",
         "pool.quantile(config.quantiles) == 1)"),
        ("pool: order", "rank[np.argsort(self.scores, kind=\"stable\")]",
         "rank[np.argsort(-np.array(self.scores), kind=\"stable\")]"),
        ("KL: sign", "(nll + config.kl_coef * kl).sum()", "(nll - config.kl_coef * kl).sum()"),
        ("likelihood: sign", "(nll + config.kl_coef * kl).sum()", "(-nll + config.kl_coef * kl).sum()"),
        ("normalization of the parts", "* kl).sum() / total, part)", "* kl).sum() / sum(map(len, outputs)), part)"),
        ("reference reads the control text", "[backbone.codec.with_control(p, plain) for p in prompts]",
         "[backbone.codec.with_control(p, controls[i]) for p, i in zip(prompts, part)]"),
        ("pool: never cleared", "if config.clear_pool: pool = Pool()", "pass"),
    ],
    "70_annotators/01_pool": [
        ("flips: never", "np.where(uniform < p_label_flip, 3 - preference, preference)",
         "np.where(uniform < 0 * p_label_flip, 3 - preference, preference)"),
        ("flips: the wrong pairs", "uniform < p_label_flip, 3 -", "uniform >= p_label_flip, 3 -"),
        ("identical: spaces count", '(pairs["output_1"].str.strip() == pairs["output_2"].str.strip())',
         '(pairs["output_1"] == pairs["output_2"])'),
        ("head to head: sides swapped", "f\"outputs_{i}\") for i, o in enumerate((outputs_1, outputs_2), 1))",
         "f\"outputs_{i}\") for i, o in enumerate((outputs_2, outputs_1), 1))"),
        ("samples: texts swapped", "*texts[i], *texts[j], int(i), int(j))", "*texts[j], *texts[i], int(i), int(j))"),
        ("repeated preferences: the same draw each time", 'seed_for("draw", self.name, seed, k)',
         'seed_for("draw", self.name, seed, 0)'),
        ("expected: only one order", "np.full(len(pairs), first)) for first in (1, 2)) / 2",
         "np.full(len(pairs), first)) for first in (1, 1)) / 2"),
        ("sampled: the other output", "1 + (rng.random(len(pairs)) < p)", "1 + (rng.random(len(pairs)) > p)"),
    ],
    "70_annotators/02_parsers": [
        ("text: reasoning is read", "text = _spoken(answer)\n    if cut and",
         "text = answer.text\n    if cut and"),
        ("text: the first of two wins", "if n == 1 and len(set(verdicts)) == 1: return",
         "if n == 1 and verdicts: return"),
        ("text: too few are accepted", "if len(verdicts) != n: raise ParseError(f\"{len(verdicts)} verdicts",
         "if len(verdicts) > n: raise ParseError(f\"{len(verdicts)} verdicts"),
        ("numbered: order of the lines", "return [v for _, v in sorted(found)]", "return [v for _, v in found]"),
        ("numbered: numbers ignored", "sorted(number for number, _ in found) != list(range(1, n + 1))",
         "len(found) != n"),
        ("numbered: a cut word counts", 'if answer.finish == "length": text =', 'if answer.finish == "none": text ='),
        ("json: order of the objects", "found = [o for _, o in sorted(zip(told, found), key=lambda pair: pair[0])]",
         "pass"),
        ("json: true is 1", "if type(same(known)) is type(same(value)) and same(known)", "if same(known)"),
        ("json: the last of two values", "if len({k for k, _ in pairs}) == len(pairs) else {}", "if True else {}"),
        ("ranking: the worse wins", "float(first)]", "float(second)]"),
        ("scores: the lower wins", "1. if first > second else 2.]", "1. if first < second else 2.]"),
        ("probabilities: swapped", "p = second / (first + second)", "p = first / (first + second)"),
        ("probabilities: no minimum", "first + second >= least)", "first + second >= 0 * least)"),
        ("probabilities: equal odds count as a preference", "if p != .5 else .5", "if p != .5 else 1."),
    ],
    "70_annotators/03_judges": [
        ("fences: as long as in the text", 'return "`" * max(3, longest + 1)', 'return "`" * max(3, longest)'),
        ("markers left in", "texts = [{k: without_markers(pair[k]) for k in SEEN}",
         "texts = [{k: pair[k] for k in SEEN}"),
        ("sections: always", 'm[2] if values.get(m[1], "").strip() else ""', "m[2]"),
        ("numbers from 0", "for i, text in enumerate(texts, 1)]", "for i, text in enumerate(texts)]"),
        ("input lost",
         'for t in texts: t["instruction"] = "\\n\\n".join(filter(str.strip, (t["instruction"], t["input"])))\n'
         "        fence", "pass\n        fence"),
        ("preferences out of range", "and 1 <= v <= 2 for v in found", "for v in found"),
        ("too many preferences", "if len(found) != shown or not", "if not"),
        ("repeated pairs counted", "return found[:n]", "return found[-n:]"),
    ],
    "70_annotators/04_endpoint_pool": [
        ("shown in the wrong order", 'if first[i] == 2: texts["output_1"]', 'if first[i] == 1: texts["output_1"]'),
        ("preference not flipped back", "verdicts[place] if at[2] == 0 else 3 - verdicts[place]", "verdicts[place]"),
        ("key without the draw", "models.body(judge.model, dict(judge.settings))\n    about = stable_hash("
         "[judge.fingerprint(), judge.look(), sent, draw])", "models.body(judge.model, dict(judge.settings))\n"
         "    about = stable_hash([judge.fingerprint(), judge.look(), sent])"),
        ("key without the prompt", "judge.look(), sent, draw])", "sent, draw])"),
        ("key without the texts", "stable_hash([about, list(texts.values())])",
         "stable_hash([about, texts['instruction']])"),
        ("positions of another pair", "zip(showings, places):", "zip(showings, list(places)[::-1]):"),
        ("flips drawn with the choice of the judge",
         "flip_with(preference, flip, u[:, 2])", "flip_with(preference, flip, u[:, 0])"),
        ("both orders: only one counts", "each.mean(1) if both_orders", "each[:, 0] if both_orders"),
        ("equal outputs are asked", "asked = ~identical(pairs)\n", "asked = np.ones(len(pairs), bool)\n"),
        ("price of all for each", "price / size, (seconds", "price, (seconds"),
        ("unparsed counted as labeled", "labeled=answered - unparsed", "labeled=answered"),
        ("agreement: wrong sign", "product = (self.verdict[at] - 1.5) * (self.known",
         "product = (1.5 - self.verdict[at]) * (self.known"),
        ("failed requests are not repeated", "self.anew += showings\n        for showing, place",
         "pass\n        for showing, place"),
    ],
}

RUN = """
import ast, asyncio, inspect, json, sys, types
names, loop = {"__name__": "__main__", "__builtins__": __builtins__}, asyncio.new_event_loop()
for cell in json.load(open(sys.argv[1]))["cells"]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code" or source.startswith("#| default_exp"): continue
    code = compile(source, cell["id"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    done = types.FunctionType(code, names)()
    if inspect.iscoroutine(done): loop.run_until_complete(done)
print("every cell ran")
"""


def mutated(notebook: str, old: str, new: str) -> dict:
    "The notebook with one expression replaced in the exported cells, where it must occur exactly once."
    nb, found = json.loads((ROOT / f"nbs/api/{notebook}.ipynb").read_text(encoding="utf-8")), 0
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if not source.startswith("#| export") or old not in source: continue
        found += source.count(old)
        cell["source"] = [source.replace(old, new)]
    if found != 1 and old != new:
        raise SystemExit(f"{notebook}: {old!r} occurs {found} times in the exported cells, not once")
    return nb


def survives(notebook: str, old: str, new: str) -> bool:
    "Return whether every cell of the mutated notebook runs."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.ipynb"
        path.write_text(json.dumps(mutated(notebook, old, new)), encoding="utf-8")
        env = {**os.environ, "OMP_NUM_THREADS": "1", "ALPACAFARM_QUIET": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", RUN, str(path)], cwd=ROOT / "nbs/api", env=env,
                              capture_output=True, text=True, timeout=1200)
    return "every cell ran" in done.stdout


def main(notebooks: list[str]) -> int:
    "Run the mutants of some notebooks and return the number that survive."
    for notebook in notebooks:  # a notebook that fails without a mutant would catch every mutant
        if not survives(notebook, "#| export", "#| export"): raise SystemExit(f"{notebook} fails without a mutant")
    jobs = [(n, *mutant) for n in notebooks for mutant in MUTANTS[n]]
    with ThreadPoolExecutor(WORKERS) as pool: results = list(pool.map(lambda j: survives(j[0], *j[2:]), jobs))
    for (notebook, what, *_), alive in zip(jobs, results):
        print(f"{'SURVIVES' if alive else 'caught  '}  {notebook}  {what}")
    print(f"{len(jobs) - sum(results)} of {len(jobs)} mutants caught")
    return sum(results)


if __name__ == "__main__": sys.exit(1 if main(sys.argv[1:] or list(MUTANTS)) else 0)
