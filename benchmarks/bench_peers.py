"""
What `make bench-peers` runs: tracked_queue and the field's queues, on one server, in one run, interleaved.

Each queue has an environment of its own (`.peers/NAME`), which the first run installs, and one adapter in `benchmarks/peers`. Rounds go
through all queues one after another, so that a slow minute of a shared machine falls on everybody; a figure is the median of its rounds.
Rates of jobs come from what the jobs themselves record: they wait at a gate until every process has its first job, and the clock runs
from the gate to the last record. Crashes run beside each other, each queue on a server of its own.

    bench_peers.py [--rounds 3] [--only "NAME;NAME"] [--skip PART,PART] [--quick] [--server redis-server] [--output FILE.json]

Only a whole run goes to benchmarks/results by itself; one with --only, --skip or --quick needs --output.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.servers import newest

from benchmarks.peers.effect import READY, RECORD, now_ns
from tracked_queue.chaos.server import RedisServer

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".peers"
RESULTS = ROOT / "benchmarks" / "results"

SINGLE, CONCURRENT, BULK = 2_000, 10_000, 20_000
DRAIN, IO_JOBS, LATENCY = 20_000, 4_000, 200
CONCURRENCY, IDLE_S, SETTLE_S = 100, 10.0, 4.0
HELD, CRASH_S = 10, 120.0
WAIT_S, START_S = 180.0, 45.0


PARTS = frozenset(("enqueue", "drain", "drain2", "io", "latency", "idle", "crash", "crash_tight"))


@dataclass(frozen=True)
class Peer:
    """One queue of the comparison."""

    name: str
    adapter: str
    requires: tuple[str, ...] = ()
    """What its environment is made of; empty: this checkout's own."""
    record: bool = True
    """Keeps a record that can be read by the job's id."""
    safe: bool = True
    """Loses nothing on kill -9, with its documented settings for that."""
    parts: frozenset[str] = PARTS
    callers: bool = True
    """Many can call it at the same time."""
    serial: bool = False
    """A process runs one job at a time and is slow: fewer jobs make a measurement."""

    def jobs(self, count: int) -> int:
        """How many of so many jobs are enough."""
        return count // 10 if self.serial else count


def only(*parts: str) -> frozenset[str]:
    return frozenset(parts)


FIELD = [
    Peer("tracked_queue", "peer_tracked_queue"),
    Peer("tracked_queue, enqueue_sync", "peer_tracked_queue_sync", parts=only("enqueue")),
    Peer("tracked_queue, tracked=False", "peer_tracked_queue_untracked", safe=False, record=False, parts=only("drain")),
    Peer("floor", "peer_floor", parts=only("enqueue", "drain", "drain2"), callers=False),
    Peer("EVALSHA by redis-py", "peer_evalsha", parts=only("enqueue")),
    Peer("BLMOVE hand-over", "peer_handover", parts=only("latency")),
    Peer("arq", "peer_arq", ("arq==0.28.0", "uvloop", "hiredis")),
    Peer("streaq", "peer_streaq", ("streaq==7.2.0", "uvloop", "hiredis")),
    Peer("SAQ", "peer_saq", ("saq[redis,hiredis]==0.26.4", "typing_extensions", "uvloop")),
    Peer("taskiq stream", "peer_taskiq_stream", ("taskiq==0.13.0", "taskiq-redis==1.2.4", "uvloop", "hiredis"), record=False),
    Peer("taskiq list", "peer_taskiq_list", ("taskiq==0.13.0", "taskiq-redis==1.2.4", "uvloop", "hiredis"), record=False, safe=False),
    Peer("docket", "peer_docket", ("pydocket==0.27.0", "uvloop", "hiredis")),
    Peer("dramatiq", "peer_dramatiq", ("dramatiq[redis]==2.2.1", "hiredis")),
    Peer("Celery", "peer_celery", ("celery[redis]==5.7.0", "hiredis")),
    Peer("RQ", "peer_rq", ("rq==3.0.0", "hiredis"), serial=True),
    Peer("huey", "peer_huey", ("huey==3.5.4", "redis", "hiredis"), record=False, safe=False),
    Peer("wakaq", "peer_wakaq", ("wakaq==4.0.4", "hiredis"), record=False, safe=False),
]  # fmt: skip


def python_of(peer: Peer) -> str:
    """Its environment's interpreter; installed by the first run."""
    if not peer.requires:
        return sys.executable
    folder = ENVIRONMENTS / peer.adapter.removeprefix("peer_").removesuffix("_stream").removesuffix("_list")
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists() or done.read_text() != "\n".join(peer.requires):
        print(f"installing {peer.name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requires], check=True
        )
        done.write_text("\n".join(peer.requires))
    return str(python)


