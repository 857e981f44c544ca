#!/bin/sh
# Installs a llava-pack bundle on this machine, offline. POSIX sh with coreutils or busybox.
#
# Nothing on the medium is trusted before it matches the bundle id that you typed, and nothing is
# run from the medium: the few files listed under installer/ and runtime/ that start the installer
# are copied into a fresh private folder below the prefix, checked there, and only the copies run.
# Exit codes: docs/reference/exit-codes.md.

usage() {
    cat <<'USAGE'
Usage: sh install.sh --bundle DIR --expect ID [--prefix DIR] [--python FILE] [--dry-run] [--json]

  --bundle DIR    the bundle, for example /media/usb/llava-v1.5-7b
  --expect ID     the bundle id from the card that `llava-pack build` printed, or at least its
                  first 32 digits
  --prefix DIR    where to install: /opt/llava-pack as root, else ~/.local/share/llava-pack
  --python FILE   the Python to use, for a bundle that carries none
  --dry-run       check everything that can be checked without writing, and say what would happen
  --json          end with one JSON object on stdout
USAGE
}

# fail CODE MESSAGE HINT: says what is wrong and what to do next, and ends.
fail() {
    text=$(printf '%s' "$2" | tr '\001-\037\177' '?')
    printf 'error: %s\nhint: %s\n' "$text" "$3" >&2
    if [ "$json" = yes ]; then
        text=$(printf '%s' "$text" | sed 's/[\\"]/\\&/g')
        printf '{"schema": 1, "kind": "error", "exit_code": %d, "message": "%s"}\n' "$1" "$text"
    fi
    exit "$1"
}

# Drops every variable that could change what sh, tar, Python or uv do.
scrub() {
    LC_ALL=C
    export LC_ALL
    unset ENV BASH_ENV CDPATH OPENSSL_CONF TAR_OPTIONS GZIP
    for name in $(env | sed -n -e 's/^\(LD_[A-Za-z0-9_]*\)=.*/\1/p' \
        -e 's/^\(PYTHON[A-Za-z0-9_]*\)=.*/\1/p' -e 's/^\(UV_[A-Za-z0-9_]*\)=.*/\1/p' \
        -e 's/^\(PIP_[A-Za-z0-9_]*\)=.*/\1/p'); do
        unset "$name"
    done
}

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --bundle | --expect | --prefix | --python)
            [ $# -ge 2 ] || fail 2 "$1 needs a value" 'sh install.sh --help'
            case $1 in
            --bundle) bundle=$2 ;;
            --expect) expect=$2 ;;
            --prefix) prefix=$2 ;;
            --python) python=$2 ;;
            esac
            shift 2
            ;;
        --dry-run) dry_run=yes && shift ;;
        --json) json=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) fail 2 "unknown argument $1" 'sh install.sh --help' ;;
        esac
    done
}

