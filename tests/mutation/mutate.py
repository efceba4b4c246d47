#!/usr/bin/env python3
"""Plants one fault at a time in the source and asks whether a test notices. README.md has results.

    mutate.py --build BUILD [--log FILE] [--jobs N] [--sample N] [--seed S] [--only FILE[:LINE]]
              [--list] [FILE ...]

BUILD is a build folder made with the preset `test`, -DCMAKE_EXPORT_COMPILE_COMMANDS=ON, and all
tests built. The sources stay untouched: a mutant is compiled from a copy, its object linked before
the library so that it takes the place of the original, and the test programs (or single tests) of
the file's row in TARGETS run in turn, the quick ones first, until one fails. A mutant that none of them kills is a
survivor. A loop of an ISA level is mutated in the level that BOBBIN_ISA names (the highest of this
machine), and the tests run on that one.

--log keeps the verdicts: what it says is dead is not tried again, so a run that was stopped goes
on, and one after new tests judges the survivors alone.

Faults: the sign of + and -, * against /, < against <= and so on, == against !=, && against ||,
a dropped !, true against false, a condition that always or never holds, the two sides of ?:, and
each number one more.
"""

import argparse
import concurrent.futures
import json
import os
import random
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NORM_TESTS = ["reference.test_rms_norm_odd", "reference.test_known_bugs",
              "backends.test_rms_norm chunks", "backends.test_rms_norm supports",
              "backends.test_rms_norm steps",
              "reference.test_rms_norm f64_input", "ops.test_add_rms_norm",
              "reference.test_fixtures", "backends.test_rows", "backends.test_rms_norm",
              "ops.test_rms_norm", "ops.test_layer_norm", "reference.test_rms_norm_lists",
              "reference.test_rms_norm"]
TAPE_TESTS = ["autograd.test_walk", "autograd.test_gather", "autograd.test_walk_buffers", "autograd.test_rules",
              "autograd.test_backward", "autograd.test_recompute", "autograd.test_gradcheck", "core.test_lifetime",
              "autograd.test_aliasing", "autograd.test_function", "autograd.test_saved",
              "autograd.test_saved_faults", "ops.test_view", "autograd.test_offload",
              "nn.test_params", "reference.test_known_bugs", "core.test_memory", "io.test_graph",
              "ops.test_cross_entropy", "reference.test_fixtures", "nn.test_transformer",
              "autograd.test_random_graphs"]
TARGETS = {
    "ops/rms_norm.c": NORM_TESTS,
    "ops/norm.h": NORM_TESTS,
    "backends/cpu/rms_norm.c": NORM_TESTS,
    "backends/cpu/add_rms_norm.c": NORM_TESTS,
    "backends/cpu/norm.c": NORM_TESTS,
    "backends/cpu/rows.h": NORM_TESTS,
    "backends/cpu/loops/rms_norm.c": NORM_TESTS,
    "backends/cpu/loops/rms_tile.h": NORM_TESTS,
    "backends/cpu/loops/rms_pairs.h": NORM_TESTS,
    "backends/cpu/loops/tile.h": NORM_TESTS,
    "autograd/walk.c": TAPE_TESTS,
    "autograd/gather.c": TAPE_TESTS,
    "autograd/saved.c": TAPE_TESTS,
}
# What is compiled to see a mutant of a header; a test too, where it includes the header itself.
HEADERS = {"ops/norm.h": ["ops/rms_norm.c"],
           "backends/cpu/rows.h": ["backends/cpu/norm.c", "tests/backends/test_rows.c"],
           "backends/cpu/loops/rms_tile.h": ["backends/cpu/loops/rms_norm.c"],
           "backends/cpu/loops/rms_pairs.h": ["backends/cpu/loops/rms_norm.c"],
           "backends/cpu/loops/tile.h": ["backends/cpu/loops/rms_norm.c"]}
CPU_SECONDS, SECONDS = 20, 1800  # a test that takes longer noticed: none takes a third of it
MEMORY = 8 << 30
LEVEL = "-O0"  # compiling costs more than running

# ---- Where faults can be planted

SWAPS = [(r"(?<=[\w\)\]]) (\+) (?=[\w\(\-])", "-"), (r"(?<=[\w\)\]]) (-) (?=[\w\(])", "+"),
         (r"(?<=[\w\)\]]) (\*) (?=[\w\(])", "/"), (r"(?<=[\w\)\]]) (/) (?=[\w\(])", "*"),
         (r" (\+=) ", "-="), (r" (-=) ", "+="), (r" (\*=) ", "/="),
         (r" (<) ", "<="), (r" (<=) ", "<"), (r" (>) ", ">="), (r" (>=) ", ">"),
         (r" (==) ", "!="), (r" (!=) ", "=="), (r" (&&) ", "||"), (r" (\|\|) ", "&&"),
         (r"(?<![\w!])(!)(?=[\w\(])", ""), (r"\b(true)\b", "false"), (r"\b(false)\b", "true"),
         (r"(\|=) ", "&="), (r"[\(=,] ?(-)(?=[\w\(])", "")]
