#!/usr/bin/env python3
"""PyTorch's fused LayerNorm, the measure for RMSNormImpl: one JSON line a case, with the keys of `bobbin bench rms_norm`.

    torch_layer_norm.py [--threads N] [--budget SECONDS]

It has a bias and subtracts a mean, so it adds and writes a little more; what passes through memory is the same.
"""
import argparse
import json
import statistics
import time

import torch

SHAPES = ((512, 768), (2048, 4096))


def microseconds(step, budget):
    """Samples of the time of one step; a sample is the mean of as many as fill about 200 us."""
    for _ in range(3):
        step()
    start = time.perf_counter()
    step()
    inner = max(1, int(2e-4 / (time.perf_counter() - start)))
    samples, end = [], time.perf_counter() + budget
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(inner):
            step()
        samples.append((time.perf_counter() - start) / inner * 1e6)
    return samples


def steps(rows, dim):
    x, dy = torch.randn(rows, dim), torch.randn(rows, dim)
    scale, bias = torch.randn(dim), torch.randn(dim)

    def forward():
        with torch.no_grad():
            torch.nn.functional.layer_norm(x, (dim,), scale, bias)

    leaves = [t.clone().requires_grad_() for t in (x, scale, bias)]

    def both():
        for leaf in leaves:
            leaf.grad = None
        torch.nn.functional.layer_norm(leaves[0], (dim,), leaves[1], leaves[2]).backward(dy)

    return {"fwd": (forward, 2), "fwd+bwd": (both, 5)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=0.2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for rows, dim in SHAPES:
        for direction, (step, passes) in steps(rows, dim).items():
            samples = microseconds(step, options.budget)
            median = statistics.median(samples)
            print(json.dumps({
                "what": f"torch {torch.__version__} F.layer_norm", "direction": direction, "rows": rows, "dim": dim,
                "dtype": "float32", "device": "cpu", "threads": options.threads,
                "us": {"min": min(samples), "median": median, "max": max(samples)},
                "gb_per_s": 4 * rows * dim * passes / median * 1e-3}), flush=True)


if __name__ == "__main__":
    main()
