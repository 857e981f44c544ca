#!/bin/sh
# Installs a llava-pack bundle on this machine, offline. POSIX sh with coreutils or busybox.
#
# Nothing on the medium is trusted before it matches the bundle id that you typed, or is signed by a
# key that you gave or that an earlier installation pinned. Nothing is run from the medium: the few
# files listed under installer/ and runtime/ that start the installer are copied into a fresh private
# folder below the prefix, checked there, and only the copies run.
# Exit codes: docs/reference/exit-codes.md.

# It starts itself once more, in an environment that holds these names and no other: a function that
# the caller exported would be taken for a program, `sha256sum` for one. With POSIXLY_CORRECT, bash of
# any name finds `exec` itself before such a function; a function's name holds no slash; and a
# pattern that stays a pattern says that there is no such file. Nothing here can be a function.
POSIXLY_CORRECT=1
case ${1-} in
--in-a-clean-environment) shift ;;
*)
    keep='' next=no
    for word; do
        case $next,$word in
        yes,*) next=no ;;
        no,--keep-env) next=yes && continue ;;
        no,--keep-env=*) word=${word#*=} ;;
        *) continue ;;
        esac
        # what is set here, or must not be there, no option brings in
        case $word in '' | [0-9]* | *[!A-Za-z0-9_]* | PATH | LC_ALL | CALLER_* | PYTHON*) ;; *) keep="$keep $word" ;; esac
    done
    set -- /bin/sh "$0" --in-a-clean-environment "$@"
    for name in HOME TERM NO_COLOR XDG_DATA_HOME XDG_STATE_HOME XDG_RUNTIME_DIR SSH_CONNECTION \
        CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES CUDA_MPS_PIPE_DIRECTORY OMP_NUM_THREADS \
        LLAVA_PACK_GRAPHS $keep; do
        eval "case \${$name+set} in set) set -- \"$name=\$$name\" \"\$@\" ;; esac"
    done
    locale=${LC_ALL:-${LC_MESSAGES:-${LANG-}}}
    case $locale in
    C* | POSIX) ;;
    *[Uu][Tt][Ff]*8*) case ${LANGUAGE:-$locale} in zh*) set -- CALLER_LANGUAGE=zh "$@" ;; esac ;;
    esac
    set -- LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CALLER_PATH="${PATH-}" "$@"
    for env in /usr/bin/en[v] /bin/en[v]; do
        case $env in *'['*) continue ;; esac
        # the names of what is left out, without a word of what they hold
        names='' IFS='
'
        set -f
        for name in $("$env"); do
            case $name in *=*) name=${name%%=*} ;; *) continue ;; esac
            case $name in '' | [0-9]* | *[!A-Za-z0-9_]*) ;; *) names="$names $name" ;; esac
        done
        set -- CALLER_NAMES="$names" "$@"
        # shellcheck disable=SC2093  # nothing continues after it
        exec "$env" -i "$@"
    done
    unset env
    : "${env:?there is no such program on this machine: expected /usr/bin/env or /bin/env}"
    ;;
esac

usage() {
    [ "${CALLER_LANGUAGE-}" != zh ] || { chinese_usage && return; }
    cat <<'USAGE'
Usage: sh install.sh [--bundle DIR]… [--expect ID] [--trust-key KEY] [--prefix DIR] [OPTION…]
       sh install.sh --have [--short] [--bundle DIR]… [--prefix DIR]

  --bundle DIR       the bundle, for example /media/usb/llava-v1.5-7b; by default the folder of
                     install.sh, if that is one; repeat it for a bundle on several media
  --collect          take what is good on this medium, and say what is missing; the last medium
                     completes the installation
  --expect ID        the bundle id from the card that `llava-pack build` printed, or at least its
                     first 32 digits
  --trust-key KEY    the key that must have signed it: a file that did not come with the bundle, or
                     the fingerprint from the card; kept for later bundles
  --prefix DIR       where to install: /opt/llava-pack as root, else ~/.local/share/llava-pack
  --index URL        the package index to fetch wheels from that the bundle leaves out, or a file
                     that holds its URL (with a password); may be repeated
  --index-host HOST  another host that keeps the files of that index
  --recipe NAME      the recipe that the bundle must contain
  --allow-downgrade  accept a bundle that is older than the installed one
  --python FILE      the Python to use, for a bundle that carries none
  --consume          move large files off the medium instead of copying, on the same disk
  --over-ssh         for the receipt: `llava-pack deploy` gives the id, over your ssh session
  --no-downtime      never stop a running server to free GPU memory
  --accept-answer N  install although the model's answer to this known question is another one; may
                     be repeated, and the receipt says so
  --keep-env NAME    hand on this variable too, such as LD_LIBRARY_PATH: to the smoke test, and
                     from then on to servers; may be repeated
  --dry-run          check all that can be checked without writing, and print what would happen
  --json             end with one JSON object on stdout
  --have             print the digests of what is here already, for `llava-pack carry --have`: of
                     the prefix, and of the good files in each DIR; --short prints them to be pasted
USAGE
}