check_arguments() {
    [ -n "$bundle" ] || fail 2 'no --bundle given' 'sh install.sh --help'
    [ -d "$bundle" ] || fail 2 "$bundle: not a folder" 'give the folder that holds SHA256SUMS'
    bundle=$(cd -- "$bundle" && pwd -P) || fail 2 'the bundle cannot be entered' 'look at its permissions'
    [ -n "$expect" ] || fail 6 'no --expect given: there is nothing to verify this bundle against' \
        'type the id from the card that llava-pack build printed: sh install.sh --bundle DIR --expect ID'
    expect=$(printf '%s' "$expect" | tr A-F a-f)
    rest=$(printf '%s' "$expect" | tr -d 0-9a-f)
    if [ ${#expect} -lt 32 ] || [ ${#expect} -gt 64 ] || [ -n "$rest" ]; then
        fail 2 "--expect: expected 32 to 64 hex digits, got $expect" 'type the id from the card'
    fi
    if [ -z "$prefix" ] && [ "$(id -u)" = 0 ]; then
        prefix=/opt/llava-pack
    elif [ -z "$prefix" ]; then
        prefix=${XDG_DATA_HOME:-${HOME:?}/.local/share}/llava-pack
    fi
    case $prefix in /*) ;; *) prefix=$(pwd -P)/$prefix ;; esac
    case $python in '' | /*) ;; *) python=$(pwd -P)/$python ;; esac
    command -v sha256sum >/dev/null || fail 6 'no sha256sum on this machine: nothing can be verified' \
        'install coreutils or busybox'
}

make_work_folder() {
    [ -d "$prefix" ] || created=yes
    { mkdir -p -- "$prefix" && work=$(mktemp -d "$prefix/.bootstrap.$$.XXXXXX") && cd -- "$work"; } ||
        fail 3 "$prefix: cannot be made or written" 'choose another --prefix'
}

# take PATH: copies one file of the bundle; a link, FIFO or device is not one.
take() {
    folder=$1
    while [ "$folder" != "${folder%/*}" ]; do
        folder=${folder%/*}
        [ ! -L "$bundle/$folder" ] || fail 4 "$folder: expected a folder, got a link" "$copy_again"
        mkdir -p "$work/$folder"
    done
    [ ! -L "$bundle/$1" ] || fail 4 "$1: expected a file, got a link" "$copy_again"
    [ -e "$bundle/$1" ] || fail 4 "$1: missing from the bundle" "$copy_again"
    [ -f "$bundle/$1" ] || fail 4 "$1: expected a file, got something else" "$copy_again"
    if ! problem=$({ head -c "$2" <"$bundle/$1" >"$work/$1"; } 2>&1); then
        case $problem in
        *'No space left'*) fail 7 "$1: no space left under $prefix" 'choose another --prefix' ;;
        *) fail 4 "$1: cannot be copied" "$copy_again" ;;
        esac
    fi
}

# Takes SHA256SUMS, holds it against --expect, then takes and checks what it lists for the start.
bootstrap() {
    copy_again='copy the bundle to this machine again'
    take SHA256SUMS 8388608
    id=$(sha256sum <SHA256SUMS) && id=${id%% *}
    case $id in
    "$expect"*) ;;
    *) fail 5 "SHA256SUMS: expected bundle id $expect, got $id" \
        'this is another bundle, or it was changed: compare with the card' ;;
    esac
    part='[A-Za-z0-9_+@!=][A-Za-z0-9._+@!=-]*'
    if grep -Evq "^[0-9a-f]{64}  $part(/$part)*\$" SHA256SUMS; then
        fail 4 'SHA256SUMS: a line is not a digest and a path' "$copy_again"
    fi
    grep -E "^[0-9a-f]{64}  (installer/|runtime/python-version\\.txt\$|runtime/cpython-[^/]*\\.tar\\.gz\$)" \
        SHA256SUMS >LISTED || fail 4 'SHA256SUMS: no installer is listed' "$copy_again"
    while read -r _ path; do
        take "$path" 1073741824
    done <LISTED
    sha256sum -c LISTED >CHECKED 2>/dev/null ||
        fail 4 "changed: $(sed -n 's/: FAILED.*//p' CHECKED | tr '\n' ' ')" "$copy_again"
}

# try FILE: sets `real` where FILE runs and is the Python that the bundle was built for.
try() {
    [ -x "$1" ] || return 1
    found=$("$1" -I -S -B -c 'import sys
print("%d.%d" % sys.version_info[:2], getattr(sys, "_base_executable", sys.executable))' \
        2>/dev/null </dev/null) || found=broken
    tried="$tried $1 (${found%% *})"
    [ "${found%% *}" = "$version" ] && real=${found#* }
}

find_python() {
    version=$(cat runtime/python-version.txt 2>/dev/null)
    case $version in
    3.[0-9] | 3.[0-9][0-9]) ;;
    *) fail 4 'runtime/python-version.txt: expected a version such as 3.11' "$copy_again" ;;
    esac
    tried=
    for archive in runtime/cpython-*.tar.gz; do
        [ -f "$archive" ] || continue
        tar -xzof "$archive" || fail 3 "$archive: cannot be unpacked under $prefix" 'is the disk full?'
        rm -f "$archive"
        try "$work/python/bin/python3" && python=$real && return
        fail 3 "the bundle's Python $version does not run here:$tried" \
            'build the bundle for this machine with --target, or choose a --prefix without noexec'
    done
    if [ -n "$python" ]; then
        try "$python" && python=$real && return
    else
        IFS=:
        for folder in $PATH $search; do
            for name in "python$version" python3 python; do
                case $folder in /*) try "$folder/$name" && python=$real && unset IFS && return ;; esac
            done
        done
        unset IFS
    fi
    fail 3 "no Python $version that runs, tried:${tried:- nothing, none is on the PATH}" \
        "install Python $version, give one with --python, or build with its own Python"
}

# shellcheck disable=SC2317,SC2329  # called by the traps
clean_up() {
    trap - EXIT
    cd / || exit
    [ -z "$work" ] || rm -rf -- "$work"
    [ "$created" = no ] || rmdir -- "$prefix" 2>/dev/null
}

# shellcheck disable=SC2317,SC2329  # called by the traps
stop() {
    trap '' HUP INT TERM
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; }
    exit "$1"
}

main() {
    bundle='' expect='' prefix='' python='' dry_run=no json=no
    work='' created=no child='' search=$PATH
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    export PATH
    scrub
    arguments "$@"
    check_arguments
    trap clean_up EXIT
    trap 'stop 129' HUP
    trap 'stop 130' INT
    trap 'stop 143' TERM
    make_work_folder
    bootstrap
    find_python
    set -- --bundle "$bundle" --expect "$expect" --prefix "$prefix" --python "$python"
    [ "$dry_run" = no ] || set -- "$@" --dry-run
    [ "$json" = no ] || set -- "$@" --json
    "$python" -I -S -B "$work/installer/llava_target" install "$@" </dev/null &
    child=$!
    wait "$child"
    exit
}

main "$@"
