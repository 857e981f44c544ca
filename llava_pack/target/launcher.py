"""`bin/llava-pack` of a prefix: a program in POSIX sh, the same wherever the prefix is.

It finds its own place, starts again with a known environment, looks at who could have changed what
it starts, and has a prefix that was moved put in order. It runs before any code of the prefix.
"""

import shlex
from collections.abc import Iterable

from llava_pack.target import environment, programs

PLACE = "place"
"""Holds the path that everything under the prefix was written for."""

_TEXT = r"""#!/bin/sh
# It starts itself once more, in an environment that holds these names and no other, as install.sh
# does, which says why nothing here can be a function that the caller exported.
POSIXLY_CORRECT=1
case ${1-} in
--in-a-clean-environment) shift ;;
*)
    keep='@KEPT@' next=no
    for word; do
        case $next,$word in
        yes,*) next=no ;;
        no,@KEEP@) next=yes && continue ;;
        no,@KEEP@=*) word=${word#*=} ;;
        *) continue ;;
        esac
        case $word in '' | [0-9]* | *[!A-Za-z0-9_]* | CALLER_*) ;; *) keep="$keep $word" ;; esac
    done
    set -- /bin/sh "$0" --in-a-clean-environment "$@"
    for name in @PROGRAM@ $keep; do
        eval "case \${$name+set} in set) set -- \"$name=\$$name\" \"\$@\" ;; esac"
    done
    locale=${LC_ALL:-${LC_MESSAGES:-${LANG-}}}
    case $locale in
    C* | POSIX) ;;
    *[Uu][Tt][Ff]*8*)
        case ${LANGUAGE:-$locale} in zh*) set -- CALLER_LANGUAGE=zh "$@" ;; esac
        ;;
    esac
    set -- PATH=@PATH@ @CHOSEN@="$keep" "$@"
    for env in /usr/bin/en[v] /bin/en[v]; do
        case $env in *'['*) continue ;; esac
        names='' IFS='
'
        set -f
        for name in $("$env"); do
            case $name in *=*) name=${name%%=*} ;; *) continue ;; esac
            case $name in '' | [0-9]* | *[!A-Za-z0-9_]*) ;; *) names="$names $name" ;; esac
        done
        set -- @NAMES@="$names" "$@"
        # shellcheck disable=SC2093  # nothing continues after it
        exec "$env" -i "$@"
    done
    unset env
    : "${env:?there is no such program on this machine: expected /usr/bin/env or /bin/env}"
    ;;
esac

place=$0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -L "$place" ] || break
    target=$(readlink -- "$place") || exit 14
    case $target in /*) place=$target ;; *) place=$(dirname -- "$place")/$target ;; esac
done
prefix=$(cd -P -- "$(dirname -- "$place")/.." && pwd -P) || exit 14

others() {
    PATH=@PATH@
    # find goes back to where it was started, which root may have been and this account may not
    cd / && me=$(id -u) || return
    # shellcheck disable=SC2046
    set -- $(ls -ldn /)
    strange="! -user 0 ! -user $me ! -user $3"
    open='! -type l -perm -0002' grouped="! -type l -perm -0020 ! -group 0 ! -group $me"
    set -- / && set -f
    above='' IFS=/
    for name in $prefix; do
        case $name in '') ;; *) above=$above/$name && set -- "$@" "$above" ;; esac
    done
    unset IFS && set +f
    # shellcheck disable=SC2086
    find "$@" -prune '(' $strange -o ! -perm -1000 '(' $open -o $grouped ')' ')' \
        -exec ls -ld '{}' ';'
    # shellcheck disable=SC2086
    find "$prefix" "$prefix/bin" "$prefix/models" "$prefix/models"/* \
        "$prefix/models"/*/generations "$prefix/models"/*/generations/* "$prefix/models"/*/current \
        -prune '(' $strange -o $open -o $grouped ')' -exec ls -ld '{}' ';'
}
wrong=$(others 2>&1) || wrong="$wrong (could not be checked)"
case $wrong in
'') ;;
*)
    echo "error: another account could change the programs run here: owner or mode of $wrong" >&2
    echo 'hint: run it as the owner, chmod go-w, or install with another --prefix' >&2
    exit 3
    ;;
esac
LLAVA_PACK_PREFIX=$prefix
export LLAVA_PACK_PREFIX

# settle: has what names its own place name this one, by the code of a generation that knows how
settle() {
    for code in "$prefix/models"/@RECIPE@/current "$prefix/models"/*/generations/*; do
        for python in "$code/python/bin/python3" "$code/venv/bin/python"; do
            for packages in "$code"/venv/lib/python*/site-packages; do
                [ -e "$packages/llava_pack/target/moved.py" ] || continue
                "$python" -I -S -c '' 2>/dev/null || continue
                "$python" -I -S -B -c 'import sys; sys.path.insert(0, sys.argv[1])
from llava_pack.target.moved import run; sys.exit(run(sys.argv[2]))' "$packages" "$prefix"
                return
            done
        done
    done
    echo 'error: the installation was moved, and no version in it can put that right' >&2
    echo 'hint: install the bundle again' >&2
    return 14
}
here=''
[ ! -e "$prefix/@PLACE@" ] || IFS= read -r here <"$prefix/@PLACE@"
[ "$here" = "$prefix" ] || settle || exit

# health and revert are needed most where the environment of the current one is broken
for python in "$prefix/models"/@RECIPE@/current/venv/bin/python \
    "$prefix/models"/*/generations/*/venv/bin/python; do
    "$python" -I -S -c '' 2>/dev/null && exec "$python" -I -m llava_pack "$@"
done
echo 'error: no Python under this prefix runs; hint: install the bundle again' >&2
exit 14
"""


def text(recipe: str, kept: Iterable[str] = ()) -> str:
    """Return the program; `recipe` is the one activated last, `kept` names what it always keeps."""
    values = {
        "KEPT": " ".join(filter(environment.IDENTIFIER.fullmatch, kept)),
        "CHOSEN": environment.CHOSEN,
        "KEEP": environment.KEEP,
        "PROGRAM": " ".join(environment.PROGRAM),
        "PATH": programs.SEARCH_PATH,
        "NAMES": environment.NAMES,
        "PLACE": PLACE,
        "RECIPE": shlex.quote(recipe),
    }
    lines = _TEXT
    for name, value in values.items():
        lines = lines.replace(f"@{name}@", value)
    return lines