# Chinese begins: made by .ci/chinese.py from llava_pack/target/zh.toml
chinese() {
    printf '%s' "$1" | sed '
s#^on the laptop, paste the lines from need: on into llava-pack carry BUNDLE --to DIR --need -; that medium starts by itself$#在笔记本上把从 need: 开始的几行粘贴到 llava-pack carry BUNDLE --to DIR --need -；那个介质可以独立启动#;t
s#^type the id from the card that llava-pack build printed: sh install\.sh --bundle DIR --expect ID$#输入 llava-pack build 打印的信息卡上的 ID：sh install.sh --bundle DIR --expect ID#;t
s#^if the publisher.s key really changed: remove that file, then run the same command again$#如果发布者的密钥确实更换了：删除该文件，然后重新运行同一条命令#;t
s#^neither --expect nor --trust-key given: there is nothing to verify this bundle against$#没有给出 --expect 或 --trust-key：没有可用来校验这个离线包的依据#;t
s#^check owner and mode (ls -ld); chmod go-w, or choose another --prefix, on ext4 or xfs$#检查所有者和权限（ls -ld）；执行 chmod go-w，或选择 ext4 或 xfs 上的另一个 --prefix#;t
s#^build the bundle for this machine with --target, or choose a --prefix without noexec$#用 --target 为这台机器构建离线包，或选择没有 noexec 的 --prefix#;t
s#^--trust-key \(.*\): expected a file with one P-256 public key in PEM, or 64 hex digits$#--trust-key \1：应为含一个 PEM 格式 P-256 公钥的文件，或 64 位十六进制数字#;t
s#^install Python \(.*\), pass one with --python, or build a bundle that carries Python$#安装 Python \1，用 --python 给出一个，或构建自带 Python 的离线包#;t
s#^neither openssl nor an ssh-keygen of OpenSSH 8\.1 or newer works on this machine$#本机上没有可用的 openssl，也没有 OpenSSH 8.1 或更高版本的 ssh-keygen#;t
s#^\(.*\): other accounts can write to it (\(.*\)), and so change the programs run here$#\1：其他账户可以写入（\2），因而可以改变在这里运行的程序#;t
s#^the bundle was changed, or is somebody else.s: ask the person who built it$#离线包被改动过，或不是你要的那一个：询问构建它的人#;t
s#^\(.*\): it belongs to account \(.*\), which could change the programs run here$#\1：属于账户 \2，该账户可以改变在这里运行的程序#;t
s#^restore the publisher.s key, or remove that file and pass --trust-key$#恢复发布者的密钥，或删除该文件并给出 --trust-key#;t
s#^\(.*\) needs the name of a variable that the installation leaves to you$#\1 需要一个安装过程不自行设置的变量名#;t
s#^this is another bundle, or it was changed: compare with the card$#这是另一个离线包，或它被改动过：与信息卡核对#;t
s#^choose a --prefix on ext4, xfs or another file system of Linux$#选择位于 ext4、xfs 或其他 Linux 文件系统上的 --prefix#;t
s#^\(.*\): expected the key that was pinned here, got something else$#\1：应为这里固定的密钥，实际为其他内容#;t
s#^\(.*\): the file system has no symbolic links or no permissions$#\1：该文件系统没有符号链接或没有权限位#;t
s#^runtime/python-version\.txt: expected a version such as 3\.11$#runtime/python-version.txt：应为 3.11 这样的版本#;t
s#^no --bundle given, and install\.sh does not lie in a bundle$#没有给出 --bundle，而且 install.sh 不在离线包中#;t
s#^SHA256SUMS: \(.*\) says that the trusted key did not sign it$#SHA256SUMS：\1 表明它不是由可信密钥签名的#;t
s#^name the folder of the bundle with --bundle: --bundle \(.*\)$#用 --bundle 给出离线包的文件夹：--bundle \1#;t
s#^key\.pem: expected one PEM block with a P-256 public key$#key.pem：应为一个含 P-256 公钥的 PEM 块#;t
s#^pass its folder: sh install\.sh --bundle DIR --expect ID$#给出它的文件夹：sh install.sh --bundle DIR --expect ID#;t
s#^begin with medium 1: it has what the others start with$#从第 1 个介质开始：其他介质启动所需的内容在它上面#;t
s#^--have goes with --short, --bundle and --prefix alone$#--have 只能与 --short、--bundle 和 --prefix 一起使用#;t
s#^--trust-key: expected the pinned key \(.*\), got another$#--trust-key：应为固定的密钥 \1，实际为另一个#;t
s#^no sha256sum on this machine: nothing can be verified$#本机没有 sha256sum：无法校验任何内容#;t
s#^\(.*\): missing, expected a signature by the trusted key$#\1：缺失，应有可信密钥的签名#;t
s#^install one of them: the signature must be checked$#安装其中之一：必须检查签名#;t
s#^run the same command again: what was taken is kept$#再次运行同一条命令：已接收的内容会保留#;t
s#^\(.*\): size, expected at most 4096 bytes, got more$#\1：大小最多应为 4096 字节，实际更大#;t
s#^--expect: expected 32 to 64 hex digits, got \(.*\)$#--expect：应为 32 到 64 位十六进制数字，实际为 \1#;t
s#^HOME is not set: nothing says where to install$#没有设置 HOME：不知道安装到哪里#;t
s#^SHA256SUMS: a line is not a digest and a path$#SHA256SUMS：有一行不是摘要和路径#;t
s#^the bundle.s Python \(.*\) does not run here:\(.*\)$#离线包的 Python \1 不能在这里运行：\2#;t
s#^SHA256SUMS: expected bundle id \(.*\), got \(.*\)$#SHA256SUMS：应为离线包 ID \1，实际为 \2#;t
s#^key\.pem: expected fingerprint \(.*\), got \(.*\)$#key.pem：应为指纹 \1，实际为 \2#;t
s#^\(.*\): expected a file, got something else$#\1：应为文件，实际为其他内容#;t
s#^--expect: the id is shortened, got \(.*\)$#--expect：ID 不完整，实际为 \1#;t
s#^copy the bundle to this machine again$#重新把离线包拷贝到这台机器#;t
s#^pass the folder that holds SHA256SUMS$#给出含有 SHA256SUMS 的文件夹#;t
s#^\(.*\) needs the name of a known answer$#\1 需要一个已知答案的名字#;t
s#^SHA256SUMS: missing from the bundle$#SHA256SUMS：离线包中缺失#;t
s#^SHA256SUMS: no installer is listed$#SHA256SUMS：没有列出安装程序#;t
s#^no Python \(.*\) that runs, tried:\(.*\)$#没有可运行的 Python \1，试过：\2#;t
s#^paste at least its first 32 digits$#至少粘贴它的前 32 位#;t
s#^\(.*\): expected a folder, got a link$#\1：应为文件夹，实际为链接#;t
s#^\(.*\): cannot be created or written$#\1：无法创建或写入#;t
s#^\(.*\): cannot be unpacked under \(.*\)$#\1：无法解包到 \2 下#;t
s#^\(.*\): expected a file, got a link$#\1：应为文件，实际为链接#;t
s#^give the publisher.s public key$#给出发布者的公钥#;t
s#^\(.*\): expected one line, got \(.*\)$#\1：应为一行，实际为 \2#;t
s#^nothing is installed under \(.*\)$#\1 下没有安装任何内容#;t
s#^pass a key from another source$#给出来自其他渠道的密钥#;t
s#^\(.*\): too many links on the way$#\1：路径上的链接过多#;t
s#^install coreutils or busybox$#安装 coreutils 或 busybox#;t
s#^the bundle cannot be entered$#无法进入离线包的文件夹#;t
s#^\(.*\): missing from the bundle$#\1：离线包中缺失#;t
s#^\(.*\): no space left under \(.*\)$#\1：\2 下没有剩余空间#;t
s#^\(.*\): is part of the bundle$#\1：是离线包的一部分#;t
s#^--short belongs to --have$#--short 属于 --have#;t
s#^type the id from the card$#输入信息卡上的 ID#;t
s#^changed or missing: \(.*\)$#已改变或缺失：\1#;t
s#^choose another --prefix$#选择另一个 --prefix#;t
s#^no space left under \(.*\)$#\1 下没有剩余空间#;t
s#^check its permissions$#检查它的权限#;t
s#^\(.*\): cannot be copied$#\1：无法拷贝#;t
s#^unknown argument \(.*\)$#未知的参数 \1#;t
s#^did you mean \(.*\)?$#是否指 \1？#;t
s#^is the disk full?$#磁盘是否已满？#;t
s#^pass --prefix DIR$#给出 --prefix DIR#;t
s#^\(.*\) needs a value$#\1 需要一个值#;t
s#^\(.*\): not a folder$#\1：不是文件夹#;t
s#^stopped$#已停止#;t
'
}

