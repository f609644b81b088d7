"""Many small slides in one run with faults on: python soak.py FOLDER [SLIDES] [WORKERS] [SECONDS_BETWEEN_KILLS].

Not a part of the tests. Paints the slides (200 by default, every tenth of them broken), runs `hemax-batch run` on them with
the painted network, kills a random worker again and again, and watches memory and open files of the run's main process
and of all its processes. Then it checks that every slide is accounted for: the sound ones done, the broken ones as in an
undisturbed run without workers, or failed with a reason; and that every twentieth and the broken ones have the same bytes
as there. Exit code 1 where anything is wrong; `soak.csv` in FOLDER has the figures over time, the last line printed is
their summary.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
from broken_slides import broken
from painted_slides import smear, write_pyramid
from tiny_network import tiny_weights

HERE = Path(__file__).parent
_EVERY_S = 2.0


def paint(folder: Path, count: int) -> None:
    """`count_differential` slides of 4 to 6 regions, every tenth of them broken."""
    folder.mkdir(parents=True)
    for i in range(count):
        path = write_pyramid(folder / f"s{i:03d}.tif", smear(450 + 20 * (i % 7), 330, i), mpp=0.25)
        if is_broken(i):
            choices = [content for _, content in broken(path, i)]
            path.write_bytes(choices[(7 * i) % len(choices)])


def is_broken(i: int) -> bool:
    return i % 10 == 9


def start(folder: Path, slides: Path, out: Path, workers: int) -> subprocess.Popen:
    """One run over `slides`, a folder or a list."""
    weights = tiny_weights(folder)
    command = [
        sys.executable,
        HERE / "painted_network.py",
        "run",
        slides,
        "--out",
        out,
        "--weights",
        weights,
    ]
    command += [
        "--core-um",
        64,
        "--workers",
        workers,
        "--quiet",
        "--log-json",
        out.with_suffix(".jsonl"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(out.with_suffix(".log"), "w") as log:
        return subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=log, stderr=log
        )


def workers_of(main: psutil.Process) -> list[psutil.Process]:
    """Its dask workers."""
    servers = [p for p in main.children() if "forkserver" in " ".join(p.cmdline())]
    return [worker for server in servers for worker in server.children()]


def measure(main: psutil.Process, out: Path) -> dict[str, float]:
    """Memory and open files now."""
    everyone = [main, *main.children(recursive=True)]
    return {
        "slides": len(list(out.glob("*/result.json"))),
        "main_mib": main.memory_info().rss / 2**20,
        "main_files": main.num_fds(),
        "main_threads": main.num_threads(),
        "processes": len(everyone),
        "all_mib": sum(p.memory_info().rss for p in everyone) / 2**20,
        "all_files": sum(p.num_fds() for p in everyone),
    }


def watch(process: subprocess.Popen, out: Path, kill_every_s: float) -> tuple[list[dict], int]:
    """Measure until the run ends, killing a random worker now and then: the measures, and how many were killed."""
    main, chance, rows, killed = psutil.Process(process.pid), random.Random(1), [], 0
    begun, next_kill = time.monotonic(), time.monotonic() + kill_every_s
    while process.poll() is None:
        time.sleep(_EVERY_S)
        if '"workers_started"' not in events(out):
            next_kill = time.monotonic() + kill_every_s
        try:
            rows.append(
                {"seconds": time.monotonic() - begun, **measure(main, out), "killed": killed}
            )
            if kill_every_s and time.monotonic() > next_kill and (alive := workers_of(main)):
                chance.choice(alive).kill()
                killed += 1
                next_kill = time.monotonic() + chance.uniform(0.5, 1.5) * kill_every_s
        except psutil.NoSuchProcess:  # ended while it was looked at
            continue
    return rows, killed


def events(out: Path) -> str:
    """The run's event log so far."""
    log = out.with_suffix(".jsonl")
    return log.read_text("utf-8") if log.exists() else ""


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def check(out: Path, undisturbed: Path, count: int) -> list[str]:
    """What is wrong with the results."""
    slides = {s["slide"]: s for s in json.loads((out / "run.json").read_text())["slides"]}
    before = {s["slide"]: s for s in json.loads((undisturbed / "run.json").read_text())["slides"]}
    wrong = [f"{len(slides)} slides accounted for, not {count}"] if len(slides) != count else []
    for name, slide in slides.items():
        expected = before[name]["state"] if name in before else "done"
        if slide["state"] != expected:
            wrong.append(f"{name}: {slide['state']} ({slide['reason']}), undisturbed {expected}")
        elif (
            slide["state"] == "done"
            and name in before
            and content(out / name) != content(undisturbed / name)
        ):
            wrong.append(f"{name}: other bytes than undisturbed")
        elif slide["state"] == "failed" and slide["path"] not in slide["reason"]:
            wrong.append(f"{name}: failed without a reason: {slide['reason']}")
    left = [
        p for p in (out / ".hemax").rglob("*") if p.is_file() and not p.name.startswith("lock.")
    ]
    known = {
        "ids.json",
        *(f"{name}.json" for name, slide in slides.items() if slide["state"] == "failed"),
    }
    failed = [name for name, slide in slides.items() if slide["state"] == "failed"]
    left = [
        p
        for p in left
        if p.name not in known and not any(p.parent.name.startswith(f"{n}-") for n in failed)
    ]
    return wrong + [f"left behind: {path}" for path in left]


def third(rows: list[dict], key: str, which: int) -> float:
    """The mean of a measure over the second or last third of the run."""
    part = rows[which * len(rows) // 3 : (which + 1) * len(rows) // 3]
    return sum(row[key] for row in part) / max(1, len(part))


def main(folder: Path, count: int = 200, workers: int = 2, kill_every_s: float = 15.0) -> int:
    """Soak; 1 where anything is wrong."""
    paint(folder / "in", count)
    process = start(folder, folder / "in", folder / "out", workers)
    rows, killed = watch(process, folder / "out", kill_every_s)
    with open(folder / "soak.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    chosen = [folder / "in" / f"s{i:03d}.tif" for i in range(count) if is_broken(i) or i % 20 == 0]
    (folder / "chosen.txt").write_text("\n".join(map(str, chosen)))
    start(folder, folder / "chosen.txt", folder / "undisturbed", 0).wait()
    wrong = check(folder / "out", folder / "undisturbed", count)
    if process.returncode != 3:
        wrong.append(f"exit code {process.returncode}, not 3")
    print("\n".join(wrong))
    seconds = rows[-1]["seconds"]
    flat = ", ".join(
        f"{key} {third(rows, key, 1):.1f} then {third(rows, key, 2):.1f}"
        for key in ("main_mib", "main_files", "main_threads", "all_mib", "all_files")
    )
    summary = json.loads((folder / "out" / "run.json").read_text())["summary"]
    print(
        f"{seconds:.0f} s, {killed} workers killed, {len(wrong)} wrong; means of the second and last "
        f"third: {flat}; exit code {process.returncode}: {summary}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(
        main(
            Path(given[0]),
            *(kind(v) for kind, v in zip((int, int, float), given[1:], strict=False)),
        )
    )
