# Receives a bundle that `llava-pack send` sends through ssh. It runs on the server, needs no root,
# and takes no part in trusting a bundle: the installer hashes every byte again.
#
# Arguments: look|take FOLDER PREFIX whole|rest ID COUNT. Its input begins with COUNT lines "digest  path". It
# prints what is there, up to `ready`; then it reads commands, each followed by its bytes:
#   batch SIZE                     a tar of small files
#   file DIGEST OFFSET SIZE PATH   the end of a file, from OFFSET on
#   copy DIGEST PATH               no bytes: the store has the file
#   settle                         answered once everything that came was hashed
#   end                            cleans up
# Files arrive in .incoming, a part under its digest: what a broken connection still delivers late are
# the same bytes in the same place. A file gets its name when its digest is right.

main() {
    umask 022
    trap '' XFSZ # a limit on the size of files (ulimit -f) is then an error that dd names
    mode=$1 folder=$2 prefix=$3 what=$4 id=$5 count=$6
    check_tools
    places
    lines=$(listed)
    enter
    here
    [ "$mode" = take ] || exit 0
    while read -r word one two three four; do
        case $word in
        batch) batch "$one" ;;
        file) part "$one" "$two" "$three" "$four" ;;
        copy) wait && copy "$one" "$two" ;;
        settle) wait && echo settled ;;
        end) wait && rm -rf .incoming && echo end && exit 0 ;;
        *) fail 1 "unknown command $word" ;;
        esac
    done
    exit 0
}

# fail CODE TEXT: prints the last line.
fail() {
    echo "fail $1 $2"
    exit "$1"
}

check_tools() {
    command -v sha256sum >/dev/null || fail 6 'no sha256sum on the server: install coreutils or busybox'
    for tool in dd tar df find sed sort grep xargs wc; do
        command -v "$tool" >/dev/null || fail 3 "no $tool on the server"
    done
    [ "$(printf abcd | dd bs=2 count=1 iflag=fullblock 2>/dev/null)" = ab ] ||
        fail 3 'dd on the server cannot read whole blocks (iflag=fullblock)'
    hasher=sha256sum
    # three times as fast, where the processor has instructions for it
    case $(openssl dgst -sha256 -r </dev/null 2>/dev/null) in
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855*) hasher='openssl dgst -sha256 -r' ;;
    esac
}

