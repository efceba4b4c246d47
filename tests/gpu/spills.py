"""Which kernels ptxas gives too few registers: compiles the CUDA module's files for every architecture and prints
each kernel that spills. Needs nvcc and no GPU. Exit status 1 if any does.

    python3 tests/gpu/spills.py                        every file, every architecture
    python3 tests/gpu/spills.py --arch 75,90 softmax   backends/cuda/softmax.cu for two of them
    python3 tests/gpu/spills.py --all softmax          all kernels: registers, shared bytes, stack
    python3 tests/gpu/spills.py --log FILE             what a build with -DBOBBIN_CUDA_VERBOSE=ON printed"""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCHITECTURES = "75,80,86,89,90"


def compiled(source, arch):
    """What nvcc says about a file."""
    command = ["nvcc", "-std=c++17", "-O3", "-DNDEBUG", f"-I{ROOT}", f"-arch=sm_{arch}", "-cubin",
               "--expt-relaxed-constexpr", "-Xptxas=-v", "-o", "/dev/null", str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{source} for sm_{arch}:\n{done.stdout}")
    return done.stdout


def kernels(log):
    """(architecture, mangled name, bytes of stack, stored, loaded, registers, shared bytes) of each kernel."""
    name, frame = None, None
    for line in log.splitlines():
        entry = re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", line)
        if entry:
            name = entry[2], entry[1]
        spill = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if spill:
            frame = tuple(map(int, spill.groups()))
        used = re.search(r"Used (\d+) registers", line)
        if used and name and frame:
            shared = re.search(r"(\d+) bytes smem", line)
            yield *name, *frame, int(used[1]), int(shared[1]) if shared else 0
            name, frame = None, None


def readable(names):
    out = subprocess.run(["c++filt"], input="\n".join(names), stdout=subprocess.PIPE, text=True).stdout
    return [re.sub(r"\(anonymous namespace\)::|^void |\(.*", "", line.replace("(anonymous namespace)::", ""))
            for line in out.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", help="files of backends/cuda, without .cu")
    parser.add_argument("--arch", default=ARCHITECTURES)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--log", type=pathlib.Path)
    options = parser.parse_args()
    folder = ROOT / "backends" / "cuda"
    sources = [folder / f"{s}.cu" for s in options.stems] or sorted(folder.glob("*.cu"))
    if options.log:
        logs = [options.log.read_text(errors="replace")]
    else:
        logs = (compiled(s, a) for s in sources for a in options.arch.split(","))
    count = spilling = 0
    for log in logs:
        rows = list(kernels(log))
        count += len(rows)
        for row, name in zip(rows, readable([row[1] for row in rows])):
            arch, _, stack, stored, loaded, registers, shared = row
            spilling += stored + loaded > 0
            if options.all or stored + loaded:
                print(f"sm_{arch}  {registers:3} registers  {shared:6} shared  {stack:4} stack  "
                      f"{stored:4} stored  {loaded:4} loaded  {name}", flush=True)
    print(f"{count} kernels, {spilling} of them spill")
    return spilling > 0


if __name__ == "__main__":
    sys.exit(main())