def versions_of(peer: Peer) -> dict[str, str]:
    program = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    answer = subprocess.run([python_of(peer), "-c", program], capture_output=True, text=True, check=True).stdout
    wanted = {*(r.split("=")[0].split("[")[0].lower() for r in peer.requires), "redis", "hiredis", "uvloop", "coredis"}
    return {name: version for name, version in json.loads(answer).items() if name.lower() in wanted}


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def kill(pids: list[int]) -> None:
    """With SIGKILL; stopped first, so that none sees another go."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Bench:
    """One queue beside one server."""

    def __init__(self, peer: Peer, url: str) -> None:
        self.peer, self.url = peer, url
        self.redis = redis.Redis.from_url(url)
        self.python = python_of(peer)
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))

    def close(self) -> None:
        self.redis.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def env(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join((str(PEERS), str(ROOT / "src")))
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, "REDIS_URL": self.url, "BENCH_FOLDER": str(self.folder), "PYTHONPATH": path, **more}

    def drive(self, *command: str, **env: str) -> Any:
        """What the driver prints."""
        done = subprocess.run(
            [self.python, str(PEERS / "driver.py"), self.peer.adapter, *command],
            env=self.env(**env), cwd=PEERS, capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.peer.name} {command}: {done.stderr[-1500:]}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def worker(self, processes: int = 1, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Its worker, in a process group of its own, which ends with SIGKILL if SIGTERM does not do."""
        more = {"BENCH_PROCESSES": str(processes), **env}
        with (self.folder / "worker.log").open("ab") as log:
            running = subprocess.Popen(
                [self.python, str(PEERS / "driver.py"), self.peer.adapter, "worker", str(CONCURRENCY), str(processes)],
                env=self.env(**more), cwd=PEERS, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield running
        finally:
            all_of_it = family(running.pid)
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                running.wait(3)
            kill(all_of_it)
            running.wait(10)

    def fresh(self) -> None:
        """An empty server and no record of effects."""
        self.redis.flushall()
        for file in self.folder.iterdir():
            file.unlink()

    def effects(self) -> list[tuple[int, int, int]]:
        """(nanoseconds, pid, number) of every job that ran."""
        with suppress(FileNotFoundError):
            data = (self.folder / "effects").read_bytes()
            return list(RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]))
        return []

    def until(self, count: int, running: subprocess.Popen[bytes], seconds: float = WAIT_S) -> None:
        """Waits for so many effects."""
        file, deadline = self.folder / "effects", time.monotonic() + seconds
        while not file.exists() or file.stat().st_size < count * RECORD.size:
            if time.monotonic() > deadline or running.poll() is not None:
                seen = file.stat().st_size // RECORD.size if file.exists() else 0
                log = (self.folder / "worker.log").read_text()[-1500:]
                raise TimeoutError(f"{self.peer.name}: {seen} of {count} jobs ran; {log}")
            time.sleep(0.005)

    def until_quiet(self, workers: int) -> None:
        """All workers have started: they have connections, and no new ones for a while; those that crash in a loop never get there."""
        seen, since = 0, time.monotonic()
        latest = since + START_S
        while (seen <= workers or time.monotonic() - since < SETTLE_S) and time.monotonic() < latest:
            clients = int(self.redis.info("clients")["connected_clients"])
            if clients != seen:
                seen, since = clients, time.monotonic()
            time.sleep(0.1)

    def memory(self) -> int:
        return int(self.redis.info("memory")["used_memory"])

    def enqueue(self) -> dict[str, float]:
        self.redis.flushall()
        results = {}
        about = self.drive("about")
        for how, count in (("single", SINGLE), ("concurrent", CONCURRENT), ("bulk", BULK)):
            if (how == "bulk" and not about["bulk"]) or (how == "concurrent" and not self.peer.callers):
                continue
            self.redis.flushall()
            done = self.drive("enqueue", how, str(count), "noop")
            results[f"enqueue {how} /s"] = done["count"] / done["seconds"]
        return results

    def drain(self, processes: int = 1, job: str = "noop") -> dict[str, float]:
        count = self.peer.jobs({"noop": DRAIN, "io": IO_JOBS}[job])
        self.fresh()
        empty = self.memory()
        self.drive("fill", str(count), job, BENCH_JOB=job)
        results = {}
        if processes == 1 and job == "noop":
            results["bytes per queued job"] = (self.memory() - empty) / count
        with self.worker(processes, BENCH_JOB=job, BENCH_GATED="1") as running:
            deadline = time.monotonic() + 30
            while len({pid for _, pid, number in self.effects() if number == READY}) < processes:
                if time.monotonic() > deadline:
                    raise TimeoutError((self.folder / "worker.log").read_text()[-1500:])
                time.sleep(0.01)
            time.sleep(1)
            waiting = sum(number == READY for _, _, number in self.effects())
            cpu = self.cpu(running)
            began = now_ns()
            (self.folder / "gate").touch()
            self.until(count + waiting, running)
            used = {name: seconds - cpu[name] for name, seconds in self.cpu(running).items()}
            ran = [(at, number) for at, _, number in self.effects() if number != READY]
            elapsed = (max(at for at, _ in ran) - began) / 1e9
            if len(ran) != count:
                print(f"{self.peer.name}: {len(ran)} runs of {count} jobs", file=sys.stderr)
            time.sleep(0.3)
            if processes == 1 and job == "noop":
                results["bytes per finished job"] = (self.memory() - empty) / count
        what = {"noop": "drain", "io": "realistic"}[job]
        suffix = ", 2 processes" if processes == 2 else ""
        results[f"{what}{suffix} /s"] = count / elapsed
        if processes == 2:
            results |= {f"{what}{suffix}, cores: {name}": seconds / elapsed for name, seconds in used.items()}
        return results

    def cpu(self, running: subprocess.Popen[bytes]) -> dict[str, float]:
        """Seconds for which the worker's processes and the server ran so far, and for which they could have and had no core."""
        seconds: dict[str, float] = {}
        server = int(self.redis.info("server")["process_id"])
        for pid in (server, *family(running.pid)):
            who = "Redis" if pid == server else "the worker"
            with suppress(OSError):  # it has just ended
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    ran, waited, _ = map(int, (thread / "schedstat").read_text().split())
                    for what, ns in ((f"{who} ran", ran), (f"{who} waited for one", waited)):
                        seconds[what] = seconds.get(what, 0.0) + ns / 1e9
        return seconds

    def latency(self) -> dict[str, float]:
        self.fresh()
        about = self.drive("about")
        with self.worker(BENCH_JOB="noop") as running:
            self.drive("latency", "1")
            self.until(1, running, 30)
            time.sleep(0.5)
            before = len(self.effects())
            sent = self.drive("latency", str(LATENCY))
            self.until(before + LATENCY, running, 30)
        started = {number: at for at, _, number in self.effects()[before:]}
        pickup = sorted((started[number] - began) / 1e6 for number, began, _ in sent)
        results = {"pickup p50 ms": statistics.median(pickup), "pickup p99 ms": pickup[int(LATENCY * 0.99) - 1]}
        if about["result"]:
            result = sorted((ended - began) / 1e6 for _, began, ended in sent)
            results |= {"result p50 ms": statistics.median(result), "result p99 ms": result[int(LATENCY * 0.99) - 1]}
        return results

    def idle(self) -> dict[str, float]:
        results = {}
        for workers in (1, 10):
            self.fresh()
            with ExitStack() as stack:
                for _ in range(workers):
                    stack.enter_context(self.worker(BENCH_JOB="noop"))
                self.until_quiet(workers)
                before, began = self.redis.info("stats"), time.monotonic()
                time.sleep(IDLE_S)
                after, seconds = self.redis.info("stats"), time.monotonic() - began
            own = 1  # the reading of the counters itself
            results[f"idle commands /s, {workers} workers"] = (
                after["total_commands_processed"] - before["total_commands_processed"] - own
            ) / seconds
            if "total_reads_processed" in after:
                results[f"idle requests /s, {workers} workers"] = (
                    after["total_reads_processed"] - before["total_reads_processed"] - own
                ) / seconds
        return results

    def crash(self, tight: bool) -> dict[str, float]:
        """Kill -9 of the whole worker with jobs running; another starts at once."""
        self.fresh()
        env = {"BENCH_JOB": "hold", **({"BENCH_TIGHT": "1"} if tight else {})}
        held, what = self.peer.jobs(HELD), f"crash, {'tightest settings' if tight else 'defaults'}"
        with self.worker(1, **env) as running:
            self.drive("fill", str(held), "hold", **env)
            self.until(held, running, 60)
            time.sleep(1)
            (self.folder / "crashed").touch()
            killed = now_ns()
            kill(family(running.pid))
        with self.worker(1, **env) as running, suppress(TimeoutError):
            self.until(2 * held, running, CRASH_S)
        again: dict[int, float] = {}
        for at, _, number in self.effects()[held:]:
            again.setdefault(number, (at - killed) / 1e9)
        results = {f"{what}: jobs back, share": len(again) / held}
        if again:
            results[f"{what}: last job back, s"] = max(again.values())
        return results