chinese_usage() {
    cat <<'USAGE'
用法：sh install.sh [--bundle DIR] [--expect ID] [--trust-key KEY] [--prefix DIR] [选项…]

  --bundle DIR       离线包，例如 /media/usb/llava-v1.5-7b；默认为 install.sh 所在的文件夹（如果它
                     是离线包）；离线包分在多个介质上时可重复使用
  --collect          接收这个介质上完好的内容，并说明还缺什么；最后一个介质完成安装
  --expect ID        `llava-pack build` 打印的信息卡上的离线包 ID，或至少它的前 32 位
  --trust-key KEY    必须由它签名的密钥：不随离线包一起来的文件，或信息卡上的指纹；会为以后的离线包
                     保留
  --prefix DIR       安装目录：root 为 /opt/llava-pack，其他用户为 ~/.local/share/llava-pack
  --index URL        下载离线包未打包的 wheel 所用的软件包索引，或含有其 URL（带密码）的文件；可重
                     复使用
  --index-host HOST  存放该索引的文件的另一台主机
  --recipe NAME      离线包必须包含的配方
  --allow-downgrade  接受比已安装的更旧的离线包
  --python FILE      要使用的 Python，用于没有自带 Python 的离线包
  --consume          在同一磁盘上，移走大文件而不是拷贝
  --over-ssh         用于回执：`llava-pack deploy` 通过你的 ssh 会话给出 ID
  --no-downtime      绝不为了腾出显存而停止运行中的服务
  --accept-answer N  即使模型对这个已知问题的回答不同，也照样安装；可重复使用，回执会记录
  --keep-env NAME    也传递这个环境变量，例如 LD_LIBRARY_PATH：给冒烟测试，以及此后的服务；可重复使
                     用
  --dry-run          检查所有无需写入即可检查的内容，并打印将要做什么
  --json             最后在标准输出上打印一个 JSON 对象
  --have             打印这里已有内容的摘要，供 `llava-pack carry --have` 使用：安装目录的，以及每
                     个 DIR 中完好的文件的；--short 打印成可粘贴的形式
USAGE
}
# Chinese ends

