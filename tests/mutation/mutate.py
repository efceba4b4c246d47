#!/usr/bin/env python3
"""Plants one fault at a time in the source and asks whether a test notices. README.md has results.

    mutate.py --build BUILD [--sample N] [--seed S] [--only FILE[:LINE]] [--list] [FILE ...]

BUILD is a build folder made with the preset `test`, -DCMAKE_EXPORT_COMPILE_COMMANDS=ON, and all
tests built. The sources stay untouched: a mutant is compiled from a copy, its object linked before
the library so that it takes the place of the original, and the test programs of the file's row in
TARGETS run in turn until one fails. A mutant that none of them kills is a survivor.

Faults: the sign of + and -, * against /, < against <= and so on, == against !=, && against ||,
a dropped !, true against false, a condition that always or never holds, the two sides of ?:, and
each number one more.
"""

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NORM_TESTS = ["reference.test_fixtures", "backends.test_rms_norm_gradient",
              "backends.test_rms_norm", "reference.test_rms_norm_lists", "reference.test_rms_norm",
              "ops.test_rms_norm", "backends.test_rows", "ops.test_layer_norm"]
TAPE_TESTS = ["reference.test_fixtures", "autograd.test_walk", "autograd.test_backward",
              "reference.test_known_bugs", "autograd.test_recompute", "autograd.test_gradcheck",
              "autograd.test_random_graphs", "autograd.test_aliasing", "core.test_memory",
              "core.test_lifetime", "nn.test_transformer", "ops.test_view"]
TARGETS = {
    "ops/rms_norm.c": NORM_TESTS,
    "ops/norm.h": NORM_TESTS,
    "backends/cpu/rms_norm.c": NORM_TESTS,
    "backends/cpu/norm.c": NORM_TESTS,
    "backends/cpu/loops/rms_norm.c": NORM_TESTS,
    "autograd/walk.c": TAPE_TESTS,
}
HEADERS = {"ops/norm.h": "ops/rms_norm.c"}  # what is compiled to see a mutant of a header
SECONDS = 120

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
    """(line, what, mutated text) of each fault."""
    with open(f"{ROOT}/{path}") as file:
        text = file.read()
    code = blank(text)

    def put(start, end, new):
        line = text.count("\n", 0, start) + 1
        return line, f"{text[start:end].strip()} -> {new.strip() or 'nothing'}", text[:start] + new + text[end:]

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

class Build:
    def __init__(self, folder, temp):
        self.folder, self.temp = folder, temp
        with open(f"{folder}/compile_commands.json") as file:
            self.commands = json.load(file)
        targets = subprocess.run(["ninja", "-C", folder, "-t", "commands", "reference.test_fixtures"],
                                 capture_output=True, text=True, check=True).stdout.splitlines()
        self.link = next(l for l in reversed(targets) if "-o tests/reference.test_fixtures" in l)

    def compile(self, path, text):
        """Objects of the mutated file, one for each way in which it is compiled; None: it is not C."""
        source = HEADERS.get(path, path)
        copy = f"{self.temp}/include/{path}"
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open(copy, "w") as file:
            file.write(text)
        objects = []
        for entry in self.commands:
            if entry["file"] != f"{ROOT}/{source}":
                continue
            words = [w for w in shlex.split(entry["command"]) if w not in ("-Werror", "ccache")]
            words = words[:words.index("-o")]
            words = [re.sub(r"^-O\d$", "-O1", w) for w in words if not w.startswith(("-W", "-M"))]
            target = f"{self.temp}/{len(objects)}.o"
            file = copy if source == path else entry["file"]
            words += ["-w", "-iquote", f"{self.temp}/include", f"-I{self.temp}/include"]
            # The copy's folder comes first where a header is the mutant.
            words.insert(1, f"-I{self.temp}/include")
            done = subprocess.run(words + ["-c", file, "-o", target], capture_output=True,
                                  cwd=entry["directory"])
            if done.returncode:
                os.remove(copy)
                return None
            objects.append(target)
        os.remove(copy)
        return objects

    def run(self, test, objects):
        """True: the test noticed."""
        program = f"{self.temp}/{test}"
        command = self.link.replace("reference.test_fixtures", test)
        command = command.replace("tests/reference/test_fixtures.c",
                                  f"tests/{test.replace('.', '/')}.c")
        words = shlex.split(command.split("&&")[1] if "&&" in command else command)
        at = words.index("-o")
        words[at + 1] = program
        archive = next(i for i, w in enumerate(words) if w.endswith("libbobbin_test_support.a"))
        linked = subprocess.run(words[:archive] + objects + words[archive:], cwd=self.folder,
                                capture_output=True, text=True)
        if linked.returncode:
            sys.exit(f"mutate.py: linking {test} failed: {linked.stderr[-800:]}")
        try:
            done = subprocess.run([program], capture_output=True, timeout=SECONDS,
                                  env={**os.environ, "OMP_NUM_THREADS": "2"})
            return done.returncode != 0
        except subprocess.TimeoutExpired:
            return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--build", required=True)
    parser.add_argument("--sample", type=int, help="so many mutants of each file, at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="FILE:LINE")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    only, _, only_line = (arguments.only or "").partition(":")
    chosen = []
    for path in [only] if only else arguments.files or TARGETS:
        found = [(path, *m) for m in mutants(path) if not only_line or m[0] == int(only_line)]
        if arguments.sample and len(found) > arguments.sample:
            found = sorted(random.Random(arguments.seed).sample(found, arguments.sample),
                           key=lambda m: m[1])
        chosen += found
    if arguments.list:
        for path, line, what, _ in chosen:
            print(f"{path}:{line}: {what}")
        print(f"{len(chosen)} mutants")
        return
    killed, survived, not_c = {}, [], 0
    with tempfile.TemporaryDirectory() as temp:
        build = Build(os.path.abspath(arguments.build), temp)
        for path, line, what, text in chosen:
            objects = build.compile(path, text)
            if objects is None:
                not_c += 1
                continue
            by = next((test for test in TARGETS[path] if build.run(test, objects)), None)
            if by:
                killed.setdefault(path, []).append(by)
            else:
                survived.append((path, line, what))
            print(f"{path}:{line}: {what}: {by or 'SURVIVED'}", flush=True)
    total = sum(map(len, killed.values())) + len(survived)
    print(f"{total} mutants, {not_c} more do not compile; {total - len(survived)} killed, "
          f"{len(survived)} survived: {100 * (total - len(survived)) / max(total, 1):.1f} %")
    for path, line, what in survived:
        print(f"SURVIVED: {path}:{line}: {what}")


if __name__ == "__main__":
    main()
