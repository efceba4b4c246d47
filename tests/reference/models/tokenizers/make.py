"""Tokenizers, with the package `tokenizers` as the judge.

    python tests/reference/models/tokenizers/make.py           writes the fixtures of tests/tools/test_tokenizer.c
    python tests/reference/models/tokenizers/make.py unicode   writes tools/unicode_table.h

Three small byte-level BPEs in the forms of GPT-2, Llama 3 and Qwen are trained on text.txt, which holds words, contractions,
digits, runs of white space, many scripts, and stretches of random characters. NAME.json is the tokenizer, NAME.safetensors what
it makes of text.txt, and of a short text with the tokens that its post-processor adds. pieces.safetensors is where each way to
cut cuts the text. The classes of characters are asked of the
package's own regular expressions, so that they are those of its version of Unicode.
"""

import hashlib
import json
import pathlib
import random
import sys
import unicodedata

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
CLAUSES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3, QWEN = CLAUSES % r"\p{N}{1,3}", CLAUSES % r"\p{N}"

# ---- Text

PLAIN = """The quick brown fox isn't as quick as it WAS; they'll say it'd've been 1234567 times slower, and I'M sure we're 'right.
It's 3.14159, 2,718,281 or 10^-9?  Two  spaces,   three,\ttabs\t\tand\r\nline\nbreaks\n\n\n   indented   \n
def f(x):\n    return x**2  # squared\n\n\tif x != 0: y = [i for i in range(10)]\nHe'S, she'LL, THEY'RE, don't, 'twas, rock'n'roll, ''quotes''
Grüße aus Köln, naïve café, Ångström, œuvre, ﬁne ligature, ſhort ſ: it'ſ x'ſa y'ſT, Kelvin K. Ελληνικά και Русский текст, עברית עִבְרִית,
العَرَبِيَّة ١٢٣٤, हिन्दी में पाठ १२३, ภาษาไทย ๔๕, 日本語のテキスト、漢字かな交じり文。中文文本，全角１２３。한국어 문장입니다. 한국
emoji 😀😃👩‍👩‍👧‍👦🏳️‍🌈👍🏽 and ½ ² Ⅷ ① ೩ 𝟘𝟙 𝒜𝓁𝓅𝒽𝒶, e\u0301 vs \u00e9, a\u0323\u0307 vs a\u0307\u0323, \u1e9b\u0323, \u212b, \uf900,
no-break\u00a0space, thin\u2009space, ideographic\u3000space, line\u2028separator, \u0085next, zero\u200bwidth, \ufeffBOM, \u0000nul, \u007fdel.
<|endoftext|>after the end<|end|> <|endof|> <|im_start|>user\nhello<|im_end|>\n"""


def random_text(seed, count):
    r = random.Random(seed)
    pools = [" ", "  \t\n\r", "'", "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", ".,;:!?-_()[]{}<>|/\\",
             "\u0300\u0301\u0323\u0327\u0345\u05b0\u064b\u3099", "àéîõüçñßæøåÀÉ", "\u1100\u1161\u11a8가각한", "'sStTdDmM'reVEll"]
    out = []
    while len(out) < count:
        if r.random() < 0.3:
            c = chr(r.randrange(0x80, r.choice((0x800, 0x3000, 0x10000, 0x20000, 0x110000))))
            if not 0xD800 <= ord(c) < 0xE000:
                out.append(c)
        else:
            pool = r.choice(pools)
            out += [r.choice(pool) for _ in range(r.randrange(1, 6))]
    return "".join(out)


# ---- Tokenizers

def train(tokenizer, special):
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special,
                                  show_progress=False)
    tokenizer.train_from_iterator([PLAIN], trainer)


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    train(t, ["<|endoftext|>"])
    return t


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    train(t, ["<|begin|>", "<|end|>", "<|endof|>"])
    # Whole words that no merge makes any more: ignore_merges finds them in the vocabulary.
    data = json.loads(t.to_str())
    words = {word for word, _ in t.pre_tokenizer.pre_tokenize_str(PLAIN)}
    data["model"]["merges"] = [m for m in data["model"]["merges"] if len(m[0] + m[1]) < 3 or m[0] + m[1] not in words]
    t = Tokenizer.from_str(json.dumps(data))
    begin, end = t.token_to_id("<|begin|>"), t.token_to_id("<|end|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin|> $A <|end|>", special_tokens=[("<|begin|>", begin), ("<|end|>", end)])])
    return t


def qwen():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.post_processor = processors.ByteLevel(add_prefix_space=False)
    train(t, ["<|endoftext|>"])
    t.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("rock'n'roll", normalized=True), AddedToken("<|endof", normalized=False)])
    return t


