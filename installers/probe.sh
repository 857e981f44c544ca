#!/bin/sh
# Prints what this machine is as one JSON object: what `llava-pack plan` and `build --target` read.
#
# POSIX sh with coreutils or busybox; no root, no Python, no network. It writes nothing and changes
# nothing. What cannot be found out is null. Fields: docs/reference/target-profile.md.
# PROBE_ROOT=DIR reads /proc, /sys and /etc below DIR, for a mounted system and for tests.

# text: stdin as one JSON string; null where there is nothing, or what this cannot write truly.
text() {
    value=$(tr '\n\t' '  ' | sed -e 's/^ *//' -e 's/ *$//' -e 's/[\\"]/\\&/g')
    case $value in '' | *[!\ -~]*) printf null ;; *) printf '"%s"' "$value" ;; esac
}

# number: stdin where it is a whole number, else null.
number() {
    value=$(cat)
    case $value in '' | *[!0-9]*) printf null ;; *) printf '%s' "$value" ;; esac
}

# field NAME JSON: one member of the object.
field() {
    printf '%s\n  "%s": %s' "$comma" "$1" "${2:-null}"
    comma=,
}

# within SECONDS COMMAND…: ends what hangs, such as df on a lost network disk, with 137.
within() {
    if [ -n "$timeout" ]; then "$timeout" -s KILL "$@"; else shift && "$@"; fi
}

# first COMMAND-NAME FOLDER…: the first program of that name, PATH before the folders.
first() {
    name=$1
    shift
    found=$(command -v "$name" 2>/dev/null)
    case $found in /*) [ -x "$found" ] && printf '%s' "$found" && return ;; esac
    for folder in "$@"; do
        if [ -f "$folder/$name" ] && [ -x "$folder/$name" ]; then
            printf '%s' "$folder/$name" && return
        fi
    done
    return 1
}

glibc() {
    for file in "/lib/$arch-linux-gnu/libc.so.6" /lib64/libc.so.6 /lib/libc.so.6; do
        [ ! -x "$file" ] || break
    done
    said=$(getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>/dev/null || "$file" 2>/dev/null)
    printf '%s\n' "$said" | sed -n -e 's/^glibc \([0-9.]*\)$/\1/p' \
        -e 's/^ldd (.*) \([0-9][0-9.]*\)$/\1/p' \
        -e 's/^GNU C Library .*version \([0-9][0-9.]*[0-9]\).*$/\1/p' | head -n 1
}

libc() {
    if [ -n "$(glibc)" ]; then
        printf glibc
    elif ldd --version 2>&1 | grep -iq musl || ls "$root"/lib/ld-musl-* >/dev/null 2>&1; then
        printf musl
    fi
}

# The newest symbol version of the system's C++ library, which wheels use.
glibcxx() {
    for file in $(ldconfig -p 2>/dev/null | sed -n 's/^.*libstdc++\.so\.6 (.*64.*=> //p') \
        "/usr/lib/$arch-linux-gnu/libstdc++.so.6" /usr/lib64/libstdc++.so.6 /usr/lib/libstdc++.so.6; do
        [ -f "$file" ] || continue
        tr -c 'A-Z0-9_.' '\n' <"$file" | sed -n 's/^GLIBCXX_\(3\.4\.[0-9][0-9]*\)$/\1/p' |
            sort -t . -k 3 -n | tail -n 1
        return
    done
}

distribution() {
    sed -n 's/^PRETTY_NAME=//p' "$root/etc/os-release" 2>/dev/null | tr -d '"' | head -n 1
}

cpu_model() {
    sed -n 's/^model name[^:]*: *//p' "$root/proc/cpuinfo" 2>/dev/null | head -n 1
}

# groups CONTROLLER: folders of every control group that this process is in; a container sees its own.
groups() {
    {
        cat "$root/proc/self/cgroup" 2>/dev/null || printf '0::/\n'
    } | awk -v at="$root/sys/fs/cgroup" -v wanted="$1" '{
        split($0, part, ":"); path = $0; sub(/^[0-9]*:[^:]*:/, "", path)
        if (part[2] != "" && ("," part[2] ",") !~ ("," wanted ",")) next
        base = at (part[2] == "" ? "" : "/" wanted)
        for (; path ~ /^\/./; sub(/\/[^\/]*$/, "", path)) print base path
        print base }'
}

# cpu_count: the CPUs that a process may use, by its affinity and its control groups.
cpu_count() {
    {
        nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null ||
            grep -c '^processor' "$root/proc/cpuinfo" 2>/dev/null
        groups cpu | while IFS= read -r group; do
            cat "$group/cpu.max" 2>/dev/null || paste -d ' ' "$group/cpu.cfs_quota_us" \
                "$group/cpu.cfs_period_us" 2>/dev/null
        done | awk '$1 ~ /^[0-9]+$/ && $2 > 0 { n = int($1 / $2); print (n > 0 ? n : 1) }'
    } | sort -n | head -n 1
}

