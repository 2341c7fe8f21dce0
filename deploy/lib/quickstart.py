"""Two nodes, real traffic, one table: the part of deploy/quickstart that runs once everything is built.

It starts the real daemons and drives them with the real CLI; every figure comes from their JSON. It keeps
nothing but what --keep asks for: processes are ended by their own ids, namespaces by their own names.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
UDP_HEADERS = 48


class Failed(Exception):
    """What went wrong, as a sentence."""


def say(text=""):
    print(text, flush=True)


def size(text):
    for unit, factor in UNITS.items():
        if text.endswith(unit) and text[: -len(unit)].isdigit():
            return int(text[: -len(unit)]) * factor
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no size: write 8GiB")


def mtu(text):
    if text.isdigit() and 1280 <= int(text) <= 9000:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no MTU from 1280 to 9000")


def run(command, timeout=120):
    """Runs a command and returns what it printed; its own words are the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip()
        raise Failed(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {told}")
    return done.stdout


def last_object(text):
    """The last of the JSON objects printed: the only one, or the end of a stream of them."""
    decoder, position, found = json.JSONDecoder(), 0, None
    while position < len(text.rstrip()):
        found, position = decoder.raw_decode(text, position)
        while position < len(text) and text[position].isspace():
            position += 1
    if found is None:
        raise Failed("no JSON was printed")
    return found


class Link:
    """Where the two nodes are: a namespace each with a veth pair, or both on [::1]."""

    def __init__(self, octets, loopback):
        self.octets = octets
        self.names = None
        if not loopback and os.geteuid() == 0 and shutil.which("ip"):
            self.names = [f"stoq-{os.getpid()}-{side}" for side in "ab"]
            try:
                self.make()
            except Failed as error:
                self.remove()
                self.names = None
                say(f"no network namespaces here ({error}); the nodes share [::1]")

    @property
    def path(self):
        return "veth" if self.names else "loopback"

    def make(self):
        for name in self.names:
            run(["ip", "netns", "add", name])
        first, second = self.names
        run(["ip", "link", "add", "stoq0", "netns", first, "type", "veth",
             "peer", "name", "stoq0", "netns", second])
        for host, name in enumerate(self.names, 1):
            inside = ["ip", "-n", name]
            run(inside + ["link", "set", "lo", "up"])
            run(inside + ["address", "add", f"fd77:5707::{host}/64", "dev", "stoq0", "nodad"])
            run(inside + ["link", "set", "stoq0", "mtu", str(self.octets), "up"])

    def remove(self):
        for name in self.names or []:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def address(self, side):
        return f"fd77:5707::{side + 1}" if self.names else "::1"

    def inside(self, side, command):
        return ["ip", "netns", "exec", self.names[side], *command] if self.names else list(command)


def free_ports(count):
    import socket

    sockets = []
    for _ in range(count):
        opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        opened.bind(("::1", 0))
        sockets.append(opened)
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Node:
    """One stoqd with its directory, driven through stoqctl."""

    def __init__(self, name, side, programs, directory, link, cores, payload):
        self.name, self.side, self.link = name, side, link
        self.programs = programs
        self.directory = directory / name
        self.files = self.directory / "files"
        self.files.mkdir(parents=True)
        self.socket = self.directory / "stoqd.sock"
        stoq, enrollment, metrics = free_ports(3)
        if link.names:
            stoq, enrollment, metrics = 8444, 8443, 8446
        address = link.address(side)
        cores_text = ", ".join(map(str, cores))
        config = self.directory / "stoqd.toml"
        config.write_text(
            f"""[node]
name = "{name}"
state_directory = "{self.directory}/state"

[listen]
stoq = "[{address}]:{stoq}"
enrollment = "[{address}]:{enrollment}"
admin_socket = "{self.socket}"
metrics = "[::1]:{metrics}"

[workers]
cores = [{cores_text}]

[transport]
max_udp_payload_bytes = {payload}
perf = true

[copy]
roots = ["{self.files}"]
allow = "any-enrolled"
"""
        )
        self.log = open(self.directory / "log", "wb")
        command = link.inside(side, [programs / "stoqd", "run", "--config", config])
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def ctl(self, *arguments, timeout=120):
        command = [self.programs / "stoqctl", "--json", "--socket", self.socket, *arguments]
        return last_object(run(command, timeout))

    def wait_ready(self):
        try:
            self.ctl("wait", "ready", "--timeout", "20s", timeout=30)
        except Failed as error:
            told = (self.directory / "log").read_text(errors="replace")[-2000:]
            raise Failed(f"node {self.name} did not come up: {error}\n{told}") from error

    def workers(self):
        rows = []
        for worker in self.ctl("worker", "list")["workers"]:
            counters = self.ctl("worker", "show", str(worker["index"]))["counters"]

            def mean(kind):
                trains = counters[f"trains_{kind}"]
                return round(counters[f"datagrams_{kind}"] / trains, 2) if trains else None

            rows.append({
                "stoq_node": self.name,
                "core": worker["core"],
                "node": worker["numa_node"],
                "io": worker["io"],
                "tx_train_mean": mean("sent"),
                "rx_train_mean": mean("received"),
            })
        return rows

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def cores_of_host():
    """Half of the usable cores for each node, four at most."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return usable, usable
    half = min(len(usable) // 2, 4)
    return usable[:half], usable[half : 2 * half]


class Live:
    """A line a second while something long runs, from the receiver's own counters."""

    def __init__(self, receiver, total):
        self.receiver, self.total = receiver, total
        self.stopped = threading.Event()
        self.base = self.received()
        self.thread = threading.Thread(target=self.show, daemon=True)

    def received(self):
        return self.receiver.ctl("status")["totals"]["flow_bytes_received"]

    def show(self):
        last, then, started = self.base, time.monotonic(), time.monotonic()
        while not self.stopped.wait(1.0):
            try:
                count, now = self.received(), time.monotonic()
            except Failed:
                return
            rate = (count - last) * 8 / (now - then) / 1e9
            done = (count - self.base) / (1 << 30)
            say(f"  {now - started:5.1f} s  {done:6.2f} of {self.total / (1 << 30):.2f} GiB"
                f"  {rate:6.2f} Gb/s")
            last, then = count, now

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


def bulk(alpha, beta, octets, payload):
    with Live(alpha, octets):
        found = beta.ctl("measure", "alpha", "--bytes", str(octets), timeout=1800)
    connections = beta.ctl("connection", "list")["connections"]
    return {
        "bytes": found["bytes_done"],
        "seconds": round(found["seconds"], 3),
        "gbps": round(found["bits_per_second"] / 1e9, 3),
        "payload_bytes": payload,
        "verified": found["verified"],
        "lost_bytes": found["lost_bytes"],
        "connection_replacements": found["connection_replacements"],
        "connections": len(connections),
        "key_exchange": connections[0]["key_exchange"] if connections else None,
    }


def replacement(alpha, beta, octets):
    """A bulk flow whose connections are all replaced, made before they are broken, while it runs."""
    outcome = {}

    def measure():
        try:
            outcome["found"] = beta.ctl("measure", "alpha", "--bytes", str(octets), timeout=1800)
        except Failed as error:
            outcome["error"] = error

    live = Live(alpha, octets)
    worker = threading.Thread(target=measure)
    worker.start()
    # In the middle of the flow: the receiver has a part of it and not all.
    deadline = time.monotonic() + 60
    while live.received() - live.base < octets // 4:
        if time.monotonic() > deadline or not worker.is_alive():
            break
    replaced = beta.ctl("session", "replace", "--peer", "alpha")["replaced"]
    still_running = worker.is_alive()
    worker.join()
    if "error" in outcome:
        raise outcome["error"]
    found = outcome["found"]
    return {
        "bytes": found["bytes_done"],
        "gbps": round(found["bits_per_second"] / 1e9, 3),
        "verified": found["verified"],
        "lost_bytes": found["lost_bytes"],
        "connection_replacements": found["connection_replacements"],
        "replaced_on_demand": replaced,
        "in_the_middle": still_running,
        "bytes_resent": found["bytes_resent"],
    }


def real_tree():
    """A tree of real files that every machine with the toolchain has."""
    try:
        sysroot = Path(run(["rustc", "--print", "sysroot"]).strip())
        for place in (sysroot / "share/doc/rust/html/std", sysroot / "lib" / "rustlib"):
            if place.is_dir():
                return place
    except (Failed, OSError):
        pass
    return Path("/usr/share/doc")


def digests(tree):
    found = {}
    for place, _, names in os.walk(tree):
        for name in names:
            path = Path(place) / name
            if path.is_file() and not path.is_symlink():
                with open(path, "rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
                found[str(path.relative_to(tree))] = digest
    return found


def copy(alpha, beta, tree):
    done = beta.ctl("copy", f"{tree}/.", "alpha:tree", timeout=1800)
    done = done.get("result", done)
    here, there = digests(tree), digests(alpha.files / "tree")
    return {
        "files": done["files"],
        "bytes": done["bytes"],
        "seconds": round(done["seconds"], 3),
        "verified": done["files_verified"] == done["files"] and here == there,
        "independently_compared_files": len(there),
    }


SERVER = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
handler = lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=sys.argv[1])
server = Server(("::1", 0), handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def service(alpha, beta, document, processes):
    """A web server behind alpha, used by curl at beta, without either knowing."""
    directory = alpha.directory / "www"
    directory.mkdir()
    shutil.copy(document, directory / "document")
    server = subprocess.Popen(
        alpha.link.inside(alpha.side, [sys.executable, "-c", SERVER, directory]),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )
    processes.append(server)
    port = int(server.stdout.readline())
    alpha.ctl("service", "publish", "web", "--to", f"[::1]:{port}", "--allow", "beta")
    attached = beta.ctl("service", "attach", "web@alpha", "--listen", "[::1]:0")
    listen = attached["attachment"]["listen"]
    url = f"http://{listen}/document"
    fetched = subprocess.run(
        beta.link.inside(beta.side, ["curl", "--silent", "--fail", "--globoff", url]),
        capture_output=True, timeout=60, check=False,
    )
    whole = fetched.returncode == 0 and fetched.stdout == Path(document).read_bytes()
    version = run(["curl", "--version"]).split()[1]
    return {
        "client": f"curl {version}",
        "url": url,
        "bytes": len(fetched.stdout),
        "ok": whole,
    }


def ceiling(programs, payload, cores, gbps):
    """What this host's cores allow at this packet size, and how much of it the bulk transfer reached."""
    command = [programs / "stoq-bench", "ceiling", "--payload", str(payload),
               "--cores", f"{cores[0][0]},{cores[1][0]}", "--json"]
    found = last_object(run(command, timeout=180))
    model = found["model"]
    return {
        "gbps": round(model["gbps"], 3),
        "fraction": round(gbps / model["gbps"], 3),
        "binding_stage": model["binding_stage"],
    }


def host(link):
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "path": link.path,
        "mtu": link.octets if link.names else None,
    }


def table(result):
    mark = {True: "yes", False: "NO"}
    bulk_, copy_ = result["bulk"], result["copy"]
    replaced, ceiling_ = result["replacement"], result["ceiling"]
    rows = [
        ("bulk", f"{bulk_['bytes'] / (1 << 30):.2f} GiB in {bulk_['seconds']:.2f} s, "
                 f"{bulk_['gbps']:.2f} Gb/s at {bulk_['payload_bytes']}-octet payload"),
        ("", f"verified {mark[bulk_['verified']]}, lost {bulk_['lost_bytes']} bytes"),
        ("ceiling", f"{ceiling_['gbps']:.2f} Gb/s for one core a side without QUIC; the transfer "
                    f"reached {ceiling_['fraction']:.0%}; {ceiling_['binding_stage']} binds"),
        ("replaced", f"{replaced['connection_replacements']} connection(s) in the middle of a flow, "
                     f"lost {replaced['lost_bytes']} bytes, verified {mark[replaced['verified']]}"),
        ("copy", f"{copy_['files']} files, {copy_['bytes'] / (1 << 20):.1f} MiB in "
                 f"{copy_['seconds']:.2f} s, verified {mark[copy_['verified']]}"),
        ("service", f"{result['service']['client']} fetched {result['service']['bytes']} bytes, "
                    f"whole {mark[result['service']['ok']]}"),
    ]
    for worker in result["workers"]:
        rows.append((f"worker {worker['stoq_node']}",
                     f"core {worker['core']}, {worker['io']}, datagrams per train: "
                     f"{worker['tx_train_mean']} sent, {worker['rx_train_mean']} received"))
    width = max(len(name) for name, _ in rows)
    say()
    for name, text in rows:
        say(f"  {name:<{width}}  {text}")
    where = result["host"]
    say(f"\n  {where['cpu']}, {where['cores']} cores, kernel {where['kernel']}, path {where['path']}"
        f" (never a NIC here)")


def passed(result):
    return (result["bulk"]["verified"] and result["bulk"]["lost_bytes"] == 0
            and result["replacement"]["verified"] and result["replacement"]["lost_bytes"] == 0
            and result["replacement"]["connection_replacements"] > 0
            and result["copy"]["verified"] and result["service"]["ok"])


def keep(alpha, beta, directory, link, processes):
    pids = [alpha.process.pid, beta.process.pid] + [process.pid for process in processes]
    ctl = f"{beta.programs}/stoqctl --socket {beta.socket}"
    say(f"""
The nodes go on running. Try:
  {ctl} status
  {ctl} session list
  {ctl} measure alpha --bytes 2GiB
  {ctl} measure alpha --bytes 2GiB --reverse
  {ctl} copy ./README.md alpha:README.md
End them with:
  kill {' '.join(map(str, pids))}""")
    if link.names:
        say(f"  sudo ip netns del {link.names[0]}; sudo ip netns del {link.names[1]}")
    say(f"  rm -r {directory}")


def demonstrate(options, directory, link, processes, nodes):
    payload = min((options.mtu if link.names else 9000) - UDP_HEADERS, 16_383)
    cores = cores_of_host()
    say(f"two nodes on {'a veth pair' if link.names else '[::1]'}, cores {cores[0]} and {cores[1]}")
    for side, name in enumerate(["alpha", "beta"]):
        nodes.append(Node(name, side, options.programs, directory, link, cores[side], payload))
    alpha, beta = nodes
    for node in nodes:
        node.wait_ready()
    token = alpha.ctl("node", "token", "create", "beta")
    joined = beta.ctl("node", "join", token["token"])
    say(f"beta joined alpha: root {joined['root_fingerprint'][:23]}..., one-time token, key made at beta")

    say(f"\nbulk transfer, beta to alpha, {options.bytes / (1 << 30):.2f} GiB")
    result = {"schema": "stoq.quickstart/1", "host": host(link)}
    result["bulk"] = bulk(alpha, beta, options.bytes, payload)
    say("\na connection replaced in the middle of a flow")
    result["replacement"] = replacement(alpha, beta, max(options.bytes // 2, 1 << 28))
    say(f"  {result['replacement']['connection_replacements']} replaced, "
        f"{result['replacement']['lost_bytes']} bytes lost")
    tree = real_tree()
    say(f"\ncopy of a real tree ({tree.name}) to alpha, each file verified before it gets its name")
    result["copy"] = copy(alpha, beta, tree)
    say(f"  {result['copy']['files']} files; compared again here, file by file")
    say("\na web server behind alpha, reached at beta by curl")
    result["service"] = service(alpha, beta, Path(__file__).resolve().parents[2] / "LICENSE", processes)
    say(f"  {result['service']['url']}: {result['service']['bytes']} bytes")
    say("\nthe host's own ceiling at the same packet size on the same cores")
    result["ceiling"] = ceiling(options.programs, payload, cores, result["bulk"]["gbps"])
    result["workers"] = alpha.workers() + beta.workers()
    return result


def main():
    parser = argparse.ArgumentParser(prog="deploy/quickstart")
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--json")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--bytes", type=size, default=8 << 30)
    parser.add_argument("--mtu", type=mtu, default=9000)
    parser.add_argument("--loopback", action="store_true")
    options = parser.parse_args()
    options.programs = options.programs.resolve()
    # A request to stop is an exception, so that everything is taken down again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    directory = Path(tempfile.mkdtemp(prefix="stoq-quickstart-"))
    link = Link(options.mtu, options.loopback)
    processes, nodes, kept = [], [], False
    try:
        result = demonstrate(options, directory, link, processes, nodes)
        table(result)
        if options.json:
            text = json.dumps(result, indent=2) + "\n"
            if options.json == "-":
                sys.stdout.write(text)
            else:
                Path(options.json).write_text(text)
        if options.keep:
            keep(*nodes, directory, link, processes)
            kept = True
        if not passed(result):
            raise Failed("something above was not verified, was lost or failed")
    except Failed as error:
        say(f"\ndeploy/quickstart: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not kept:
            for process in processes:
                process.terminate()
                process.wait()
            for node in nodes:
                node.stop()
            link.remove()
            shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
