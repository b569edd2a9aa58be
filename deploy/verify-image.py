#!/usr/bin/env python3
"""Builds the image of deploy/Containerfile and tries it, without a container engine: verify-image.py [WORK_DIRECTORY]

Every FROM debian:... is a root made by debootstrap; the instructions are carried out in it as an engine would do. Then the daemon runs as PID 1 of
namespaces of its own (processes, mounts, network), as the image's user without capabilities, on a read-only root with the volume as the one
writable place. Needs root on Debian, with debootstrap. The last line says 'N passed, N failed'; exit code 0 when all passed.
"""
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[1]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PORT = 8080
N_CORES, MEMORY = 1, 768 << 20  # of the control group


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], check=True, **kwargs)


# -- Building --------------------------------------------------------------------------------------------


def read_instructions(path):
    """(word, rest) of each instruction; comments dropped, continued lines joined."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


class Stage:
    def __init__(self, root):
        self.root, self.directory, self.config = root, "/", {"env": {"PATH": PATH}, "volumes": [], "user": "0:0"}

    def inside(self, path):
        return self.root / os.path.normpath(os.path.join("/", self.directory, path)).lstrip("/")

    def run(self, command):
        run("unshare", "--mount", "--pid", "--fork", "bash", "-c",
            'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" env -i "${@:2}" sh -c "cd $1 && $LORAD_RUN"',
            self.root, shlex.quote(self.directory), *(f"{k}={v}" for k, v in self.config["env"].items()),
            env={**os.environ, "LORAD_RUN": command})

    def copy(self, arguments, stages):
        context, words = SOURCE, shlex.split(arguments)
        if words[0].startswith("--from="):
            context = stages[words.pop(0)[7:]].root
        *sources, target = words
        for source in sources:
            source, into = context / source.lstrip("/"), self.inside(target)
            if source.is_dir():
                shutil.copytree(source, into, dirs_exist_ok=True, symlinks=True)
            else:
                into = into / source.name if target.endswith("/") else into
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, into)


def build(work):
    """The last stage of the Containerfile, its root built."""
    stages, stage = {}, None
    for word, rest in read_instructions(SOURCE / "deploy" / "Containerfile"):
        print(f"-- {word} {rest}", flush=True)
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            suite = re.fullmatch(r"debian:(\w+)-slim", image).group(1)
            base = work / f"debian-{suite}"
            if not (base / "etc/debian_version").exists():
                run("debootstrap", "--variant=minbase", suite, base, stdout=subprocess.DEVNULL)
            stage = stages[name or "last"] = Stage(work / (name or "last"))
            shutil.rmtree(stage.root, ignore_errors=True)
            run("cp", "-a", base, stage.root)
            shutil.copy("/etc/resolv.conf", stage.root / "etc/resolv.conf")
        elif word == "WORKDIR":
            stage.directory = rest
            stage.inside(".").mkdir(parents=True, exist_ok=True)
        elif word == "RUN":
            stage.run(rest)
        elif word == "COPY":
            stage.copy(rest, stages)
        elif word == "ENV":
            stage.config["env"].update(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "VOLUME":
            stage.config["volumes"].append(rest)
        elif word in ("ENTRYPOINT", "CMD"):
            stage.config[word.lower()] = json.loads(rest)
        elif word == "HEALTHCHECK":
            stage.config["healthcheck"] = json.loads(rest[rest.index("["):])
        elif word in ("USER", "STOPSIGNAL", "EXPOSE"):
            stage.config[word.lower()] = rest
        else:
            raise SystemExit(f"the Containerfile has an instruction that is not known here: {word}")
    return stage


# -- Running ---------------------------------------------------------------------------------------------


class Group:
    """A control group with limits, v2 or v1; `directories` is empty where none can be made."""

    def __init__(self):
        files = {"cpu": {"cpu.cfs_period_us": 100000, "cpu.cfs_quota_us": 100000 * N_CORES}, "memory": {"memory.limit_in_bytes": MEMORY}}
        if pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
            files = {"": {"cpu.max": f"{100000 * N_CORES} 100000", "memory.max": MEMORY}}
        self.directories = []
        try:
            for controller, limits in files.items():
                directory = pathlib.Path("/sys/fs/cgroup", controller, f"lorad-verify-{os.getpid()}")
                directory.mkdir()
                self.directories.append(directory)
                for name, value in limits.items():
                    (directory / name).write_text(str(value))
        except OSError as error:
            print(f"control groups cannot be made here ({error}); their limits are not tried")
            self.remove()

    def remove(self):
        for directory in self.directories:
            directory.rmdir()
        self.directories = []


class Container:
    """The daemon of the image as PID 1; `with Container(...) as c`."""

    # In the new namespaces: the root becomes read-only, the volume and /tmp are mounted over it; then the image's process takes over PID 1.
    START = r"""
