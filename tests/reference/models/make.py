"""Whole models, with transformers as the judge: writes the fixtures of tests/reference/test_models.c.

    python tests/reference/models/make.py            writes all folders and SHA256SUMS beside itself
    python tests/reference/models/make.py judge DIR  DIR/<name> are folders written by bobbin: loads each with
                                                     AutoModelForCausalLM and compares its logits with those of ours

Each folder NAME holds config.json and model.safetensors of a tiny random model as `save_pretrained` writes them, and
NAME/expected.safetensors what transformers and PyTorch make of it: logits, loss, the gradient of every parameter, 100
steps of AdamW with clipping and a schedule, a greedy continuation. Needs torch >= 2.7 and transformers.

f64: transformers computes norms, angles and the loss in f32 whatever the model's dtype. For a reference in double, casts of a
double to f32 are switched off while it runs (class Wide), and the frequencies are computed again in double.
"""

import hashlib
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, Qwen3Config

HERE = pathlib.Path(__file__).resolve().parent
STEPS, BATCH, T, WARMUP, LR, MIN_LR, CLIP = 100, 2, 16, 10, 3e-3, 1e-4, 0.75
NEW_TOKENS = 24
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, head_dim=12, max_position_embeddings=64, initializer_range=0.15,
              bos_token_id=None, eos_token_id=None)
MODELS = {
    "llama": LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5,
                         rope_parameters={"rope_theta": 500.0, "rope_type": "default"}),
    "mistral": MistralConfig(**COMMON, sliding_window=5, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**{**COMMON, "num_hidden_layers": 3}, use_sliding_window=True, sliding_window=4,
                         max_window_layers=1),
    "gemma": GemmaConfig(**COMMON, pad_token_id=0, tie_word_embeddings=True),
}


class Wide:
    """While it is open, a double stays a double where code asks for f32."""

    def __enter__(self):
        self.to, self.float = torch.Tensor.to, torch.Tensor.float
        to, to_float = self.to, self.float

        def wide_to(x, *args, **kwargs):
            if x.dtype == torch.float64 and (torch.float32 in args or kwargs.get("dtype") is torch.float32):
                return x
            return to(x, *args, **kwargs)

        torch.Tensor.to = wide_to
        torch.Tensor.float = lambda x: x if x.dtype == torch.float64 else to_float(x)

    def __exit__(self, *_):
        torch.Tensor.to, torch.Tensor.float = self.to, self.float


def load(folder, dtype, attention="sdpa"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    model = model.to(dtype)
    rotary, config = model.model.rotary_emb, model.config
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    power = torch.arange(0, config.head_dim, 2, dtype=wide) / config.head_dim
    rotary.inv_freq = 1.0 / (config.rope_parameters["rope_theta"] ** power)
    if hasattr(model.model.embed_tokens, "embed_scale"):  # Gemma's
        model.model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5, dtype=wide)
    return model.eval()


def loss_of(model, tokens):
    return model(input_ids=tokens, labels=tokens).loss


