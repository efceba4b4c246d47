# shellcheck shell=sh
# Sourced by run.sh and test.sh: bobbin_setup installs what building needs and is missing. Where nothing is missing it
# does nothing, needs no network and takes no time. Packages go by their Debian names.

# Prints the packages whose programs or files are not there.
bobbin_missing() {
    command -v git >/dev/null || echo git
    { command -v cc && command -v c++; } >/dev/null || echo build-essential
    command -v cmake >/dev/null || echo cmake
    command -v ninja >/dev/null || echo ninja-build
    bobbin_has_openblas || echo libopenblas0-openmp
}

# OpenBLAS that shares OpenMP's threads with our own loops; other builds of it also work, only slower.
bobbin_has_openblas() {
    for file in /usr/lib/*/openblas-openmp/libopenblas.so.0 /usr/lib*/libopenblaso*.so.0 /usr/local/lib*/libopenblas*.so*; do
        [ -e "$file" ] && return 0
    done
    return 1
}

# Sets BOBBIN_PYTHON to a Python that has onnx and onnxruntime: yours if it is set, else a virtual environment in
# build-onnx/, made where Python and its package index can be had. Says why not; nothing else needs it.
bobbin_onnx() {
    [ -z "${BOBBIN_PYTHON+set}" ] || return 0
    wanted="onnx>=1.18 onnxruntime>=1.23 numpy ml_dtypes"
    log=build-onnx.log
    if ! [ -x build-onnx/bin/python ] || ! build-onnx/bin/python -c 'import onnx, onnxruntime, ml_dtypes' 2>/dev/null; then
        rm -rf build-onnx
        command -v python3 >/dev/null || { echo "No python3: ONNX files are not held against onnxruntime."; return 0; }
        # shellcheck disable=SC2086 # one word each
        if ! { python3 -m venv build-onnx && timeout 300 build-onnx/bin/python -m pip install --quiet \
            --disable-pip-version-check --retries 1 --timeout 10 $wanted; } >"${TMPDIR:-/tmp}/$log" 2>&1; then
            echo "No onnx and onnxruntime to be had ($(tail -n 1 "${TMPDIR:-/tmp}/$log")): ONNX files are not held against them."
            rm -rf build-onnx "${TMPDIR:-/tmp}/$log"
            return 0
        fi
        rm -f "${TMPDIR:-/tmp}/$log"
    fi
    BOBBIN_PYTHON=$PWD/build-onnx/bin/python
    export BOBBIN_PYTHON
}

bobbin_as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs nothing: says what to install where there is no apt-get, in the words of the system's package manager.
bobbin_say_what_to_install() {
    for manager in dnf pacman zypper apk brew ''; do
        [ -n "$manager" ] && command -v "$manager" >/dev/null && break
    done
    case $manager in
    dnf) install='dnf install' names='s/build-essential/gcc gcc-c++/; s/libopenblas0-openmp/openblas-openmp/' ;;
    pacman) install='pacman -S --needed' names='s/build-essential/gcc/; s/ninja-build/ninja/; s/libopenblas0-openmp/openblas/' ;;
    zypper) install='zypper install' names='s/build-essential/gcc gcc-c++/; s/ninja-build/ninja/; s/libopenblas0-openmp/libopenblas_openmp0/' ;;
    apk) install='apk add' names='s/build-essential/build-base/; s/ninja-build/samurai/; s/libopenblas0-openmp/openblas/' ;;
    brew) install='brew install' names='s/build-essential/gcc/; s/ninja-build/ninja/; s/libopenblas0-openmp/openblas/' ;;
    *)
        echo "Please install these and run this again (Debian's names): $*"
        echo "That is: a C compiler, CMake 3.22 or newer, Ninja, git, and OpenBLAS built with OpenMP."
        return
        ;;
    esac
    # Homebrew refuses to run as root; the others need it.
    [ "$manager" = brew ] || [ "$(id -u)" -eq 0 ] || install="sudo $install"
    echo "Please install what is missing and run this again: $install $(echo "$*" | sed "$names")"
}

# Installs these packages, or says why not.
bobbin_install() {
    if ! command -v apt-get >/dev/null; then
        bobbin_say_what_to_install "$@" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        echo "Please ask an administrator for: apt-get install $*" >&2
        return 1
    fi
    echo "Installing: $*"
    log=$(mktemp) || return 1
    if bobbin_as_root apt-get update >"$log" 2>&1 &&
        bobbin_as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    tail -n 15 "$log" >&2
    rm -f "$log"
    echo "Could not install: $*" >&2
    return 1
}

bobbin_setup() {
    missing=$(bobbin_missing | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$missing" = "libopenblas0-openmp " ]; then
        # Without OpenBLAS the library uses its own matrix product, so that alone is no reason to stop.
        bobbin_install libopenblas0-openmp 2>/dev/null ||
            echo "Without OpenBLAS (Debian's libopenblas0-openmp): going on with Bobbin's own matrix product." >&2
        return 0
    fi
    # shellcheck disable=SC2086 # one word each
    bobbin_install $missing
}