NUMBER = re.compile(r"(?<![\w.\"])(\d+(?:\.\d+)?)(f?)(?![\w.\"])")
CONDITION = re.compile(r"\b(if|while) \(")


def blank(text):
    """The text with comments and strings as spaces, so that positions stay."""
    def spaces(match):
        return re.sub(r"[^\n]", " ", match.group())
    return re.sub(r"/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|^#.*?$", spaces, text, flags=re.S | re.M)


def closing(text, start):
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([") - (text[i] in ")]")
        if depth == 0:
            return i
    return len(text)


def ternaries(text):
    """(start of the middle, the middle, the last) of each a ? b : c that ends in ; , or )."""
    for match in re.finditer(r" \? ", text):
        depth, colon = 0, None
        for i in range(match.end(), len(text)):
            if text[i] in "([{":
                depth += 1
            elif text[i] in ")]}" or (text[i] in ";," and depth == 0):
                if depth == 0:
                    if colon:
                        yield match.end(), colon, i
                    break
                depth -= 1
            elif depth == 0 and colon is None and text.startswith(" : ", i):
                colon = i
            elif depth == 0 and colon is None and text[i] == "?":
                break


def mutants(path):
    """(line, what, mutated text, column) of each fault."""
    with open(f"{ROOT}/{path}") as file:
        text = file.read()
    code = blank(text)

    def put(start, end, new):
        line = text.count("\n", 0, start) + 1
        column = start - text.rfind("\n", 0, start)
        what = " ".join(f"{text[start:end]} -> {new.strip() or 'nothing'}".split())
        return line, what, text[:start] + new + text[end:], column

    for pattern, new in SWAPS:
        for match in re.finditer(pattern, code):
            yield put(*match.span(1), new)
    for match in NUMBER.finditer(code):
        yield put(*match.span(), f"{float(match[1]) + 1}{match[2]}" if "." in match[1] else
                  f"{int(match[1]) + 1}{match[2]}")
    for match in CONDITION.finditer(code):
        start, end = match.end(), closing(code, match.end() - 1)
        for value in ("0", "1") if match[1] == "if" else ("0",):
            yield put(start, end, value)
    for start, colon, end in ternaries(code):
        yield put(start, end, f"{text[colon + 3:end]} : {text[start:colon]}")


# ---- Compiling, linking, running

def machine_isa():
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    named = os.environ.get("BOBBIN_ISA")
    return named or ("avx512" if "avx512vl" in flags else "avx2" if "avx2" in flags else "baseline")


def limits():
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Build:
    def __init__(self, folder):
        self.folder, self.isa = folder, machine_isa()
        with open(f"{folder}/compile_commands.json") as file:
            self.commands = json.load(file)
        targets = subprocess.run(["ninja", "-C", folder, "-t", "commands", "reference.test_fixtures"],
                                 capture_output=True, text=True, check=True).stdout.splitlines()
        self.link = next(l for l in reversed(targets) if "-o tests/reference.test_fixtures" in l)

    def compile(self, path, text, temp):
        """{source: its object} of what the mutated file is part of; None: it is not C."""
        sources = [f"{ROOT}/{source}" for source in HEADERS.get(path, [path])]
        copy = f"{temp}/include/{path}"
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open(copy, "w") as file:
            file.write(text)
        objects = {}
        for entry in self.commands:
            if entry["file"] not in sources:
                continue
            words = shlex.split(entry["command"])
            level = next((w for w in words if w.startswith("-DBB_ISA=")), f"={self.isa}")
            if level.split("=")[1] != self.isa:
                continue
            words = words[next(i for i, w in enumerate(words) if not w.endswith("ccache")):]
            words = words[:words.index("-o")]
            words = [re.sub(r"^-O\d$", LEVEL, w) for w in words if not w.startswith(("-W", "-M"))]
            target = f"{temp}/{len(objects)}.o"
            file = copy if path not in HEADERS else entry["file"]
            # The copy's folder comes first where a header is the mutant.
            words[1:1] = ["-iquote", f"{temp}/include", f"-I{temp}/include"]
            done = subprocess.run(words + ["-w", "-c", file, "-o", target], capture_output=True,
                                  cwd=entry["directory"])
            if done.returncode:
                os.remove(copy)
                return None
            objects[os.path.relpath(entry["file"], ROOT)] = target
        os.remove(copy)
        if len(objects) != len(sources):
            sys.exit(f"mutate.py: {path}: expected it in compile_commands.json, found no such row")
        return objects

    def run(self, entry, objects, temp):
        """True: the test, or the row of it that the entry names, noticed."""
        test, *row = entry.split()
        program, source = f"{temp}/{test}", f"tests/{test.replace('.', '/')}.c"
        command = self.link.replace("reference.test_fixtures", test)
        command = command.replace("tests/reference/test_fixtures.c", source)
        words = shlex.split(command.split("&&")[1] if "&&" in command else command)
        at = words.index("-o")
        words[at + 1] = program
        archive = next(i for i, w in enumerate(words) if w.endswith("libbobbin_test_support.a"))
        words[archive:archive] = [o for s, o in objects.items() if "tests/" not in s] + LINKER
        words = [objects.get(source, w) if w.endswith(f"{source}.o") else w for w in words]
        linked = subprocess.run(words, cwd=self.folder, capture_output=True, text=True)
        if linked.returncode:
            sys.exit(f"mutate.py: linking {test} failed: {linked.stderr[-800:]}")
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive",
                       "TMPDIR": temp, "BOBBIN_ISA": self.isa}
        try:
            done = subprocess.run([program, *row], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=SECONDS, env=environment,
                                  preexec_fn=limits, cwd=temp)
            return done.returncode != 0
        except subprocess.TimeoutExpired:
            return True

    def verdict(self, path, text):
        """The test that noticed, "" where none did, None where the mutant does not compile."""
        with tempfile.TemporaryDirectory() as temp:
            objects = self.compile(path, text, temp)
            if objects is None:
                return None
            return next((test for test in TARGETS[path] if self.run(test, objects, temp)), "")


