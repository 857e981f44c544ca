"""How fast the ELF scan of wheels is: `python benchmarks/elf.py FOLDER_OF_WHEELS`.

A bundle's `wheels/` will do. Prints one JSON object: bytes of wheels and ELF files, time, rate.
`cpu_seconds` is of all threads: on a machine that is busy elsewhere, it is what can be compared.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from llava_pack.lock.wheel_needs import proved_floors, scan_wheel


def main(folder: Path, arch: str = "x86_64") -> None:
    wheels = sorted(folder.glob("*.whl"), key=lambda path: path.stat().st_size, reverse=True)
    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        scanned = dict(
            zip([path.name for path in wheels], pool.map(scan_wheel, wheels), strict=True)
        )
    took_s, used_s = time.perf_counter() - began, time.process_time() - used
    elf_bytes = sum(file.size_bytes for one in scanned.values() for file in one.files)
    floors = proved_floors(scanned, arch)
    figures = {
        "wheels": len(wheels),
        "wheels_bytes": sum(path.stat().st_size for path in wheels),
        "elf_bytes": elf_bytes,
        "seconds": round(took_s, 3),
        "cpu_seconds": round(used_s, 3),
        "elf_bytes_per_s": round(elf_bytes / took_s),
        "cpus": cpu_count(),
        "glibc": floors.glibc,
        "glibcxx": floors.glibcxx,
        "by": dict(floors.by),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