cpu_flags() {
    sed -n -e 's/^flags[^:]*: *//p' -e 's/^Features[^:]*: *//p' "$root/proc/cpuinfo" 2>/dev/null |
        head -n 1 | awk 'NF { printf "["
            for (i = 1; i <= NF; i++) if ($i ~ /^[a-z0-9_]+$/) printf "%s\"%s\"", (n++ ? ", " : ""), $i
            printf "]" }'
}

# memory NAME: bytes of one line of meminfo; what a container allows is less than what there is.
memory() {
    {
        awk -v name="$1:" '$1 == name { printf "%.0f\n", $2 * 1024 }' "$root/proc/meminfo"
        groups memory | while IFS= read -r group; do
            limit=$(cat "$group/memory.max" || cat "$group/memory.limit_in_bytes")
            used=0
            if [ "$1" = MemAvailable ]; then
                used=$(cat "$group/memory.current" || cat "$group/memory.usage_in_bytes")
            fi
            # files that were read are given back when memory is wanted
            cat "$group/memory.stat" | awk -v limit="$limit" -v used="$used" -v name="$1" '
                name == "MemAvailable" && /^(total_)?inactive_file / { files = $2 }
                END { left = limit - used + files; if (left < 0) left = 0
                    if (limit ~ /^[0-9]+$/ && length(limit) < 17 && used ~ /^[0-9]+$/)
                        printf "%.0f\n", (left < limit ? left : limit) }'
        done
    } 2>/dev/null | sort -n | head -n 1
}

# Every Python 3 that really runs: a name on the PATH can be a shim that does not.
pythons() {
    printf '['
    seen='' between=''
    IFS=:
    for folder in $PATH:/usr/local/bin:/usr/bin:/opt/conda/bin:/opt/python/bin:$HOME/.local/bin; do
        for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
            case $folder in /*) [ -x "$folder/$name" ] || continue ;; *) continue ;; esac
            IFS=' '
            # shellcheck disable=SC2016
            found=$(within 5 "$folder/$name" -I -S -B -c 'import os, sys
base = os.path.realpath(getattr(sys, "_base_executable", 0) or sys.executable)
print("%d.%d.%d %s" % (sys.version_info[:3] + (base,)))' \
                2>/dev/null </dev/null) || found=
            IFS=:
            case $found in 3.*) ;; *) continue ;; esac
            case $seen in *"|$found|"*) continue ;; esac
            seen="$seen|$found|"
            printf '%s{"version": %s, "path": %s}' "$between" "$(printf %s "${found%% *}" | text)" \
                "$(printf %s "${found#* }" | text)"
            between=', '
        done
    done
    unset IFS
    printf ']'
}

driver() {
    found=$(sed -n 's/^NVRM version:.* \([0-9][0-9]*\.[0-9][0-9.]*\) .*/\1/p' \
        "$root/proc/driver/nvidia/version" 2>/dev/null | head -n 1)
    [ -n "$found" ] || found=$(printf '%s\n' "$smi_rows" | sed -n '1s/^[^,]*,[^,]*, *\([0-9.]*\),.*/\1/p')
    printf '%s' "$found"
}

# query FIELDS: what nvidia-smi says; an old driver knows fewer fields and fails, one that hangs is
# not asked again.
query() {
    said=$(within 15 "$smi" --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null </dev/null)
    case $? in 0) printf '%s\n' "$said" ;; 137) ;; *) return 1 ;; esac
}

ask_nvidia() {
    # shellcheck disable=SC2086  # patterns shall be expanded
    smi=$(first nvidia-smi $root/usr/bin $root/usr/local/bin $root/usr/local/nvidia/bin \
        $root/opt/nvidia/bin $root/opt/bin $root/usr/lib/wsl/lib $root/run/nvidia/driver/usr/bin \
        $root/run/opengl-driver/bin $root/run/current-system/sw/bin \
        $root/home/kubernetes/bin/nvidia/bin $root/usr/lib/nvidia*/bin) || return 0
    known=index,name,driver_version,memory.total,memory.free
    smi_rows=$(query $known,compute_cap,mig.mode.current || query $known,compute_cap || query $known) ||
        smi_rows=
    case $smi_rows in *Enabled*) mig_rows=$(within 15 "$smi" -L 2>/dev/null </dev/null) ;; esac
}