# Sets where the bundle and the store are; relative to the home, as scp has it.
places() {
    case $folder in
    '~') folder=$HOME ;;
    [~]/*) folder=$HOME/${folder#??} ;;
    /*) ;;
    *) folder=$HOME/$folder ;;
    esac
    if [ -z "$prefix" ] && [ "$(id -u)" = 0 ]; then
        prefix=/opt/llava-pack
    elif [ -z "$prefix" ]; then
        prefix=${XDG_DATA_HOME:-$HOME/.local/share}/llava-pack
    fi
    store=$prefix/store/sha256
    [ "$what" = rest ] || store=/nonexistent
}

# Prints the list: COUNT lines of the input.
listed() {
    while [ "$count" -gt 0 ] && read -r line; do
        echo "$line"
        count=$((count - 1))
    done
}

# Enters the folder, made for `take`; for `look`, the nearest that is there.
enter() {
    me=$(id -u)
    [ "$me" != 0 ] || walk "$folder"
    if [ -d "$folder" ]; then
        cd -- "$folder" && folder=$(pwd -P) && ours
    fi
    there=$folder
    if [ "$mode" = take ]; then
        mkdir -p -- "$folder/.incoming/new" 2>/dev/null || fail 3 "$folder: cannot be created or written"
        [ "$me" != 0 ] || walk "$folder/.incoming/new"
    else
        while [ ! -d "$there" ]; do there=$(dirname -- "$there"); done
    fi
    cd -- "$there" || fail 3 "$there: cannot be entered"
    [ "$mode" = look ] || folder=$(pwd -P)
}

# What root writes is safe from other accounts, as in install.sh (a test compares the two).
# own PLACE: refuses a folder or link that another account owns or can write; where there is more of
# the way (`rest`), one that is sticky will do. The system is the owner of `/`.
own() {
    # shellcheck disable=SC2046  # mode, links, owner and group: a word each
    set -- "$1" $(ls -ldn -- "$1")
    [ "$1" != / ] || system=$4
    fix='check owner and mode (ls -ld); chmod go-w, or choose another --prefix, on ext4 or xfs'
    case $4 in
    "$me" | 0 | "$system") ;;
    *) fail 3 "$1: it belongs to account $4, which could change the programs run here" "$fix" ;;
    esac
    case $2 in
    l* | ?????-??-*) return ;;
    ?????????[tT]*) [ -z "$rest" ] || return 0 ;;
    ?????w??-? | ?????w??-?.) ! private "$4" "$5" || return 0 ;;
    esac
    fail 3 "$1: other accounts can write to it ($2), and so change the programs run here" "$fix"
}

# private UID GID: whether the group is one account alone, as umask 002 supposes.
private() {
    members=$(getent group "$2" 2>/dev/null || grep "^[^:]*:[^:]*:$2:" /etc/group) || return
    others=$(grep -c "^[^:]*:[^:]*:[^:]*:$2:" /etc/passwd) || [ "$others" = 0 ] || return
    [ "$1" = "$2" ] && [ "$others" -le 1 ] && [ -z "${members##*:}" ]
}

# walk PATH: follows a path from / on as the kernel does, every link too, and refuses where another
# account could have it lead elsewhere; what is not there yet is no danger.
walk() {
    here='' rest=$1 links=0
    own /
    while [ -n "$rest" ]; do
        name=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
        case $name in
        '' | .) continue ;;
        ..) here=${here%/*} && continue ;;
        esac
        [ -e "$here/$name" ] || [ -L "$here/$name" ] || return 0
        own "$here/$name"
        if [ -L "$here/$name" ]; then
            links=$((links + 1))
            [ "$links" -le 40 ] || fail 3 "$1: too many links on the way" 'choose another --prefix'
            rest=$(readlink -- "$here/$name")${rest:+/$rest}
            case $rest in /*) here='' ;; esac
        else
            here=$here/$name
        fi
    done
}

# Refuses a folder that holds something else than this bundle, or a part of it.
ours() {
    held=$id
    [ ! -f .incoming/id ] || held=$(cat .incoming/id)
    [ ! -f SHA256SUMS ] || held=$(sha256sum <SHA256SUMS)
    [ "${held%% *}" = "$id" ] || fail 2 "$folder: holds another bundle, id ${held%% *}"
    tops=$(printf '%s\n' "$lines" | sed 's,^[^ ]*  ,,; s,/.*,,' | sort -u)
    for entry in * .[!.]*; do
        [ -e "$entry" ] && [ "$entry" != .incoming ] || continue
        printf '%s\n' "$tops" | grep -Fxq -e "$entry" ||
            fail 2 "$folder: is not empty and holds no bundle: $entry"
    done
}

# Prints what is here: the room, and of each listed file that is there already its digest.
here() {
    if [ "$mode" = take ]; then
        problem=$({ : >>.incoming/id && : >>.incoming/list; } 2>&1) || spoilt "$problem"
        { echo "$id" >.incoming/id && printf '%s\n' "$lines" >.incoming/list; } 2>/dev/null || full
        settle_batch >/dev/null # what came whole before the connection broke
    fi
    echo "at $folder"
    [ ! -x "$prefix/bin/llava-pack" ] || echo "program $prefix/bin/llava-pack"
    df -Pk . | { read -r _ && read -r _ _ _ free _ && echo "free $free"; }
    df -Pi . | { read -r _ && read -r _ all _ free _ && [ "$all" -gt 0 ] && echo "inodes $free"; } 2>/dev/null
    there=$(printf '%s\n' "$lines" | survey)
    printf '%s\n' "$there"
    printf '%s\n' "$there" | sed -n 's/^exists //p' | hashes here
    [ ! -d "$store" ] || (cd -- "$store" && printf '%s\n' "$there" | sed -n 's,^stored \(..\),\1/\1,p' | hashes store)
    echo ready
}

# Prints which listed files are there, in the folder, in the store, or in part.
survey() {
    while read -r digest path; do
        if [ -f "$folder/$path" ] && [ ! -L "$folder/$path" ]; then
            echo "exists $path"
        elif [ -f "$store/${digest%"${digest#??}"}/$digest" ]; then
            echo "stored $digest"
        elif [ -f "$folder/.incoming/$digest" ]; then
            echo "part $digest $(wc -c <"$folder/.incoming/$digest")"
        fi
    done
}

# hashes WORD: prints the digest of each file that it reads the name of, as it is known.
hashes() {
    names=$(cat)
    [ -n "$names" ] || return 0
    # shellcheck disable=SC2086  # a program and its options
    printf '%s\n' "$names" | xargs -n 8 $hasher 2>/dev/null | while read -r digest path; do
        echo "$1 $digest ${path#\*}"
    done
}

# take BYTES: copies exactly so many from the input.
take() {
    blocks=$(($1 / 1048576)) rest=$(($1 % 1048576))
    if [ "$blocks" != 0 ]; then dd bs=1048576 count="$blocks" iflag=fullblock conv=notrunc || return; fi
    if [ "$rest" != 0 ]; then dd bs="$rest" count=1 iflag=fullblock conv=notrunc; fi
}

full() {
    fail 7 "no space left under $folder"
}

# spoilt TEXT: says why nothing can be written.
spoilt() {
    case $1 in
    *'No space left'* | *uota* | *'File too large'*) full ;;
    esac
    fail 3 "$folder: cannot be written: $(printf '%s\n' "$1" | grep -v 'records \(in\|out\)$' | sed 1q)"
}

# part DIGEST OFFSET SIZE PATH: takes the end of a file, which is hashed while the next one comes.
part() {
    into=.incoming/$1
    problem=$({ : >>"$into"; } 2>&1) || spoilt "$problem"
    exec 4<>"$into" # not within $(), where bash takes it for the input
    problem=$({ dd bs=1 seek="$2" count=0 conv=notrunc </dev/null && take "$3"; } 2>&1 >&4) || spoilt "$problem"
    exec 4>&-
    [ "$(wc -c <"$into")" -ge $(($2 + $3)) ] || exit 0 # the connection broke
    wait
    check "$1" "$4" &
}

# copy DIGEST PATH: takes a file from the store.
copy() {
    cp -- "$store/${1%"${1#??}"}/$1" ".incoming/$1" 2>/dev/null
    check "$1" "$2"
}

# check DIGEST PATH: gives a part its name, or removes it.
check() {
    digest=$($hasher ".incoming/$1" 2>/dev/null)
    if [ "${digest%% *}" = "$1" ] && named ".incoming/$1" "$2"; then
        echo "got $2"
    else
        rm -f ".incoming/$1"
        echo "bad $2"
    fi
}

# named FILE PATH: gives a file its name.
named() {
    case $2 in
    */*) [ -d "${2%/*}" ] || mkdir -p -- "${2%/*}" || return ;;
    esac
    mv -f -- "$1" "$2"
}

# batch SIZE: takes a tar of small files.
batch() {
    wait
    rm -rf .incoming/new && mkdir .incoming/new
    problem=$(take "$1" 2>/dev/null | {
        tar -xof - -C .incoming/new 2>&1
        code=$?
        cat >/dev/null
        exit "$code"
    }) || spoilt "$problem"
    settle_batch &
}

# Gives the files of a batch their names, each whose digest is right.
settle_batch() {
    (cd .incoming/new && find . -type f | sed 's,^\./,,' | xargs -n 64 sha256sum) >.incoming/sums 2>/dev/null
    if ! grep -Fxvf .incoming/list .incoming/sums | grep -q . && cp -Rlf .incoming/new/. . 2>/dev/null; then
        while read -r _ path; do echo "got $path"; done <.incoming/sums
        return
    fi # one is wrong, or this file system has no hard links: one by one
    grep -Fxf .incoming/list .incoming/sums | while read -r _ path; do
        if named ".incoming/new/$path" "$path"; then echo "got $path"; else echo "bad $path"; fi
    done
    grep -Fxvf .incoming/list .incoming/sums | while read -r _ path; do echo "bad $path"; done
}

main "$@"
