#!/usr/bin/env python3
"""Reads the JSON lines of compare.sh and prints two Markdown tables: Bobbin beside PyTorch, medians over the rounds.

A ratio is PyTorch's time divided by ours within one round, so above 1 we are faster; its range over the rounds follows.
"""
import json
import statistics
import sys


def spread(values):
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def ratio(theirs, ours):
    return spread([t / o for t, o in zip(theirs, ours)])


def medians(rows, key):
    return [row[key]["median"] for row in rows]


def group(rows, name):
    groups = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups


def train_table(rows):
    ours = group((r for r in rows if r["what"].startswith("bobbin")), lambda r: r["model"])
    peers = group((r for r in rows if r["what"].startswith("torch")), lambda r: (r["model"], r["what"]))
    print("| model | peer | Bobbin ms/step | peer ms/step | peer / Bobbin | Bobbin MiB | peer MiB | first step s, Bobbin / peer |")
    print("|---|---|---|---|---|---|---|---|")
    for (model, what), theirs in peers.items():
        mine = ours[model]
        print(f"| {model} | {what} | {spread(medians(mine, 'step_ms'))} | {spread(medians(theirs, 'step_ms'))} "
              f"| {ratio(medians(theirs, 'step_ms'), medians(mine, 'step_ms'))} "
              f"| {mine[0]['peak_rss_mib']:.0f} | {theirs[0]['peak_rss_mib']:.0f} "
              f"| {mine[0]['first_step_done_s']:.3f} / {theirs[0]['first_step_done_s']:.3f} |")


def norm_table(rows):
    def case(row):
        return row["rows"], row["dim"], row["dtype"], row["direction"]
    ours = group((r for r in rows if r["what"] == "bobbin fused"), case)
    composed = group((r for r in rows if r["what"] == "bobbin composed"), case)
    peers = group((r for r in rows if r["what"].startswith("torch")), lambda r: case(r) + (r["what"],))
    print("| rows x dim | dtype | direction | Bobbin fused us (GB/s) | Bobbin composed us | peer | peer us | peer / Bobbin fused |")
    print("|---|---|---|---|---|---|---|---|")
    for key, theirs in peers.items():
        mine, loose = ours[key[:4]], composed[key[:4]]
        rate = statistics.median(r["gb_per_s"] for r in mine)
        print(f"| {key[0]} x {key[1]} | {key[2]} | {key[3]} | {spread(medians(mine, 'us'))} ({rate:.3g}) "
              f"| {spread(medians(loose, 'us'))} | {key[4]} | {spread(medians(theirs, 'us'))} "
              f"| {ratio(medians(theirs, 'us'), medians(mine, 'us'))} |")


def main():
    rows = [json.loads(line) for line in sys.stdin if line.strip()]
    train_table([r for r in rows if "step_ms" in r])
    norms = [r for r in rows if "direction" in r]
    if norms:
        print()
        norm_table(norms)


if __name__ == "__main__":
    main()