# fail CODE MESSAGE HINT: says what is wrong and what to do next, and ends.
fail() {
    text=$(printf '%s' "$2" | tr '\001-\037\177' '?')
    case ${CALLER_LANGUAGE-} in
    zh) printf '错误：%s\n提示：%s\n' "$(chinese "$text")" "$(chinese "$3")" >&2 ;;
    *) printf 'error: %s\nhint: %s\n' "$text" "$3" >&2 ;;
    esac
    if [ "$json" = yes ]; then
        text=$(printf '%s' "$text" | sed 's/[\\"]/\\&/g')
        printf '{"schema": 1, "kind": "error", "exit_code": %d, "message": "%s"}\n' "$1" "$text"
    fi
    exit "$1"
}

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

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --bundle | --expect | --trust-key | --prefix | --recipe | --python | --index | --index-host)
            [ $# -ge 2 ] || fail 2 "$1 needs a value" 'sh install.sh --help'
            case $1 in
            --bundle)
                case $2 in *"$line"*) fail 2 "$1: expected one line, got $2" 'sh install.sh --help' ;; esac
                value=$(cd -- "$2" 2>/dev/null && pwd -P) || fail 2 "$2: not a folder" 'pass the folder that holds SHA256SUMS'
                [ -n "$bundle" ] || bundle=$value
                [ "$value" = "$bundle" ] || { more="$more$line--bundle=$value" && others="$others$line$value"; }
                ;;
            --expect) expect=$2 typed=yes ;;
            --trust-key) trust=$2 && [ -n "$2" ] || fail 2 "$1 needs a value" 'sh install.sh --help' ;;
            --prefix) prefix=$2 ;;
            --recipe) recipe=$2 ;;
            --python) python=$2 ;;
            --index | --index-host)
                case $1,$2 in --index-host,* | *://* | --index,/*) value=$2 ;; *) value=$(pwd -P)/$2 ;; esac
                case $value in *"$line"*) fail 2 "$1: expected one line, got $value" 'sh install.sh --help' ;; esac
                more="$more$line$1=$value"
                ;;
            esac
            shift 2
            ;;
        --accept-answer)
            case ${2-} in '' | -* | *[!A-Za-z0-9._+@!=-]*) fail 2 "$1 needs the name of a known answer" 'sh install.sh --help' ;; esac
            more="$more$line$1$line$2" && shift 2
            ;;
        --keep-env=*) value=${1#*=} && shift && set -- --keep-env "$value" "$@" ;;
        --keep-env)
            case ${2-} in
            '' | [0-9]* | *[!A-Za-z0-9_]* | PATH | LC_ALL | CALLER_* | PYTHON*)
                fail 2 "$1 needs the name of a variable that the installation leaves to you" 'sh install.sh --help'
                ;;
            esac
            more="$more$line$1=$2" && shift 2
            ;;
        --allow-downgrade) downgrade=yes && shift ;;
        --collect)
            more="$more$line$1" && shift
            value=$(pwd -P)
            [ ! -t 0 ] || [ ! -t 2 ] || case $value in *"$line"*) ;; *) more="$more$line--ask-from=$value" ;; esac
            ;;
        --consume | --no-downtime | --over-ssh) more="$more$line$1" && shift ;;
        --have | --short) have="$have $1" && shift ;;
        --dry-run) dry_run=yes && shift ;;
        --json) json=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *)
            [ ! -d "$1" ] || fail 2 "unknown argument $1" "name the folder of the bundle with --bundle: --bundle $1"
            fail 2 "unknown argument $1" 'sh install.sh --help'
            ;;
        esac
    done
}