set -e
root=$1 volume=$2 volume_at=$3 user=$4; shift 4
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
mount -t tmpfs -o size=16m,mode=1777 tmpfs "$root/tmp"
mount --bind "$volume" "$root$volume_at"
mount -o remount,bind,ro "$root"
ip link set lo up
exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
    env -i "$@"
"""

    def __init__(self, stage, volume, group, **env):
        self.stage, self.volume, self.group, self.env = stage, volume, group, {**stage.config["env"], **env}

    def __enter__(self):
        config = self.stage.config
        join = "".join(f"echo $$ > {shlex.quote(str(d / 'cgroup.procs'))}; " for d in self.group.directories)
        self.outer = subprocess.Popen(
            ["bash", "-c", join + 'exec unshare --mount --pid --net --fork --kill-child bash -c "$0" start "$@"', self.START,
             str(self.stage.root), str(self.volume), config["volumes"][0], config["user"],
             *(f"{k}={v}" for k, v in self.env.items()), *config["entrypoint"], *config["cmd"]],
            stdout=subprocess.PIPE, text=True)
        self.ready_line = self.outer.stdout.readline()
        self.pid = int(subprocess.run(["pgrep", "-P", str(self.outer.pid)], capture_output=True, text=True, check=True).stdout)
        return self

    def __exit__(self, *_):
        if self.outer.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.outer.wait()
        self.outer.stdout.close()

    def execute(self, *command):
        """What 'exec' of an engine does: the command inside, as the image's user."""
        user, group = self.stage.config["user"].split(":")
        return subprocess.run(["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "setpriv", f"--reuid={user}",
                               f"--regid={group}", "--clear-groups", "--bounding-set=-all", "--no-new-privs", "env", "-i",
                               *(f"{k}={v}" for k, v in self.env.items()), *command], capture_output=True, text=True)

    def curl_command(self, path, *arguments):
        """curl in the daemon's network."""
        return ["nsenter", f"--target={self.pid}", "--net", "curl", "-sS", f"http://127.0.0.1:{PORT}{path}", *arguments]

    def curl(self, path, *arguments):
        return json.loads(subprocess.run(self.curl_command(path, *arguments), capture_output=True, text=True, check=True).stdout)

    def metrics(self):
        return subprocess.run(self.curl_command("/metrics"), capture_output=True, text=True, check=True).stdout

    def status(self, field):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return re.search(rf"^{field}:\s*(.*)$", text, re.M).group(1).split()

    def stop(self, signal_name, seconds):
        """Sends it from outside, as an engine does; the exit code."""
        os.kill(self.pid, getattr(signal, signal_name))
        return self.outer.wait(seconds)


results = {"passed": 0, "failed": 0}


def check(what, holds):
    results["passed" if holds else "failed"] += 1
    print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)


def check_confinement(c, user):
    check("the daemon is PID 1 of its namespace", c.status("NSpid")[-1] == "1")
    check(f"it runs as {user}", c.status("Uid")[0] == user.split(":")[0] and c.status("Gid")[0] == user.split(":")[1])
    check("it has no capability and cannot gain any", c.status("CapEff") == c.status("CapBnd") == ["0" * 16] and c.status("NoNewPrivs") == ["1"])
    refused = [c.execute("touch", place + "/x").returncode != 0 for place in ("", "/usr", "/etc", "/adapters", "/models")]
    check("its root is read-only", all(refused))
    check("its volume is writable", c.execute("sh", "-c", "touch /var/lib/lorad/x && rm /var/lib/lorad/x").returncode == 0)