gpus() {
    if [ -n "$smi_rows" ]; then
        printf '%s\n@\n%s\n' "$mig_rows" "$smi_rows" | tr -cd '\040-\176\n' | awk '
            function word(value) { gsub(/[\\"]/, "", value); return "\"" value "\"" }
            function mib(value) { return value ~ /^[0-9]+$/ ? sprintf("%.0f", value * 1048576) : "null" }
            BEGIN { rows = 0; printf "[" }
            $0 == "@" { rows = 1; next }
            !rows && /^GPU [0-9]+:/ { gpu = $2 + 0 }
            !rows && $1 == "MIG" { slices[gpu] = slices[gpu] (slices[gpu] ? ", " : "") word($2) }
            rows && split($0, cell, /, */) >= 5 {
                cc = cell[6] ~ /^[0-9]+\.[0-9]+$/ ? word(cell[6]) : "null"
                mig = cell[7] == "Enabled" ? "true" : (cell[7] == "" ? "null" : "false")
                driver = cell[3] ~ /^[0-9.]+$/ ? word(cell[3]) : "null"
                printf "%s\n    {\"name\": %s, \"driver\": %s, \"compute_capability\": %s", \
                    (n++ ? "," : ""), word(cell[2]), driver, cc
                printf ", \"memory_bytes\": %s, \"memory_free_bytes\": %s", mib(cell[4]), mib(cell[5])
                printf ", \"mig\": %s, \"mig_slices\": [%s]}", mig, slices[cell[1] + 0]
            }
            END { printf "]" }'
        return
    fi
    names=$(cat "$root"/proc/driver/nvidia/gpus/*/information 2>/dev/null | sed -n 's/^Model:[[:space:]]*//p')
    if [ -z "$names" ]; then
        [ -d "$root/sys/bus/pci/devices" ] || { printf null && return; }
        for device in "$root"/sys/bus/pci/devices/*; do
            [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
            case $(cat "$device/class" 2>/dev/null) in
            0x03*) names="$names${names:+
}NVIDIA $(cat "$device/device" 2>/dev/null), seen on the PCI bus" ;;
            esac
        done
    fi
    # a node without its bus: a container or a virtual machine that was given the device alone
    [ -n "$names" ] || [ ! -e "$root/dev/nvidia0" ] || { printf null && return; }
    shown=$(driver | text)
    printf '%s\n' "$names" | tr -cd '\040-\176\n' | awk -v driver="$shown" 'BEGIN { printf "[" }
        NF { gsub(/[\\"]/, ""); printf "%s{\"name\": \"%s\", \"driver\": %s}", (n++ ? ", " : ""), $0, driver }
        END { printf "]" }'
}

# Where something could be installed: the home, /opt, and every disk.
disks() {
    home=$(cd -P -- "${HOME:-/}" 2>/dev/null && pwd -P) || home=/
    places=$(printf '%s\n' "$home" /opt /var/tmp && awk '
        $3 ~ /^(ext[234]|xfs|btrfs|zfs|f2fs|bcachefs|nfs4?|cifs|lustre|gpfs|beegfs|ceph|glusterfs|fuse\..*|overlay)$/ &&
            $2 !~ /^\/(boot|proc|sys|run|snap|var\/lib\/(docker|containers|kubelet))/ { print $2 }' \
        "$root/proc/mounts" 2>/dev/null | sed 's/\\040/ /g' | head -n 40)
    printf '%s\n' "$places" | awk '!seen[$0]++' | {
        printf '['
        between=''
        while read -r place; do
            said=$(within 2 df -Pk "$place" 2>/dev/null)
            [ $? != 137 ] || continue # a lost network disk: whatever touches it hangs
            [ -d "$place" ] || continue
            row=$(printf '%s\n' "$said" | awk 'NR == 2 {
                mount = $6; for (i = 7; i <= NF; i++) mount = mount " " $i
                if ($4 ~ /^[0-9]+$/) printf "%.0f %s", $4 * 1024, mount }')
            inodes=$(within 2 df -Pi "$place" 2>/dev/null | awk 'NR == 2 && $4 ~ /^[0-9]+$/ { print $4 }')
            mount=${row#* }
            options=$(awk -v at="$mount" '$2 == at { found = $3 " " $4 } END { print found }' \
                "$root/proc/mounts" 2>/dev/null)
            case ",${options#* }," in ,,) noexec=null ;; *,noexec,*) noexec=true ;; *) noexec=false ;; esac
            writable=false # busybox looks at the mode alone
            if [ -w "$place" ]; then
                case ",${options#* }," in ,,) writable=null ;; *,ro,*) ;; *) writable=true ;; esac
            fi
            printf '%s\n    {"path": %s, "mount": %s, "filesystem": %s, "free_bytes": %s' "$between" \
                "$(printf %s "$place" | text)" "$(printf %s "$mount" | text)" \
                "$(printf %s "${options%% *}" | text)" "$(printf %s "${row%% *}" | number)"
            printf ', "free_inodes": %s, "noexec": %s, "writable": %s}' \
                "$(printf %s "$inodes" | number)" "$noexec" "$writable"
            between=,
        done
        printf ']'
    }
}

ports() {
    [ -r "$root/proc/net/tcp" ] || return 0
    cat "$root/proc/net/tcp" "$root/proc/net/tcp6" 2>/dev/null | awk '
        $4 == "0A" { hex = $2; sub(/^.*:/, "", hex); port = 0
            for (i = 1; i <= length(hex); i++) port = port * 16 + index("123456789ABCDEF", substr(hex, i, 1))
            print port }' | sort -nu | awk 'BEGIN { printf "[" }
        { printf "%s%s", (NR > 1 ? ", " : ""), $0 } END { printf "]" }'
}

selinux() {
    case $(cat "$root/sys/fs/selinux/enforce" 2>/dev/null) in
    1) printf enforcing ;;
    0) printf permissive ;;
    *) [ ! -r "$root/proc/filesystems" ] || grep -q selinuxfs "$root/proc/filesystems" || printf disabled ;;
    esac
}

fips() {
    case $(cat "$root/proc/sys/crypto/fips_enabled" 2>/dev/null) in 1) printf true ;; 0) printf false ;; esac
}

container() {
    if [ -e "$root/.dockerenv" ]; then
        printf docker
    elif [ -e "$root/run/.containerenv" ]; then
        printf podman
    elif [ -n "${KUBERNETES_SERVICE_HOST:-}" ]; then
        printf kubernetes
    elif [ -n "${APPTAINER_CONTAINER:-${SINGULARITY_CONTAINER:-}}" ]; then
        printf apptainer
    elif [ -n "${container:-}" ]; then
        printf %s "$container"
    else
        systemd-detect-virt --container 2>/dev/null
    fi
}

tools() {
    printf '{'
    between=''
    for name in sha256sum openssl ssh-keygen tar gzip base64 find awk sed grep mktemp flock rsync \
        systemctl tmux screen cc g++ nvcc; do
        found=$(first "$name" /usr/local/bin /usr/bin /bin /usr/sbin /sbin /usr/local/cuda/bin) || found=
        printf '%s"%s": %s' "$between" "$name" "$(printf %s "$found" | text)"
        between=', '
    done
    printf '}'
}

main() {
    LC_ALL=C
    PATH=${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin
    export LC_ALL PATH
    unset LD_PRELOAD PYTHONPATH PYTHONHOME OMP_NUM_THREADS OMP_THREAD_LIMIT
    root=${PROBE_ROOT:-} comma='' smi='' smi_rows='' mig_rows=''
    timeout=$(command -v timeout 2>/dev/null) && "$timeout" -s KILL 5 true 2>/dev/null || timeout=
    arch=$(uname -m)
    ask_nvidia
    printf '{'
    field schema 1
    field kind '"target"'
    field host "$(uname -n | text)"
    field clock "$(date -u +%s | number)"
    field os "$(uname -s | tr '[:upper:]' '[:lower:]' | text)"
    field distribution "$(distribution | text)"
    field kernel "$(uname -r | text)"
    field arch "$(printf %s "$arch" | text)"
    field libc "$(libc | text)"
    field glibc "$(glibc | text)"
    field glibcxx "$(glibcxx | text)"
    field cpu_model "$(cpu_model | text)"
    field cpu_count "$(cpu_count | number)"
    field cpu_flags "$(cpu_flags)"
    field memory_bytes "$(memory MemTotal | number)"
    field memory_free_bytes "$(memory MemAvailable | number)"
    field pythons "$(pythons)"
    field driver "$(driver | text)"
    field nvidia_smi "$(printf %s "$smi" | text)"
    field gpus "$(gpus)"
    field disks "$(disks)"
    field home "$(cd -P -- "${HOME:-/}" 2>/dev/null && pwd -P | text)"
    field user "$(id -un 2>/dev/null | text)"
    field uid "$(id -u | number)"
    # shellcheck disable=SC3045  # a shell without these limits leaves them null
    field open_files "$(ulimit -n 2>/dev/null | text)"
    # shellcheck disable=SC3045
    field locked_memory "$(ulimit -l 2>/dev/null | text)"
    field ports_in_use "$(ports)"
    field selinux "$(selinux | text)"
    field fips "$(fips)"
    field container "$(container | text)"
    field init "$(cat "$root/proc/1/comm" 2>/dev/null | text)"
    field tools "$(tools)"
    field ssh_address "$(printf '%s\n' "${SSH_CONNECTION:-}" | awk '{ print $3 }' | text)"
    field ssh_port "$(printf '%s\n' "${SSH_CONNECTION:-}" | awk '{ print $4 }' | number)"
    printf '\n}\n'
}

main