# lld links several times faster than the default linker.
LINKER = ["-fuse-ld=lld"] if any(os.access(f"{p}/ld.lld", os.X_OK)
                                 for p in os.environ["PATH"].split(":")) else []


def choose(arguments):
    """(name, file, text) of the mutants that are asked for; a name is file:line:column: what."""
    only, _, only_line = (arguments.only or "").partition(":")
    chosen = []
    for path in [only] if only else arguments.files or TARGETS:
        found = [m for m in mutants(path) if not only_line or m[0] == int(only_line)]
        if arguments.sample and len(found) > arguments.sample:
            found = sorted(random.Random(arguments.seed).sample(found, arguments.sample),
                           key=lambda m: m[0])
        chosen += [(f"{path}:{line}:{column}: {what}", path, text)
                   for line, what, text, column in found]
    return chosen


def read_log(path):
    """Name: verdict."""
    if not path or not os.path.exists(path):
        return {}
    with open(path) as file:
        return dict(line.rstrip("\n").rsplit(" | ", 1) for line in file)


def report(chosen, verdicts):
    """Numbers per file, then the survivors."""
    total = {"killed": 0, "survived": 0}
    for path in dict.fromkeys(path for _, path, _ in chosen):
        of_file = [verdicts[name] for name, p, _ in chosen if p == path]
        survived, not_c = of_file.count("SURVIVED"), of_file.count("not C")
        killed = len(of_file) - survived - not_c
        total["killed"] += killed
        total["survived"] += survived
        print(f"{path}: {killed + survived} mutants, {killed} killed, {survived} survived "
              f"({not_c} more do not compile)")
    count = sum(total.values())
    print(f"{count} mutants, {total['killed']} killed, {total['survived']} survived: "
          f"{100 * total['killed'] / max(count, 1):.1f} %")
    for name, _, _ in chosen:
        if verdicts[name] == "SURVIVED":
            print(f"SURVIVED: {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--build", required=True)
    parser.add_argument("--log", help="keeps the verdicts")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--sample", type=int, help="so many mutants of each file, at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="FILE:LINE")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    chosen = choose(arguments)
    if arguments.list:
        print("\n".join(name for name, _, _ in chosen))
        print(f"{len(chosen)} mutants")
        return
    build, verdicts = Build(os.path.abspath(arguments.build)), read_log(arguments.log)
    lock = threading.Lock()
    # Without a fault every test passes, or a verdict would mean nothing: once for each list of tests.
    for path in {id(TARGETS[path]): path for _, path, _ in chosen}.values():
        with open(f"{ROOT}/{path}") as file:
            by = build.verdict(path, file.read())
        if by != "":
            sys.exit(f"mutate.py: {path} without a fault: {by or 'it does not compile'} fails")

    def judge(mutant):
        name, path, text = mutant
        if verdicts.get(name, "SURVIVED") != "SURVIVED":
            return
        by = build.verdict(path, text)
        with lock:
            verdicts[name] = "not C" if by is None else by or "SURVIVED"
            print(f"{name} | {verdicts[name]}", flush=True)
            if arguments.log:
                with open(arguments.log, "a") as file:
                    file.write(f"{name} | {verdicts[name]}\n")

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(judge, chosen))
    report(chosen, verdicts)


if __name__ == "__main__":
    main()