def check_service(c, health):
    check("the health check is content", c.execute(*health).returncode == 0)
    check("and with /ready too", c.execute(health[0], "/ready").returncode == 0)
    check("and not when nothing listens", c.execute("env", "LORAD_LISTEN=0.0.0.0:1", *health).returncode != 0)
    loaded = c.curl("/v1/adapters/sql", "-X", "PUT", "-d", '{"path": "sql"}')
    check("an adapter loads by path", loaded.get("tensors_applied", 0) > 0)
    files = [f for n in ("adapter_config.json", "adapter_model.safetensors") for f in ("-F", f"{n}=@{SOURCE}/adapters/json/{n}")]
    check("an adapter loads by upload", c.curl("/v1/adapters/mine", "-X", "PUT", *files).get("tensors_applied", 0) > 0)
    answer = c.curl("/v1/generate", "-d", '{"prompt": "Input: Show all orders.\\nOutput:", "adapter": "sql", "temperature": 0}')
    check("it answers through its adapter", answer.get("adapter", {}).get("id") == "sql" and "SELECT" in answer["text"])


def check_drain(c, drained_signal):
    body = '{"prompt": "Once", "max_tokens": 900, "ignore_eos": true}'
    running = subprocess.Popen(c.curl_command("/v1/generate", "-d", body), stdout=subprocess.PIPE)
    while running.poll() is None and "\nlorad_requests_running 1\n" not in c.metrics():
        time.sleep(0.01)
    was_running, begin = running.poll() is None, time.monotonic()
    code = c.stop(drained_signal, 40)
    answer = json.loads(running.communicate()[0])
    check(f"{drained_signal} lets a running request end ({answer.get('finish_reason')})", was_running and answer.get("finish_reason") == "length")
    check(f"and ends the daemon with exit code 0 ({code}, {time.monotonic() - begin:.1f} s)", code == 0)


def verify(stage, volume):
    config, group = stage.config, Group()
    try:
        with Container(stage, volume, group) as c:
            check(f"it becomes ready: {c.ready_line.strip()}", " ready on " in c.ready_line)
            check_confinement(c, config["user"])
            check_service(c, config["healthcheck"])
            if group.directories:
                check("its threads follow the control group", f"threads {N_CORES} " in c.ready_line)
                check("its budgets follow the control group", f"\nlorad_adapter_bytes_limit {MEMORY // 8}\n" in c.metrics())
            check_drain(c, config["stopsignal"])
        with Container(stage, volume, group) as c:
            states = {a["id"]: a["state"] for a in c.curl("/v1/adapters")["adapters"]}
            check(f"a new container on the same volume has the adapters again: {states}", states == {"sql": "ready", "mine": "ready"})
            check("an idle daemon ends at once", c.stop(config["stopsignal"], 5) == 0)
    finally:
        group.remove()


def main():
    if os.geteuid() != 0 or not all(map(shutil.which, ("debootstrap", "unshare", "nsenter", "setpriv", "ip", "curl", "pgrep"))):
        sys.exit("verify-image: needs root, debootstrap, util-linux, iproute2, procps and curl")
    work = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="lorad-image-"))
    work.mkdir(parents=True, exist_ok=True)
    stage = build(work)
    volume = work / "volume"
    shutil.rmtree(volume, ignore_errors=True)
    run("cp", "-a", stage.inside(stage.config["volumes"][0]), volume)  # an engine fills a new volume from the image
    print(f"\nimage: {subprocess.run(['du', '-sh', stage.root], capture_output=True, text=True).stdout.split()[0]} in {stage.root}")
    verify(stage, volume)
    print(f"\n{results['passed']} passed, {results['failed']} failed")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