# digits TEXT LEAST: whether TEXT is LEAST to 64 hex digits.
digits() {
    [ ${#1} -ge "$2" ] && [ ${#1} -le 64 ] && [ -z "$(printf '%s' "$1" | tr -d 0-9a-f)" ]
}

find_prefix() {
    if [ -z "$prefix" ] && [ "$(id -u)" = 0 ]; then
        prefix=/opt/llava-pack
    elif [ -z "$prefix" ]; then
        [ -n "${XDG_DATA_HOME:-}${HOME:-}" ] ||
            fail 2 'HOME is not set: nothing says where to install' 'pass --prefix DIR'
        prefix=${XDG_DATA_HOME:-$HOME/.local/share}/llava-pack
    fi
    case $prefix in /*) ;; *) prefix=$(pwd -P)/$prefix ;; esac
    while [ "$prefix" != "${prefix%/}" ] && [ "$prefix" != / ]; do prefix=${prefix%/}; done
}

# short_form KIND DIGESTS: prints them as they are pasted. Source: bundle-format.md, "Lists of digests".
short_form() {
    digits=$(printf '%s' "$2" | cut -c 1-8 | sort -u | tr -d '\n')
    sum=$(printf '%s' "$digits" | sha256sum)
    printf '%s:%s%.8s\n' "$1" "$digits" "$sum" | fold -w 72
}

# Prints the digests of what the store has, and of the files in --bundle that are as listed there.
print_have() {
    note="nothing is installed under $prefix"
    [ -d "$prefix/store" ] || case ${CALLER_LANGUAGE-} in
    zh) printf '%s\n' "$(chinese "$note")" >&2 ;;
    *) printf '%s\n' "$note" >&2 ;;
    esac
    set -f && IFS=$line
    # shellcheck disable=SC2086  # a folder each
    set -- $bundle$others
    set +f && unset IFS
    for root in "$@"; do
        [ -f "$root/SHA256SUMS" ] || fail 4 'SHA256SUMS: missing from the bundle' 'pass the folder that holds SHA256SUMS'
    done
    digests=$(
        for file in "$prefix"/store/sha256/??/*; do [ ! -f "$file" ] || echo "${file##*/}"; done
        for root in "$@"; do
            while read -r digest path; do
                [ -f "$root/$path" ] && [ "$(sha256sum <"$root/$path")" = "$digest  -" ] && echo "$digest"
            done <"$root/SHA256SUMS"
        done
        for file in "$prefix"/models/*/generations/*/MANIFEST.json; do [ ! -f "$file" ] || sha256sum <"$file"; done
    )
    digests=$(printf '%s\n' "$digests" | cut -d ' ' -f 1 | grep -Ex '[0-9a-f]{64}' | sort -u)
    case $have in
    *short*) short_form have "$digests" ;;
    *) [ -z "$digests" ] || printf '%s\n' "$digests" ;;
    esac
}

