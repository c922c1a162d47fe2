#!/bin/sh
# Makes a virtual environment: scripts/make_venv.sh DIRECTORY
#
# Takes the first Python of 3.11 or later, and the first way of making an environment, that works here. Debian's python3
# comes without the venv module; there the package that holds it is installed, if we are root.
set -eu
venv=$1

find_python() {
    for python in python3.12 python3.11 python3; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    return 1
}

# A failed attempt may leave a directory that looks like an environment but has no pip.
attempt() {
    "$@" "$venv" >/dev/null 2>&1 && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    rm -rf "$venv"
    return 1
}

make_venv() {
    attempt "$python" -m venv || attempt "$python" -m virtualenv || attempt virtualenv -q -p "$python"
}

# Takes packages, best first, until one of them makes a try succeed.
install_and_make() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "installing $1 with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || return 1
    for package in "$@"; do
        if apt-get install -y -qq "$package" </dev/null >/dev/null && find_python && make_venv; then return; fi
    done
    return 1
}

if [ -e "$venv" ]; then
    echo "$venv is there but has no Python that runs; remove it and try again" >&2
    exit 1
fi
if find_python; then
    make_venv && exit
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    install_and_make "$version-venv" python3-venv && exit
    echo "$python can make no virtual environment: install the $version-venv package, or virtualenv" >&2
else
    install_and_make python3-venv && exit
    echo "no Python of 3.11 or later was found: install one, with its venv module" >&2
fi
exit 1