def supervised(url: str) -> float:
    """Seconds until the jobs of a killed child of our supervisor run again."""
    bench = Bench(FIELD[0], url)
    try:
        bench.fresh()
        with bench.worker(BENCH_JOB="hold") as running:
            bench.drive("fill", str(HELD), "hold")
            bench.until(HELD, running, 60)
            child = bench.effects()[0][1]
            (bench.folder / "crashed").touch()
            killed = now_ns()
            os.kill(child, signal.SIGKILL)
            bench.until(2 * HELD, running, 60)
            return max(at - killed for at, _, _ in bench.effects()[HELD:]) / 1e9
    finally:
        bench.close()


def crashes(peers: list[Peer], server: str, tight: bool) -> dict[str, dict[str, float]]:
    """All queues beside each other, each on a server of its own."""

    def one(peer: Peer) -> tuple[str, dict[str, float]]:
        own = RedisServer(program=server)
        bench = Bench(peer, own.url)
        try:
            return peer.name, bench.crash(tight)
        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
            print(f"{peer.name}: crash: {error}", file=sys.stderr)
            return peer.name, {}
        finally:
            bench.close()
            own.close()

    with concurrent.futures.ThreadPoolExecutor(len(peers)) as pool:
        return dict(pool.map(one, peers))


def machine() -> dict[str, Any]:
    began, total = time.perf_counter(), 0
    for n in range(3_000_000):
        total += n
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    return {
        "cores": os.cpu_count(), "cpu": model, "system": platform.system(), "python": platform.python_version(),
        "million additions /s": 3 / (time.perf_counter() - began),
    }  # fmt: skip