check_arguments() {
    own=${0%/*}
    [ "$own" != "$0" ] || own=.
    # a copy for the first contact lies beside SHA256SUMS alone
    [ -n "$bundle" ] || [ ! -f "$own/SHA256SUMS" ] || [ ! -f "$own/MANIFEST.json" ] || bundle=$own
    [ -n "$bundle" ] || fail 2 'no --bundle given, and install.sh does not lie in a bundle' \
        'pass its folder: sh install.sh --bundle DIR --expect ID'
    bundle=$(cd -- "$bundle" && pwd -P) || fail 2 'the bundle cannot be entered' 'check its permissions'
    case $expect in
    *…* | *...*) fail 2 "--expect: the id is shortened, got $expect" 'paste at least its first 32 digits' ;;
    esac
    # as it was pasted: quotes and spaces around it or in it, capitals, the name of the digest
    expect=$(printf '%s' "$expect" | tr '[:upper:]' '[:lower:]' | tr -d ' \t\r\n\042\047\140')
    expect=${expect#sha256:}
    [ "$typed" = no ] || digits "$expect" 32 ||
        fail 2 "--expect: expected 32 to 64 hex digits, got $expect" 'type the id from the card'
    lower=$(printf '%s' "$trust" | tr A-F a-f)
    if digits "$lower" 64; then
        trust=$lower
    elif [ -n "$trust" ]; then
        case $trust in /*) ;; *) trust=$(pwd -P)/$trust ;; esac
        case $(readlink -f -- "$trust") in
        "$bundle"/*) fail 2 "$trust: is part of the bundle" 'pass a key from another source' ;;
        esac
    fi
    find_prefix
    me=$(id -u)
    walk "$prefix"
    case $python in '' | /*) ;; *) python=$(pwd -P)/$python ;; esac
    [ -n "$expect$trust" ] || [ -e "$prefix/trust/key.pem" ] ||
        fail 6 'neither --expect nor --trust-key given: there is nothing to verify this bundle against' \
            'type the id from the card that llava-pack build printed: sh install.sh --bundle DIR --expect ID'
    command -v sha256sum >/dev/null || fail 6 'no sha256sum on this machine: nothing can be verified' \
        'install coreutils or busybox'
}

make_work_folder() {
    [ -d "$prefix" ] || created=yes
    mkdir -p -- "$prefix" 2>/dev/null && walk "$prefix"
    { work=$(mktemp -d "$prefix/.bootstrap.$$.XXXXXX") && cd -- "$work"; } ||
        fail 3 "$prefix: cannot be created or written" 'choose another --prefix'
    # FAT and exFAT can do none of this; the installer looks closer, but Python is unpacked first
    { ln -s lock link && : >lock && chmod 444 lock && [ ! -x lock ]; } 2>/dev/null ||
        fail 3 "$prefix: the file system has no symbolic links or no permissions" \
            'choose a --prefix on ext4, xfs or another file system of Linux'
}

# locate PATH DIGEST: sets `from` to the first medium's file of that name that has the digest; where
# none has, to such a file in the store, or under a name that the medium cut; else to what is there.
locate() {
    path=$1 digest=$2
    set -f && IFS=$line
    # shellcheck disable=SC2086  # a folder each
    set -- "$bundle" ${others#"$line"}
    set +f && unset IFS
    from='' stored=$prefix/store/sha256/$(printf %.2s "$digest")/$digest
    for root in "$@"; do
        file=$root/$path
        [ -e "$file" ] || [ -L "$file" ] || continue
        from=${from:-$file}
        # where there is no choice, hashing the copy will do
        [ -n "$digest" ] && [ ! -L "$file" ] && { [ -n "$others" ] || [ -f "$stored" ]; } || return 0
        [ ! -f "$file" ] || [ "$(sha256sum <"$file")" != "$digest  -" ] || { from=$file && return 0; }
    done
    root=$1
    for file in "$stored" "$1/${path%/*}"/cpython-*; do
        [ -n "$digest" ] && [ -f "$file" ] || continue
        [ "$(sha256sum <"$file")" != "$digest  -" ] || { from=$file && return 0; }
    done
    from=${from:-$1/$path}
}

# take PATH MOST [DIGEST]: copies one file of the bundle; a link, FIFO or device is not one.
take() {
    locate "$1" "${3-}"
    folder=$1
    while [ "$folder" != "${folder%/*}" ]; do
        folder=${folder%/*}
        [ ! -L "$root/$folder" ] || fail 4 "$folder: expected a folder, got a link" "$copy_again"
        mkdir -p "$work/$folder"
    done
    [ ! -L "$from" ] || fail 4 "$1: expected a file, got a link" "$copy_again"
    # what is listed, `bootstrap` misses later
    [ -e "$from" ] || [ -z "${3-}" ] || return 0
    [ -e "$from" ] || fail 4 "$1: missing from the bundle" "$copy_again"
    [ -f "$from" ] || fail 4 "$1: expected a file, got something else" "$copy_again"
    if ! problem=$({ head -c "$2" <"$from" >"$work/$1"; } 2>&1); then
        case $problem in
        *'No space left'*) fail 7 "$1: no space left under $prefix" 'choose another --prefix' ;;
        *) [ -n "${3-}" ] || fail 4 "$1: cannot be copied" "$copy_again" ;;
        esac
    fi
}

# read_key FILE: sets `key` to the base64 text of the P-256 public key that is alone in FILE.
read_key() {
    key=$(head -c 4096 <"$1" | tr -d '\r' | tr '\n' ' ' | sed -n 's|^-----BEGIN PUBLIC KEY----- \([A-Za-z0-9+/]\{64\}\) \([A-Za-z0-9+/]\{57\}[AQgw]==\) -----END PUBLIC KEY----- *$|\1\2|p')
    case $key in MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE*) ;; *) return 1 ;; esac
} 2>/dev/null

# Sets `key` to the key that must have signed the bundle, empty where there is none.
find_key() {
    key='' ask="the bundle was changed, or is somebody else's: ask the person who built it"
    if digits "$trust" 64; then
        take key.pem 4096
        read_key key.pem || fail 5 'key.pem: expected one PEM block with a P-256 public key' "$ask"
        found=$(printf '%s' "$key" | base64 -d | sha256sum) && found=${found%% *}
        [ "$found" = "$trust" ] || fail 5 "key.pem: expected fingerprint $trust, got $found" "$ask"
    elif [ -n "$trust" ]; then
        read_key "$trust" || fail 2 "--trust-key $trust: expected a file with one P-256 public key in PEM, or 64 hex digits" \
            "give the publisher's public key"
    fi
    given=$key pinned=$prefix/trust/key.pem
    [ -e "$pinned" ] || return 0
    read_key "$pinned" || fail 6 "$pinned: expected the key that was pinned here, got something else" \
        "restore the publisher's key, or remove that file and pass --trust-key"
    [ "${given:-$key}" = "$key" ] || fail 5 "--trust-key: expected the pinned key $pinned, got another" \
        "if the publisher's key really changed: remove that file, then run the same command again"
}

# lay FOLDER KEY: writes KEY down for both tools; what they read comes from the trusted key alone.
lay() {
    { echo '-----BEGIN PUBLIC KEY-----' && printf '%s\n' "$2" | fold -w 64 && echo '-----END PUBLIC KEY-----'; } >"$1/key.pem"
    wire=$({
        printf '\000\000\000\023ecdsa-sha2-nistp256\000\000\000\010nistp256\000\000\000\101'
        printf '%s' "$2" | base64 -d | tail -c 65
    } | base64 | tr -d '\n')
    echo "llava-pack namespaces=\"llava-pack-bundle-v1\" ecdsa-sha2-nistp256 $wire" >"$1/allowed_signers"
}

# accepts TOOL FOLDER: whether TOOL says that the key in FOLDER signed the message there.
accepts() {
    case $1 in
    openssl) openssl dgst -sha256 -verify "$2/key.pem" -signature "$2/sig" "$2/message" ;;
    ssh-keygen) ssh-keygen -Y verify -f "$2/allowed_signers" -I llava-pack -n llava-pack-bundle-v1 -s "$2/sshsig" <"$2/message" ;;
    esac >/dev/null 2>&1
}

# Writes a signature known to be good, and the same over other bytes: a tool that does not tell them
# apart is too old or broken, and counts as absent.
lay_controls() {
    mkdir control forged
    echo 'llava-pack control' >control/message
    echo 'llava-pack forged' >forged/message
    for folder in control forged; do
        lay "$folder" MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErkNKrrIRf47tjaW1GbrG6j7wQxiWg7BF94PgqWMb3w7qoNsDxqiTRioRBs8J3BbCWVharwezcj7GoLezmwM9eA==
        echo MEYCIQDsGC8gJfkEewbEc1sq9Cu/w8VNlfaFxuTDkRIJZk2dPQIhAPKmtK6VeszCsa8GN/58VOfee/yflwOpBCM/CznIe86j |
            base64 -d >"$folder/sig"
        cat >"$folder/sshsig" <<'SSHSIG'
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EErkNKrrIRf47tjaW1GbrG6j7wQxiWg7BF94PgqWMb3w7qoNsDxqiTRioRBs8J3BbCWVha
rwezcj7GoLezmwM9eAAAABRsbGF2YS1wYWNrLWJ1bmRsZS12MQAAAAAAAAAGc2hhNTEyAA
AAZAAAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAASQAAACEAuV7ynp6pn4BSSvLDIqI+Aouh
O1pyp6QX8rwF7BorUysAAAAgMVnbBh9tFCzOC72AD/NvFxMeGA9nqqs6un1+P5K4/v4=
-----END SSH SIGNATURE-----
SSHSIG
    done
}

# Holds SHA256SUMS against the trusted key, where there is one: every tool that works must accept.
check_signature() {
    find_key
    [ -n "$key" ] || return 0
    for name in SHA256SUMS.sig SHA256SUMS.sshsig; do
        [ -e "$bundle/$name" ] || fail 5 "$name: missing, expected a signature by the trusted key" "$ask"
        take "$name" 4097
        [ "$(wc -c <"$name")" -le 4096 ] || fail 4 "$name: size, expected at most 4096 bytes, got more" "$copy_again"
    done
    mkdir signed && cp SHA256SUMS signed/message && lay signed "$key"
    mv SHA256SUMS.sig signed/sig && mv SHA256SUMS.sshsig signed/sshsig
    lay_controls
    asked=no
    for tool in openssl ssh-keygen; do
        if ! accepts "$tool" control || accepts "$tool" forged; then continue; fi
        accepts "$tool" signed || fail 5 "SHA256SUMS: $tool says that the trusted key did not sign it" "$ask"
        asked=yes
    done
    [ "$asked" = yes ] || fail 6 'neither openssl nor an ssh-keygen of OpenSSH 8.1 or newer works on this machine' \
        'install one of them: the signature must be checked'
}

# Takes SHA256SUMS, holds it against --expect, then takes and checks what it lists for the start.
bootstrap() {
    copy_again='copy the bundle to this machine again'
    for file in "$bundle"/*/SHA256SUMS; do
        [ -e "$bundle/SHA256SUMS" ] || [ ! -e "$file" ] ||
            fail 4 'SHA256SUMS: missing from the bundle' "did you mean ${file%/*}?"
    done
    [ -z "$others" ] || lead
    take SHA256SUMS 8388608
    id=$(sha256sum <SHA256SUMS) && id=${id%% *}
    case $id in
    "$expect"*) ;;
    *) fail 5 "SHA256SUMS: expected bundle id $expect, got $id" \
        'this is another bundle, or it was changed: compare with the card' ;;
    esac
    check_signature
    part='[A-Za-z0-9_+@!=][A-Za-z0-9._+@!=-]*'
    if grep -Evq "^[0-9a-f]{64}  $part(/$part)*\$" SHA256SUMS; then
        fail 4 'SHA256SUMS: a line is not a digest and a path' "$copy_again"
    fi
    listed=$(grep -E "^[0-9a-f]{64}  (installer/|runtime/python-version\\.txt\$|runtime/cpython-[^/]*\\.tar\\.gz\$)" \
        SHA256SUMS) || fail 4 'SHA256SUMS: no installer is listed' "$copy_again"
    printf '%s\n' "$listed" >LISTED || fail 7 "no space left under $prefix" 'choose another --prefix'
    while read -r digest path; do
        take "$path" 1073741824 "$digest"
    done <LISTED
    sha256sum -c LISTED >/dev/null 2>&1 && return
    wrong='' digests='' absent=yes
    while read -r digest path; do
        [ ! -f "$path" ] || [ "$(sha256sum <"$path")" != "$digest  -" ] || continue
        [ ! -f "$path" ] || absent=no
        wrong="$wrong$path " digests="$digests$digest$line"
    done <LISTED
    [ ! -e "$bundle/PART.json" ] || [ -e "$bundle/installer" ] || [ "$absent" = no ] ||
        fail 4 "${wrong%% *}: missing from the bundle" 'begin with medium 1: it has what the others start with'
    short_form need "$digests" >&2
    fail 4 "changed or missing: $wrong" \
        'on the laptop, paste the lines from need: on into llava-pack carry BUNDLE --to DIR --need -; that medium starts by itself'
}

