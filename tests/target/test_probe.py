"""probe.sh as a black box: several shells, recorded nvidia-smi, a real sshd."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.sshd import PROGRAM, LoopbackSshd

SCRIPT = ROOT / "installers" / "probe.sh"
SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]

A100_MIG = """\
#!/bin/sh
case $1 in
-L) cat <<'ROWS'
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-bb)
  MIG 3g.20gb     Device  1: (UUID: MIG-cc)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-dd)
ROWS
;;
*) cat <<'ROWS'
0, NVIDIA A100-SXM4-40GB, 535.104.05, 40960, 40000, 8.0, Enabled
1, NVIDIA A100-SXM4-40GB, 535.104.05, 40960, 40354, 8.0, Disabled
ROWS
esac
"""
# A driver of 2021 does not know the field compute_cap, and answers with code 2.
OLD = """\
#!/bin/sh
case $1 in
*compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2 ;;
*) echo '0, Tesla K80, 470.256.02, 11441, 11438' ;;
esac
"""
BROKEN = """\
#!/bin/sh
echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'
exit 9
"""
# Eight GPUs with ECC, one of them off the bus, one with a line that some drivers add at the end.
EIGHT = """\
#!/bin/sh
case $1 in -L) exit 0 ;; esac
for gpu in 0 1 2 3 4 5 6; do
    echo "$gpu, Tesla T4, 550.54.14, 15109, 14923, 7.5, [N/A]"
