"""What `deploy` runs on the server around the commands of llava-pack there: POSIX sh."""

IN_ENGLISH = "LC_ALL=C.UTF-8 && export LC_ALL && unset LANGUAGE\n"
"""What a command says there is put into the person's language here, like our own words."""
# own PATH: whether this account, or root, owns it and no other account can write it.
_OWN = """
own() {
    # shellcheck disable=SC2046  # mode, links, owner: a word each
    set -- $(ls -ldLn -- "$1")
    case $1 in ?????w* | ????????w*) return 1 ;; esac
    [ "$3" = 0 ] || [ "$3" = "$(id -u)" ]
}
installed() {
    [ -x "$1/bin/llava-pack" ] && own "$1" && own "$1/bin" && own "$1/bin/llava-pack"
}
"""
LOOK = (
    _OWN
    + """
default=${XDG_DATA_HOME:-$HOME/.local/share}/llava-pack
[ "$(id -u)" != 0 ] || default=/opt/llava-pack
printf '%s\\n' "$default"
[ $# -gt 0 ] || set -- "$default" /opt/llava-pack
for p in "$@"; do
    installed "$p" && [ -w "$p" ] || continue
    printf '%s\\n' "$p"
    exec "$p/bin/llava-pack" generations --json --prefix "$p" </dev/null
done
"""
)
"""Where an installation of this account is: in the folders named, else where it belongs."""
INSTALL = (
    _OWN
    + """
bundle=$1 id=$2 prefix=$3
shift 3
set -- --expect "$id" --prefix "$prefix" --json "$@"
if [ -e "$prefix/bin/llava-pack" ]; then
    if ! installed "$prefix"; then
        echo "error: $prefix: another account could change the programs run here" >&2
        echo "hint: choose another folder with --prefix" >&2
        exit 3
    fi
    exec "$prefix/bin/llava-pack" install "$bundle" "$@" </dev/null
fi
d=$(mktemp -d) || exit 14
trap 'rm -rf "$d"' EXIT
cp "$bundle/install.sh" "$bundle/SHA256SUMS" "$d" || exit 14
found=$(sha256sum <"$d/SHA256SUMS") && found=${found%% *}
if [ "$found" != "$id" ]; then
    echo "error: SHA256SUMS: expected bundle id $id, got $found" >&2
    exit 5
fi
(cd "$d" && grep '  install.sh$' SHA256SUMS | sha256sum -c - >/dev/null) || exit 4
sh "$d/install.sh" --bundle "$bundle" "$@" </dev/null
"""
)
"""The first contact, as the card says it; later the installer that is there, never the medium's."""
SERVICE = """
XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} && export XDG_RUNTIME_DIR
prefix=$1 recipe=$2 options=$3
shift 3
for unit in "$@"; do
    for whose in --system --user; do
        systemctl "$whose" is-active --quiet "$unit" 2>/dev/null || continue
        case "$(systemctl "$whose" show --property=ExecStart "$unit") " in
        *"$prefix/bin/llava-pack serve $recipe $options "*) exit 0 ;;
        esac
    done
done
exit 1
"""
"""Whether one of the units runs, and serves a recipe with these options."""
END = """
kill -TERM "$1" || exit 0
n=0
while kill -0 "$1" 2>/dev/null && [ "$n" -lt 120 ]; do
    n=$((n + 1))
    sleep 0.5 2>/dev/null || sleep 1
done
"""
"""Ends a server, which lets its running requests finish."""
RUN = 'p=$1; shift; exec "$p/bin/llava-pack" "$@" </dev/null'
REMOVE = 'rm -rf -- "$1/received/$2"-*; rmdir -- "$1/received" 2>/dev/null; :'
