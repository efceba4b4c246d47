#!/bin/sh
# Writes the manual page bobbin(1), made of what the program says of itself: man.sh PATH_OF_BOBBIN FILE.
set -eu
bobbin=$1
exec >"$2"
version=$("$bobbin" --version)
cat <<END
.TH BOBBIN 1 "" "$version" "User Commands"
.SH NAME
bobbin \\- train small transformers, run and check tensor ops
.SH SYNOPSIS
.B bobbin
.I COMMAND
.RI [ flags ]
.SH DESCRIPTION
The face of the Bobbin tensor library at the shell. Numbers go to stdout, progress and errors to stderr.
.SH COMMANDS
END
for command in $("$bobbin" --help | awk '/^  [a-z]/ {print $1}'); do
    "$bobbin" "$command" --help | awk '
        function plain(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); gsub(/^[.\x27]/, "\\\\\\&&", s); return s }
        NR == 1 { sub(/^usage: /, ""); print ".SS \"" plain($0) "\""; next }
        NR == 2 { print toupper(substr($0, 1, 1)) plain(substr($0, 2)) (/\.$/ ? "" : "."); next }
        /^ +[^ ]/ && !/^  (-|[A-Z])/ { sub(/^ +/, ""); print plain($0); next }
        /^  / {
            sub(/^  /, "")
            flag = $0; text = ""
            if (match($0, /  +/)) { flag = substr($0, 1, RSTART - 1); text = substr($0, RSTART + RLENGTH) }
            sub(/ +$/, "", flag)
            print ".TP\n.B " plain(flag)
            if (text != "") print plain(text)
        }'
done
cat <<END
.SH ENVIRONMENT
.TP
.B BOBBIN_TRACE=1
One line on stderr for each op that runs.
.TP
.B BOBBIN_ISA
.RB ( baseline ", " avx2 ", " avx512 )
The level of the CPU's loops; left out: the best there is.
.TP
.B BOBBIN_GEMM
.RB ( own ", " openblas )
Whose matrix product is used.
.TP
.B OMP_NUM_THREADS
How many threads, where \\-\\-threads does not say.
.SH EXIT STATUS
0 on success, 2 on wrong use or bad input with one line on stderr, 128 + the signal (130, 143, 129) after an interrupted training (which was saved),
1 otherwise.
.SH EXAMPLES
.TP
.B bobbin train \\-\\-data book.txt \\-\\-out runs/book
Trains the small model on a file.
.TP
.B bobbin train \\-\\-resume runs/book \\-\\-steps 4000
Goes on with it.
.TP
.B bobbin sample \\-\\-model runs/book \\-\\-prompt \\(dqOnce\\(dq
Continues a text.
END