done
echo '7, Tesla T4, 550.54.14, [Unknown Error], [GPU requires reset], 7.5, [N/A]'
echo 'WARNING: infoROM is corrupted at gpu 0000:3B:00.0'
"""
ODD = """\
#!/bin/sh
printf '0, NVIDIA "GB10\\\\", 580.95.05, [N/A], [N/A], 12.1, [N/A]\\n'
"""


@pytest.fixture(params=SHELLS)
def shell(request):
    return request.param.split()


@pytest.fixture
def probe(tmp_path):
    def run(nvidia_smi=None, files=None, shell=("sh",), **env):
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **env}
        if nvidia_smi is not None:
            program = tmp_path / "bin" / "nvidia-smi"
            program.parent.mkdir(exist_ok=True)
            program.write_text(nvidia_smi)
            program.chmod(0o755)
            environ["PATH"] = f"{program.parent}:{environ['PATH']}"
        for name, content in (files or {}).items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            environ["PROBE_ROOT"] = str(tmp_path / "root")
        done = subprocess.run(
            [*shell, str(SCRIPT)], env=environ, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


def test_it_agrees_with_what_python_knows(probe):
    facts = probe()
    assert facts["os"] == sys.platform
    assert facts["arch"] == platform.machine()
    assert facts["kernel"] == platform.release()
    assert facts["glibc"] == platform.libc_ver()[1]
    assert facts["cpu_count"] == len(os.sched_getaffinity(0))
    assert abs(facts["clock"] - time.time()) < 60
    cpus = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpus, re.MULTILINE)
    assert facts["cpu_flags"] == flags[1].split()


@pytest.mark.parametrize("nvidia_smi", [None, A100_MIG])
def test_every_shell_finds_the_same(probe, nvidia_smi):
    facts = [probe(nvidia_smi, shell=shell.split()) for shell in SHELLS]
    for found in facts:
        for moving in ("clock", "memory_free_bytes", "ports_in_use"):
            found.pop(moving)
        for disk in found["disks"]:
            del disk["free_bytes"], disk["free_inodes"]
    assert all(found == facts[0] for found in facts)


def test_the_disk_of_the_home_is_measured(probe, tmp_path):
    facts = probe()
    place = next(disk for disk in facts["disks"] if disk["path"] == facts["home"])
    free_bytes = shutil.disk_usage(tmp_path).free
    assert abs(place["free_bytes"] - free_bytes) < 1 << 30
    assert place["writable"] is True


def test_pythons_run_and_a_shim_is_not_believed(probe, tmp_path):
    shim = tmp_path / "bin" / "python3.14"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.14: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    found = probe(PATH=f"{shim.parent}:{os.environ['PATH']}")["pythons"]
    assert all(not one["version"].startswith("3.14") for one in found)
    for one in found:
        said = subprocess.run(
            [one["path"], "--version"], capture_output=True, text=True, check=True
        )
        assert said.stdout == f"Python {one['version']}\n"


def test_two_gpus_one_of_them_cut(probe):
    facts = probe(A100_MIG)
    assert facts["driver"] == "535.104.05"
    first, second = facts["gpus"]
    assert first["mig_slices"] == ["3g.20gb", "3g.20gb"]
    assert (first["mig"], second["mig"], second["mig_slices"]) == (True, False, [])
    assert second["memory_free_bytes"] == 40354 << 20
    assert second["compute_capability"] == "8.0"


def test_eight_gpus_with_ecc_one_of_them_lost(probe):
    facts = probe(EIGHT)
    assert len(facts["gpus"]) == 8
    assert facts["gpus"][6]["memory_bytes"] == 15109 << 20, "what ECC leaves, not what is sold"
    assert facts["gpus"][7]["memory_bytes"] is None
    assert facts["gpus"][7]["memory_free_bytes"] is None
    assert facts["driver"] == "550.54.14"


@pytest.mark.parametrize("folder", ["usr/lib/wsl/lib", "usr/lib/nvidia-535/bin", "opt/bin"])
def test_nvidia_smi_is_found_where_drivers_put_it(probe, tmp_path, folder):
    program = tmp_path / "root" / folder / "nvidia-smi"
    program.parent.mkdir(parents=True)
    program.write_text(OLD)
    program.chmod(0o755)
    facts = probe(PROBE_ROOT=str(tmp_path / "root"))
    assert facts["nvidia_smi"] == str(program)
    assert facts["gpus"][0]["name"] == "Tesla K80"


def test_an_old_driver_leaves_null_what_it_does_not_know(probe):
    (gpu,) = probe(OLD)["gpus"]
    assert gpu["name"] == "Tesla K80"
    assert gpu["driver"] == "470.256.02"
    assert (gpu["compute_capability"], gpu["mig"]) == (None, None)


def test_what_nvidia_smi_does_not_know_is_null(probe):
    (gpu,) = probe(ODD)["gpus"]
    assert gpu["name"] == "NVIDIA GB10"
    assert gpu["compute_capability"] == "12.1"
    assert (gpu["memory_bytes"], gpu["memory_free_bytes"]) == (None, None)


def test_without_nvidia_smi_the_kernel_module_tells(probe):
    version = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Tue Mar  5 22:42:15 UTC 2024\n"
    )
    facts = probe(
        BROKEN,
        {
            "proc/driver/nvidia/version": version,
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t Tesla V100-PCIE-16GB\n",
        },
    )
    assert facts["driver"] == "535.161.08"
    assert facts["gpus"] == [{"name": "Tesla V100-PCIE-16GB", "driver": "535.161.08"}]


def test_the_open_kernel_module_is_read_too(probe):
    version = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)\n"
    )
    assert probe(files={"proc/driver/nvidia/version": version})["driver"] == "580.65.06"


def test_a_gpu_without_any_driver_is_seen_on_the_bus(probe):
    device = "sys/bus/pci/devices/0000:41:00.0/"
    facts = probe(
        files={
            device + "vendor": "0x10de\n",
            device + "class": "0x030200\n",
            device + "device": "0x20b0\n",
        }
    )
    assert facts["driver"] is None
    assert facts["gpus"] == [{"name": "NVIDIA 0x20b0, seen on the PCI bus", "driver": None}]


def test_unknown_is_null_and_not_none(probe):
    facts = probe(files={"proc/empty": ""})
    unknown = ("gpus", "cpu_flags", "memory_bytes", "memory_free_bytes", "selinux", "fips", "init")
    for name in (*unknown, "distribution", "driver", "ports_in_use"):
        assert facts[name] is None, name


def test_a_name_that_it_cannot_write_is_null_and_not_another_name(probe, tmp_path):
    home = tmp_path / "josé"
    home.mkdir()
    assert probe(HOME=str(home))["home"] is None


CGROUP = "sys/fs/cgroup"
MEMINFO = {"proc/meminfo": "MemTotal: 131072000 kB\nMemAvailable: 120000000 kB\n"}


def test_a_container_has_what_its_control_group_allows(probe):
    facts = probe(
        files={
            **MEMINFO,
            f"{CGROUP}/memory.max": f"{16 << 30}\n",
            f"{CGROUP}/memory.current": f"{10 << 30}\n",
            f"{CGROUP}/memory.stat": f"anon 5\ninactive_file {4 << 30}\n",
            f"{CGROUP}/cpu.max": "100000 100000\n",
        }
    )
    assert facts["memory_bytes"] == 16 << 30
    assert facts["memory_free_bytes"] == 10 << 30, "read files are given back"
    assert facts["cpu_count"] == 1


def test_the_tightest_of_nested_groups_counts(probe):
    """A batch job: the limit is on a group above the session's own."""
    facts = probe(
        files={
            **MEMINFO,
            "proc/self/cgroup": "0::/user.slice/job_7/step\n",
            f"{CGROUP}/user.slice/memory.max": "max\n",
            f"{CGROUP}/user.slice/job_7/memory.max": f"{8 << 30}\n",
            f"{CGROUP}/user.slice/job_7/step/memory.max": "max\n",
            f"{CGROUP}/user.slice/job_7/cpu.max": "max 100000\n",
        }
    )
    assert facts["memory_bytes"] == 8 << 30
    assert facts["cpu_count"] == len(os.sched_getaffinity(0))


