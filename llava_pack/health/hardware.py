"""What a support bundle tells of the machine and its GPUs: fields and shapes. Pure data."""

from llava_pack.health.shapes import (
    Begins,
    Either,
    Fields,
    Flag,
    Form,
    Number,
    OneOf,
    Several,
    Table,
)
from llava_pack.health.vocabulary import (
    ARCH,
    COUNT,
    CPU_FLAGS,
    CPU_NAME,
    DISTRIBUTIONS,
    FILESYSTEMS,
    GPU_NAME,
    LEADING_VERSION,
    SECONDS,
    TOOLS,
    VERSION_TEXT,
)

MACHINE = Fields(
    {
        "schema": COUNT,
        "clock": SECONDS,
        "os": OneOf("linux", "darwin"),
        "distribution": Begins(DISTRIBUTIONS),
        "kernel": LEADING_VERSION,
        "arch": ARCH,
        "libc": OneOf("glibc", "musl"),
        "glibc": VERSION_TEXT,
        "glibcxx": VERSION_TEXT,
        "cpu_model": CPU_NAME,
        "cpu_count": COUNT,
        "cpu_flags": Several(OneOf(*CPU_FLAGS)),
        "memory_bytes": COUNT,
        "memory_free_bytes": COUNT,
        "pythons": Several(Fields({"version": VERSION_TEXT})),
        "driver": VERSION_TEXT,
        "gpus": Several(
            Fields(
                {
                    "name": GPU_NAME,
                    "driver": VERSION_TEXT,
                    "compute_capability": VERSION_TEXT,
                    "memory_bytes": COUNT,
                    "memory_free_bytes": COUNT,
                    "mig": Flag(),
                    "mig_slices": Several(Form(r"[0-9]g\.[0-9]{1,3}gb(?:\+me)?")),
                }
            )
        ),
        "disks": Several(
            Fields(
                {
                    "path": OneOf("/opt", "/var/tmp", "/", other="another place"),  # noqa: S108 - a name, not used
                    "filesystem": OneOf(*FILESYSTEMS, other="another kind"),
                    "free_bytes": COUNT,
                    "free_inodes": COUNT,
                    "noexec": Flag(),
                    "writable": Flag(),
                }
            )
        ),
        "open_files": Either(Form(r"[0-9]{1,10}"), OneOf("unlimited")),
        "locked_memory": Either(Form(r"[0-9]{1,12}"), OneOf("unlimited")),
        "port_7860_taken": Flag(),
        "selinux": OneOf("enforcing", "permissive", "disabled"),
        "fips": Flag(),
        "container": OneOf("docker", "podman", "kubernetes", "apptainer", "lxc", "systemd-nspawn",
                           "wsl", "none", other="another kind"),
        "init": OneOf("systemd", "init", "openrc-init", "runit", "tini", "sh", "bash",
                      other="another one"),
        "tools": Table(OneOf(*TOOLS), Flag()),
    }
)  # fmt: skip
GPUS = Fields(
    {
        "driver": VERSION_TEXT,
        "error": OneOf("", "the driver could not be queried", "nvidia-ml-py is not installed",
                       "the driver did not answer within 2 s", other="another error"),
        "gpus": Several(
            Fields(
                {
                    "index": COUNT,
                    "name": GPU_NAME,
                    "total_bytes": COUNT,
                    "free_bytes": COUNT,
                    "temperature_c": Number(-100, 1000),
                    "slowdown_c": Number(-100, 1000),
                    "throttles": Several(
                        OneOf("hardware slowdown", "hardware too hot", "too hot", "power brake")
                    ),
                    "ecc_uncorrected": COUNT,
                    "remap_pending": Flag(),
                    "remap_failed": Flag(),
                    "processes": Several(Fields({"pid": COUNT, "used_bytes": COUNT})),
                }
            )
        ),
    }
)  # fmt: skip