def train(model, tokens, masters=False, apart=False):
    """Per-step losses and rates. masters: the optimizer works on f32 copies of the parameters. apart: the rows of a batch go
    through the model one after the other, their gradients accumulate."""
    params = list(model.parameters())
    copies = [p.detach().float().clone().requires_grad_() for p in params] if masters else params
    groups = [{"params": [p for p in copies if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in copies if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99), eps=1e-8, foreach=False)
    sched = torch.optim.lr_scheduler
    schedule = sched.SequentialLR(optimizer, [
        sched.LinearLR(optimizer, start_factor=1 / WARMUP, total_iters=WARMUP - 1),
        sched.CosineAnnealingLR(optimizer, T_max=STEPS - 1 - WARMUP, eta_min=MIN_LR)], milestones=[WARMUP])
    losses, rates, norms = [], [], []
    for step in range(STEPS):
        parts = tokens[step].split(1) if apart else [tokens[step]]
        loss = 0
        for part in parts:
            one = loss_of(model, part) / len(parts)
            one.backward()
            loss += one.detach()
        if masters:
            for p, copy in zip(params, copies):
                copy.grad = p.grad.float()
                p.grad = None
        norms.append(torch.nn.utils.clip_grad_norm_(copies, CLIP, foreach=False).item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if masters:
            with torch.no_grad():
                for p, copy in zip(params, copies):
                    p.copy_(copy)
        losses.append(loss.item())
    if not masters:
        print("clipped", sum(n > CLIP for n in norms), "of", STEPS, "steps")
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(rates, dtype=torch.float64)


def stream(seed, shape):
    """Tokens with something to learn: each is drawn near a function of the one before; a few are 0."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.zeros(shape, dtype=torch.int64)
    rows[..., 0] = torch.randint(96, shape[:-1], generator=g)
    for t in range(1, shape[-1]):
        step = torch.randint(4, shape[:-1], generator=g)
        rows[..., t] = (rows[..., t - 1] * 5 + step) % 96
    return rows


def narrow_losses(folder, tokens):
    """bf16 runs that differ in nothing but the order of sums: two forms of attention, the kernels of oneDNN or not, the rows
    of a batch in either order or one by one."""
    runs = []
    for attention in ("sdpa", "eager"):
        for onednn in (True, False):
            for order, apart in ((tokens, False), (tokens.flip(1), False), (tokens, True), (tokens.flip(1), True)):
                with torch.backends.mkldnn.flags(enabled=onednn):
                    runs.append(train(load(folder, torch.bfloat16, attention), order, masters=True, apart=apart)[0])
    return torch.stack(runs)


def expected(folder, tokens, prompt):
    out = {"train_tokens": tokens.to(torch.int32), "prompt": prompt.to(torch.int32)}
    with Wide():
        model = load(folder, torch.float64)
        out["logits.f64"] = model(input_ids=tokens[0][:, :-1]).logits.detach()
        loss = loss_of(model, tokens[0])
        loss.backward()
        out["loss.f64"] = loss.detach()
        for name, p in model.named_parameters():
            out["grad." + name] = p.grad
        out["losses.f64"], out["lr"] = train(load(folder, torch.float64), tokens)
    model = load(folder, torch.float32)
    out["logits.f32"] = model(input_ids=tokens[0][:, :-1]).logits.detach()
    out["losses.f32"], _ = train(load(folder, torch.float32), tokens)
    out["losses.bf16"] = narrow_losses(folder, tokens)
    greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False)
    out["greedy"] = greedy.to(torch.int32)
    top = model(input_ids=greedy).logits[0, prompt.shape[1] - 1:-1].topk(2).values
    print(folder.name, "loss", loss.item(), "->", out["losses.f64"][-1].item(), "least margin of a greedy choice",
          (top[:, 0] - top[:, 1]).min().item(), "f32 against f64",
          (out["losses.f32"] - out["losses.f64"]).abs().max().item(), "bf16 spread",
          (out["losses.bf16"].amax(0) - out["losses.bf16"].amin(0)).max().item(),
          "over", len(out["losses.bf16"].unique(dim=0)), "runs")
    return out


def make(name, config):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    config._attn_implementation = "sdpa"
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.ndim < 2:  # norms and biases start out as constants: give them values
                p.add_(0.3 * torch.randn_like(p))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens, prompt = stream(7, (STEPS, BATCH, T + 1)), stream(8, (1, 5))
    out = expected(folder, tokens, prompt)
    metadata = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "expected.safetensors", metadata)


def judge(root):
    from safetensors.torch import load_file
    worst = 0.0
    for name in MODELS:
        data = load_file(HERE / name / "expected.safetensors")
        tokens = data["train_tokens"][0].long()
        model, info = AutoModelForCausalLM.from_pretrained(root / name, output_loading_info=True)
        assert not any(info.values()), (name, info)
        assert model.config.model_type == name, model.config.model_type
        logits = model.eval()(input_ids=tokens[:, :-1]).logits
        off = (logits - data["logits.f32"]).abs().max().item()
        worst = max(worst, off)
        print(f"{name}: {model.dtype}, logits off by at most {off}")
    sys.exit(worst != 0)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    if len(sys.argv) == 3 and sys.argv[1] == "judge":
        judge(pathlib.Path(sys.argv[2]))
    for name, config in MODELS.items():
        make(name, config)
    files = sorted(p for name in MODELS for p in (HERE / name).iterdir())
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE)}\n" for p in files]
    (HERE / "SHA256SUMS").write_text("".join(lines))


main()