def make_quick() -> None:
    """Counts that say whether everything works, and nothing about speed."""
    global SINGLE, CONCURRENT, BULK, DRAIN, IO_JOBS, LATENCY, IDLE_S, SETTLE_S, CRASH_S
    SINGLE, CONCURRENT, BULK, DRAIN, IO_JOBS, LATENCY = 100, 300, 500, 500, 300, 20
    IDLE_S, SETTLE_S, CRASH_S = 2.0, 1.0, 15.0


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", default="")
    options.add_argument("--skip", default="")
    options.add_argument("--server", default=None)
    options.add_argument("--output", default="")
    options.add_argument(
        "--quick", action="store_true", help="small counts: whether everything works, not how fast it is"
    )
    chosen = options.parse_args()
    if chosen.quick:
        make_quick()
    names = {name.strip() for name in chosen.only.split(";") if name.strip()}
    skipped = {part for part in chosen.skip.split(",") if part}
    if unknown := (names - {peer.name for peer in FIELD}) | (skipped - PARTS):
        options.error(f"unknown: {', '.join(sorted(unknown))}; parts are {', '.join(sorted(PARTS))}")
    if (names or skipped or chosen.quick) and not chosen.output:
        options.error("a run of some of it needs --output, so that it doesn't take the place of a whole one")
    peers = [peer for peer in FIELD if not names or peer.name in names]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    for peer in peers:
        python_of(peer)
    program = chosen.server or newest()
    server = RedisServer(program=program)
    began = time.monotonic()
    values: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    about = {}

    def take(peer: Peer, part: str, measure: Any, *args: Any) -> None:
        if part in skipped or part not in peer.parts:
            return
        bench = Bench(peer, server.url)
        try:
            for name, value in measure(bench, *args).items():
                values[peer.name].setdefault(name, []).append(value)
        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
            print(f"{peer.name}: {part}: {error}", file=sys.stderr)
        finally:
            bench.close()

    try:
        with redis.Redis.from_url(server.url) as link:
            server_version = link.info("server")["redis_version"]
        for peer in peers:
            bench = Bench(peer, server.url)
            about[peer.name] = {
                **bench.drive("about"),
                "versions": versions_of(peer),
                "record": peer.record,
                "safe": peer.safe,
            }
            bench.close()
        for round_ in range(chosen.rounds):
            for part, measure, args in (
                ("enqueue", Bench.enqueue, ()), ("drain", Bench.drain, (1,)), ("drain2", Bench.drain, (2,)),
                ("io", Bench.drain, (1, "io")), ("latency", Bench.latency, ()),
            ):  # fmt: skip
                for peer in peers:
                    take(peer, part, measure, *args)
                print(f"round {round_ + 1}: {part}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        for peer in peers:
            take(peer, "idle", Bench.idle)
        if "crash" not in skipped and FIELD[0] in peers:
            values[FIELD[0].name]["crash under the supervisor, s"] = [
                supervised(server.url) for _ in range(chosen.rounds)
            ]
    finally:
        server.close()
    for part, tight in (("crash", False), ("crash_tight", True)):
        fragile = [peer for peer in peers if part in peer.parts]
        if part not in skipped and fragile:
            for name, results in crashes(fragile, program, tight).items():
                for what, value in results.items():
                    values[name].setdefault(what, []).append(value)
    report = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"), "machine": machine(), "redis": server_version,
        "command": "make bench-peers", "rounds": chosen.rounds, "about": about, "runs": values,
        "medians": {name: {what: statistics.median(found) for what, found in of.items()} for name, of in values.items()},
    }  # fmt: skip
    output = Path(chosen.output) if chosen.output else RESULTS / f"peers-{report['when'][:10]}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1))
    print(f"{output}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