def test_control_groups_of_version_1(probe):
    group = f"{CGROUP}/memory/kubepods"
    facts = probe(
        files={
            **MEMINFO,
            "proc/self/cgroup": "9:cpu,cpuacct:/kubepods\n4:memory:/kubepods/pod:containerd:7\n",
            f"{group}/memory.limit_in_bytes": f"{4 << 30}\n",
            f"{group}/memory.usage_in_bytes": f"{3 << 30}\n",
            f"{group}/memory.stat": f"total_inactive_file {1 << 30}\n",
            f"{CGROUP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
            f"{CGROUP}/cpu/kubepods/cpu.cfs_quota_us": "150000\n",
            f"{CGROUP}/cpu/kubepods/cpu.cfs_period_us": "100000\n",
        }
    )
    assert (facts["memory_bytes"], facts["memory_free_bytes"]) == (4 << 30, 2 << 30)
    assert facts["cpu_count"] == 1


def test_rules_of_the_kernel(probe):
    facts = probe(
        files={
            "proc/sys/crypto/fips_enabled": "1\n",
            "sys/fs/selinux/enforce": "1\n",
            "proc/1/comm": "systemd\n",
            "proc/net/tcp": "  sl  local_address rem_address   st\n"
            "   0: 0100007F:1EB4 00000000:0000 0A\n   1: 00000000:0016 00000000:0000 0A\n"
            "   2: 0100007F:C350 0100007F:1EB4 01\n",
        }
    )
    assert (facts["fips"], facts["selinux"], facts["init"]) == (True, "enforcing", "systemd")
    assert facts["ports_in_use"] == [22, 7860]


def test_the_ssh_port_of_the_session_is_told(probe):
    facts = probe(SSH_CONNECTION="10.1.1.9 50022 10.0.0.4 2222")
    assert (facts["ssh_address"], facts["ssh_port"]) == ("10.0.0.4", 2222)


def test_it_is_small_and_quick(probe):
    before = os.times()
    probe()
    after = os.times()
    used_s = after.children_user - before.children_user
    used_s += after.children_system - before.children_system
    assert 0 < used_s < 5, "what it computes: a busy machine does not count"
    assert SCRIPT.stat().st_size < 40_000


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not on this machine")
def test_it_writes_nothing(tmp_path):
    log = tmp_path / "trace"
    calls = "trace=openat,open,creat,mkdir,mkdirat,unlink,unlinkat,rename,renameat2,connect"
    command = ["strace", "-f", "-qq", "-e", calls, "-o", str(log), "sh", str(SCRIPT)]
    subprocess.run(command, check=True, capture_output=True)
    for line in log.read_text().splitlines():
        writes = re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(|mkdir|unlink|rename|AF_INET", line)
        assert not writes or "/dev/null" in line or "/dev/tty" in line, line


UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")
READ_ONLY_ROOT = """
mount --bind "$0" "$0" && mount --rbind /dev "$0/dev" && mount -o remount,bind,ro "$0" &&
    exec chroot "$0" /bin/sh "$1"
"""


def can_change_root():
    found = shutil.which("busybox") and shutil.which("unshare")
    command = [*UNSHARED, "true"]
    return bool(found) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def bare_root(tmp_path):
    """Lay out a system of busybox and its C library: no Python, no /proc, no coreutils."""
    root, program = tmp_path / "bare", shutil.which("busybox")
    (root / "dev").mkdir(parents=True)
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    files = [program, "/usr/bin/busybox", *re.findall(r"(/\S+) \(0x", said), str(SCRIPT)]
    for name in set(files[:1] + files[2:]):
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(name).resolve(), place)
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
    (root / "bin").mkdir(exist_ok=True)
    for name in names.split():
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to(program)
    return root