def digits():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    train(t, ["<|endoftext|>"])
    return t


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def pieces(splitter, text):
    """How many bytes each piece has."""
    return torch.tensor([len(text[a:b].encode()) for _, (a, b) in splitter.pre_tokenize_str(text)], dtype=torch.int32)


def fixtures():
    text = PLAIN + random_text(5, 9000) + "\n " + random_text(6, 3000)
    (HERE / "text.txt").write_bytes(text.encode())
    for make in (gpt2, llama3, qwen, digits):
        t = make()
        t.decoder = decoders.ByteLevel()
        t.save(str(HERE / f"{make.__name__}.json"))
        plain = t.encode(text, add_special_tokens=False).ids
        special = t.encode("Hello, world<|endof|>", add_special_tokens=True).ids
        wanted = unicodedata.normalize("NFC", text) if make is qwen else text
        print(make.__name__, len(plain), "tokens; decoded equal:", t.decode(plain, skip_special_tokens=False) == wanted)
        save_file({"ids": torch.tensor(plain, dtype=torch.int32), "special": torch.tensor(special, dtype=torch.int32)},
                  HERE / f"{make.__name__}.safetensors")
    isolated = {"gpt2": GPT2, "llama3": LLAMA3, "qwen": QWEN}
    out = {name: pieces(pre_tokenizers.Split(Regex(pattern), behavior="isolated"), text) for name, pattern in isolated.items()}
    out["digits"] = pieces(pre_tokenizers.Digits(individual_digits=False), text)
    out["each_digit"] = pieces(pre_tokenizers.Digits(individual_digits=True), text)
    save_file(out, HERE / "pieces.safetensors")
    files = sorted(p for p in HERE.iterdir() if p.suffix in (".json", ".safetensors", ".txt"))
    (HERE / "SHA256SUMS").write_text("".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files))


# ---- Classes and normal form of characters

EVERY = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(pattern):
    text = "".join(map(chr, EVERY))
    left = pre_tokenizers.Split(Regex(pattern), behavior="removed").pre_tokenize_str(text)
    inside = [True] * len(EVERY)
    for _, (begin, end) in left:
        inside[begin:end] = [False] * (end - begin)
    return [c for c, yes in zip(EVERY, inside) if yes]


def ranges(codes):
    out = []
    for c in codes:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(file, head, rows):
    file.write(head + " = {\n")
    line = "   "
    for row in rows:
        text = " {" + ", ".join(f"0x{v:x}" if i < 2 or len(row) > 3 else str(v) for i, v in enumerate(row)) + "},"
        if len(line) + len(text) > 100:
            file.write(line + "\n")
            line = "   "
        line += text
    file.write(line + "\n};\n")


def unicode():
    nfc = normalizers.NFC()
    hangul = range(0xAC00, 0xD7A4)
    classes = []
    for c in EVERY:
        k = unicodedata.combining(chr(c))
        if k and classes and classes[-1][1] == c - 1 and classes[-1][2] == k:
            classes[-1][1] = c
        elif k:
            classes.append([c, c, k])
    split = []
    for c in EVERY:
        parts = unicodedata.decomposition(chr(c)).split()
        if parts and not parts[0].startswith("<") and c not in hangul:
            a, b = int(parts[0], 16), int(parts[1], 16) if len(parts) > 1 else 0
            again = b != 0 and nfc.normalize_str(chr(a) + chr(b)) == chr(c)
            split.append((c, a, b, int(again)))
    with open(HERE.parents[3] / "tools/unicode_table.h", "w") as f:
        f.write("/* Classes and canonical decompositions of characters, for tools/unicode.c. Written by\n"
                " * tests/reference/models/tokenizers/make.py from the package tokenizers and Unicode "
                f"{unicodedata.unidata_version}. */\n"
                "#ifndef BOBBIN_TOOLS_UNICODE_TABLE_H\n#define BOBBIN_TOOLS_UNICODE_TABLE_H\n\n#include <stdint.h>\n\n"
                "/* clang-format off */\n")
        for name, pattern in (("letters", r"\p{L}+"), ("numbers", r"\p{N}+"), ("spaces", r"\s+")):
            table(f, f"static const uint32_t {name}[][2]", ranges(members(pattern)))
        f.write("/* first, last, canonical combining class */\n")
        table(f, "static const uint32_t combining[][3]", classes)
        f.write("/* character, its two parts (second 0: one part), whether the parts compose to it again */\n")
        table(f, "static const uint32_t decompositions[][4]", split)
        f.write("/* clang-format on */\n\n#endif\n")


unicode() if sys.argv[1:] == ["unicode"] else fixtures()
