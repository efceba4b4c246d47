"""PyTorch's RMSNorm beside bobbin's, for tests/gpu/check.sh: one line of JSON per case, with the keys of
`bobbin bench gpu --json`.

    python3 tests/gpu/torch_bench.py              on the GPU: the shapes of tools/bench_gpu.c
    python3 tests/gpu/torch_bench.py --dry-run    on the CPU, tiny shapes, once: nothing is measured

Three ways: `eager` writes the formula out, `fused` is torch.nn.functional.rms_norm, `compiled` is the
formula under torch.compile. As in tools/bench_gpu.c buffers take turns, so that none is in a cache when it
is used again; the calls are recorded as one CUDA graph; a figure is a median of replays."""
import argparse
import json
import statistics
import sys

import torch

EPS = 1e-5
CACHE_BYTES = 200 << 20
REPLAY_BYTES = 12e9
SHAPES = [(4096, 4096), (8192, 4096), (16384, 8192), (32768, 1024), (1048576, 128), (65536, 768)]
REPEATS = 15


def formula(x, weight):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype) * weight


def fused(x, weight):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, EPS)


def forward_calls(function, sets, weight):
    def run(s):
        with torch.no_grad():
            s["y"] = function(s["x"], weight)
    return [lambda s=s: run(s) for s in sets]


def backward_calls(function, sets, weight):
    """The forward passes are made beforehand and kept."""
    for s in sets:
        s["x"].requires_grad_(True)
        s["y"] = function(s["x"], weight)

    def run(s):
        s["grads"] = torch.autograd.grad(s["y"], (s["x"], weight), s["dy"], retain_graph=True)
    return [lambda s=s: run(s) for s in sets]


def time_on_gpu(calls, count):
    """Microseconds a call: median and range of replays of a graph of `count` calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            calls[i % len(calls)]()
    times = []
    for i in range(REPEATS + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end) * 1e3 / count)
    return {"min": min(times), "median": statistics.median(times), "max": max(times)}


def bench(way, function, direction, rows, dim, dtype, device):
    line = {"what": f"torch {way}", "direction": direction, "rows": rows, "dim": dim,
            "dtype": {torch.bfloat16: "bf16", torch.float32: "f32"}[dtype], "device": device}
    size = rows * dim * dtype.itemsize
    streams = 2 if direction == "forward" else 3
    count = 1 if device == "cpu" else max(2, -(-CACHE_BYTES // (streams * size)) + 1)
    try:
        weight = torch.rand(dim, dtype=dtype, device=device).requires_grad_(direction == "backward")
        sets = [{"x": torch.randn(rows, dim, dtype=dtype, device=device),
                 "dy": torch.randn(rows, dim, dtype=dtype, device=device)} for _ in range(count)]
        make = forward_calls if direction == "forward" else backward_calls
        calls = make(function, sets, weight)
        if device == "cpu":
            for call in calls:
                call()
            line["not_measured"] = "a dry run; the calls ran"
        else:
            turns = min(400, max(count, int(REPLAY_BYTES / (streams * size))))
            line["us"] = {k: round(v, 3) for k, v in time_on_gpu(calls, turns).items()}
            line["gb_per_s"] = round(streams * size / line["us"]["median"] / 1e3, 1)
    except Exception as error:  # one way that fails, for want of memory or of a compiler, is a line of the report
        line["not_measured"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true")
    dry = parser.parse_args().dry_run
    if not dry and not torch.cuda.is_available():
        sys.exit("torch_bench.py: this PyTorch finds no GPU")
    ways = [("eager", formula), ("fused", fused), ("compiled", torch.compile(formula, dynamic=False))]
    for rows, dim in [(16, 64)] if dry else SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            if dtype == torch.float32 and (rows, dim) not in ((4096, 4096), (16, 64)):
                continue
            for direction in ("forward", "backward"):
                for way, function in ways:
                    bench(way, function, direction, rows, dim, dtype, "cpu" if dry else "cuda")
                    if not dry:
                        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