# Where the list on the first medium is not the expected one, a medium leads whose list is.
lead() {
    set -f && IFS=$line
    # shellcheck disable=SC2086  # a folder each
    set -- "$bundle" ${others#"$line"}
    set +f && unset IFS
    found=$bundle
    for root in "$@"; do
        [ -f "$root/SHA256SUMS" ] || continue
        case $( (head -c 8388608 <"$root/SHA256SUMS" | sha256sum) 2>/dev/null) in
        "$expect"*) found=$root && break ;;
        esac
    done
    [ "$found" = "$bundle" ] || { more="$more$line--bundle=$bundle" && others="$others$line$bundle" && bundle=$found; }
}

# try FILE: sets `real` where FILE runs and is the Python that the bundle was built for.
try() {
    [ -x "$1" ] || return 1
    # what root runs, no other account may change
    [ "$me" != 0 ] || (walk "$1") >/dev/null 2>&1 || { tried="$tried $1 (another account's)" && return 1; }
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
        "install Python $version, pass one with --python, or build a bundle that carries Python"
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
    [ "$1,$json" != 130,no ] || (fail 1 'stopped' 'run the same command again: what was taken is kept')
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; }
    exit "$1"
}

main() {
    bundle='' expect='' trust='' prefix='' recipe='' python='' typed=no downgrade=no more='' dry_run=no json=no
    line=$(printf '\n.') && line=${line%.}
    work='' created=no child='' search=${CALLER_PATH-} system=0 others='' have=''
    unset CALLER_PATH
    umask 022
    arguments "$@"
    case $have in
    '') ;;
    *--have*)
        value=$(printf '%s' "$more" | grep -v '^--bundle=')
        [ "$value$expect$trust$recipe$python$downgrade$dry_run$json" = nonono ] ||
            fail 2 '--have goes with --short, --bundle and --prefix alone' 'sh install.sh --help'
        find_prefix && print_have
        exit
        ;;
    *) fail 2 '--short belongs to --have' 'sh install.sh --help' ;;
    esac
    check_arguments
    trap clean_up EXIT
    trap 'stop 129' HUP
    trap 'stop 130' INT
    trap 'stop 143' TERM
    make_work_folder
    bootstrap
    find_python
    set -- --bundle "$bundle" --prefix "$prefix" --python "$python"
    [ -z "$expect" ] || set -- "$@" --expect "$expect"
    [ -z "$trust" ] || set -- "$@" --trust-key "$work/signed/key.pem"
    [ -z "$recipe" ] || set -- "$@" --recipe "$recipe"
    [ "$downgrade" = no ] || set -- "$@" --allow-downgrade
    # shellcheck disable=SC2086  # words, none of which names files
    IFS=$line && set -f && set -- "$@" $more && unset IFS
    [ "$dry_run" = no ] || set -- "$@" --dry-run
    [ "$json" = no ] || set -- "$@" --json
    "$python" -I -S -B "$work/installer/llava_pack/target" install "$@" </dev/null &
    child=$!
    wait "$child"
    exit
}

main "$@"