@pytest.mark.namespace
@pytest.mark.skipif(not can_change_root(), reason="no busybox or no user namespaces here")
def test_a_read_only_machine_of_busybox_and_nothing_else(bare_root):
    command = [*UNSHARED, "/bin/sh", "-c", READ_ONLY_ROOT, str(bare_root), str(SCRIPT)]
    done = subprocess.run(
        command, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    facts = json.loads(done.stdout)
    assert facts["pythons"] == []
    assert (facts["libc"], facts["glibc"]) == ("glibc", platform.libc_ver()[1])
    for name in ("gpus", "driver", "memory_bytes", "cpu_flags", "ports_in_use", "glibcxx", "fips"):
        assert facts[name] is None, name
    assert facts["tools"]["sha256sum"] == "/bin/sha256sum"
    assert facts["tools"]["openssl"] is None
    assert {disk["writable"] for disk in facts["disks"]} == {None}, "no /proc tells"


@pytest.mark.skipif(PROGRAM is None, reason="sshd is not on this machine")
def test_through_a_bastion(tmp_path, cli, monkeypatch):
    """The person's own ssh reads its configuration for both hops."""
    out = tmp_path / "gpu01.json"
    with LoopbackSshd(tmp_path) as server:
        settings = "".join(f"{one.replace('=', ' ', 1)}\n" for one in server.options)
        (tmp_path / "config").write_text(f"Host *\n{settings}")
        own = tmp_path / "bin" / "ssh"
        own.parent.mkdir()
        log = tmp_path / "hops"
        own.write_text(
            f'#!/bin/sh\necho "$*" >> {log}\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n'
        )
        own.chmod(0o755)
        monkeypatch.setenv("PATH", f"{own.parent}:{os.environ['PATH']}")
        place = f"{server.user}@localhost"
        jump = f"{server.user}@127.0.0.1:{server.port}"
        ended = cli("probe", place, "-p", server.port, "-J", jump, "--out", out)
        connections = server.accepted()
    assert ended.code == 0, ended.err
    assert json.loads(out.read_text())["ssh_port"] == server.port
    assert connections == 2, "one to the bastion, one through it"
    assert "-J" in log.read_text()


@pytest.mark.skipif(PROGRAM is None, reason="sshd is not on this machine")
def test_over_ssh_and_back(tmp_path, cli):
    out = tmp_path / "gpu01.json"
    with LoopbackSshd(tmp_path) as server:
        options = [part for one in server.options for part in ("-o", one)]
        ended = cli("probe", f"{server.user}@127.0.0.1", "-p", server.port, *options, "--out", out)
    assert ended.code == 0, ended.err
    assert "glibc" in ended.out
    facts = json.loads(out.read_text())
    assert facts["ssh_port"] == server.port
    assert facts["arch"] == platform.machine()


def test_a_server_that_does_not_answer_is_9(tmp_path, cli):
    ended = cli("probe", "nobody@127.0.0.1", "-p", 9, "--out", tmp_path / "t.json", "--json")
    assert ended.code == 9
    assert "hop: ssh login" in ended.err
    assert "--paste" in ended.document["hint"]


def test_what_is_pasted_runs_and_comes_back(tmp_path, cli, shell):
    lines = cli("probe", "--paste").out
    assert max(map(len, lines.splitlines())) < 80
    answer = subprocess.run(shell, input=lines, capture_output=True, text=True, check=True).stdout
    broken = "".join(
        f"{line[i : i + 200]}\n" for line in answer.splitlines() for i in range(0, len(line), 200)
    )
    pasted = tmp_path / "pasted.txt"
    pasted.write_text(f"me@gpu01:~$ paste\n{broken}me@gpu01:~$ \n")
    out = tmp_path / "target.json"
    assert cli("probe", "--read", pasted, "--out", out).code == 0
    facts, said = json.loads(out.read_text()), json.loads(answer)
    assert facts["cpu_flags"] == said["cpu_flags"]
    assert facts["disks"] == said["disks"]


def test_something_else_than_a_profile_is_2(tmp_path, cli):
    for content in ("", "hello", '{"schema": 9, "kind": "target"}', '{"schema": 1}', '{"gpus": 3}'):
        pasted = tmp_path / "pasted.txt"
        pasted.write_text(content)
        ended = cli("probe", "--read", pasted, "--out", tmp_path / "t.json", "--json")
        assert ended.code == 2, content
        assert not (tmp_path / "t.json").exists()
